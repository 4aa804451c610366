//! [`Body`]: the file of an object, open, and its witness.
use super::{BlobEntry, State};
use crate::cache::budget::Charge;
use crate::cache::error::CacheError;
use crate::cache::store::{Place, Slots, Store, without_readahead};
use crate::cache::witness::{Witness, room_for_object};
use crate::sync::Mutex;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The file of an object, open.
#[derive(Debug)]
pub(super) struct Body {
    pub file: Arc<File>,
    slots: Mutex<Slots>, // held for one small write; taken after the entry's own lock, or alone
    store: Arc<Store>,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.store.closed();
    }
}

impl Body {
    fn new(file: File, slots: Slots, store: &Arc<Store>) -> Self {
        store.opened();
        Self { file: Arc::new(file), slots: Mutex::new(slots), store: store.clone() }
    }

    /// Runs `change`, which may write to the witness; nobody else does meanwhile.
    pub fn change<R>(&self, change: impl FnOnce(&mut Slots, &File) -> R) -> R {
        change(&mut self.slots.lock(), &self.file)
    }
}

impl BlobEntry {
    /// The file, opened if need be. One that is not what it should be is an error of damage.
    pub fn file(&self) -> Result<Arc<File>, CacheError> {
        let mut state = self.state.lock();
        match &state.body {
            Some(body) => Ok(body.file.clone()),
            None if state.charge.is_some() => {
                let body = Arc::new(self.reopen()?);
                state.body = Some(body.clone());
                Ok(body.file.clone())
            }
            None => Err(CacheError::Corrupt { what: self.id.to_string() }),
        }
    }

    pub(super) fn reopen(&self) -> Result<Body, CacheError> {
        let name = self.name();
        let path = self.store.path(&name);
        let file = Store::open_file(&path, true).map_err(|e| CacheError::io("open", &path, e))?;
        let length = file.metadata().map_err(|e| CacheError::io("look at", &path, e))?.len();
        let damaged = || CacheError::Corrupt { what: self.id.to_string() };
        if length != self.id.size {
            return Err(damaged());
        }
        let found = self.store.get_witness(&name);
        let (witness, place) = found.map_err(|e| e.error(&self.id, path.clone()))?;
        if witness.header != self.header() {
            return Err(damaged());
        }
        without_readahead(&file);
        Ok(Body::new(file, Slots::open(&self.store, &name, &witness, place)?, &self.store))
    }

    /// What making the file takes beyond the blocks; nothing if there is one.
    pub fn price_of_file(&self) -> (u64, u64) {
        if self.state.lock().charge.is_some() {
            return (0, 0);
        }
        (room_for_object(&self.id, self.block_bytes), 1)
    }

    /// Makes the file if there is none. What `charge` holds for it beyond need is given back.
    pub(super) fn made(
        &self,
        state: &mut State,
        charge: &mut Charge,
        block: u64,
    ) -> Result<Arc<Body>, CacheError> {
        if let Some(body) = &state.body {
            charge.shrink(charge.bytes() - block, 1);
            return Ok(body.clone());
        }
        if state.charge.is_some() {
            charge.shrink(charge.bytes() - block, 1);
            let body = Arc::new(self.reopen()?);
            state.body = Some(body.clone());
            return Ok(body);
        }
        let name = self.name();
        let path = self.store.path(&name);
        let file = self.store.create(&path)?;
        let header = self.header();
        let witness = Witness { slots: vec![None; header.slots() as usize], header, wrong: 0 };
        let image = witness.encode();
        let made = file.set_len(self.id.size).map_err(|e| CacheError::io("make room in", &path, e));
        let made = made.and_then(|()| {
            let place = if Store::put_attribute(&file, &image) {
                Place::Attribute
            } else {
                self.store.put_sidecar(&name, &image)?;
                Place::Sidecar
            };
            Ok((place, Slots::open(&self.store, &name, &witness, place)?))
        });
        match made {
            Ok((place, slots)) => {
                self.sidecar.store(place == Place::Sidecar, Relaxed);
                without_readahead(&file);
                let body = Arc::new(Body::new(file, slots, &self.store));
                state.body = Some(body.clone());
                Ok(body)
            }
            Err(e) => {
                self.store.remove(&name);
                Err(e)
            }
        }
    }
}
