//! How entries leave a cache: the index, the policy, the disk and the journal let go of each together.
use super::blob_entry::{BlobEntry, Taken};
use super::block::Block;
use super::check::CHECKS;
use super::core::{Core, Slot};
use super::error::CacheError;
use super::events::{Cause, Event};
use super::evict::Unit;
use super::evictor::Held;
use super::file_entry::FileEntry;
use super::info::Removed;
use super::record::{BLOCKS, ENTRIES, block_key, entry_key};
use super::stats::Meters;
use std::sync::Arc;

impl Core {
    /// `Some(false)` if it is in use, `None` if it was gone already.
    pub fn try_evict(&self, unit: Unit, held: &Held, cause: Cause) -> Option<bool> {
        let (subject, bytes) = match held {
            Held::File(file) => {
                let pinned = self.files.change(&file.key, |map| {
                    match map.get(&file.key) {
                        Some(Slot::File(found)) if Arc::ptr_eq(found, file) => {}
                        _ => return None,
                    }
                    if file.usage.is_pinned() {
                        return Some(true);
                    }
                    map.remove(&file.key);
                    self.file_left(file);
                    Some(false)
                })?;
                if pinned {
                    return Some(false);
                }
                (file.subject(), file.size)
            }
            Held::Blob(blob) => match blob.take(unit.block) {
                Taken::Gone(block) => {
                    self.block_left(blob, &block);
                    self.drop_idle(blob);
                    (blob.subject(block.number), block.length)
                }
                Taken::Pinned => return Some(false),
                Taken::Absent => return None,
                Taken::Broken => {
                    self.drop_blob(blob);
                    return Some(true);
                }
            },
        };
        self.meters.evicted(cause);
        self.events.send(|| Event::Evict { subject, bytes, cause });
        Some(true)
    }

    /// A file was taken out of the index: everybody else forgets it, too. Within the index's lock.
    fn file_left(&self, file: &Arc<FileEntry>) {
        self.depart(file.generation);
        file.usage.leave();
        file.remove();
        self.evictor.forget(file.unit());
        self.ledger.record(|batch| batch.delete(ENTRIES, &entry_key(file.generation)));
    }

    /// An entry leaves; the check after the start may still come across its file.
    fn depart(&self, generation: u64) {
        if generation < self.first_generation && *self.checked.borrow() < CHECKS {
            self.departed.lock().insert(generation);
        }
    }

    fn block_left(&self, blob: &BlobEntry, block: &Block) {
        block.usage.leave();
        self.evictor.forget(blob.unit(block));
        self.ledger.record(|batch| batch.delete(BLOCKS, &block_key(blob.generation, block.number)));
    }

    /// Takes a file away, whoever uses it; `false` if it was gone already.
    pub fn drop_file(&self, file: &Arc<FileEntry>) -> bool {
        self.files.change(&file.key, |map| match map.get(&file.key) {
            Some(Slot::File(found)) if Arc::ptr_eq(found, file) => {
                map.remove(&file.key);
                self.file_left(file);
                true
            }
            _ => false,
        })
    }

    /// Takes a file away because somebody wants it gone.
    pub fn delete_file(&self, file: &Arc<FileEntry>) -> Removed {
        let pinned = file.usage.is_pinned();
        if !self.drop_file(file) {
            return Removed::Absent;
        }
        Meters::count(&self.meters.deleted);
        self.events.send(|| Event::Delete(file.subject()));
        if pinned { Removed::WhenUnpinned } else { Removed::Gone }
    }

    /// Takes a file away because its bytes are not right or not there; not because it could not be looked at.
    pub fn drop_damaged(&self, file: &Arc<FileEntry>, error: &CacheError) {
        if error.is_shortage() || !self.drop_file(file) {
            return;
        }
        match error {
            CacheError::Deleted => Meters::count(&self.meters.lost), // and the journal had not learned of it
            CacheError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::warn!(key = %file.key, "a file of the cache has vanished");
                Meters::count(&self.meters.vanished);
            }
            error => {
                tracing::warn!(key = %file.key, %error, "a file of the cache is damaged and is dropped");
                Meters::count(&self.meters.corrupt_drops);
                self.events.send(|| Event::Corrupt(file.subject()));
            }
        }
    }

    /// Takes a block away because its bytes are not right.
    pub fn drop_damaged_block(&self, blob: &Arc<BlobEntry>, block: &Arc<Block>) {
        let number = block.number;
        match blob.take_damaged(block) {
            Taken::Gone(block) => {
                tracing::warn!(object = %blob.id, block = number, "a block in the cache is damaged and is dropped");
                Meters::count(&self.meters.corrupt_drops);
                self.block_left(blob, &block);
                self.events.send(|| Event::Corrupt(blob.subject(number)));
            }
            Taken::Broken => {
                Meters::count(&self.meters.corrupt_drops);
                self.events.send(|| Event::Corrupt(blob.subject(number)));
                self.drop_blob(blob);
            }
            Taken::Pinned | Taken::Absent => {}
        }
    }

    /// Takes an object away that nobody reads and of which nothing is there.
    pub fn drop_idle(&self, blob: &Arc<BlobEntry>) {
        self.blobs.change(&*blob.id, |map| {
            if map.get(&*blob.id).is_some_and(|found| Arc::ptr_eq(found, blob)) && blob.is_idle() {
                map.remove(&*blob.id);
                self.blob_left(blob);
            }
        });
    }

    /// Takes an object away, whoever reads it; `false` if it was gone already.
    pub fn drop_blob(&self, blob: &Arc<BlobEntry>) -> bool {
        self.blobs.change(&*blob.id, |map| {
            let found = map.get(&*blob.id).is_some_and(|found| Arc::ptr_eq(found, blob));
            if found {
                map.remove(&*blob.id);
                self.blob_left(blob);
            }
            found
        })
    }

    fn blob_left(&self, blob: &Arc<BlobEntry>) {
        self.depart(blob.generation);
        blob.remove();
        let blocks = blob.blocks();
        for block in &blocks {
            block.usage.leave();
            self.evictor.forget(blob.unit(block));
        }
        self.evictor.release(blob.generation);
        self.ledger.record(|batch| {
            for block in &blocks {
                batch.delete(BLOCKS, &block_key(blob.generation, block.number));
            }
            batch.delete(ENTRIES, &entry_key(blob.generation));
        });
    }
}
