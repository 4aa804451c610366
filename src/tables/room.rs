//! [`Room`]: how much the cache can have, and what it is short of if that is not enough.
use crate::cache::{Cache, Short};
use bytesize::ByteSize;

/// So many parts in a hundred of it may be pinned: who reads something else needs room, too.
const PINNED_MAX_PERCENT: u64 = 80;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// The most bytes.
    pub bytes: u64,
    short: Short,
    /// What of the disk stays free for others, in bytes.
    min_free: u64,
}

impl Room {
    /// As it is now: others write to the same disk.
    pub(super) fn of(cache: &Cache) -> Self {
        let (bytes, short) = cache.most();
        Self { bytes, short, min_free: cache.config().min_free }
    }

    /// How many bytes of it may be pinned.
    pub(super) fn for_pins(self) -> u64 {
        self.bytes / 100 * PINNED_MAX_PERCENT
    }

    /// Why no more may be pinned.
    pub(super) fn why_no_more_pins(self) -> String {
        let (share, size) = (PINNED_MAX_PERCENT, ByteSize);
        match self.short {
            Short::Free => format!("{share} % of that are {}; {self}", size(self.for_pins())),
            _ => format!("{share} % of the cache are {} (--tables-cache)", size(self.for_pins())),
        }
    }
}

/// What there is, and by which limit.
impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, kept) = (ByteSize(self.bytes), ByteSize(self.min_free));
        match self.short {
            Short::Free => write!(
                f,
                "the disk of the state directory (--state-dir) has room for {bytes} of the cache, {kept} of it stay free"
            ),
            _ => write!(f, "the cache has {bytes} (--tables-cache)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has too little room is told of what: another size of the cache does not make a disk larger.
    #[test]
    fn what_is_short_is_named() {
        let room = |short| Room { bytes: 1000, short, min_free: 1 << 20 };
        assert_eq!(room(Short::Bytes).for_pins(), 800);
        let (cache, disk) = (room(Short::Bytes), room(Short::Free));
        for said in [cache.to_string(), cache.why_no_more_pins()] {
            assert!(said.contains("--tables-cache") && !said.contains("disk"), "{said}");
        }
        for said in [disk.to_string(), disk.why_no_more_pins()] {
            assert!(said.contains("--state-dir") && !said.contains("--tables-cache"), "{said}");
        }
    }
}
