//! Filling a file: [`Fill`] is whoever writes, [`Waiting`] whoever waits.
//!
//! The bytes go into `tmp/`; when all are there the file gets its witness and its name, and only then does
//! the key name it. A fill that fails, in whatever way, leaves nothing.
use super::budget::{Charge, on_disk};
use super::core::{Core, Slot};
use super::digest::Digester;
use super::error::{CacheError, full};
use super::events::{Cause, Event};
use super::evictor::Held;
use super::file::File;
use super::file_entry::{FileEntry, Parts};
use super::key::{Identity, Key};
use super::record::{ENTRIES, EntryRecord, Used, entry_key};
use super::stats::Meters;
use super::store::{Name, Place, Store};
use super::stream::Stream;
use super::witness::{Header, Witness};
use crate::sync::Mutex;
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of a fill when it begins.
#[derive(Debug, Clone, Default)]
pub struct FillOptions {
    /// The size, if it is known: another one is an error then, and room is reserved at once.
    pub size: Option<u64>,
    /// Who fills, for those who ask where an entry is.
    pub filler: String,
}

/// A file that is being filled.
#[derive(Debug)]
pub struct Filling {
    pub(super) key: Key,
    pub(super) generation: u64,
    pub(super) size: Option<u64>,
    pub(super) filler: String,
    pub(super) since: Instant,
    /// Taken by whoever ends it.
    work: Mutex<Option<Work>>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) file: std::fs::File,
}

/// What only the filler needs.
#[derive(Debug)]
struct Work {
    digester: Digester,
    charge: Charge,
    written: u64,
    tmp: Temporary,
}

/// The file in `tmp/`. Unless it was renamed, it goes with this, and so does its room, whoever has it open.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: std::fs::File,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _gone = std::fs::remove_file(&self.path);
            let _smaller = self.file.set_len(0);
        }
    }
}

/// How far a fill is.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Bytes that can be read.
    pub written: u64,
    /// When they came.
    pub last: Instant,
    /// Whether more will come.
    pub state: State,
}

/// Whether more will come.
#[derive(Debug, Clone)]
pub enum State {
    /// Perhaps.
    Writing,
    /// All is there.
    Done(Arc<FileEntry>),
    /// No.
    Failed(CacheError),
}

/// What beginning a fill led to.
#[derive(Debug)]
pub enum Begun {
    /// The key is yours to fill.
    Fill(Fill),
    /// It is there already. Nothing was changed.
    There(File),
    /// Somebody fills it already.
    Filling(Waiting),
}

/// The right and the duty to fill a file. Dropping it before [`finish`](Fill::finish) gives the fill up.
#[derive(Debug)]
pub struct Fill {
    core: Arc<Core>,
    filling: Arc<Filling>,
    ended: bool,
}

impl Fill {
    /// Begins to fill `key`, or says who does. Blocks for a moment.
    pub(super) fn begin(core: &Arc<Core>, key: &Key, options: FillOptions) -> Result<Begun, CacheError> {
        core.check_open()?;
        if let Some(found) = occupied(core, core.files.get(key, hold)) {
            return Ok(found);
        }
        let size = options.size.unwrap_or(0);
        core.admit_size(size)?;
        core.admit_write(size)?;
        let charge = core.reserve(on_disk(size), 1).inspect_err(|_| {
            Meters::count(&core.meters.not_kept_full);
        })?;
        let generation = core.generation();
        let path = core.store.tmp(generation);
        let file = core.store.create(&path)?;
        let io = |e| CacheError::io("open", &path, e);
        let tmp = Temporary { file: file.try_clone().map_err(io)?, path: path.clone(), renamed: false };
        let work = Work { digester: Digester::new(core.config.block_bytes), charge, written: 0, tmp };
        let last = Instant::now();
        let filling = Arc::new(Filling {
            key: key.clone(),
            generation,
            size: options.size,
            filler: options.filler,
            since: last,
            work: Mutex::new(Some(work)),
            progress: watch::Sender::new(Progress { written: 0, last, state: State::Writing }),
            file,
        });
        let taken = core.files.change(key, |map| match map.get(key) {
            Some(slot) => Some(hold(slot)),
            None => {
                map.insert(key.clone(), Slot::Filling(filling.clone()));
                // Within the lock, so that who finds it and ends it takes it from there as well.
                core.fillings.lock().insert(generation, Arc::downgrade(&filling));
                None
            }
        });
        if let Some(found) = occupied(core, taken) {
            return Ok(found);
        }
        core.filling.notify_one();
        Ok(Begun::Fill(Self { core: core.clone(), filling, ended: false }))
    }

