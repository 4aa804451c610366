//! [`Records`]: what the last committed version holds, so that a flush needs no walk.
//!
//! One record per path: its [`Identity`] as of the last committed flush. Names of files with
//! several names are also found by inode. Everything a flush will change here is written down
//! *before* HEAD is swapped and applied after: whatever happens between, the next start sees by
//! HEAD which of both is true.
use crate::journal::{Batch, Journal, JournalError, Tree};
use crate::path::RelPath;
use crate::remote::Tag;
use crate::state::absent::Absent;
use crate::state::chunk::Known;
use crate::state::head::VersionId;
use crate::state::identity::Identity;
use crate::sync::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use uuid::Uuid;

pub mod key;
mod overruled;
pub mod pending;
mod place;
mod restoring;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
mod touched;

use key::{path_of, prefix_below, record_key};
pub use overruled::{overruled, overruled_as};
pub use pending::{Delta, Pending};
pub use place::Place;
pub use restoring::Restoring;
use touched::Touched;

const CLEAN: Tree = Tree("clean");
const LINKS: Tree = Tree("link");
const META: Tree = Tree("meta");
const META_KEY: &[u8] = b"state";
/// First byte of every record; the postcard form of [`Identity`] follows.
const RECORD_VERSION: u8 = 1;
/// The number in the meta document.
const META_VERSION: u32 = 1;
/// How many operations go into one batch at most.
const BATCH_MAX: usize = 4096;

/// What the records belong to and how they stand; one JSON document in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    meta_version: u32,
    /// The remote they belong to.
    pub url: String,
    /// The name asked for.
    pub name: String,
    /// The fork that took its place, after another writer had moved HEAD.
    #[serde(default)]
    pub fork: Option<String>,
    /// The id of this state directory.
    pub writer: Uuid,
    /// The version the records describe; `None` before the first commit or restore.
    pub base: Option<Base>,
    /// Whether the last stop was orderly.
    pub clean: bool,
    /// The directory that they describe, since it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A version and the tag its HEAD (or, layout single, its archive) had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its number.
    pub version: VersionId,
    /// As the store named it.
    pub tag: Tag,
    /// The history it is of: see [`Head::history`](crate::state::head::Head::history). None of versions from before there
    /// were any, and of archives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Uuid>,
}

/// Why records cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// They were made for another remote or name.
    #[error(
        "what is known of this directory belongs to another remote or name; mount it with these, or give \
         another --state-dir to start anew: {name} in {url}"
    )]
    Foreign {
        /// Its remote.
        url: String,
        /// Its name.
        name: String,
    },
}

impl From<RecordError> for crate::Error {
    fn from(e: RecordError) -> Self {
        match e {
            RecordError::Journal(e) => e.into(),
            RecordError::Foreign { .. } => Self::new(crate::ErrorKind::Invalid, e.to_string()),
        }
    }
}

/// The records of one mount. Calls may block on the disk.
#[derive(Debug)]
pub struct Records {
    journal: Arc<dyn Journal>,
    /// The meta document as the journal has it, unless it is doubtful: see [`Records::known_meta`].
    meta: Mutex<Meta>,
    doubtful: AtomicBool,
    was_clean: bool,
    /// See [`changes`](Records::changes).
    changes: AtomicU64,
    /// What the version has that was never on the disk, and so has no record.
    absent: OnceLock<Weak<Absent>>,
    known: Arc<Known>,
    touched: Mutex<Touched>,
}

impl Records {
    /// The records in a journal, for a remote and name; a fresh journal gets them and a writer id.
    /// From now on the stop counts as unclean, until [`close_clean`](Self::close_clean).
    pub fn open(journal: Arc<dyn Journal>, url: &str, name: &str) -> Result<Self, RecordError> {
        let fresh = Meta {
            meta_version: META_VERSION,
            url: url.into(),
            name: name.into(),
            fork: None,
            writer: Uuid::now_v7(),
            base: None,
            clean: true,
            place: None,
        };
        let meta = match journal.get(META, META_KEY)? {
            Some(bytes) => decode_meta(&bytes)?,
            None => fresh.clone(),
        };
        let foreign = meta.url != url || meta.name != name;
        let was_clean = meta.clean;
        let known = Arc::new(Known::new(Arc::clone(&journal)));
        let records = Self {
            known,
            journal,
            meta: Mutex::new(meta),
            doubtful: AtomicBool::new(false),
            was_clean,
            changes: AtomicU64::new(0),
            absent: OnceLock::new(),
            touched: Mutex::default(),
        };
        if foreign {
            let meta = records.meta();
            // A start that came to nothing (a mistyped bucket, say) binds nobody.
            if meta.base.is_some() || meta.fork.is_some() || !records.pending()?.is_empty() {
                return Err(RecordError::Foreign { url: meta.url, name: meta.name });
            }
            records.forget_restore()?;
            records.edit_meta(Batch::new(), |meta| *meta = fresh)?;
        }
        records.edit_meta(Batch::new(), |meta| meta.clean = false)?;
        records.journal.flush()?;
        Ok(records)
    }

