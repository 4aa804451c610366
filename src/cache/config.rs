//! [`Config`]: what a cache is told when it is opened.
use super::budget::Limits;
use super::error::CacheError;
use super::evict::PolicyKind;
use std::path::PathBuf;
use std::time::Duration;

/// The smallest block, in bytes: the unit in which disks give room and take it back.
pub const BLOCK_MIN_BYTES: u64 = super::budget::DISK_UNIT;
/// The largest block, in bytes: one is held in memory while it is fetched.
pub const BLOCK_MAX_BYTES: u64 = 64 << 20;

/// What a cache is told when it is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its directory; made if it is missing, its parent must exist. No other process may have it open.
    pub directory: PathBuf,
    /// The most bytes on the disk, each file rounded up to 4096. Default 10 GiB.
    pub max_bytes: u64,
    /// The most entries (files and objects). Default 1,048,576; one takes up to 900 bytes of memory
    /// right after a start, the cache of the journal included (`scripts/bench/cache rehydrate`).
    pub max_entries: u64,
    /// So many bytes of the disk stay free for others. Default 256 MiB.
    pub min_free: u64,
    /// Which of these limits are those of the last time instead, if the cache remembers any. Default none.
    pub recall: Recall,
    /// Whether the limits are remembered for another time. Default yes.
    pub remember: bool,
    /// The size of blocks of objects that are new, a power of two. Default 1 MiB.
    pub block_bytes: u64,
    /// What goes first when there is no room. Default LRU.
    pub policy: PolicyKind,
    /// What is let in at all.
    pub admission: Admission,
    /// A fill that brings nothing for so long is given up. Default 30 s.
    pub stall: Duration,
    /// What was admitted is in the journal after this long at the latest. Default 250 ms.
    pub flush_interval: Duration,
    /// What was used is in the journal after this long, if anything else is written at all. Default 30 s.
    pub recency_interval: Duration,
    /// How many blocks are fetched at once; reads beyond wait their turn. Default 64.
    pub fetches_max: usize,
    /// So many bytes of blocks that have just come are kept in memory while somebody reads their object, so
    /// that many readers share them without a copy. Default 64 MiB.
    pub memory_bytes: u64,
    /// The most blocks that are read ahead for one sequential reader. Default 16; 0 turns it off.
    pub readahead_max: u32,
}

/// Limits that nobody has given this time. Whoever looks after a cache from outside does not know them, and is not to
/// throw out what they permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recall {
    /// [`Config::max_bytes`].
    pub max_bytes: bool,
    /// [`Config::max_entries`].
    pub max_entries: bool,
    /// [`Config::min_free`].
    pub min_free: bool,
}

/// What is let in. What is not can still be read, past the cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    /// Nothing of more bytes than this. Default: no limit but `max_bytes`.
    pub max_entry_bytes: Option<u64>,
    /// Not more bytes a second than this, to spare an SSD; a second's worth may come at once. Default: no limit.
    pub write_bytes_per_second: Option<u64>,
}

impl Config {
    /// The defaults, in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_bytes: 10 << 30,
            max_entries: 1 << 20,
            min_free: 256 << 20,
            recall: Recall::default(),
            remember: true,
            block_bytes: 1 << 20,
            policy: PolicyKind::Lru,
            admission: Admission::default(),
            stall: Duration::from_secs(30),
            flush_interval: Duration::from_millis(250),
            recency_interval: Duration::from_secs(30),
            fetches_max: 64,
            memory_bytes: 64 << 20,
            readahead_max: 16,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { max_bytes: self.max_bytes, max_entries: self.max_entries, min_free: self.min_free }
    }

    /// Those of the last time count where none are given now.
    pub(super) fn recalled(&mut self, last: Limits) {
        let Recall { max_bytes, max_entries, min_free } = self.recall;
        for (recalled, own, last) in [
            (max_bytes, &mut self.max_bytes, last.max_bytes),
            (max_entries, &mut self.max_entries, last.max_entries),
            (min_free, &mut self.min_free, last.min_free),
        ] {
            if recalled {
                *own = last;
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), CacheError> {
        let invalid = |what: String| Err(CacheError::Invalid { what });
        if !self.block_bytes.is_power_of_two()
            || !(BLOCK_MIN_BYTES..=BLOCK_MAX_BYTES).contains(&self.block_bytes)
        {
            return invalid(format!("a block of {} bytes", self.block_bytes));
        }
        if self.max_bytes == 0 || self.max_entries == 0 || self.fetches_max == 0 {
            return invalid("a limit of nothing".into());
        }
        Ok(())
    }
}