    /// The key that is filled.
    pub fn key(&self) -> &Key {
        &self.filling.key
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.filling.progress.borrow().written
    }

    /// A handle for those who wait for the file.
    pub fn waiting(&self) -> Waiting {
        Waiting { core: self.core.clone(), filling: self.filling.clone() }
    }

    /// Appends bytes; readers have them when this returns. An error ends the fill.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), CacheError> {
        let (core, filling) = (self.core.clone(), self.filling.clone());
        let written = core.runtime.spawn_blocking({
            let core = core.clone();
            move || filling.write(&core, &bytes)
        });
        written.await.unwrap_or(Err(CacheError::Closed)).inspect_err(|e| self.end(e.clone()))
    }

    /// Appends bytes. Blocks.
    pub fn write_blocking(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.filling.write(&self.core, bytes).inspect_err(|e| self.end(e.clone()))
    }

    /// All is there: from now on the key names the file.
    pub async fn finish(mut self) -> Result<File, CacheError> {
        self.ended = true;
        let (core, filling) = (self.core.clone(), self.filling.clone());
        let finished = self.core.runtime.spawn_blocking(move || finish(&core, &filling));
        finished.await.unwrap_or(Err(CacheError::Closed))
    }

    /// All is there: from now on the key names the file. Blocks.
    pub fn finish_blocking(mut self) -> Result<File, CacheError> {
        self.ended = true;
        finish(&self.core, &self.filling)
    }

    /// Gives up; those who wait are told why.
    pub fn give_up(mut self, why: impl Into<String>) {
        self.end(CacheError::GivenUp { why: why.into() });
    }

    fn end(&mut self, cause: CacheError) {
        self.ended = true;
        self.filling.abandon(&self.core, cause);
    }

    /// Takes a file of the same file system as it is, instead of writing. Blocks.
    pub(super) fn adopt(mut self, path: &std::path::Path) -> Result<File, CacheError> {
        self.filling.adopt(&self.core, path).inspect_err(|e| self.end(e.clone()))?;
        self.finish_blocking()
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        if !self.ended {
            self.end(CacheError::GivenUp { why: "the filler went away".into() });
        }
    }
}

/// What a slot holds, with a file pinned: within the index's lock.
fn hold(slot: &Slot) -> Slot {
    if let Slot::File(file) = slot {
        file.usage.pin();
    }
    slot.clone()
}

fn occupied(core: &Arc<Core>, slot: Option<Slot>) -> Option<Begun> {
    Some(match slot? {
        Slot::File(file) => Begun::There(File::pinned(core.clone(), file)),
        Slot::Filling(filling) => Begun::Filling(Waiting { core: core.clone(), filling }),
    })
}

impl Filling {
    /// Why it has ended, for a filler that goes on.
    fn failure(&self) -> CacheError {
        match &self.progress.borrow().state {
            State::Failed(cause) => cause.clone(),
            _ => CacheError::Closed,
        }
    }

    fn write(&self, core: &Core, bytes: &[u8]) -> Result<(), CacheError> {
        let mut guard = self.work.lock();
        let Some(work) = guard.as_mut() else { return Err(self.failure()) };
        let after = work.written + bytes.len() as u64;
        if let Some(expected) = self.size
            && after > expected
        {
            return Err(CacheError::WrongSize { expected, got: after });
        }
        let more = on_disk(after).saturating_sub(work.charge.bytes());
        if more > 0 {
            core.admit_size(after)?;
            work.charge.absorb(core.reserve(more, 0).inspect_err(|_| {
                Meters::count(&core.meters.not_kept_full);
            })?);
        }
        if let Err(e) = self.file.write_all_at(bytes, work.written) {
            // The disk is fuller than it said: somebody goes, once.
            let mut passed_over = Vec::new();
            let again = full(&e) && core.evict_one(Cause::Free, &mut passed_over);
            core.put_back(passed_over);
            let written = if again { self.file.write_all_at(bytes, work.written) } else { Err(e) };
            written.map_err(|e| {
                if full(&e) {
                    Meters::count(&core.meters.not_kept_full);
                }
                CacheError::io("write", &work.tmp.path, e)
            })?;
        }
        work.digester.update(bytes);
        work.written = after;
        self.progress.send_modify(|progress| {
            progress.written = after;
            progress.last = Instant::now();
        });
        Ok(())
    }

