//! [`Core`]: what the parts of a cache share, and the steps that several of them take: making room, and letting entries in.
//! How they [leave](super::departure) stands by itself.
//!
//! Order of locks: a part of an index, then the policy or an object's blocks, then the journal's batch.
use super::blob_entry::BlobEntry;
use super::budget::{Budget, Charge, DISK_UNIT, Short};
use super::buffers::Pool;
use super::check::CHECKS;
use super::config::Config;
use super::error::{CacheError, TOO_LARGE, TOO_MUCH};
use super::events::{Cause, Event, Events, Subject};
use super::evict::Unit;
use super::evict::admission::{Gate, Refusal};
use super::evictor::{Evictor, Held};
use super::file_entry::FileEntry;
use super::filling::Filling;
use super::index::Index;
use super::key::{Key, ObjectId};
use super::ledger::Ledger;
use super::memory::Memory;
use super::shares::Shares;
use super::stats::{Meters, Stats};
use super::store::Store;
use crate::sync::{Mutex, RwLock, RwLockReadGuard};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// On a full disk so many others go, one by one, for what takes no bytes, as a new file, before it is given up.
const SQUEEZES_MIN: u64 = 4;
/// So many entries in use are passed over to find one that can go. They go to the end of the order, so the
/// next attempt finds others.
const PASSED_OVER_MAX: usize = 256;

/// What a key names.
#[derive(Debug, Clone)]
pub enum Slot {
    /// A file that is being filled.
    Filling(Arc<Filling>),
    /// A file.
    File(Arc<FileEntry>),
}

/// What the parts of a cache share.
#[derive(Debug)]
pub struct Core {
    pub config: Config,
    pub store: Arc<Store>,
    pub budget: Arc<Budget>,
    pub evictor: Arc<Evictor>,
    pub ledger: Ledger,
    pub files: Index<Key, Slot>,
    pub blobs: Index<Arc<ObjectId>, Arc<BlobEntry>>,
    pub gate: Gate,
    pub meters: Meters,
    pub events: Events,
    pub pool: Arc<Pool>,
    pub memory: Memory,
    pub runtime: Handle,
    pub fetches: Shares,
    /// Blocks that are being fetched, and kept.
    pub fetching: watch::Sender<u64>,
    /// Held for reading from when readers have a block until it is on the disk.
    pub keeping: Arc<tokio::sync::RwLock<()>>,
    /// Files that are being filled by somebody who may stall.
    pub fillings: Mutex<HashMap<u64, Weak<Filling>>>,
    pub filling: Arc<Notify>,
    /// How far what was found at the start has been checked; see [`CHECKS`].
    pub checked: watch::Sender<u32>,
    /// Held for reading by whoever is about to change what is there.
    pub closed: RwLock<bool>,
    /// Whether the journal knows of all that is there: from the start, or since all was checked.
    pub certain: Arc<AtomicBool>,
    /// Whether the journal is a new one beside files of an old one.
    pub rebuilt: bool,
    /// Keys that were deleted before all was checked: nothing that was there at the start comes back by them.
    pub deleted: Mutex<HashSet<Key>>,
    /// The first generation of this session: what is older was found at the start.
    pub first_generation: u64,
    /// Until the check after the start has ended: entries of before that have left since. The files of some are
    /// still held, and are neither adopted nor strays.
    pub departed: Mutex<HashSet<u64>>,
    pub generations: AtomicU64,
}

impl Core {
    /// A number that no entry had before.
    pub fn generation(&self) -> u64 {
        self.generations.fetch_add(1, Relaxed)
    }

    /// Whether the cache is still open.
    pub fn check_open(&self) -> Result<(), CacheError> {
        self.enter().map(drop)
    }

