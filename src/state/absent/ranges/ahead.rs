//! [`Ahead`]: how far ahead of a reader content is asked for.
use std::ops::Range;

/// A reader that goes on where it was is asked ahead for so much at first...
const FIRST_BYTES: u64 = 1 << 20;
/// ...and, doubled each time, for so much at most.
pub(super) const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// The kernel's own read-ahead lets requests overtake each other by as much.
const TOLERANCE_BYTES: u64 = 1 << 20;

/// What one reader has read, and what was asked for ahead of it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where a sequential reader goes on.
    next: u64,
    /// How much is asked for ahead; 0 for one that jumps.
    window: u64,
    /// Up to where that was done.
    asked: u64,
}

impl Ahead {
    /// Notes a read, and returns what to ask for besides it.
    pub(super) fn read(&mut self, range: &Range<u64>, size: u64) -> Option<Range<u64>> {
        let goes_on = range.start <= self.next.saturating_add(TOLERANCE_BYTES)
            && range.end.saturating_add(TOLERANCE_BYTES) >= self.next;
        // A reader at the beginning of a file mostly reads on, but not surely far.
        let begins = range.start == 0 && self.next == 0;
        if !goes_on {
            *self = Self { next: range.end, window: 0, asked: range.end };
            return None;
        }
        self.next = self.next.max(range.end);
        // Half of what was asked for is still ahead: that is soon enough.
        if !begins && self.asked.saturating_sub(self.next) > self.window / 2 {
            return None;
        }
        self.window = (self.window * 2).clamp(FIRST_BYTES, AHEAD_BYTES_MAX);
        let from = self.asked.max(self.next);
        self.asked = self.next.saturating_add(self.window).min(size);
        (from < self.asked).then_some(from..self.asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 1 << 40;

    #[test]
    fn it_grows_for_who_reads_on_and_asks_for_nothing_twice() {
        let (mut ahead, mut asked, mut at) = (Ahead::default(), 0, 0);
        while at < 200 * MIB {
            if let Some(range) = ahead.read(&(at..at + MIB / 8), SIZE) {
                assert!(range.start >= asked && range.end - range.start <= AHEAD_BYTES_MAX, "{range:?}");
                asked = range.end;
            }
            at += MIB / 8;
            assert!(asked >= at, "nothing was asked for ahead of {at}");
        }
        assert!(asked - at >= AHEAD_BYTES_MAX / 2, "it did not grow: {asked} of {at}");
    }

    #[test]
    fn who_jumps_gets_nothing_ahead_and_the_end_is_the_end() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.read(&(500 * MIB..501 * MIB), SIZE), None);
        assert_eq!(ahead.read(&(10 * MIB..11 * MIB), SIZE), None);
        assert_eq!(ahead.read(&(11 * MIB..12 * MIB), SIZE), Some(12 * MIB..13 * MIB));
        let mut ahead = Ahead::default();
        assert_eq!(ahead.read(&(0..100), 1000), Some(100..1000));
        assert_eq!(ahead.read(&(100..1000), 1000), None);
    }
}
