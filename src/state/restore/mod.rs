//! The way back: all layers of a version, newest first, onto a disk.
//!
//! Each path is decided by the newest layer that has it (`seen`), so it is written once. The
//! bytes of older layers arrive (`fetch`) while newer ones are extracted.
mod arrival;
mod existing;
pub(in crate::state) mod fetch;
pub(in crate::state) mod lenders;
mod logs;
mod passing;
mod recent;
mod run;
mod seen;
#[cfg(test)]
mod tests;

use crate::error::{Error, ErrorKind};
use crate::layer::{Entry, Kind, LayerError, Metadata};
use crate::path::RelPath;
use crate::remote::{RemoteError, Store};
use crate::state::chunk::Known;
use crate::state::dictionary::DictionaryError;
use crate::state::head::{Head, LayerRef};
use crate::state::identity::Identity;
use fetch::Source;
use run::Run;
use rustix::fs::Stat;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use lenders::Lenders;

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// A layer to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSource {
    /// Its key in the store.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of the object; `None` for an archive that no HEAD describes.
    pub digest: Option<[u8; 32]>,
    /// BLAKE3 of the compression dictionary that it needs.
    pub dictionary: Option<[u8; 32]>,
}

impl LayerSource {
    /// The layers of a version in the order in which [`restore`] takes them.
    pub fn newest_first(head: &Head) -> Vec<Self> {
        head.layers.iter().rev().map(Self::of).collect()
    }

    /// A layer that HEAD lists.
    pub fn of(layer: &LayerRef) -> Self {
        Self {
            key: layer.key.clone(),
            bytes: layer.bytes,
            digest: Some(layer.digest.0),
            dictionary: layer.dictionary.as_ref().map(|digest| digest.0),
        }
    }
}

/// What the caller knows of something that stands where an entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the entry, or stays in its place in any case: it is not even looked at.
    Stays,
    /// It is known to be saved: what is not the entry is replaced, and nobody misses it.
    Saved,
    /// Nobody knows: what turns out not to be the entry is moved aside.
    Unknown,
    /// It wins over the entry: what turns out not to be the entry stays and is not reported.
    Wins {
        /// It is the file that had this name before, and was changed since: names that the version gives the entry as well
        /// are names of it. Else something else has taken the name, and the entry is what has those.
        changed: bool,
    },
}

/// Judges what stands at a path; the last argument is the index of the layer that has the entry.
pub type Judge = dyn FnMut(&RelPath, &Entry, &Identity, usize) -> Standing + Send;

/// What to do with what the disk already holds.
pub enum Existing {
    /// Nothing there is trusted.
    Rewrite,
    /// Ask, for each entry whose path exists. Where the answer leaves it open, a file is compared byte by
    /// byte with the entry as it arrives.
    Keep(Box<Judge>),
}

impl std::fmt::Debug for Existing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rewrite => "Rewrite",
            Self::Keep(_) => "Keep",
        })
    }
}

/// Takes restored paths in batches. They are proven only when [`restore`] returns `Ok`: the
/// digest of a layer is known when all of it was read. A path may come again, with a newer
/// identity (names of a hard link, directories at the end). Layers are named by their index.
pub type OnRestored = dyn FnMut(Vec<RestoredPath>) + Send;

/// Whether an entry may not come; the last argument is as for [`Judge`].
pub type Gone = dyn Fn(&Entry, usize) -> bool + Send;

/// Takes entries in whose place something else stands: what wins over them or over a directory above them, or another name
/// of a file that won.
pub type OnOverruled = dyn FnMut(&Entry) + Send;

/// Called once, before anything on the disk is changed; with its failure the restore ends.
pub type Begin = dyn FnOnce() -> Result<(), LayerError> + Send;

/// How to restore.
pub struct Policy {
    /// What to do with what the disk already holds.
    pub existing: Existing,
    /// Where a local file goes that stands in the way of an entry and is something else (other type or
    /// content; other attributes alone are replaced); `None`: it is replaced. Local paths no layer has
    /// stay in any case.
    pub aside: Option<OwnedFd>,
    /// Layers may be any `tar.zst`.
    pub lenient: bool,
    /// What may not come to where nothing stands, unless it is a directory.
    pub gone: Box<Gone>,
    /// What files of the layers may refer to.
    pub lenders: Arc<Lenders>,
    /// Learns which content stands where in the layers.
    pub known: Option<Arc<Known>>,
    /// Takes what was restored.
    pub on_restored: Option<Box<OnRestored>>,
    /// Learns what has no place.
    pub on_overruled: Option<Box<OnOverruled>>,
    /// Learns that it begins.
    pub on_begin: Option<Box<Begin>>,
}

impl Policy {
    /// Whether what stands at a path stays there, although a layer has something below.
    fn keeps_instead_of_directory(&mut self, path: &RelPath, there: &Stat, layer: usize) -> bool {
        let Existing::Keep(judge) = &mut self.existing else { return false };
        let above = Entry { path: path.clone(), kind: Kind::Directory, meta: Metadata::default() };
        matches!(judge(path, &above, &Identity::from(there), layer), Standing::Stays | Standing::Wins { .. })
    }

    fn overruled(&mut self, entry: &Entry) {
        if let Some(on_overruled) = &mut self.on_overruled {
            on_overruled(entry);
        }
    }