    /// Replaces the empty file by another one, which is renamed here and read for its checksum.
    fn adopt(&self, core: &Core, path: &std::path::Path) -> Result<(), CacheError> {
        let mut guard = self.work.lock();
        let Some(work) = guard.as_mut() else { return Err(self.failure()) };
        let io = |action| move |e| CacheError::io(action, path, e);
        let file = Store::open_file(path, true).map_err(io("open"))?;
        let size = file.metadata().map_err(io("look at"))?.len();
        if let Some(expected) = self.size
            && expected != size
        {
            return Err(CacheError::WrongSize { expected, got: size });
        }
        let more = on_disk(size).saturating_sub(work.charge.bytes());
        work.charge.absorb(core.reserve(more, 0)?);
        std::fs::rename(path, &work.tmp.path).map_err(io("rename"))?;
        // What the caller gave away is ours now, and nobody else's to write to.
        let _mode = rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
        work.tmp.file = file;
        let mut buffer = vec![0; 1 << 20];
        while work.written < size {
            let step = buffer.len().min((size - work.written) as usize);
            work.tmp.file.read_exact_at(&mut buffer[..step], work.written).map_err(io("read"))?;
            work.digester.update(&buffer[..step]);
            work.written += step as u64;
            self.progress.send_modify(|progress| progress.last = Instant::now());
        }
        Ok(())
    }

    /// Ends it without a file, unless it has ended.
    pub(super) fn abandon(self: &Arc<Self>, core: &Core, cause: CacheError) {
        let ours = core.files.change(&self.key, |map| {
            let ours = matches!(map.get(&self.key), Some(Slot::Filling(found)) if Arc::ptr_eq(found, self));
            if ours {
                map.remove(&self.key);
                // Within the lock, so that whoever finds it gone finds why.
                self.fail(core, cause);
            }
            ours
        });
        if ours {
            core.fillings.lock().remove(&self.generation);
            drop(self.work.lock().take());
        }
    }

    fn fail(&self, core: &Core, cause: CacheError) {
        self.progress.send_if_modified(|progress| {
            let writing = matches!(progress.state, State::Writing);
            if writing {
                Meters::count(&core.meters.fills_failed);
                if matches!(cause, CacheError::Stalled { .. }) {
                    Meters::count(&core.meters.stalls);
                }
                progress.state = State::Failed(cause);
            }
            writing
        });
    }
}

/// The witness, the name, the index, the journal.
fn finish(core: &Arc<Core>, filling: &Arc<Filling>) -> Result<File, CacheError> {
    let Some(work) = filling.work.lock().take() else { return Err(filling.failure()) };
    match core.enter().and_then(|_open| publish(core, filling, work)) {
        Ok(file) => Ok(file),
        Err(cause) => {
            filling.abandon(core, cause.clone());
            Err(cause)
        }
    }
}

fn publish(core: &Arc<Core>, filling: &Arc<Filling>, work: Work) -> Result<File, CacheError> {
    let Work { digester, mut charge, written: size, mut tmp } = work;
    if let Some(expected) = filling.size
        && expected != size
    {
        return Err(CacheError::WrongSize { expected, got: size });
    }
    // A declared size was reserved whole; what was not is exact already.
    charge.shrink(charge.bytes() - on_disk(size), 0);
    let (key, generation, block_bytes) = (filling.key.clone(), filling.generation, core.config.block_bytes);
    let digests = digester.finish();
    let identity = Identity::File { key, size };
    let header = Header { identity: identity.clone(), generation, block_bytes, whole: digests.whole };
    let witness = Witness { header, slots: digests.blocks.into_iter().map(Some).collect() }.encode();
    let name = Name::new(&identity, generation);
    let place = if Store::put_attribute(&tmp.file, &witness) {
        Place::Attribute
    } else {
        charge.absorb(core.reserve(on_disk(witness.len() as u64), 0)?);
        core.store.put_sidecar(&name, &witness)?;
        Place::Sidecar
    };
    let path = core.store.path(&name);
    if let Err(e) = std::fs::rename(&tmp.path, &path) {
        core.store.remove(&name);
        return Err(CacheError::io("rename", path, e));
    }
    tmp.renamed = true;
    let took = filling.since.elapsed();
    let cost_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    let used = Used { tick: core.evictor.tick(), hits: 0, cost_us };
    let record = EntryRecord {
        identity,
        block_bytes,
        whole: digests.whole,
        created: super::evictor::now(),
        sidecar: place == Place::Sidecar,
        used,
    };
    let value = record.encode(generation);
    let parts = Parts { record, generation, store: core.store.clone(), charge, verified: true };
    let Some(file) = FileEntry::new(parts) else { return Err(CacheError::Closed) };
    let file = Arc::new(file);
    let ours = core.files.change(&filling.key, |map| {
        let ours = matches!(map.get(&filling.key), Some(Slot::Filling(found)) if Arc::ptr_eq(found, filling));
        if ours {
            file.usage.pin();
            map.insert(filling.key.clone(), Slot::File(file.clone()));
            // Within the lock, so that nobody removes it before all know it.
            core.evictor.hold(generation, Held::File(file.clone()));
            core.evictor.admit(file.unit(), file.facts(super::evictor::now()));
            core.ledger.record(|batch| batch.put(ENTRIES, &entry_key(generation), value));
        }
        ours
    });
    if !ours {
        file.remove(false);
        return Err(filling.failure());
    }
    core.fillings.lock().remove(&generation);
    filling.progress.send_modify(|progress| {
        progress.written = size;
        progress.state = State::Done(file.clone());
    });
    Meters::count(&core.meters.file_inserts);
    core.meters.bytes_inserted.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
    core.meters.took(took);
    core.events.send(|| Event::Insert { subject: file.subject(), bytes: size });
    Ok(File::pinned(core.clone(), file))
}

