//! [`Filling`]: a file that is being filled.
//!
//! The bytes go into `tmp/`; when all are there the file gets its witness and its name, and only then does
//! the key name it. A fill that fails, in whatever way, leaves nothing.
use super::budget::{Charge, on_disk};
use super::core::{Core, Slot};
use super::digest::Digester;
use super::disk;
use super::error::CacheError;
use super::events::Event;
use super::evictor::Held;
use super::file::File;
use super::file_entry::{FileEntry, Parts};
use super::fill::FillOptions;
use super::key::{Identity, Key};
use super::record::{ENTRIES, EntryRecord, Used, entry_key};
use super::stats::Meters;
use super::store::{Name, Place, Store};
use super::witness::{Header, Witness, room_for_file};
use crate::sync::Mutex;
use rustix::fs::{CWD, Mode, RenameFlags};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

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
    /// Bytes that the limit of writes knows of.
    admitted: u64,
    tmp: Temporary,
    /// A file that is to take the place of that in `tmp/`.
    adopted: Option<Adopted>,
}

/// The file in `tmp/`. Unless it was renamed, it goes with this, and so does its room, whoever has it open.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: std::fs::File,
    renamed: bool,
}

impl Temporary {
    fn rename(&mut self, to: &Path) -> Result<(), CacheError> {
        std::fs::rename(&self.path, to).map_err(|e| CacheError::io("rename", to, e))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _gone = std::fs::remove_file(&self.path);
            let _smaller = self.file.set_len(0);
        }
    }
}

/// A file that its owner gives to the cache. Until it has its place there it stays what it was.
#[derive(Debug)]
struct Adopted {
    path: PathBuf,
    file: std::fs::File,
    mode: Mode,
    renamed: bool,
}

impl Adopted {
    fn open(path: &Path) -> Result<Self, CacheError> {
        let io = |action| move |e| CacheError::io(action, path, e);
        let file = Store::open_file(path, true).map_err(io("open"))?;
        let mode = Mode::from_raw_mode(file.metadata().map_err(io("look at"))?.mode() & 0o7777);
        Ok(Self { path: path.to_path_buf(), file, mode, renamed: false })
    }

    /// Moves it to its place in the cache, where nobody else may write to it.
    fn rename(&mut self, to: &Path) -> Result<(), CacheError> {
        let io = |action| move |e| CacheError::io(action, to, e);
        std::fs::rename(&self.path, to).map_err(io("rename"))?;
        self.renamed = true;
        let _mode = rustix::fs::fchmod(&self.file, Mode::RUSR | Mode::WUSR);
        let came = std::fs::symlink_metadata(to).map_err(io("look at"))?;
        let read = self.file.metadata().map_err(io("look at"))?;
        if (came.dev(), came.ino()) != (read.dev(), read.ino()) {
            // Somebody has put another one there meanwhile: that is not the one whose checksum we know.
            self.give_back(to);
            return Err(CacheError::GivenUp {
                why: format!("it was replaced meanwhile: {}", self.path.display()),
            });
        }
        Ok(())
    }

    /// Moves it back to where it was.
    fn give_back(&mut self, from: &Path) {
        match rustix::fs::renameat_with(CWD, from, CWD, &self.path, RenameFlags::NOREPLACE) {
            Ok(()) => self.renamed = false,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a file that was not taken cannot be given back");
            }
        }
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if !self.renamed {
            Store::disown_file(&self.file);
            let _mode = rustix::fs::fchmod(&self.file, self.mode);
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
    Done(File),
    /// No.
    Failed(CacheError),
}

impl Filling {
    /// Nothing is written yet; `charge` is for what is known to come.
    pub(super) fn new(
        core: &Core,
        key: &Key,
        options: FillOptions,
        charge: Charge,
    ) -> Result<Self, CacheError> {
        let generation = core.generation();
        let path = core.store.tmp(generation);
        let file = core.squeeze(0, || core.store.create(&path))?;
        let io = |e| CacheError::io("open", &path, e);
        let tmp = Temporary { file: file.try_clone().map_err(io)?, path: path.clone(), renamed: false };
        let (digester, admitted) = (Digester::new(core.config.block_bytes), options.size.unwrap_or(0));
        let work = Work { digester, charge, written: 0, admitted, tmp, adopted: None };
        let last = Instant::now();
        Ok(Self {
            key: key.clone(),
            generation,
            size: options.size,
            filler: options.filler,
            since: last,
            work: Mutex::new(Some(work)),
            progress: watch::Sender::new(Progress { written: 0, last, state: State::Writing }),
            file,
        })
    }

