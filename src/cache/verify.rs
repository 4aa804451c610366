//! Reading all that is there of an entry, and comparing the checksums.
use super::blob_entry::BlobEntry;
use super::core::{Core, Slot};
use super::disk;
use super::error::CacheError;
use super::file::File;
use super::info::{EntryName, Verdict};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Verifies an entry; what is not right is dropped. Blocks.
///
/// # Errors
/// It cannot be looked at: nothing is known of it, and nothing was dropped.
pub fn verify(core: &Arc<Core>, name: &EntryName) -> Result<Verdict, CacheError> {
    let verdict = match name {
        EntryName::File(key) => {
            let file = core.files.get(key, |slot| match slot {
                Slot::File(file) => {
                    file.usage.pin();
                    Some(file.clone())
                }
                Slot::Filling(_) => None,
            });
            let Some(file) = file.flatten() else { return Ok(Verdict::default()) };
            let _held = File::pinned(core.clone(), file.clone());
            match file.verify() {
                Ok(right) => Verdict { right, dropped: 0 },
                Err(error) if error.is_shortage() => return Err(error),
                Err(error) => {
                    core.drop_damaged(&file, &error);
                    Verdict { right: 0, dropped: 1 }
                }
            }
        }
        EntryName::Object(id) => {
            let enter = |blob: &Arc<BlobEntry>| {
                blob.enter();
                blob.clone()
            };
            let Some(blob) = core.blobs.get(id, enter) else { return Ok(Verdict::default()) };
            let verdict = blocks(core, &blob);
            core.leave(&blob);
            verdict?
        }
    };
    core.meters.bytes_verified.fetch_add(verdict.right, Relaxed);
    Ok(verdict)
}

fn blocks(core: &Arc<Core>, blob: &Arc<BlobEntry>) -> Result<Verdict, CacheError> {
    let mut verdict = Verdict::default();
    for block in blob.blocks() {
        let Some(block) = blob.pin_block(block.number) else { continue };
        let (offset, length) = blob.range(block.number);
        let file = blob.file();
        let right = block.verify(offset, || {
            let mut buffer = core.pool.take(length as usize);
            disk::read(file.as_ref().ok()?, buffer.space(), offset).ok()?;
            Some(buffer)
        });
        block.usage.unpin();
        if let Err(error) = file
            && error.is_shortage()
        {
            return Err(error);
        }
        if right.is_some() {
            verdict.right += length;
        } else {
            core.drop_damaged_block(blob, &block);
            verdict.dropped += 1;
        }
    }
    Ok(verdict)
}
