//! What is told of tables: the answers to `icecache tables …`, as JSON has them.
use super::slot::Brought;
use serde::{Deserialize, Serialize};

/// A table in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLine {
    /// Its path below the mount.
    pub table: String,
    /// The name of its catalog.
    pub catalog: String,
    /// What the catalog calls it.
    pub id: String,
    /// `unopened` (nobody has looked into it since the start), `shown` or `failed`.
    pub state: String,
    /// The `N` of the `v<N>.metadata.json` that is current.
    pub version: Option<u64>,
    /// The current snapshot.
    pub snapshot: Option<i64>,
    /// How long ago somebody looked into it, in seconds.
    pub used_s_ago: Option<u64>,
    /// Whether all or a part of it is pinned.
    pub pinned: bool,
    /// The pins that are about nothing in the version that is shown, and why: of a column or a partition that it has no
    /// longer. Each holds something again once the table has that again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle_pins: Vec<String>,
    /// Why not all that is pinned is in the cache, and of what there is too little, if that was so when it was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_held: Option<String>,
    /// Why it cannot be shown; of one that is shown, why its current version is not.
    pub error: Option<String>,
    /// Which of its branches, tags and snapshots cannot be shown, by the path in its folder, and why; as far as somebody
    /// has tried, and not more than a hundred.
    #[serde(default)]
    pub broken: std::collections::BTreeMap<String, String>,
}

/// All that is known of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDetails {
    /// As in a list.
    #[serde(flatten)]
    pub line: TableLine,
    /// Where its current metadata is.
    pub metadata: String,
    /// The folder of the table.
    pub location: String,
    /// The identifier that it keeps all its life.
    pub uuid: Option<String>,
    /// The version of the format.
    pub format_version: u8,
    /// When this version was committed.
    pub updated: Option<jiff::Timestamp>,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// Branches, and the snapshot of each.
    pub branches: std::collections::BTreeMap<String, i64>,
    /// Tags, and the snapshot of each.
    pub tags: std::collections::BTreeMap<String, i64>,
    /// The files of the current snapshot that are shown as they are.
    pub files: Sum,
    /// What of them is in the cache.
    pub cached: Sum,
    /// What of it is pinned; an empty text is the whole table.
    pub pins: Vec<String>,
    /// What is held because of them.
    pub held: Sum,
    /// The last change since the start.
    pub last_change: Option<LastChange>,
}

/// Files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many; of what is cached those of which anything is.
    pub files: u64,
    /// Their bytes; of what is cached those on the disk.
    pub bytes: u64,
}

impl Sum {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What the last change of a table took, and what became of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastChange {
    /// When it was shown.
    pub time: jiff::Timestamp,
    /// `append`, `replace`, `overwrite`, `delete`, `rollback`, `schema`, `references` or `replaced`.
    pub kind: String,
    /// The version that it led to.
    pub version: u64,
    /// The snapshot that it led to.
    pub snapshot: Option<i64>,
    /// Requests for objects: metadata, lists, manifests, deletes.
    pub requests: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// From the notice to the turn of the hint, in milliseconds.
    pub ms: u64,
    /// Files that came.
    pub added: u64,
    /// Files that went.
    pub removed: u64,
    /// Bytes in the cache of files that were there before and are still there; not known at first.
    pub kept_bytes: Option<u64>,
    /// The blocks of these.
    pub kept_blocks: Option<u64>,
    /// Files that were brought because they took the place of files in the cache.
    pub brought: u64,
    /// Files that only older snapshots need, and that leave the cache first from now on.
    pub demoted: u64,
}

/// What of a table is in the cache, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// All that is known of it.
    #[serde(flatten)]
    pub details: TableDetails,
    /// What is cached, by partition.
    pub partitions: Vec<PartitionLine>,
    /// The files of which anything is cached, most bytes first.
    pub cached_files: Vec<FileLine>,
    /// There are more than are listed.
    pub more: bool,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionLine {
    /// Which; empty in a table without partitions.
    pub partition: String,
    /// Its files.
    pub files: Sum,
    /// What of them is in the cache.
    pub cached: Sum,
    /// How often blocks of it were asked for again. What the kernel serves is not counted.
    pub uses: u64,
}

/// A file of which something is in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// Where it is.
    pub location: String,
    /// Its partition.
    pub partition: String,
    /// Its size in bytes.
    pub size: u64,
    /// How much of it is on the disk, in bytes.
    pub cached_bytes: u64,
    /// How many of its blocks are there, and of how many.
    pub blocks: (u32, u32),
    /// How often these were asked for again. What the kernel serves is not counted.
    pub uses: u64,
    /// Why it is there.
    pub why: Why,
}

/// Why a file is in the cache; the first that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is pinned.
    Pinned,
    /// It took the place of files that were read, and was not read yet itself.
    Successor,
    /// Somebody has warmed it, or had pinned it, and nobody has read it since.
    Warmed,
    /// Somebody has read it, or a part of it; also before the last start.
    Read,
}

impl From<Brought> for Why {
    fn from(brought: Brought) -> Self {
        match brought {
            Brought::Successor => Self::Successor,
            Brought::Warmed => Self::Warmed,
        }
    }
}

/// What bringing files led to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The files that are in the cache: whole, or as much of each as was asked for.
    pub there: Sum,
    /// Those that are files of this machine: they are read where they are, and not copied.
    #[serde(default)]
    pub local: Sum,
    /// Those that could not be brought, and why; not more than a few.
    pub failed: Vec<String>,
    /// How many could not be brought.
    pub failed_files: u64,
    /// There was no room for them.
    #[serde(skip)]
    pub(super) is_full: bool,
}

/// What a refresh has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The table's path below the mount.
    pub table: String,
    /// Whether another version is shown now, or the table is gone.
    pub changed: bool,
    /// The version that is shown; `None` if it is gone.
    pub version: Option<u64>,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// Why it could not be asked about, or its new version cannot be shown.
    pub error: Option<String>,
}
