//! How flushing stands, for whoever asks.
use crate::clock::Timestamp;
use crate::error::Error;
use crate::metrics::Latency;
use crate::path::RelPath;
use crate::state::commit::{Forked, Merge, Receipt};
use crate::state::head::VersionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// A flush that ended well.
#[derive(Debug, Clone)]
pub struct Done {
    /// When it was committed.
    pub time: Timestamp,
    /// What it did.
    pub receipt: Receipt,
    /// From its start to the commit.
    pub duration: Duration,
}

/// A flush that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// When.
    pub time: Timestamp,
    /// Why, with advice.
    pub message: String,
    /// Failures in a row.
    pub attempts: u64,
}

/// How flushing stands.
#[derive(Debug, Clone, Default)]
pub struct FlushStatus {
    /// The newest version known to be committed; 0 if there is none.
    pub version: VersionId,
    /// Commits since the start.
    pub flushes: u64,
    /// Failed attempts since the start.
    pub failures: u64,
    /// Bytes sent in layers since the start.
    pub bytes: u64,
    /// The last commit since the start.
    pub last: Option<Done>,
    /// The failure since then.
    pub error: Option<Failed>,
    /// When an attempt failed last, whatever came after it.
    pub failed_at: Option<Timestamp>,
    /// How long all commits since the start took.
    pub durations: Latency,
    /// The fork that versions go to.
    pub fork: Option<Forked>,
    /// The last merge with what another writer had made, since the start.
    pub merge: Option<Merge>,
    /// Entries that could not be read, and why. They are tried again with each flush.
    pub stuck: BTreeMap<RelPath, String>,
}

/// What is not in the remote yet.
#[derive(Debug, Clone, Default)]
pub struct Unsaved {
    /// Entries, some of them, sorted.
    pub paths: Vec<RelPath>,
    /// How many there are.
    pub count: u64,
    /// Their bytes, as far as they were looked at.
    pub bytes: u64,
}

impl FlushStatus {
    pub(super) fn succeeded(&mut self, receipt: &Receipt, duration: Duration) {
        self.version = receipt.version;
        self.error = None;
        if let Some(fork) = &receipt.fork {
            tracing::error!(from = %fork.from, to = %fork.name, base = fork.base,
                "another writer moved this name: nothing was overwritten, our versions go to a fork");
            self.fork = Some(fork.clone());
        }
        if let Some(merge) = &receipt.merge {
            tracing::warn!(version = receipt.version, "{merge}");
            self.merge = Some(merge.clone());
        }
        if receipt.committed {
            self.flushes += 1;
            self.bytes += receipt.bytes;
            self.durations.add(duration);
            self.last = Some(Done { time: Timestamp::now(), receipt: receipt.clone(), duration });
        }
    }

    pub(super) fn failed(&mut self, e: &Error) {
        self.failures += 1;
        let attempts = self.error.as_ref().map_or(0, |f| f.attempts) + 1;
        let time = Timestamp::now();
        self.failed_at = Some(time);
        self.error = Some(Failed { time, message: e.to_string(), attempts });
    }
}