    fn room(&self, core: &Core, size: u64) -> u64 {
        room(&self.key, size, core.config.block_bytes)
    }

    /// Why it has ended, for a filler that goes on.
    fn failure(&self) -> CacheError {
        match &self.progress.borrow().state {
            State::Failed(cause) => cause.clone(),
            _ => CacheError::Closed,
        }
    }

    pub(super) fn write(&self, core: &Core, bytes: &[u8]) -> Result<(), CacheError> {
        let mut guard = self.work.lock();
        let Some(work) = guard.as_mut() else { return Err(self.failure()) };
        let after = work.written + bytes.len() as u64;
        if let Some(expected) = self.size
            && after > expected
        {
            return Err(CacheError::WrongSize { expected, got: after });
        }
        let more = self.room(core, after).saturating_sub(work.charge.bytes());
        if more > 0 {
            core.admit_size(after).inspect_err(|e| core.meters.refused(e))?;
            work.charge.absorb(core.reserve(more, 0).inspect_err(|e| {
                Meters::count(&core.meters.not_kept_full);
                core.meters.refused(e);
            })?);
        }
        // Goes on where it was stopped: on a full disk it may be tried as often as there are pages.
        let mut done = 0;
        let write = || {
            let written = disk::write_on(&self.file, bytes, work.written, &mut done);
            written.map_err(|e| CacheError::io("write", &work.tmp.path, e))
        };
        core.squeeze(bytes.len() as u64, write).inspect_err(|e| {
            if e.is_full() {
                Meters::count(&core.meters.not_kept_full);
            }
            core.meters.refused(e);
        })?;
        work.charge.written(on_disk(after) - on_disk(work.written));
        core.gate.written(after.saturating_sub(work.admitted));
        work.admitted = work.admitted.max(after);
        work.digester.update(bytes);
        work.written = after;
        self.progress.send_modify(|progress| {
            progress.written = after;
            progress.last = Instant::now();
        });
        Ok(())
    }

    /// Takes another file in place of the empty one: it is read for its checksum, and renamed when all else is done.
    pub(super) fn adopt(&self, core: &Core, path: &Path) -> Result<(), CacheError> {
        let mut guard = self.work.lock();
        let Some(work) = guard.as_mut() else { return Err(self.failure()) };
        let io = |action| move |e| CacheError::io(action, path, e);
        let adopted = Adopted::open(path)?;
        let size = adopted.file.metadata().map_err(io("look at"))?.len();
        if let Some(expected) = self.size
            && expected != size
        {
            return Err(CacheError::WrongSize { expected, got: size });
        }
        core.admit_size(size)?;
        let more = self.room(core, size).saturating_sub(work.charge.bytes());
        work.charge.absorb(core.reserve(more, 0)?);
        let mut buffer = vec![0; 1 << 20];
        while work.written < size {
            let step = buffer.len().min((size - work.written) as usize);
            adopted.file.read_exact_at(&mut buffer[..step], work.written).map_err(io("read"))?;
            work.digester.update(&buffer[..step]);
            work.written += step as u64;
            self.progress.send_modify(|progress| progress.last = Instant::now());
        }
        work.adopted = Some(adopted);
        Ok(())
    }

