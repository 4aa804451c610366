//! [`Cache`]: the facade.
use super::blob::Blob;
use super::budget::Short;
use super::check::CHECKS;
use super::config::Config;
use super::core::{Core, Slot};
use super::error::CacheError;
use super::events::{Cause, Event, Subject};
use super::evictor::Note;
use super::file::File;
use super::file_entry::FileEntry;
use super::info::{EntryName, Info, Removed, Verdict, Whereabouts};
use super::key::{Key, ObjectId};
use super::opening;
use super::stats::{Meters, Stats};
use super::stream::Stream;
use super::tier::Origin;
use super::waiting::Waiting;
use crate::journal::{Journal, SledJournal};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::broadcast;

/// Files and blocks on a disk. Cheap to clone; the last clone closes it.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) core: Arc<Core>,
    journal: Weak<SledJournal>,
    _closer: Arc<Closer>,
}

/// Guards of entries may outlive the cache; they change nothing any more.
#[derive(Debug)]
struct Closer(Arc<Core>);

impl Drop for Closer {
    fn drop(&mut self) {
        *self.0.closed.write() = true;
    }
}

/// What a look-up found.
#[derive(Debug)]
pub enum Found {
    /// The file.
    File(File),
    /// A file that is being filled: what is there can be read, the rest can be waited for.
    Filling(Waiting),
}

impl Found {
    /// Its bytes, whether all are there or not.
    pub fn stream(self) -> Stream {
        match self {
            Self::File(file) => Stream::file(file),
            Self::Filling(waiting) => waiting.stream(),
        }
    }

    /// The whole file; waits for the end of its fill.
    pub async fn file(self) -> Result<File, CacheError> {
        match self {
            Self::File(file) => Ok(file),
            Self::Filling(waiting) => waiting.file().await,
        }
    }
}

impl Cache {
    /// Opens the cache in `config.directory`; everything that was there is there again when this returns.
    ///
    /// Must be called within a tokio runtime that lives as long as the cache. A journal that cannot be read
    /// is moved aside, and what it named comes back by the witnesses of the files; wait for
    /// [`settled`](Self::settled) if that matters. [`CacheError::Busy`] if another process has it open.
    pub async fn open(config: Config) -> Result<Self, CacheError> {
        let runtime = Handle::current();
        let opened = runtime.clone().spawn_blocking(move || opening::open(&config, &runtime)).await;
        let (core, journal) = opened.unwrap_or(Err(CacheError::Closed))?;
        Ok(Self { _closer: Arc::new(Closer(core.clone())), core, journal })
    }

    /// Opens the cache on a journal of the caller's, who also makes sure that nobody else has the directory.
    pub async fn open_on(config: Config, journal: Arc<dyn Journal>) -> Result<Self, CacheError> {
        let runtime = Handle::current();
        let opened =
            runtime.clone().spawn_blocking(move || opening::open_on(config, journal, &runtime)).await;
        let core = opened.unwrap_or(Err(CacheError::Closed))?;
        Ok(Self { _closer: Arc::new(Closer(core.clone())), core, journal: Weak::new() })
    }

    /// Waits until everything that was found at the start has been checked.
    pub async fn settled(&self) {
        let mut checked = self.core.checked.subscribe();
        let _always_sent = checked.wait_for(|checked| *checked == CHECKS).await;
    }

    /// Whether what is not found is not there. After a kill the check after the start may still find it.
    pub fn is_certain(&self) -> bool {
        self.core.certain.load(SeqCst)
    }

    /// Whether the journal was lost, and only the check that still runs knows what is there.
    pub fn is_rebuilding(&self) -> bool {
        self.core.rebuilt && !self.is_certain()
    }

    /// Waits until nothing is being fetched any more: what came is on the disk, unless there was no room for it.
    pub async fn quiet(&self) {
        let mut fetching = self.core.fetching.subscribe();
        let _always_sent = fetching.wait_for(|fetching| *fetching == 0).await;
    }

    /// Looks a file up if it is at hand: no system call, no waiting. One that this process has neither
    /// written nor verified is not at hand: [`look_up`](Self::look_up) verifies it.
    pub fn hit(&self, key: impl AsRef<[u8]>) -> Option<File> {
        let file = self.core.files.get(key.as_ref(), |slot| match slot {
            Slot::File(file) if file.is_verified() => {
                file.usage.pin();
                Some(file.clone())
            }
            _ => None,
        })??;
        self.used(&file);
        Some(File::pinned(self.core.clone(), file))
    }

    fn used(&self, file: &Arc<FileEntry>) {
        Meters::count(&self.core.meters.file_hits);
        if file.usage.hit() {
            self.core.evictor.touch(file.generation, || Note::File(Arc::downgrade(file)));
        }
        self.core.asked(true, || file.subject());
    }