    /// While this is held the cache is not closed. Not across an await.
    pub fn enter(&self) -> Result<RwLockReadGuard<'_, bool>, CacheError> {
        let closed = self.closed.read();
        if *closed { Err(CacheError::Closed) } else { Ok(closed) }
    }

    /// A charge of so much; if need be others have to go. Blocks for a moment.
    pub fn reserve(&self, bytes: u64, entries: u64) -> Result<Charge, CacheError> {
        if let Some(short) = self.budget.forbids(bytes) {
            return Err(CacheError::NoRoom { bytes, short }); // for this nobody needs to go
        }
        let mut passed_over = Vec::new();
        let result = loop {
            match self.budget.charge(bytes, entries) {
                Ok(charge) => break Ok(charge),
                Err(short) => {
                    if !self.evict_one(cause_of(short), &mut passed_over) {
                        break Err(CacheError::NoRoom { bytes, short });
                    }
                }
            }
        };
        self.put_back(passed_over);
        result
    }

    /// Throws out whoever goes first; `false` if nobody can.
    pub fn evict_one(&self, cause: Cause, passed_over: &mut Vec<(Unit, Held)>) -> bool {
        while passed_over.len() < PASSED_OVER_MAX {
            let Some((unit, held)) = self.evictor.victim() else { return false };
            match self.try_evict(unit, &held, cause) {
                Some(true) => return true,
                Some(false) => passed_over.push((unit, held)),
                None => {}
            }
        }
        false
    }

    /// Does what takes so many bytes of the disk. Where that is fuller than it said others have to go, one by one, until
    /// they have given back twice as much: where that does not help, somebody else takes it.
    pub fn squeeze<T>(
        &self,
        bytes: u64,
        mut attempt: impl FnMut() -> Result<T, CacheError>,
    ) -> Result<T, CacheError> {
        let mut passed_over = Vec::new();
        let mut done = attempt();
        let before = self.budget.used().bytes;
        // Each gives back a page at least, whatever others are charged for meanwhile.
        for victims in 0..SQUEEZES_MIN + bytes.div_ceil(DISK_UNIT) {
            let given_back = before.saturating_sub(self.budget.used().bytes);
            let enough = victims >= SQUEEZES_MIN && given_back >= bytes.saturating_mul(2);
            let is_full = done.as_ref().is_err_and(CacheError::is_disk_full);
            if !is_full || enough || !self.evict_one(Cause::Free, &mut passed_over) {
                break;
            }
            done = attempt();
        }
        self.put_back(passed_over);
        done
    }

    /// Those that could not go are ordered again.
    pub fn put_back(&self, passed_over: Vec<(Unit, Held)>) {
        for (unit, held) in passed_over {
            self.evictor.keep(unit, &held);
        }
    }

    /// Throws out until the limits hold: after a start with lower ones, when others fill the disk, or when
    /// asked for room.
    pub fn shrink_to(&self, bytes: u64, cause: Option<Cause>) {
        let mut passed_over = Vec::new();
        // Asked once: not all file systems say at once that something is free again.
        let for_others = self.budget.used().bytes.saturating_sub(self.budget.missing());
        loop {
            let used = self.budget.used().bytes;
            let why = match self.budget.exceeded() {
                Some(short) => cause_of(short),
                None if used > bytes => cause.unwrap_or(Cause::Bytes),
                None if used > for_others => Cause::Free,
                None => break,
            };
            if !self.evict_one(why, &mut passed_over) {
                break;
            }
        }
        self.put_back(passed_over);
    }

    /// Throws out what is over.
    pub fn expire(&self) {
        let mut passed_over = Vec::new();
        while let Some((unit, held)) = self.evictor.expired() {
            if self.try_evict(unit, &held, Cause::Expired) == Some(false) {
                passed_over.push((unit, held));
            }
        }
        self.put_back(passed_over);
    }

    /// Whether a file of so many bytes may come in.
    pub fn admit_size(&self, bytes: u64) -> Result<(), CacheError> {
        self.gate.size(bytes).map_err(|refusal| self.refused(refusal))
    }

    /// Whether blocks of an object of so many bytes may come in.
    pub fn admit_object(&self, bytes: u64) -> Result<(), CacheError> {
        self.gate.object(bytes).map_err(|refusal| self.refused(refusal))
    }

    /// Whether so many bytes may be written now.
    pub fn admit_write(&self, bytes: u64) -> Result<(), CacheError> {
        self.gate.write(bytes).map_err(|refusal| self.refused(refusal))
    }

    fn refused(&self, refusal: Refusal) -> CacheError {
        let (counter, why) = match refusal {
            Refusal::Size => (&self.meters.not_admitted_size, TOO_LARGE),
            Refusal::Rate => (&self.meters.not_admitted_rate, TOO_MUCH),
        };
        Meters::count(counter);
        CacheError::NotAdmitted { why }
    }

    /// An object's entry, made if there is none; one more handle of it lives.
    pub fn blob(&self, id: &ObjectId) -> Arc<BlobEntry> {
        let enter = |blob: &Arc<BlobEntry>| {
            blob.enter();
            blob.clone()
        };
        if let Some(blob) = self.blobs.get(id, enter) {
            return blob;
        }
        self.blobs.change(id, |map| {
            if let Some(blob) = map.get(id) {
                return enter(blob);
            }
            let id = Arc::new(id.clone());
            let (generation, created) = (self.generation(), super::evictor::now());
            let blob =
                BlobEntry::new(id.clone(), generation, created, self.config.block_bytes, self.store.clone());
            let blob = Arc::new(blob);
            blob.see();
            map.insert(id, blob.clone());
            enter(&blob)
        })
    }

    /// A handle of an object's entry ends.
    pub fn leave(&self, blob: &Arc<BlobEntry>) {
        if blob.leave() {
            self.memory.forget(blob.generation);
            if blob.blocks_here() == 0 {
                self.drop_idle(blob);
            }
        }
    }

    /// The cache at this moment.
    pub fn stats(&self) -> Stats {
        let mut totals = self.meters.totals();
        totals.journal_errors = self.ledger.failures();
        // One after the other, none held while the next is taken: what a watch holds cannot be borrowed twice by one
        // who keeps the first, as a writer between the two waits for it and is waited for.
        let filling = self.fillings.lock().len() as u64;
        let fetching = *self.fetching.borrow();
        let checked = *self.checked.borrow();
        let settled = checked == CHECKS;
        let stats = Stats::new(totals, self.budget.used(), self.budget.limits());
        Stats { filling, fetching, checked, settled, ..stats }
    }

    /// Tells the subscribers of something that was asked for.
    pub fn asked(&self, hit: bool, subject: impl FnOnce() -> Subject) {
        self.events.send(|| if hit { Event::Hit(subject()) } else { Event::Miss(subject()) });
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The watcher sees that nobody is left; the journal learns what was used, while somebody knows it.
        self.filling.notify_one();
        let _logged = self.ledger.end();
    }
}

