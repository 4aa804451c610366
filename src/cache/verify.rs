//! Reading all that is there of an entry, and comparing the checksums.
use super::core::{Core, Slot};
use super::disk;
use super::info::{EntryName, Verdict};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Verifies an entry; what is not right is dropped. Blocks.
pub fn verify(core: &Arc<Core>, name: &EntryName) -> Verdict {
    let verdict = match name {
        EntryName::File(key) => {
            let file = core.files.get(key, |slot| match slot {
                Slot::File(file) => Some(file.clone()),
                Slot::Filling(_) => None,
            });
            let Some(file) = file.flatten() else { return Verdict::default() };
            match file.verify() {
                Ok(right) => Verdict { right, dropped: 0 },
                Err(error) => {
                    core.drop_damaged(&file, &error);
                    Verdict { right: 0, dropped: 1 }
                }
            }
        }
        EntryName::Object(id) => {
            let Some(blob) = core.blobs.get(id, Arc::clone) else { return Verdict::default() };
            let mut verdict = Verdict::default();
            for block in blob.blocks() {
                let Some(block) = blob.pin_block(block.number) else { continue };
                let (offset, length) = blob.range(block.number);
                let right = block.verify(offset, || {
                    let mut buffer = core.pool.take(length as usize);
                    disk::read(&*blob.file().ok()?, buffer.space(), offset).ok()?;
                    Some(buffer)
                });
                block.usage.unpin();
                if right.is_some() {
                    verdict.right += length;
                } else {
                    core.drop_damaged_block(&blob, &block);
                    verdict.dropped += 1;
                }
            }
            verdict
        }
    };
    core.meters.bytes_verified.fetch_add(verdict.right, Relaxed);
    verdict
}