/// A file that somebody fills.
#[derive(Debug, Clone)]
pub struct Waiting {
    core: Arc<Core>,
    filling: Arc<Filling>,
}

impl Waiting {
    pub(super) fn new(core: Arc<Core>, filling: Arc<Filling>) -> Self {
        Self { core, filling }
    }

    /// The key that is filled.
    pub fn key(&self) -> &Key {
        &self.filling.key
    }

    /// Who fills it.
    pub fn filler(&self) -> &str {
        &self.filling.filler
    }

    /// Bytes that can be read already.
    pub fn written(&self) -> u64 {
        self.filling.progress.borrow().written
    }

    /// For how long it has been filled.
    pub fn age(&self) -> Duration {
        self.filling.since.elapsed()
    }

    /// The file, once all of it is there; or why it will not be.
    pub async fn file(&self) -> Result<File, CacheError> {
        let mut progress = self.filling.progress.subscribe();
        let ended = progress.wait_for(|p| !matches!(p.state, State::Writing)).await;
        let state = ended.map_err(|_| CacheError::Closed)?.state.clone();
        match state {
            State::Done(file) => {
                file.usage.pin();
                Ok(File::pinned(self.core.clone(), file))
            }
            State::Failed(cause) => Err(cause),
            State::Writing => Err(CacheError::Closed),
        }
    }

    /// What is there, and then the rest as it comes.
    pub fn stream(&self) -> Stream {
        Stream::filling(self.core.clone(), self.filling.clone())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)] // a test may panic
mod tests {
    use super::super::config::Config;
    use super::super::opening::open_on;
    use super::*;
    use crate::journal::MemoryJournal;

    #[tokio::test]
    async fn a_filler_that_was_given_up_is_told_why_at_whatever_moment() {
        let dir = tempfile::tempdir().expect("directory");
        let (config, runtime) = (Config::new(dir.path()), tokio::runtime::Handle::current());
        let core = open_on(config, Arc::new(MemoryJournal::new()), &runtime).expect("opens");
        let key = Key::new("key").expect("a key");
        let Begun::Fill(mut fill) = Fill::begin(&core, &key, FillOptions::default()).expect("begins") else {
            panic!("nobody else fills");
        };
        let filling = fill.filling.clone();
        // Who gives it up cannot take the work yet; its key is free already.
        let work = filling.work.lock();
        std::thread::scope(|scope| {
            let cause = CacheError::Stalled { after: Duration::ZERO };
            let abandoning = scope.spawn(|| filling.abandon(&core, cause));
            while core.files.get(&key, |_| ()).is_some() {
                std::thread::yield_now();
            }
            assert!(matches!(filling.failure(), CacheError::Stalled { .. }), "{}", filling.failure());
            drop(work);
            abandoning.join().expect("ends");
        });
        let told = fill.write_blocking(b"more").expect_err("it was given up");
        assert!(matches!(told, CacheError::Stalled { .. }), "{told}");
    }
}