    /// The stop before this start counts as none in good order, whatever it said: somebody may have written since.
    pub fn doubt(&mut self) {
        self.was_clean = false;
    }

    /// Whether the stop before this start was orderly; else the backing must be scanned.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// A copy of the meta document.
    pub fn meta(&self) -> Meta {
        self.known_meta().clone()
    }

    /// The meta document. A change of it that failed may have been made all the same (see
    /// [`Redo`](crate::journal::Redo)): then the journal is asked which of the two it is.
    fn known_meta(&self) -> MutexGuard<'_, Meta> {
        let mut meta = self.meta.lock();
        if self.doubtful.load(Ordering::Acquire)
            && let Ok(Some(bytes)) = self.journal.get(META, META_KEY)
            && let Ok(there) = decode_meta(&bytes)
        {
            *meta = there;
            self.doubtful.store(false, Ordering::Release);
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        meta
    }

    /// The name to work on: the fork, if there is one.
    pub fn current_name(&self) -> String {
        let meta = self.known_meta();
        meta.fork.as_ref().unwrap_or(&meta.name).clone()
    }

    /// Grows with every change of the records that is complete. Read before asking, it tells who asks the
    /// same often whether the answer still holds: an idle mount leaves its journal in peace.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Notes that everything is flushed and the stop is orderly.
    pub fn close_clean(&self) -> Result<(), JournalError> {
        self.known.settle()?;
        self.edit_meta(Batch::new(), |meta| meta.clean = true)?;
        self.journal.flush()
    }

