//! Running totals by cause, and the snapshot of them that is shown.
use super::budget::{Limits, Used};
pub use super::check::CHECKS;
use super::error::{CacheError, TOO_LARGE};
use super::events::Cause;
use crate::metrics::bucket;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use crate::metrics::LATENCY_MS;

macro_rules! meters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Running totals, counted where things happen.
        #[derive(Debug, Default)]
        pub struct Meters {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// Fills of blocks and files by how long they took; see [`LATENCY_MS`].
            pub latency: [AtomicU64; LATENCY_MS.len() + 1],
        }

        /// The totals since the cache was opened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
            /// Fills of blocks and files by how long they took; see [`LATENCY_MS`].
            pub latency: [u64; LATENCY_MS.len() + 1],
        }

        impl Meters {
            /// The totals now. Each is exact; together they may be of slightly different moments.
            pub fn totals(&self) -> Totals {
                Totals {
                    $($name: self.$name.load(Relaxed),)*
                    latency: std::array::from_fn(|n| self.latency[n].load(Relaxed)),
                }
            }
        }
    };
}

meters! {
    /// Look-ups of files that were there.
    file_hits,
    /// Look-ups of files that were still being filled.
    file_streams,
    /// Look-ups of files that were not there.
    file_misses,
    /// Reads of blocks that were on the disk.
    block_hits,
    /// … of them those that had just come and were still in memory.
    memory_hits,
    /// Reads of blocks that somebody was fetching already.
    block_joins,
    /// Reads of blocks that had to be fetched.
    block_misses,
    /// Bytes that readers were given from the disk.
    bytes_hit,
    /// Files that were inserted.
    file_inserts,
    /// Blocks that were inserted.
    block_inserts,
    /// Bytes of what was inserted.
    bytes_inserted,
    /// Fetches of blocks that began.
    fetches,
    /// Bytes that were fetched.
    bytes_fetched,
    /// Fetches that failed.
    fetch_errors,
    /// Fetches that the origin asked to slow down.
    fetches_throttled,
    /// Reads that had to wait because too many blocks were being fetched; no misses of their own.
    reads_throttled,
    /// Fetches that nobody had asked for yet.
    readaheads,
    /// Fills that brought nothing for too long and were given up.
    stalls,
    /// Fills of files that ended without a file, stalled ones included.
    fills_failed,
    /// What was not kept because the disk or the budget was full.
    not_kept_full,
    /// What was not kept because of its size.
    not_admitted_size,
    /// What was not kept because too much had been written.
    not_admitted_rate,
    /// … of what was not kept the files: they were not inserted, because the disk or the budget was full.
    refused_full,
    /// … because of their size.
    refused_size,
    /// … because too much had been written.
    refused_rate,
    /// Files and blocks thrown out because of `max_bytes`.
    evicted_bytes,
    /// … because of `max_entries`.
    evicted_entries,
    /// … because the disk had too little room left.
    evicted_free,
    /// … because their time was over.
    evicted_expired,
    /// … because somebody asked for room.
    evicted_asked,
    /// Files, fills of files and blocks that were deleted.
    deleted,
    /// Files and blocks whose bytes were not those that had been written.
    corrupt_drops,
    /// Entries whose file had vanished.
    vanished,
    /// Bytes of which checksums were computed to trust the disk.
    bytes_verified,
    /// Writes of the journal that failed.
    journal_errors,
    /// Journals that were moved aside.
    journal_rebuilds,
    /// Entries that came back at the start.
    rehydrated,
    /// Files and blocks that no journal named and whose witness was right.
    adopted,
    /// Files that nothing named, and that were deleted.
    strays_deleted,
    /// Files and blocks that the journal named, and that were not there as it said.
    lost,
    /// How long the journal was read at the start, in microseconds.
    replay_us,
    /// How long all fills together took, in microseconds.
    fill_us,
}

impl Meters {
    /// One more.
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn took(&self, time: Duration) {
        self.fill_us.fetch_add(time.as_micros() as u64, Relaxed);
        Self::count(&self.latency[bucket(time)]);
    }

    /// A file is not inserted because of this, if it is one of the reasons that are counted.
    pub(super) fn refused(&self, error: &CacheError) {
        match error {
            CacheError::NotAdmitted { why } if *why == TOO_LARGE => Self::count(&self.refused_size),
            CacheError::NotAdmitted { .. } => Self::count(&self.refused_rate),
            error if error.is_full() => Self::count(&self.refused_full),
            _ => {}
        }
    }

    pub(super) fn evicted(&self, cause: Cause) {
        Self::count(match cause {
            Cause::Bytes => &self.evicted_bytes,
            Cause::Entries => &self.evicted_entries,
            Cause::Free => &self.evicted_free,
            Cause::Expired => &self.evicted_expired,
            Cause::Asked => &self.evicted_asked,
        });
    }
}

/// The cache at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Everything counted since it was opened.
    pub totals: Totals,
    /// What is used.
    pub used: Used,
    /// The limit of bytes.
    pub max_bytes: u64,
    /// The limit of entries.
    pub max_entries: u64,
    /// Files that are being filled.
    pub filling: u64,
    /// Blocks that are being fetched.
    pub fetching: u64,
    /// How many of the steps of the check after the start are done; [`CHECKS`] when all are.
    pub checked: u32,
    /// Whether what was found at the start has been checked.
    pub settled: bool,
}

impl Stats {
    pub(super) fn new(totals: Totals, used: Used, limits: Limits) -> Self {
        let Limits { max_bytes, max_entries, .. } = limits;
        Self { totals, used, max_bytes, max_entries, filling: 0, fetching: 0, checked: 0, settled: false }
    }
}
