//! [`Lookups`]: how often the kernel was told of an inode and has not forgotten it since.
use std::sync::atomic::{AtomicU32, Ordering};

/// A count in half the room that the protocol gives it. One that gets too large stays so: its inode is then
/// never forgotten, which costs its memory and nothing else.
#[derive(Debug)]
pub(super) struct Lookups(AtomicU32);

impl Lookups {
    pub(super) fn new(count: u64) -> Self {
        Self(AtomicU32::new(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    pub(super) fn get(&self) -> u64 {
        u64::from(self.0.load(Ordering::Relaxed))
    }

    /// Once more.
    pub(super) fn add(&self) {
        let more = |count: u32| Some(count.saturating_add(1));
        let _always = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// The kernel forgets some of them. `false`: some are left.
    pub(super) fn forget(&self, lookups: u64) -> bool {
        let less = |count: u32| match count {
            u32::MAX => None,
            count => Some(count.saturating_sub(u32::try_from(lookups).unwrap_or(u32::MAX))),
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.is_ok_and(|before| u64::from(before) <= lookups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_told_and_too_many_stay() {
        let lookups = Lookups::new(1);
        lookups.add();
        assert_eq!(lookups.get(), 2);
        assert!(!lookups.forget(1));
        assert!(lookups.forget(1));

        let many = Lookups::new(u64::MAX);
        many.add();
        assert!(!many.forget(u64::MAX) && !many.forget(u64::from(u32::MAX)));
        let nearly = Lookups::new(u64::from(u32::MAX) - 1);
        nearly.add();
        assert!(!nearly.forget(u64::from(u32::MAX) - 1), "it is too large to be counted down");
    }
}