    /// Something is about to be changed.
    fn begin(&mut self) -> Result<(), LayerError> {
        self.on_begin.take().map_or(Ok(()), |on_begin| on_begin())
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            existing: Existing::Rewrite,
            aside: None,
            gone: Box::new(|_, _| false),
            lenient: false,
            lenders: Arc::default(),
            known: None,
            on_restored: None,
            on_overruled: None,
            on_begin: None,
        }
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("existing", &self.existing)
            .field("aside", &self.aside)
            .finish_non_exhaustive()
    }
}

/// A path that stands as its layer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredPath {
    /// Where.
    pub path: RelPath,
    /// Its lstat now.
    pub identity: Identity,
    /// The layer that decided it: its index in what [`restore`] was given.
    pub layer: usize,
    /// It was there before and was kept.
    pub kept: bool,
}

/// Watches a restore. Called at most every 100 ms, and at the end.
pub trait Progress: Send + Sync {
    /// Bytes that arrived of all that will.
    fn bytes(&self, done: u64, total: u64);
    /// Entries that are in their place.
    fn files(&self, done: u64);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn bytes(&self, _: u64, _: u64) {}
    fn files(&self, _: u64) {}
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Entries that stand, kept ones included.
    pub entries: u64,
    /// Bytes read from the store.
    pub bytes: u64,
    /// Regular files among the entries.
    pub files: u64,
    /// Entries the disk already had.
    pub kept: u64,
    /// Local paths that were moved aside.
    pub moved: Vec<RelPath>,
    /// What could not be kept, for people.
    pub notes: Vec<String>,
}

/// Why a restore stopped. What was written until then stays; nothing of it is proven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The store failed.
    #[error("cannot read layer {key}: {source}")]
    Remote {
        /// The layer.
        key: String,
        /// The failure.
        source: RemoteError,
    },
    /// The object is not the one HEAD names.
    #[error("layer {key} is not what HEAD names: {what}")]
    Mismatch {
        /// The layer.
        key: String,
        /// Its length or its digest.
        what: String,
    },
    /// A layer needs a dictionary that cannot be had.
    #[error("layer {key}: {source}")]
    Dictionary {
        /// The layer.
        key: String,
        /// Why not, with the dictionary's key.
        source: DictionaryError,
    },
    /// A layer is damaged, unsafe, or could not be written to the disk.
    #[error("layer {key}: {source}")]
    Layer {
        /// The layer.
        key: String,
        /// What is wrong, with the entry's name.
        source: LayerError,
    },
    /// The attributes of the directories could not be set.
    #[error("cannot finish restore: {source}")]
    Finish {
        /// The failure.
        source: LayerError,
    },
    /// The caller lost interest, or the extracting thread died.
    #[error("restore was stopped")]
    Stopped,
}

impl From<RestoreError> for Error {
    fn from(e: RestoreError) -> Self {
        Self::new(e.kind(), "restore failed").with_source(e)
    }
}

impl RestoreError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Remote { source, .. } => match source {
                // HEAD names it, so it is lost.
                RemoteError::NotFound { .. } => ErrorKind::Corrupt,
                RemoteError::NoBucket { .. } => ErrorKind::NotFound,
                RemoteError::Denied { .. } => ErrorKind::Denied,
                RemoteError::Unavailable { .. } => ErrorKind::Unavailable,
                _ => ErrorKind::Io,
            },
            Self::Mismatch { .. } => ErrorKind::Corrupt,
            Self::Dictionary { source, .. } => source.kind(),
            Self::Layer { source, .. } | Self::Finish { source } => source.kind(),
            Self::Stopped => ErrorKind::Io,
        }
    }
}

/// Counters both sides see.
#[derive(Debug, Default)]
pub(in crate::state) struct Counters {
    bytes: AtomicU64,
    files: AtomicU64,
    stop: AtomicBool,
}

impl Counters {
    /// Bytes that arrived so far.
    pub(in crate::state) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// More bytes arrived.
    pub(in crate::state) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Stops the extracting thread when the future is dropped.
struct StopOnDrop(Arc<Counters>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Restores `layers` (newest first) beneath `root`. Needs a runtime with time enabled; the disk
/// work happens on a blocking thread, which stops soon after the future is dropped.
pub async fn restore(
    store: Store,
    layers: Vec<LayerSource>,
    root: OwnedFd,
    policy: Policy,
    progress: &dyn Progress,
) -> Result<Restored, RestoreError> {
    let counters = Arc::new(Counters::default());
    let total = layers.iter().map(|layer| layer.bytes).sum();
    let _stop = StopOnDrop(Arc::clone(&counters));
    let source = Source::new(store, tokio::runtime::Handle::current(), Arc::clone(&counters));
    let shared = Arc::clone(&counters);
    let mut work = tokio::task::spawn_blocking(move || Run::new(source, root, policy, shared).all(&layers));
    let mut tick = tokio::time::interval(REPORT_EVERY);
    let report = || {
        progress.bytes(counters.bytes.load(Ordering::Relaxed), total);
        progress.files(counters.files.load(Ordering::Relaxed));
    };
    loop {
        tokio::select! {
            result = &mut work => {
                report();
                return result.unwrap_or(Err(RestoreError::Stopped));
            }
            _ = tick.tick() => report(),
        }
    }
}
