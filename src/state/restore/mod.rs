//! The way back: all layers of a version, newest first, onto a disk.
//!
//! Each path is decided by the newest layer that has it ([`seen`]), so it is written once. The
//! bytes of older layers arrive ([`fetch`]) while newer ones are extracted.
mod existing;
mod fetch;
mod seen;
#[cfg(test)]
mod tests;

use crate::error::{Error, ErrorKind};
use crate::layer::extract::{Extractor, Note, Placed};
use crate::layer::{Entry, Kind, LayerError, LayerReader};
use crate::path::RelPath;
use crate::remote::{RemoteError, Store};
use crate::state::identity::Identity;
use existing::Ground;
use fetch::{Fetched, Source};
use seen::{Seen, Verdict};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The most layers whose bytes are under way: with [`fetch::AHEAD_MAX`] this bounds memory.
const LAYERS_AHEAD: usize = 4;
/// The most restored paths handed over at once.
const BATCH_MAX: usize = 1024;
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
}

/// Says whether what stands at a path already is the entry, so that it need not be written.
pub type IsThere = dyn FnMut(&RelPath, &Entry, &Identity) -> bool + Send;

/// What to do with what the disk already holds.
pub enum Existing {
    /// Nothing there is trusted.
    Rewrite,
    /// Ask, for each entry whose path exists.
    Keep(Box<IsThere>),
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

/// How to restore.
pub struct Policy {
    /// What to do with what the disk already holds.
    pub existing: Existing,
    /// Where a local file goes that stands in the way of an entry and is something else (other
    /// type, size, or mtime); `None`: it is replaced. Local paths no layer has stay in any case.
    pub aside: Option<OwnedFd>,
    /// Layers may be any `tar.zst`.
    pub lenient: bool,
    /// Takes what was restored.
    pub on_restored: Option<Box<OnRestored>>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { existing: Existing::Rewrite, aside: None, lenient: false, on_restored: None }
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
        let kind = match &e {
            RestoreError::Remote { source, .. } => match source {
                RemoteError::NotFound { .. } | RemoteError::NoBucket { .. } => ErrorKind::NotFound,
                RemoteError::Denied { .. } => ErrorKind::Denied,
                RemoteError::Unavailable { .. } => ErrorKind::Unavailable,
                _ => ErrorKind::Io,
            },
            RestoreError::Mismatch { .. } => ErrorKind::Corrupt,
            RestoreError::Layer { source, .. } | RestoreError::Finish { source } => source.kind(),
            RestoreError::Stopped => ErrorKind::Io,
        };
        Self::new(kind, "restore failed").with_source(e)
    }
}

/// Counters both sides see.
#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    files: AtomicU64,
    stop: AtomicBool,
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

/// One restore, on its blocking thread.
struct Run {
    source: Source,
    extractor: Extractor,
    ground: Ground,
    seen: Seen,
    policy: Policy,
    counters: Arc<Counters>,
    restored: Restored,
    batch: Vec<RestoredPath>,
}

impl Run {
    fn new(source: Source, root: OwnedFd, mut policy: Policy, counters: Arc<Counters>) -> Self {
        let ground = Ground::new(&root, policy.aside.take());
        Self {
            source,
            extractor: Extractor::new(root),
            ground,
            seen: Seen::default(),
            policy,
            counters,
            restored: Restored::default(),
            batch: Vec::new(),
        }
    }

    fn all(mut self, layers: &[LayerSource]) -> Result<Restored, RestoreError> {
        let mut ahead = VecDeque::new();
        let mut waiting = layers.iter();
        for (index, layer) in layers.iter().enumerate() {
            while ahead.len() < LAYERS_AHEAD {
                let Some(next) = waiting.next() else { break };
                ahead.push_back(self.source.open(next));
            }
            let Some(mut bytes) = ahead.pop_front() else { break };
            let result = self.layer(index, &mut bytes);
            self.settle(layer, &mut bytes, result)?;
            let orphans = self.seen.take_orphans();
            if !orphans.is_empty() {
                let mut bytes = self.source.open(layer);
                let result = self.orphans(index, &mut bytes, orphans);
                self.settle(layer, &mut bytes, result)?;
            }
        }
        let end = self.extractor.finish().map_err(|source| RestoreError::Finish { source })?;
        self.hand_over(end.placed, layers.len());
        self.flush_batch();
        self.restored.notes = end.notes.iter().map(Note::to_string).collect();
        self.restored.bytes = self.counters.bytes.load(Ordering::Relaxed);
        self.restored.moved = self.ground.take_moved();
        Ok(self.restored)
    }

