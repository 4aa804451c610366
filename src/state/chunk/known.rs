//! [`Known`]: which content stands where in the layers, as far as this machine has seen it pass.
//!
//! It may say too little at any time (then content is sent once more) and it may name layers that are
//! gone, so whoever asks says which layers there are. What it says of a layer is true for ever: layers
//! do not change.
use super::ChunkDigest;
use crate::journal::{Batch, Journal, JournalError, Tree};
use crate::sync::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

const CHUNKS: Tree = Tree("chunk");
/// How many entries wait for the journal. They go there in order, and many at once: each page of its tree
/// is then written once, where single ones in the order of files would leave a copy of a page for each.
const BATCH_MAX: usize = 32 << 10;
/// Bytes of an entry: the layer, then the place in its stream.
const VALUE_BYTES: usize = 24;

/// Where content stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The layer.
    pub layer: Uuid,
    /// Where it begins in its tar stream.
    pub from: u64,
}

/// See the module. Owner of the lock of what waits.
#[derive(Debug)]
pub struct Known {
    journal: Arc<dyn Journal>,
    waiting: Mutex<HashMap<ChunkDigest, Place>>,
}

impl Known {
    /// What a journal has.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal, waiting: Mutex::default() }
    }

    /// Where a chunk stands, if it is one of these layers.
    pub fn find(
        &self,
        digest: &ChunkDigest,
        there: impl Fn(&Uuid) -> bool,
    ) -> Result<Option<Place>, JournalError> {
        let waiting = self.waiting.lock().get(digest).copied();
        let place = match waiting {
            Some(place) => Some(place),
            None => self.journal.get(CHUNKS, digest)?.map(|value| decode(&value)).transpose()?,
        };
        Ok(place.filter(|place| there(&place.layer)))
    }

    /// Remembers where chunks stand; the newest place of each stays.
    pub fn add(&self, chunks: impl IntoIterator<Item = (ChunkDigest, Place)>) -> Result<(), JournalError> {
        let mut waiting = self.waiting.lock();
        waiting.extend(chunks);
        if waiting.len() < BATCH_MAX {
            return Ok(());
        }
        let full = std::mem::take(&mut *waiting);
        drop(waiting);
        self.write(full)
    }

    /// Hands what waits to the journal.
    pub fn settle(&self) -> Result<(), JournalError> {
        let all = std::mem::take(&mut *self.waiting.lock());
        self.write(all)
    }

    fn write(&self, chunks: HashMap<ChunkDigest, Place>) -> Result<(), JournalError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let mut chunks: Vec<(ChunkDigest, Place)> = chunks.into_iter().collect();
        chunks.sort_unstable_by_key(|(digest, _)| *digest);
        let mut batch = Batch::new();
        for (digest, place) in chunks {
            batch.put(CHUNKS, &digest, encode(place));
        }
        self.journal.apply(batch)
    }

    /// Forgets what stands in other layers than these. Reads all of it.
    pub fn retain(&self, there: &HashSet<Uuid>) -> Result<u64, JournalError> {
        self.settle()?;
        let (mut batch, mut gone) = (Batch::new(), 0);
        for pair in self.journal.scan_prefix(CHUNKS, b"") {
            let (digest, value) = pair?;
            if decode(&value).is_ok_and(|place| there.contains(&place.layer)) {
                continue;
            }
            batch.delete(CHUNKS, &digest);
            gone += 1;
            if batch.len() >= BATCH_MAX {
                self.journal.apply(std::mem::take(&mut batch))?;
            }
        }
        self.journal.apply(batch)?;
        Ok(gone)
    }
}

pub(super) fn encode(place: Place) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    value.extend_from_slice(place.layer.as_bytes());
    value.extend_from_slice(&place.from.to_le_bytes());
    value
}

fn decode(value: &[u8]) -> Result<Place, JournalError> {
    let wrong = || JournalError::corrupt("place of a chunk has another length");
    let (layer, from) = value.split_first_chunk::<16>().ok_or_else(wrong)?;
    let from = u64::from_le_bytes(from.try_into().map_err(|_| wrong())?);
    Ok(Place { layer: Uuid::from_bytes(*layer), from })
}