    /// The record of a path.
    pub fn get(&self, path: &RelPath) -> Result<Option<Identity>, JournalError> {
        self.journal.get(CLEAN, &record_key(path))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// The records strictly below a path, in path order.
    pub fn below<'a>(
        &'a self,
        path: &RelPath,
    ) -> impl Iterator<Item = Result<(RelPath, Identity), JournalError>> + use<'a> {
        self.journal
            .scan_prefix(CLEAN, &prefix_below(path))
            .map(|pair| {
                let (key, value) = pair?;
                Ok((path_of(&key)?, decode(&value)?))
            })
            .filter(|item| !matches!(item, Ok((path, _)) if path.is_root()))
    }

    /// Whether there is a record at a path or below it.
    pub fn any_within(&self, path: &RelPath) -> Result<bool, JournalError> {
        Ok(self.journal.get(CLEAN, &record_key(path))?.is_some()
            || self.below(path).next().transpose()?.is_some())
    }

    /// Connects what a lazy restore has not brought yet; once.
    pub fn set_absent(&self, absent: &Arc<Absent>) {
        let _already = self.absent.set(Arc::downgrade(absent));
    }

    /// What a lazy restore has not brought yet.
    pub fn absent(&self) -> Option<Arc<Absent>> {
        self.absent.get()?.upgrade()
    }

    /// Which content stands where in the layers.
    pub fn known(&self) -> &Arc<Known> {
        &self.known
    }

    /// Records what came to the disk as the version has it.
    pub fn arrived(
        &self,
        entries: impl IntoIterator<Item = (RelPath, Identity)>,
    ) -> Result<(), JournalError> {
        // None of them had a record: what a name was linked to before needs no look.
        let mut batch = Batch::new();
        for (path, ident) in entries {
            let key = record_key(&path);
            if is_linked(&ident) {
                batch.put(LINKS, &link_key(ident.ino, &key), b"");
            }
            batch.put(CLEAN, &key, encode(&ident)?);
        }
        self.journal.apply(batch)
    }

    /// The names in a directory, in order, each with its record; `None` for one that has only
    /// records below it.
    pub fn children(&self, dir: &RelPath) -> key::Children<'_> {
        key::Children::new(&*self.journal, CLEAN, prefix_below(dir))
    }

    /// The recorded names of an inode that had several.
    pub fn links(&self, ino: u64) -> Result<Vec<RelPath>, JournalError> {
        let prefix = ino.to_be_bytes();
        self.journal
            .scan_prefix(LINKS, &prefix)
            .map(|pair| path_of(pair?.0.get(prefix.len()..).unwrap_or_default()))
            .collect()
    }

    /// Sets the records of a tree that was just restored from `base`, in bounded batches. With
    /// `replace` those of before are dropped, and pending flushes, which were of another base; a restore
    /// under way is settled with the last batch. Interrupted before that, whatever stands still has a record.
    pub fn restored(
        &self,
        entries: impl Iterator<Item = (RelPath, Identity)>,
        base: Base,
        replace: bool,
    ) -> Result<(), JournalError> {
        let mut writer = Writer::new(self);
        let mut stay = HashSet::new();
        for (path, ident) in entries {
            if replace {
                stay.insert(short_digest(&record_key(&path)));
            }
            // Most were recorded when they were placed.
            if self.get(&path)?.as_ref() != Some(&ident) {
                writer.put(&path, &ident)?;
            }
        }
        if replace {
            for pair in self.journal.scan_prefix(CLEAN, b"") {
                let (key, _) = pair?;
                if !stay.contains(&short_digest(&key)) {
                    writer.remove(&path_of(&key)?)?;
                }
            }
            for pair in self.journal.scan_prefix(pending::PENDING, b"") {
                writer.batch.delete(pending::PENDING, &pair?.0);
                writer.spill()?;
            }
        }
        let mut batch = std::mem::take(&mut writer.batch);
        if replace {
            self.settle_restore(&mut batch)?;
        }
        self.edit_meta(batch, |meta| meta.base = Some(base))?;
        self.journal.flush()
    }

    /// Forgets everything but the writer id: for another remote or name, or after damage.
    pub fn reset(journal: &dyn Journal, url: &str, name: &str) -> Result<(), JournalError> {
        let old = journal.get(META, META_KEY)?.and_then(|bytes| decode_meta(&bytes).ok());
        for tree in [CLEAN, LINKS, pending::PENDING, restoring::RESTORING] {
            let mut batch = Batch::new();
            for pair in journal.scan_prefix(tree, b"") {
                batch.delete(tree, &pair?.0);
                if batch.len() >= BATCH_MAX {
                    journal.apply(std::mem::take(&mut batch))?;
                }
            }
            journal.apply(batch)?;
        }
        let meta = Meta {
            meta_version: META_VERSION,
            url: url.into(),
            name: name.into(),
            fork: None,
            writer: old.map_or_else(Uuid::now_v7, |m| m.writer),
            base: None,
            clean: false,
            place: None,
        };
        let mut batch = Batch::new();
        batch.put(META, META_KEY, encode_meta(&meta)?);
        journal.apply(batch)?;
        journal.flush()
    }

    /// From now on this is another writer: a copy of this process that knows the same may go on elsewhere.
    pub fn become_another(&self) -> Result<(), JournalError> {
        self.edit_meta(Batch::new(), |meta| meta.writer = Uuid::now_v7())
    }

    /// Forgets the base and all that was recorded of it: the remote no longer has it.
    pub fn forget_base(&self) -> Result<(), JournalError> {
        self.forget(&[CLEAN, LINKS, restoring::RESTORING])
    }

    /// The same and what was under way: they describe a directory that is not there any more.
    pub fn forget_directory(&self) -> Result<(), JournalError> {
        self.forget(&[CLEAN, LINKS, pending::PENDING, restoring::RESTORING])
    }

    fn forget(&self, trees: &[Tree]) -> Result<(), JournalError> {
        let mut writer = Writer::new(self);
        for tree in trees {
            for pair in self.journal.scan_prefix(*tree, b"") {
                writer.batch.delete(*tree, &pair?.0);
                writer.spill()?;
            }
        }
        let batch = std::mem::take(&mut writer.batch);
        self.edit_meta(batch, |meta| meta.base = None)?;
        self.journal.flush()
    }

    /// Notes which directory they describe.
    pub fn stand_at(&self, place: Place) -> Result<(), JournalError> {
        if self.meta.lock().place == Some(place) {
            return Ok(());
        }
        self.edit_meta(Batch::new(), |meta| meta.place = Some(place))?;
        self.journal.flush()
    }

    /// Changes the meta document, in one batch with `batch`.
    fn edit_meta(&self, mut batch: Batch, edit: impl FnOnce(&mut Meta)) -> Result<(), JournalError> {
        let mut meta = self.known_meta();
        if self.doubtful.load(Ordering::Acquire) {
            // An edit of what it was before would undo one that may have been made.
            drop(meta);
            let there = self.journal.get(META, META_KEY)?;
            decode_meta(&there.unwrap_or_default())?;
            return self.edit_meta(batch, edit);
        }
        let mut next = meta.clone();
        edit(&mut next);
        batch.put(META, META_KEY, encode_meta(&next)?);
        self.journal.apply(batch).inspect_err(|_| self.doubtful.store(true, Ordering::Release))?;
        *meta = next;
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

/// Changes records and the index of names together, a bounded batch at a time.
struct Writer<'a> {
    records: &'a Records,
    batch: Batch,
}