    /// A layer is done when its object was read to the end and is the one HEAD names.
    fn settle(
        &self,
        layer: &LayerSource,
        bytes: &mut Fetched,
        result: Result<(), LayerError>,
    ) -> Result<(), RestoreError> {
        let result = result.and_then(|()| {
            std::io::copy(bytes, &mut std::io::sink()).map_err(|e| LayerError::io("end of object", e))
        });
        match (result, bytes.take_failure()) {
            // The cause comes before what it led to.
            (_, Some(failure)) => Err(failure),
            (Err(source), None) => Err(RestoreError::Layer { key: layer.key.clone(), source }),
            (Ok(_), None) if self.counters.stop.load(Ordering::Relaxed) => Err(RestoreError::Stopped),
            (Ok(_), None) => Ok(()),
        }
    }

    fn reader<'a>(&self, bytes: &'a mut Fetched) -> Result<LayerReader<&'a mut Fetched>, LayerError> {
        if self.policy.lenient { LayerReader::lenient(bytes) } else { LayerReader::new(bytes) }
    }

    fn layer(&mut self, index: usize, bytes: &mut Fetched) -> Result<(), LayerError> {
        let mut reader = self.reader(bytes)?;
        while let Some(entry) = reader.next_entry()? {
            if self.counters.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match self.seen.judge(&entry, index)? {
                Verdict::Hidden | Verdict::Orphan => {}
                Verdict::Again => {
                    self.extractor.end_layer()?;
                    self.extractor.place(&entry, &mut reader)?;
                }
                Verdict::Ours => self.entry(index, &entry, &mut reader)?,
            }
            if self.restored.entries % BATCH_MAX as u64 == 0 {
                let placed = self.extractor.take_placed();
                self.hand_over(placed, index);
            }
        }
        self.extractor.end_layer()?;
        let placed = self.extractor.take_placed();
        self.hand_over(placed, index);
        Ok(())
    }

    fn entry<R: std::io::Read + Send>(
        &mut self,
        index: usize,
        entry: &Entry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), LayerError> {
        if matches!(entry.kind, Kind::Whiteout) {
            return Ok(()); // hides older layers; what is local stays
        }
        self.restored.entries += 1;
        self.restored.files += u64::from(matches!(entry.kind, Kind::File { .. }));
        self.counters.files.fetch_add(1, Ordering::Relaxed);
        let there = self.ground.look(&mut self.extractor, &self.seen, &entry.path)?;
        if let Some(stat) = there {
            let identity = Identity::from(&stat);
            if let Existing::Keep(is_there) = &mut self.policy.existing
                && is_there(&entry.path, entry, &identity)
            {
                self.restored.kept += 1;
                if matches!(entry.kind, Kind::Directory) {
                    // Files put into it may still move its mtime.
                    self.extractor.keep_directory(entry);
                }
                let path = entry.path.clone();
                self.batch.push(RestoredPath { path, identity, layer: index, kept: true });
                return Ok(());
            }
            self.ground.clear(&mut self.extractor, entry, &stat)?;
        }
        self.extractor.place(entry, reader)
    }

    /// Files of which a newer layer decided the first name, but not the others: their content is
    /// under the first name only, so the layer is read once more for it.
    fn orphans(
        &mut self,
        index: usize,
        bytes: &mut Fetched,
        mut orphans: BTreeMap<RelPath, Vec<RelPath>>,
    ) -> Result<(), LayerError> {
        let mut reader = self.reader(bytes)?;
        let mut links = Vec::new();
        while let Some(mut entry) = reader.next_entry()? {
            if matches!(entry.kind, Kind::Directory | Kind::Whiteout | Kind::HardLink { .. }) {
                continue;
            }
            let Some(names) = orphans.remove(&entry.path) else { continue };
            let mut names = names.into_iter();
            let Some(first) = names.next() else { continue };
            entry.path = first.clone();
            self.entry(index, &entry, &mut reader)?;
            links.extend(names.map(|path| Entry {
                path,
                kind: Kind::HardLink { target: first.clone() },
                meta: entry.meta.clone(),
            }));
        }
        if let Some((target, names)) = orphans.first_key_value() {
            let name = names.first().map(ToString::to_string).unwrap_or_default();
            return Err(LayerError::corrupt(format!(
                "hard link to a file that is not there: {target}: {name}"
            )));
        }
        for link in links {
            self.entry(index, &link, &mut reader)?;
        }
        self.extractor.end_layer()?;
        let placed = self.extractor.take_placed();
        self.hand_over(placed, index);
        Ok(())
    }

    fn hand_over(&mut self, placed: Vec<Placed>, index: usize) {
        for Placed { path, stat } in placed {
            let layer = self.seen.layer_of(&path).unwrap_or(index);
            self.batch.push(RestoredPath { path, identity: Identity::from(&stat), layer, kept: false });
        }
        if self.batch.len() >= BATCH_MAX {
            self.flush_batch();
        }
    }

    fn flush_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if let Some(on_restored) = &mut self.policy.on_restored
            && !batch.is_empty()
        {
            on_restored(batch);
        }
    }
}
