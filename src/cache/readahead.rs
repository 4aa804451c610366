//! [`ReadAhead`]: how far to fetch before a reader asks, by how fast it reads.
//!
//! A reader that goes forward gets a window of blocks. Each time it has to wait for a block the window
//! doubles: it reads faster than blocks come. Each time it has found a whole window waiting for it, the
//! window shrinks by one: it is slower. A reader that jumps begins with nothing.

/// How one reader reads.
#[derive(Debug)]
pub struct ReadAhead {
    max: u32,
    window: u32,
    /// The block after the last one read.
    next: u32,
    /// Blocks in a row that were there when they were asked for.
    ready: u32,
    /// Up to here blocks were asked for ahead.
    reached: u32,
}

impl ReadAhead {
    /// Nothing read so far; a window has at most `max` blocks, and 0 turns it off.
    pub fn new(max: u32) -> Self {
        Self { max, window: 0, next: 0, ready: 0, reached: 0 }
    }

    /// A block was read; `waited` if it was not there. Says which blocks to fetch now, of `total`.
    pub fn read(&mut self, block: u32, waited: bool, total: u32) -> std::ops::Range<u32> {
        if block + 1 == self.next {
            return 0..0; // once more the same one
        }
        if block != self.next {
            (self.window, self.ready, self.reached) = (0, 0, block + 1);
            self.next = block + 1;
            return 0..0;
        }
        self.next = block + 1;
        if waited {
            self.window = (self.window * 2).clamp(1, self.max.max(1)).min(self.max);
            self.ready = 0;
        } else {
            self.ready += 1;
            if self.window > 1 && self.ready > self.window {
                self.window -= 1;
                self.ready = 0;
            }
        }
        let end = self.next.saturating_add(self.window).min(total);
        let start = self.reached.max(self.next);
        self.reached = self.reached.max(end);
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_waits_gets_more_and_one_that_does_not_gets_less() {
        let mut ahead = ReadAhead::new(8);
        let mut windows = Vec::new();
        for block in 0..6 {
            ahead.read(block, true, 1000);
            windows.push(ahead.window);
        }
        assert_eq!(windows, [1, 2, 4, 8, 8, 8]);
        for block in 6..200 {
            ahead.read(block, false, 1000);
        }
        assert_eq!(ahead.window, 1);
    }

    #[test]
    fn every_block_is_asked_for_once_and_none_beyond_the_end() {
        let mut ahead = ReadAhead::new(16);
        let mut asked = Vec::new();
        for block in 0..50 {
            asked.extend(ahead.read(block, block % 3 == 0, 50));
        }
        let mut once = asked.clone();
        once.dedup();
        assert_eq!(asked, once);
        assert!(asked.iter().all(|block| *block < 50) && asked.is_sorted());
    }

    #[test]
    fn a_jump_begins_anew_and_off_is_off() {
        let mut ahead = ReadAhead::new(8);
        ahead.read(0, true, 100);
        ahead.read(1, true, 100);
        assert!(ahead.read(50, true, 100).is_empty());
        assert!(ahead.read(50, true, 100).is_empty(), "the same block once more is no progress");
        assert_eq!(ahead.read(51, true, 100), 52..53);
        let mut off = ReadAhead::new(0);
        assert!((0..9).all(|block| off.read(block, true, 100).is_empty()));
    }
}
