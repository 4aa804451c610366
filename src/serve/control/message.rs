//! What goes over the control socket.
use crate::config::wire;
use crate::serve::startup::WireError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Both sides name it; another number is refused.
pub const PROTOCOL_VERSION: u32 = 1;

/// At most this many unsaved entries are listed one by one; the count is always exact.
pub const UNSAVED_LISTED_MAX: usize = 1000;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub v: u32,
    pub ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    Status,
    Stats,
    Flush {
        wait: bool,
    },
    Log,
    Export,
    Hydrate {
        #[serde(with = "wire::paths")]
        paths: Vec<PathBuf>,
    },
    Unmount,
    Tables(TablesAsk),
}

/// What is asked of a mount that shows tables. A table is named by its path below the mount, that path without
/// `iceberg/`, or the name that its catalog has for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TablesAsk {
    /// Which there are.
    List,
    /// All that is known of one.
    Show {
        /// Which.
        table: String,
    },
    /// What of one is in the cache, and why.
    Explain {
        /// Which.
        table: String,
    },
    /// To ask the catalogs now, about one or all.
    Refresh {
        /// Which.
        table: Option<String>,
    },
    /// To bring one, or a part of it, into the cache.
    Warm {
        /// Which.
        table: String,
        /// How much of it.
        #[serde(flatten)]
        part: Part,
    },
    /// To keep it there.
    Pin {
        /// Which.
        table: String,
        /// How much of it.
        #[serde(flatten)]
        part: Part,
    },
    /// To keep it no longer.
    Unpin {
        /// Which.
        table: String,
        /// How much of it.
        #[serde(flatten)]
        part: Part,
    },
    /// To forget what is cached of one, and ask its catalog.
    Invalidate {
        /// Which.
        table: String,
    },
    /// Where tables are below the mount.
    Paths {
        /// Which.
        tables: Vec<String>,
    },
    /// What has happened from this event on; waits for a while if nothing has.
    Watch {
        /// What the answer before said is next; none: only that is asked.
        since: Option<u64>,
    },
}

/// A part of a table; what is not said is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The first fields of the partition.
    #[serde(default)]
    pub partition: Option<String>,
    /// Columns, between dots where one is in another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// A condition on rows.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub v: u32,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok(serde_json::Value),
    Error(WireError),
}

/// How a mount stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The mount directory.
    #[serde(with = "wire::path")]
    pub dir: PathBuf,
    /// The daemon.
    pub pid: u32,
    /// `passthrough` or `classic`.
    pub mode: String,
    /// Why that mode.
    pub mode_reason: String,
    /// How requests reach the daemon: `io_uring` or `device`.
    pub transport: String,
    /// The name in the remote.
    pub name: String,
    /// The remote's URL, without secrets.
    pub remote: String,
    /// Journal, log, socket.
    #[serde(with = "wire::path")]
    pub state_dir: PathBuf,
    /// The newest committed version; `None` before the first one. Of a read-only mount the one it shows.
    pub version: Option<String>,
    /// It shows a version and changes nothing.
    #[serde(default)]
    pub read_only: bool,
    /// The fork that flushes go to since another writer moved the name.
    pub fork: Option<String>,
    /// Entries that may differ from the newest version.
    pub dirty_files: u64,
    /// Their bytes.
    pub dirty_bytes: u64,
    /// Files that somebody can write to right now.
    pub open_for_write: u64,
    /// Files that are only in the remote so far.
    #[serde(default)]
    pub absent_files: u64,
    /// Their bytes.
    #[serde(default)]
    pub absent_bytes: u64,
    /// Of these the ones whose content the remote has lost or has damaged.
    #[serde(default)]
    pub lost_files: u64,
    /// What is wrong with the first of them.
    #[serde(default)]
    pub lost_error: Option<String>,
    /// Layers in the remote that no kept version needs, and that are not deleted yet.
    #[serde(default)]
    pub unneeded_layers: u64,
    /// Their bytes.
    #[serde(default)]
    pub unneeded_bytes: u64,
    /// Why the last attempt to delete such came to nothing.
    #[serde(default)]
    pub unneeded_error: Option<String>,
    /// The last committed flush.
    pub last_flush: Option<FlushRecord>,
    /// The last failure since the last committed flush.
    pub last_error: Option<LastError>,
    /// The first [`UNSAVED_LISTED_MAX`] entries that no flush can save; each flush tries again.
    #[serde(default)]
    pub stuck: Vec<Unsaved>,
    /// How many there are.
    #[serde(default)]
    pub stuck_total: u64,
    /// Of a mount that shows tables: how these stand.
    #[serde(default)]
    pub tables: Option<TablesStatus>,
    /// Seconds since the mount became usable.
    pub uptime_s: u64,
    /// The daemon's program version.
    pub program: String,
}

