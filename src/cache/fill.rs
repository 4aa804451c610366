//! [`Fill`]: the right to fill a file, in the hands of whoever writes it.
use super::core::{Core, Slot};
use super::error::CacheError;
use super::file::File;
use super::filling::{Filling, finish, room};
use super::key::Key;
use super::stats::Meters;
use super::waiting::Waiting;
use bytes::Bytes;
use std::sync::Arc;

/// What is known of a fill when it begins.
#[derive(Debug, Clone, Default)]
pub struct FillOptions {
    /// The size, if it is known: another one is an error then, and room is reserved at once.
    pub size: Option<u64>,
    /// Who fills, for those who ask where an entry is.
    pub filler: String,
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
        let refused = |e: &CacheError| core.meters.refused(e);
        core.admit_size(size).and_then(|()| core.admit_write(size)).inspect_err(refused)?;
        let charge = core.reserve(room(key, size, core.config.block_bytes), 1).inspect_err(|e| {
            Meters::count(&core.meters.not_kept_full);
            refused(e);
        })?;
        let filling = Arc::new(Filling::new(core, key, options, charge)?);
        let taken = core.files.change(key, |map| match map.get(key) {
            Some(slot) => Some(hold(slot)),
            None => {
                map.insert(key.clone(), Slot::Filling(filling.clone()));
                // Within the lock, so that who finds it and ends it takes it from there as well.
                core.fillings.lock().insert(filling.generation, Arc::downgrade(&filling));
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
        Waiting::new(self.core.clone(), self.filling.clone())
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

    /// So much will come: where that has no room, however much were thrown out, nothing is. An error ends the fill.
    pub(super) fn foresee(&mut self, size: u64) -> Result<(), CacheError> {
        let core = self.core.clone();
        let forbidden = core.budget.forbids(room(&self.filling.key, size, core.config.block_bytes));
        let foreseen = match forbidden {
            Some(short) => Err(CacheError::NoRoom { bytes: size, short }),
            None => core.admit_size(size),
        };
        foreseen.inspect_err(|e| {
            core.meters.refused(e);
            self.end(e.clone());
        })
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
        Slot::Filling(filling) => Begun::Filling(Waiting::new(core.clone(), filling)),
    })
}
