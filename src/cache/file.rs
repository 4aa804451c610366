//! [`File`]: a whole file of the cache, which stays as long as somebody holds this.
use super::blob_entry::BlobEntry;
use super::core::Core;
use super::digest::{self, Digest};
use super::disk;
use super::error::CacheError;
use super::file_entry::FileEntry;
use super::trust::Trust;
use bytes::Bytes;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A complete file in the cache. It is not evicted while this lives, and what is deleted meanwhile keeps its
/// bytes until this goes. Clones are as good as the first.
#[derive(Debug)]
pub struct File {
    core: Arc<Core>,
    held: Whole,
}

#[derive(Debug, Clone)]
enum Whole {
    File(Arc<FileEntry>),
    Blob(Arc<BlobEntry>),
}

impl File {
    /// Of an entry that is pinned for this already.
    pub(super) fn pinned(core: Arc<Core>, file: Arc<FileEntry>) -> Self {
        Self { core, held: Whole::File(file) }
    }

    /// Of a complete object whose whole is pinned for this already.
    pub(super) fn pinned_blob(core: Arc<Core>, blob: Arc<BlobEntry>) -> Self {
        Self { core, held: Whole::Blob(blob) }
    }

    /// The file that it is, unless it is an object.
    pub(super) fn entry(&self) -> Option<&Arc<FileEntry>> {
        match &self.held {
            Whole::File(file) => Some(file),
            Whole::Blob(_) => None,
        }
    }

    /// Where it is. Read only: whoever writes there damages the cache.
    pub fn path(&self) -> PathBuf {
        match &self.held {
            Whole::File(file) => file.path(),
            Whole::Blob(blob) => blob.path(),
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match &self.held {
            Whole::File(file) => file.size,
            Whole::Blob(blob) => blob.id.size,
        }
    }

    /// BLAKE3 of its bytes; `None` for an object of a single block, of which only the block's is known.
    pub fn checksum(&self) -> Option<Digest> {
        match &self.held {
            Whole::File(file) => Some(file.whole),
            Whole::Blob(blob) => blob.whole(),
        }
    }

    /// When it was admitted, in seconds since 1970.
    pub fn created(&self) -> u64 {
        match &self.held {
            Whole::File(file) => file.created,
            Whole::Blob(blob) => blob.created,
        }
    }

    /// Open for reading: for `sendfile`, `copy_file_range`, passthrough. All who have it open share one
    /// descriptor, so its offset means nothing.
    pub fn open(&self) -> Result<Arc<std::fs::File>, CacheError> {
        match &self.held {
            Whole::File(file) => file.open().inspect_err(|e| self.core.drop_damaged(file, e)),
            Whole::Blob(blob) => blob.file().inspect_err(|e| {
                if !e.is_shortage() {
                    self.core.drop_blob(blob);
                }
            }),
        }
    }

    /// A part of it as a descriptor with an offset, cut off at the end: for the reply to a read.
    pub fn range(&self, offset: u64, length: u64) -> Result<Range, CacheError> {
        let size = self.size();
        let offset = offset.min(size);
        Ok(Range { file: self.open()?, offset, length: length.min(size - offset), _pin: self.clone() })
    }

    /// Reads a part of it, cut off at the end. What the page cache no longer holds is verified anew.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, CacheError> {
        if let Some(bytes) = self.read_now(offset, length) {
            return Ok(bytes);
        }
        let this = self.clone();
        let read = self.core.runtime.spawn_blocking(move || this.read_blocking(offset, length));
        read.await.unwrap_or(Err(CacheError::Closed))
    }

    /// Reads a part of it if the page cache has all of that and is to be believed; never waits for the disk.
    pub fn read_now(&self, offset: u64, length: usize) -> Option<Bytes> {
        let size = self.size();
        let length = length.min(usize::try_from(size.saturating_sub(offset)).ok()?);
        if length == 0 {
            return Some(Bytes::new());
        }
        let file = self.open().ok()?;
        let mut buffer = self.core.pool.take(length);
        let touched = self.touched(offset, length as u64);
        let copy = || disk::read_cached(&file, buffer.space(), offset);
        let copied = match &self.held {
            Whole::File(entry) => {
                let trusts = entry.trusts().get(*touched.start() as usize..=*touched.end() as usize)?;
                Trust::all(trusts.iter(), copy)
            }
            Whole::Blob(blob) => {
                let blocks = touched.map(|n| blob.block(n as u32)).collect::<Option<Vec<_>>>()?;
                Trust::all(blocks.iter().map(|block| block.trust()), copy)
            }
        };
        copied.then(|| {
            self.core.meters.bytes_hit.fetch_add(length as u64, Relaxed);
            buffer.freeze()
        })
    }