    /// Ends it without a file; `false` if it had ended.
    pub(super) fn abandon(self: &Arc<Self>, core: &Core, cause: CacheError) -> bool {
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
        ours
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

/// What a file takes on the disk, in bytes, its witness included.
pub fn room(key: &Key, size: u64, block_bytes: u64) -> u64 {
    on_disk(size) + room_for_file(key, size, block_bytes)
}

/// All is there: the witness, the name, the index, the journal. Blocks.
pub fn finish(core: &Arc<Core>, filling: &Arc<Filling>) -> Result<File, CacheError> {
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
    let Work { digester, mut charge, written: size, mut tmp, mut adopted, .. } = work;
    if let Some(expected) = filling.size
        && expected != size
    {
        return Err(CacheError::WrongSize { expected, got: size });
    }
    // A declared size was reserved whole; what was not is exact already.
    charge.shrink(charge.bytes() - filling.room(core, size), 0);
    let (key, generation, block_bytes) = (filling.key.clone(), filling.generation, core.config.block_bytes);
    let digests = digester.finish();
    let identity = Identity::File { key, size };
    let header = Header { identity: identity.clone(), generation, block_bytes, whole: digests.whole };
    let slots = digests.blocks.into_iter().map(Some).collect();
    let witness = Witness { header, slots, wrong: 0 }.encode();
    let name = Name::new(&identity, generation);
    let bytes = adopted.as_ref().map_or(&tmp.file, |adopted| &adopted.file);
    let place = if Store::put_attribute(bytes, &witness) {
        Place::Attribute
    } else {
        core.squeeze(witness.len() as u64, || core.store.put_sidecar(&name, &witness))?;
        Place::Sidecar
    };
    charge.written(u64::MAX);
    let path = core.store.path(&name);
    let renamed = match &mut adopted {
        Some(adopted) => adopted.rename(&path),
        None => tmp.rename(&path),
    };
    if let Err(e) = renamed {
        core.store.remove(&name);
        return Err(e);
    }
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
    let parts = Parts { record, generation, store: core.store.clone(), verified: true };
    let Some(file) = FileEntry::new(parts, charge) else { return Err(CacheError::Closed) };
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
        if let Some(adopted) = &mut adopted {
            adopted.give_back(&path);
        }
        file.remove();
        return Err(filling.failure());
    }
    core.fillings.lock().remove(&generation);
    let held = File::pinned(core.clone(), file.clone());
    filling.progress.send_modify(|progress| {
        progress.written = size;
        // Who has waited, and has not asked for it yet, holds it all the same.
        progress.state = State::Done(held.clone());
    });
    Meters::count(&core.meters.file_inserts);
    core.meters.bytes_inserted.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
    core.meters.took(took);
    core.events.send(|| Event::Insert { subject: file.subject(), bytes: size });
    Ok(held)
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)] // a test may panic
mod tests {
    use super::*;
    use crate::cache::config::Config;
    use crate::cache::fill::{Begun, Fill};
    use crate::cache::opening::open_on;
    use crate::journal::MemoryJournal;
    use std::time::Duration;

    #[tokio::test]
    async fn a_filler_that_was_given_up_is_told_why_at_whatever_moment() {
        let dir = tempfile::tempdir().expect("directory");
        let (config, runtime) = (Config::new(dir.path()), tokio::runtime::Handle::current());
        let core = open_on(config, Arc::new(MemoryJournal::new()), &runtime).expect("opens");
        let key = Key::new("key").expect("a key");
        let Begun::Fill(mut fill) = Fill::begin(&core, &key, FillOptions::default()).expect("begins") else {
            panic!("nobody else fills");
        };
        let found = core.files.get(&key, |slot| match slot {
            Slot::Filling(filling) => Some(filling.clone()),
            Slot::File(_) => None,
        });
        let filling = found.flatten().expect("it is filled");
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
