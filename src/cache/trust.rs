//! [`Trust`]: whether the page cache may be believed about a block.
//!
//! What is on the disk may rot, so bytes are compared with their digest when they come from there; as long as the
//! page cache keeps them they need not be again. The kernel does not say when it lets go of them: whoever does not
//! find them there doubts, and the next one compares.
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Odd while what the page cache has is known to be right. It is counted up when that ends, so that whoever copied
/// out of the page cache meanwhile notices.
#[derive(Debug)]
pub struct Trust(AtomicU32);

impl Trust {
    /// `right`: this process has just written or verified the bytes.
    pub fn new(right: bool) -> Self {
        Self(AtomicU32::new(right.into()))
    }

    /// Whether what the page cache has is known to be right.
    pub fn is_right(&self) -> bool {
        self.0.load(SeqCst) % 2 == 1
    }

    /// From now on it is not known. The answer is for [`prove`](Self::prove).
    pub fn doubt(&self) -> u32 {
        let now = self.0.load(SeqCst);
        if now.is_multiple_of(2) {
            return now;
        }
        let _somebody_else = self.0.compare_exchange(now, now.wrapping_add(1), SeqCst, SeqCst);
        now.wrapping_add(1)
    }

    /// Bytes that were read since that doubt are right; of no effect if somebody has proved it or doubted since.
    pub fn prove(&self, doubted: u32) {
        let _somebody_else = self.0.compare_exchange(doubted, doubted.wrapping_add(1), SeqCst, SeqCst);
    }

    /// Runs `copy`, which takes bytes of all these blocks out of the page cache; whether they were there and are
    /// right: only if nobody doubted one of them meanwhile.
    pub fn all<'a>(blocks: impl Iterator<Item = &'a Self> + Clone, copy: impl FnOnce() -> bool) -> bool {
        // Counts only grow, so their sum tells whether one has.
        let sum = || blocks.clone().fold(0_u64, |sum, block| sum + u64::from(block.0.load(SeqCst)));
        if !blocks.clone().all(Self::is_right) {
            return false;
        }
        let before = sum();
        if !copy() {
            // The kernel has let go of some, and may be reading them now: nobody has looked at what it brings.
            blocks.for_each(|block| _ = block.doubt());
            return false;
        }
        sum() == before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_found_is_doubted_until_it_is_proved_anew() {
        let blocks = [Trust::new(true), Trust::new(true)];
        assert!(Trust::all(blocks.iter(), || true));
        assert!(!Trust::all(blocks.iter(), || false), "it was not there");
        assert!(!Trust::all(blocks.iter(), || true), "it may have come unseen");
        for block in &blocks {
            let doubted = block.doubt();
            block.prove(doubted);
        }
        assert!(Trust::all(blocks.iter(), || true));
    }

    #[test]
    fn a_copy_during_which_somebody_doubts_is_not_believed() {
        let blocks = [Trust::new(true), Trust::new(true)];
        assert!(!Trust::all(blocks.iter(), || {
            let doubted = blocks[1].doubt();
            blocks[1].prove(doubted);
            true
        }));
        let late = blocks[0].doubt();
        let again = blocks[0].doubt();
        blocks[0].prove(again);
        assert_eq!(late, again);
        blocks[0].doubt();
        blocks[0].prove(late);
        assert!(!blocks[0].is_right(), "proved before it was doubted last");
    }
}