    /// The blocks that a part touches which is not empty.
    fn touched(&self, offset: u64, length: u64) -> RangeInclusive<u64> {
        let block_bytes = self.block_bytes();
        offset / block_bytes..=(offset + length - 1) / block_bytes
    }

    fn block_bytes(&self) -> u64 {
        match &self.held {
            Whole::File(file) => file.block_bytes(),
            Whole::Blob(blob) => blob.block_bytes,
        }
    }

    /// Reads a part of it and verifies all blocks that it touches. Blocks.
    pub fn read_blocking(&self, offset: u64, length: usize) -> Result<Bytes, CacheError> {
        let size = self.size();
        let end = offset.saturating_add(length as u64).min(size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let (file, block_bytes) = (self.open()?, self.block_bytes());
        let touched = self.touched(offset, end - offset);
        let (start, stop) = (touched.start() * block_bytes, ((touched.end() + 1) * block_bytes).min(size));
        let mut buffer = self.core.pool.take((stop - start) as usize);
        let pieces = touched.zip(buffer.space().chunks_mut(block_bytes as usize));
        match &self.held {
            Whole::File(entry) => {
                let nodes = entry.nodes().inspect_err(|e| self.core.drop_damaged(entry, e))?;
                for (n, piece) in pieces {
                    let trust = entry.trusts().get(n as usize);
                    let doubted = trust.map(Trust::doubt);
                    // One that ends too early, or that the disk cannot give any more, is as bad as a wrong one.
                    let came = disk::read(&file, piece, n * block_bytes);
                    let is_right = || match nodes.get(n as usize) {
                        Some(node) => digest::block(n * block_bytes, piece) == *node,
                        None => *blake3::hash(piece).as_bytes() == entry.whole, // it is one block
                    };
                    if came.is_err() || !is_right() {
                        return Err(self.damaged(n as u32));
                    }
                    trust.zip(doubted).inspect(|(trust, doubted)| trust.prove(*doubted));
                }
            }
            Whole::Blob(blob) => {
                for (n, piece) in pieces {
                    let verified = blob.block(n as u32).and_then(|block| {
                        block.verify(n * block_bytes, || {
                            disk::read(&file, piece, n * block_bytes).ok().map(|()| piece)
                        })
                    });
                    if verified.is_none() {
                        return Err(self.damaged(n as u32));
                    }
                }
            }
        }
        self.core.meters.bytes_verified.fetch_add(stop - start, Relaxed);
        self.core.meters.bytes_hit.fetch_add(end - offset, Relaxed);
        Ok(buffer.freeze().slice((offset - start) as usize..(end - start) as usize))
    }

    fn damaged(&self, block: u32) -> CacheError {
        match &self.held {
            Whole::File(file) => {
                let error = CacheError::Corrupt { what: file.key.to_string() };
                self.core.drop_damaged(file, &error);
                error
            }
            Whole::Blob(blob) => {
                if let Some(block) = blob.block(block) {
                    self.core.drop_damaged_block(blob, &block);
                }
                CacheError::Corrupt { what: format!("block {block} of {}", blob.id) }
            }
        }
    }
}

impl Clone for File {
    fn clone(&self) -> Self {
        match &self.held {
            Whole::File(file) => file.usage.pin(),
            Whole::Blob(blob) => {
                blob.enter();
                blob.pin_again();
            }
        }
        Self { core: self.core.clone(), held: self.held.clone() }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        match &self.held {
            Whole::File(file) => file.usage.unpin(),
            Whole::Blob(blob) => {
                blob.unpin_whole();
                self.core.leave(blob);
            }
        }
    }
}

/// A part of a file as a descriptor with an offset; it keeps the file.
#[derive(Debug, Clone)]
pub struct Range {
    file: Arc<std::fs::File>,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    _pin: File,
}

impl AsFd for Range {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