    /// Looks a file up. The first time after a start all of it is read, to verify it; one that is not right
    /// is dropped, and not found.
    pub async fn look_up(&self, key: impl AsRef<[u8]>) -> Result<Option<Found>, CacheError> {
        let key = key.as_ref();
        if let Some(file) = self.hit(key) {
            return Ok(Some(Found::File(file)));
        }
        let slot = self.core.files.get(key, |slot| {
            if let Slot::File(file) = slot {
                file.usage.pin();
            }
            slot.clone()
        });
        match slot {
            None => {
                Meters::count(&self.core.meters.file_misses);
                if let Ok(key) = Key::new(key) {
                    self.core.asked(false, || Subject::File(key));
                }
                Ok(None)
            }
            Some(Slot::Filling(filling)) => {
                Meters::count(&self.core.meters.file_streams);
                Ok(Some(Found::Filling(Waiting::new(self.core.clone(), filling))))
            }
            Some(Slot::File(file)) => {
                let guard = File::pinned(self.core.clone(), file.clone());
                let core = self.core.clone();
                let verified = self.core.runtime.spawn_blocking(move || {
                    match file.trust().inspect_err(|e| core.drop_damaged(&file, e)) {
                        Ok(read) => {
                            core.meters.bytes_verified.fetch_add(read, Relaxed);
                            Ok(Some(file))
                        }
                        Err(e) if e.is_shortage() => Err(e),
                        Err(_) => Ok(None),
                    }
                });
                let Some(file) = verified.await.map_err(|_| CacheError::Closed)?? else {
                    Meters::count(&self.core.meters.file_misses);
                    return Ok(None);
                };
                self.used(&file);
                Ok(Some(Found::File(guard)))
            }
        }
    }

    /// Looks a file up and waits for the end of its fill.
    pub async fn look_up_file(&self, key: impl AsRef<[u8]>) -> Result<Option<File>, CacheError> {
        match self.look_up(key).await? {
            None => Ok(None),
            Some(found) => found.file().await.map(Some),
        }
    }

    /// Notes a use of a file; `false` if it is not there.
    pub fn touch(&self, key: impl AsRef<[u8]>) -> bool {
        let file = self.core.files.get(key.as_ref(), |slot| match slot {
            Slot::File(file) => Some(file.clone()),
            Slot::Filling(_) => None,
        });
        let Some(file) = file.flatten() else { return false };
        if file.usage.hit() {
            self.core.evictor.touch(file.generation, || Note::File(Arc::downgrade(&file)));
        }
        true
    }

    /// Reads an object through the cache; what is missing comes from `origin`.
    pub fn blob(&self, id: &ObjectId, origin: Arc<dyn Origin>) -> Result<Blob, CacheError> {
        self.core.check_open()?;
        id.check()?;
        if id.size.div_ceil(self.core.config.block_bytes) > super::witness::BLOCKS_MAX {
            return Err(CacheError::Invalid { what: format!("an object of so many blocks: {id}") });
        }
        Ok(Blob::new(self.core.clone(), id, origin))
    }

    /// How long the blocks of objects are that come from now on.
    pub fn block_bytes(&self) -> u64 {
        self.core.config.block_bytes
    }

    /// Deletes a file. The key is free at once; if somebody holds the file its bytes go when he lets go. A
    /// fill that is under way is given up.
    pub async fn remove(&self, key: impl AsRef<[u8]>) -> Removed {
        let Ok(key) = Key::new(key.as_ref()) else { return Removed::Absent };
        let core = self.core.clone();
        let removed = self.core.runtime.spawn_blocking(move || {
            if !core.certain.load(SeqCst) {
                core.deleted.lock().insert(key.clone());
            }
            loop {
                match core.files.get(&key, Slot::clone) {
                    None => return Removed::Absent,
                    Some(Slot::Filling(filling)) => {
                        if filling.abandon(&core, CacheError::Deleted) {
                            Meters::count(&core.meters.deleted);
                            return Removed::Filling;
                        }
                        // It has just become a file, or has ended by itself.
                    }
                    Some(Slot::File(file)) => {
                        let removed = core.delete_file(&file);
                        if removed != Removed::Absent {
                            return removed;
                        }
                    }
                }
            }
        });
        removed.await.unwrap_or(Removed::Absent)
    }

    /// Deletes this file, which has its key no longer then; [`Removed::Absent`] if it has not any more, because it was
    /// evicted or the key names another one by now.
    pub async fn remove_file(&self, file: &File) -> Removed {
        let Some(entry) = file.entry().cloned() else { return Removed::Absent };
        let core = self.core.clone();
        let removed = self.core.runtime.spawn_blocking(move || {
            if !core.certain.load(SeqCst) {
                core.deleted.lock().insert(entry.key.clone());
            }
            core.delete_file(&entry)
        });
        removed.await.unwrap_or(Removed::Absent)
    }