/// How a mount of tables stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesStatus {
    /// Tables that the catalogs have.
    pub known: u64,
    /// Those that somebody has looked into: they follow their catalogs.
    pub shown: u64,
    /// Those that cannot be shown.
    pub failed: u64,
    /// Those that are shown as they were: their current version cannot be.
    #[serde(default)]
    pub behind: u64,
    /// Bytes in the cache.
    pub cached_bytes: u64,
    /// The most bytes there.
    pub cache_max_bytes: u64,
    /// The catalogs.
    pub catalogs: Vec<CatalogStatus>,
    /// Where hints that tables have changed are taken by HTTP.
    #[serde(default)]
    pub hints: Option<std::net::SocketAddr>,
}

/// How a catalog stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogStatus {
    /// Its name.
    pub name: String,
    /// How long ago it last answered, in seconds; `None`: it never has. What is shown is as old.
    pub answered_s_ago: Option<u64>,
    /// Why it does not answer now.
    pub error: Option<String>,
}

/// A committed flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushRecord {
    /// When it was committed.
    pub time: jiff::Timestamp,
    /// What it committed.
    pub version: String,
    /// Entries in its layer.
    pub entries: u64,
    /// Bytes of its layer in the remote.
    pub bytes: u64,
    /// From the decision to flush to the commit, in milliseconds.
    pub duration_ms: u64,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub time: jiff::Timestamp,
    /// What failed; never contains a secret.
    pub message: String,
    /// Attempts so far.
    pub attempts: u64,
}

/// The answer to flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushReply {
    /// The newest committed version.
    pub version: Option<String>,
    /// Whether everything dirty at the call is in that version.
    pub durable: bool,
    /// Entries that this flush saved; 0 if there was nothing to do.
    pub entries: u64,
    /// Bytes it sent.
    pub bytes: u64,
    /// The fork it went to.
    pub fork: Option<String>,
    /// What a person should know if it was put on top of another writer's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<String>,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its id, as restore takes it.
    pub version: String,
    /// When it was committed, where known (layout single does not say).
    pub time: Option<jiff::Timestamp>,
    /// Who wrote it.
    pub writer: String,
    /// Layers it consists of.
    pub layers: u64,
    /// Bytes of its own layer.
    pub bytes: u64,
    /// Entries in its own layer, where known.
    pub entries: Option<u64>,
    /// Paths it set, where known.
    #[serde(default)]
    pub changed: Option<u64>,
    /// Paths it removed (a directory with its content counts once), where known.
    #[serde(default)]
    pub removed: Option<u64>,
    /// Its parent.
    pub parent: Option<String>,
    /// Tags that point to it.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The answer to export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReply {
    /// What was exported.
    pub version: Option<String>,
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of the archive.
    pub bytes: u64,
}

/// The answer to hydrate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HydrateReply {
    /// Files that were brought.
    pub files: u64,
    /// Files that are still only in the remote.
    pub absent_files: u64,
    /// Their bytes.
    pub absent_bytes: u64,
}

/// The answer to unmount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmountReply {
    /// The newest committed version.
    pub version: Option<String>,
    /// Whether the directory is unmounted.
    pub unmounted: bool,
    /// How many entries are not in the remote.
    pub unsaved_total: u64,
    /// The first [`UNSAVED_LISTED_MAX`] of them.
    pub unsaved: Vec<Unsaved>,
    /// Where the unsaved entries are: the backing.
    #[serde(with = "wire::path")]
    pub kept_in: PathBuf,
    /// Why something is unsaved.
    pub error: Option<WireError>,
    /// The fork that the version is of.
    #[serde(default)]
    pub fork: Option<String>,
    /// Files that are only in the remote: nobody touched them since the directory was restored.
    #[serde(default)]
    pub absent_files: u64,
    /// What a person should know if the version was put on top of another writer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<String>,
}

/// An entry that is not in the remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsaved {
    /// Relative to the mount.
    #[serde(with = "wire::path")]
    pub path: PathBuf,
    /// Why, where it is particular to this entry.
    pub reason: Option<String>,
}
