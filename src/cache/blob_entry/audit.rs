//! After a start: what is said to be there of an object, against its witness and the disk.
use super::{BlobEntry, Block};
use crate::cache::budget::{Budget, on_disk};
use crate::cache::error::CacheError;
use crate::cache::record::Used;
use crate::cache::store::{Place, punch};
use crate::cache::witness::room_for_object;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What an audit changed.
#[derive(Debug, Default)]
pub struct Audit {
    /// Blocks that are not there as was said.
    pub lost: Vec<Arc<Block>>,
    /// How many of these have a witness that contradicts the journal or the disk.
    pub damaged: u64,
    /// Blocks that are there, by their witness, and nobody had said so.
    pub adopted: Vec<Arc<Block>>,
}

impl BlobEntry {
    /// Compares what is said to be there with witness and disk, after a start; see [`Audit`]. Blocks that
    /// are on their way meanwhile are left alone.
    pub fn audit(&self, budget: &Arc<Budget>, tick: u64) -> Result<Audit, CacheError> {
        let mut state = self.state.lock();
        let body = self.reopen()?;
        let (file, name) = (body.file.clone(), self.name());
        let found = self.store.get_witness(&name);
        let (witness, place) = found.map_err(|e| e.error(&self.id, self.path()))?;
        let (mut audit, mut wrong) = (Audit::default(), witness.wrong);
        let io = |e| CacheError::errno("look at", self.path(), e);
        let mut have = Vec::new();
        for number in 0..self.blocks_total() {
            let (offset, length) = self.range(number);
            let on_its_way = state.flights.contains_key(&number);
            let slot = witness.slots.get(number as usize).copied().flatten();
            let block = state.blocks.get(&number).cloned();
            let said = block.is_some() || slot.is_some();
            let here = said && whole_range(&file, offset, length).map_err(io)?;
            match (block, slot) {
                (Some(block), slot) if here && slot == Some(block.digest) => have.push(number),
                (Some(block), slot) => {
                    audit.damaged += u64::from(slot.is_some() || wrong > 0);
                    wrong = wrong.saturating_sub(u32::from(slot.is_none()));
                    state.blocks.remove(&number);
                    audit.lost.push(block);
                }
                (None, Some(digest)) if here && !on_its_way => {
                    let block = Arc::new(self.make(number, digest, Used { tick, ..Used::default() }, false));
                    state.blocks.insert(number, block.clone());
                    audit.adopted.push(block);
                    have.push(number);
                }
                (None, _) if on_its_way => have.push(number),
                (None, _) => {}
            }
        }
        let (mut at, size) = (0, self.id.size);
        for number in have {
            let (offset, length) = self.range(number);
            if at < offset {
                punch(&file, at, offset - at).map_err(|e| CacheError::io("punch", self.path(), e))?;
            }
            at = offset + length;
        }
        if at < size {
            punch(&file, at, size - at).map_err(|e| CacheError::io("punch", self.path(), e))?;
        }
        // What a lost block left in the witness would be found again.
        let body = state.body.clone().unwrap_or_else(|| Arc::new(body));
        for block in &audit.lost {
            let cleared = body.change(|slots, file| slots.set(file, self.generation, block.number, None));
            cleared.map_err(|e| CacheError::io("write", self.path(), e))?;
        }
        self.sidecar.store(place == Place::Sidecar, Relaxed);
        let witness = room_for_object(&self.id, self.block_bytes);
        let blocks: u64 = state.blocks.values().map(|block| on_disk(block.length)).sum();
        state.charge = Some(budget.found(witness + blocks, 1));
        Ok(audit)
    }
}

/// Whether a range of a file has data everywhere.
fn whole_range(file: &File, offset: u64, length: u64) -> rustix::io::Result<bool> {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data == offset => Ok(seek(file, SeekFrom::Hole(offset))? >= offset + length),
        Ok(_) | Err(rustix::io::Errno::NXIO) => Ok(false),
        Err(e) => Err(e),
    }
}