    /// Deletes what there is of an object. Who reads it goes on past the cache.
    pub async fn remove_object(&self, id: &ObjectId) -> Removed {
        let Some(blob) = self.core.blobs.get(id, Arc::clone) else { return Removed::Absent };
        let core = self.core.clone();
        let removed = self.core.runtime.spawn_blocking(move || {
            let (read, blocks) = (!blob.is_unread(), blob.blocks());
            if !core.drop_blob(&blob) {
                return Removed::Absent;
            }
            core.meters.deleted.fetch_add(blocks.len() as u64, Relaxed);
            for block in blocks {
                core.events.send(|| Event::Delete(blob.subject(block.number)));
            }
            if read { Removed::WhenUnpinned } else { Removed::Gone }
        });
        removed.await.unwrap_or(Removed::Absent)
    }

    /// What there is of an object goes first from now on when there is no room, block by block, unless it is used
    /// again. How many blocks that is.
    pub fn demote_object(&self, id: &ObjectId) -> u64 {
        let Some(blob) = self.core.blobs.get(id, Arc::clone) else { return 0 };
        self.core.evictor.demote(&blob);
        blob.blocks_here().into()
    }

    /// Where a file is, and who fills it. No use of it.
    pub fn whereabouts(&self, key: impl AsRef<[u8]>) -> Whereabouts {
        match self.core.files.get(key.as_ref(), Slot::clone) {
            None => Whereabouts::Absent,
            Some(Slot::File(file)) => Whereabouts::There { path: file.path(), size: file.size },
            Some(Slot::Filling(filling)) => {
                let waiting = Waiting::new(self.core.clone(), filling);
                Whereabouts::Filling {
                    filler: waiting.filler().to_owned(),
                    written: waiting.written(),
                    age: waiting.age(),
                }
            }
        }
    }

    /// All entries, in no order. Not one instant: what changes meanwhile may or may not show.
    pub fn entries(&self) -> Vec<Info> {
        let mut all = self.core.files.collect(|_, slot| Some(super::info::of_slot(slot)));
        all.extend(self.core.blobs.collect(|_, blob| super::info::of_blob(blob)));
        all
    }

    /// One file, without using it.
    pub fn stat(&self, key: impl AsRef<[u8]>) -> Option<Info> {
        self.core.files.get(key.as_ref(), super::info::of_slot)
    }

    /// What there is of one object, without using it.
    pub fn stat_object(&self, id: &ObjectId) -> Option<Info> {
        self.core.blobs.get(id, super::info::of_blob).flatten()
    }

    /// Reads all that is there of an entry and compares the checksums. What is not right is dropped.
    ///
    /// # Errors
    /// It cannot be looked at, for want of descriptors or memory; then nothing was dropped.
    pub async fn verify(&self, name: &EntryName) -> Result<Verdict, CacheError> {
        let (core, name) = (self.core.clone(), name.clone());
        let verified = self.core.runtime.spawn_blocking(move || super::verify::verify(&core, &name));
        verified.await.unwrap_or(Err(CacheError::Closed))
    }

    /// Throws out what goes first until no more than `bytes` are used, or the rest is held; says how much is
    /// used then.
    pub async fn make_room(&self, bytes: u64) -> u64 {
        let core = self.core.clone();
        let made = self.core.runtime.spawn_blocking(move || core.shrink_to(bytes, Some(Cause::Asked)));
        let _ended = made.await;
        self.core.budget.used().bytes
    }

    /// Waits until everything admitted so far is in the journal, on the disk.
    pub async fn flush(&self) -> Result<(), CacheError> {
        let core = self.core.clone();
        let flushed = self.core.runtime.spawn_blocking(move || core.ledger.flush());
        flushed.await.unwrap_or(Err(CacheError::Closed))
    }

    /// Everything counted since the start, and what is used now.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Bytes of the journal on the disk; `None` if it is not one of ours.
    pub fn journal_bytes(&self) -> Option<u64> {
        self.journal.upgrade()?.size_on_disk().ok()
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.core.events.subscribe()
    }

    /// The most bytes that it could have now if all that it has went, and the limit that permits no more: others write to
    /// the same disk.
    pub fn most(&self) -> (u64, Short) {
        self.core.budget.most()
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Gives up what is being filled, writes the journal and lets go of the directory. Guards that still
    /// live can be read to their end.
    pub async fn close(self) -> Result<(), CacheError> {
        let core = self.core.clone();
        let ending = core.clone();
        // What readers have been given stays.
        let kept = core.keeping.clone().write_owned().await;
        let _ended = core.runtime.spawn_blocking(move || *ending.closed.write() = true).await;
        drop(kept);
        self.settled().await; // the check sees that it is closed
        let closed = core.runtime.clone().spawn_blocking(move || {
            let fillings: Vec<_> = core.fillings.lock().values().filter_map(Weak::upgrade).collect();
            for filling in fillings {
                filling.abandon(&core, CacheError::Closed);
            }
            core.ledger.end()
        });
        closed.await.unwrap_or(Err(CacheError::Closed))
    }
}
