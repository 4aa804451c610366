//! Running totals of the tier, and the snapshot of them that is shown.
use super::connect::Capabilities;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! meters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Running totals, counted where things happen.
        #[derive(Debug, Default)]
        pub struct Meters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The totals since the tier was opened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
        pub struct RedisTotals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Meters {
            /// The totals now. Each is exact; together they may be of slightly different moments.
            pub fn totals(&self) -> RedisTotals {
                RedisTotals { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

meters! {
    /// Blocks that were there.
    hits,
    /// Blocks that were not.
    misses,
    /// Blocks of which a value was not what had been written. Each is a miss, and deleted.
    corrupt,
    /// Reads that were given up because their time was over.
    timed_out,
    /// Reads that failed in another way.
    failed,
    /// Reads that were not tried because the server had failed a moment ago.
    skipped,
    /// Reads that were not tried because too many were under way.
    shed,
    /// Bytes of blocks that were read.
    bytes_read,
    /// Blocks that were written.
    writes,
    /// Bytes of blocks that were written.
    bytes_written,
    /// Bytes that their values took, headers included.
    bytes_stored,
    /// Blocks that were not written: too much was under way, or the server failed or refused.
    not_written,
    /// How often a server was given up until it answers again.
    openings,
    /// Connections that were opened.
    connects,
    /// Attempts to connect that failed.
    connects_failed,
    /// Answers that said that the slots of a cluster have moved.
    moved,
    /// Events that were published.
    events_published,
    /// Events that were received.
    events_received,
    /// How often events may have been missed.
    events_gaps,
}

impl Meters {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}

/// A server as it is now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NodeStatus {
    /// Host and port.
    pub address: String,
    /// What it can do, while it answers.
    pub up: Option<Capabilities>,
    /// Why the last attempt to connect failed, until one succeeds.
    pub trouble: Option<String>,
}

/// The tier as it is now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RedisStatus {
    /// Whether the servers are a cluster; `None` before anybody has answered.
    pub cluster: Option<bool>,
    /// The servers.
    pub nodes: Vec<NodeStatus>,
    /// Why nobody could be asked who the servers are.
    pub trouble: Option<String>,
    /// Everything counted so far.
    pub totals: RedisTotals,
}