impl<'a> Writer<'a> {
    fn new(records: &'a Records) -> Self {
        Self { records, batch: Batch::new() }
    }

    fn put(&mut self, path: &RelPath, ident: &Identity) -> Result<(), JournalError> {
        self.unlink_old(path)?;
        let key = record_key(path);
        if is_linked(ident) {
            self.batch.put(LINKS, &link_key(ident.ino, &key), b"");
        }
        self.batch.put(CLEAN, &key, encode(ident)?);
        self.spill()
    }

    fn remove(&mut self, path: &RelPath) -> Result<(), JournalError> {
        self.unlink_old(path)?;
        self.batch.delete(CLEAN, &record_key(path));
        self.spill()
    }

    fn remove_below(&mut self, path: &RelPath) -> Result<(), JournalError> {
        for item in self.records.below(path) {
            let (path, ident) = item?;
            let key = record_key(&path);
            if is_linked(&ident) {
                self.batch.delete(LINKS, &link_key(ident.ino, &key));
            }
            self.batch.delete(CLEAN, &key);
            self.spill()?;
        }
        Ok(())
    }

    fn unlink_old(&mut self, path: &RelPath) -> Result<(), JournalError> {
        if let Some(old) = self.records.get(path)?.filter(is_linked) {
            self.batch.delete(LINKS, &link_key(old.ino, &record_key(path)));
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<(), JournalError> {
        if self.batch.len() >= BATCH_MAX {
            self.records.journal.apply(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }
}

/// Enough of a key to tell it from millions of others.
fn short_digest(key: &[u8]) -> u128 {
    let digest = blake3::hash(key);
    digest.as_bytes().iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
}

/// Whether several names share this inode (a directory's count means something else).
pub fn is_linked(ident: &Identity) -> bool {
    ident.nlink > 1 && !ident.file_type().is_dir()
}

fn link_key(ino: u64, record_key: &[u8]) -> Vec<u8> {
    [&ino.to_be_bytes()[..], record_key].concat()
}

fn encode(ident: &Identity) -> Result<Vec<u8>, JournalError> {
    postcard::to_extend(ident, vec![RECORD_VERSION]).map_err(|e| JournalError::corrupt(e.to_string()))
}

fn decode(bytes: &[u8]) -> Result<Identity, JournalError> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|e| JournalError::corrupt(format!("record: {e}")))
        }
        _ => Err(JournalError::corrupt("record of an unknown version")),
    }
}

fn encode_meta(meta: &Meta) -> Result<Vec<u8>, JournalError> {
    serde_json::to_vec(meta).map_err(|e| JournalError::corrupt(e.to_string()))
}

fn decode_meta(bytes: &[u8]) -> Result<Meta, JournalError> {
    let meta: Meta =
        serde_json::from_slice(bytes).map_err(|e| JournalError::corrupt(format!("state record: {e}")))?;
    if meta.meta_version != META_VERSION {
        return Err(JournalError::corrupt("state record of an unknown version"));
    }
    Ok(meta)
}