fn cause_of(short: Short) -> Cause {
    match short {
        Short::Bytes => Cause::Bytes,
        Short::Entries => Cause::Entries,
        Short::Free => Cause::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::Cache;
    use super::super::config::Config;
    use crate::journal::MemoryJournal;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Duration;

    /// Both hold for good what the other waits for, if who looks borrows what the check reports twice at once.
    #[tokio::test]
    async fn who_looks_at_the_counters_and_who_reports_never_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_on(Config::new(dir.path()), Arc::new(MemoryJournal::new())).await.unwrap();
        cache.settled().await;
        let ended = Arc::new(AtomicBool::new(false));
        let (core, over) = (cache.core.clone(), ended.clone());
        let reports = std::thread::spawn(move || {
            let mut n = 0;
            while !over.load(Relaxed) {
                n += 1;
                core.checked.send_replace(n);
                core.fetching.send_replace(u64::from(n));
            }
        });
        let (done, looked) = std::sync::mpsc::channel();
        let core = cache.core.clone();
        let _left_behind_if_it_waits = std::thread::spawn(move || {
            (0..200_000).for_each(|_| _ = std::hint::black_box(core.stats()));
            done.send(())
        });
        let looks = looked.recv_timeout(Duration::from_secs(60));
        ended.store(true, Relaxed);
        assert!(looks.is_ok(), "a look that waits for good");
        reports.join().unwrap();
    }
}
