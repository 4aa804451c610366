//! [`Digests`]: the chunks of a file, from its bytes as they pass by in order.
use super::{CHUNK_BYTES, CHUNK_BYTES_MIN, ChunkDigest};

/// A whole chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in the file.
    pub at: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What it is.
    pub digest: ChunkDigest,
}

/// Digests the chunks of one file. Of a chunk of which a part does not pass (a hole) nothing is said.
#[derive(Debug)]
pub struct Digests {
    size: u64,
    /// Where the bytes so far end.
    at: u64,
    /// The chunk under way has had all its bytes until now.
    whole: bool,
    hasher: blake3::Hasher,
    chunks: Vec<Chunk>,
}

impl Digests {
    /// For a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, at: 0, whole: true, hasher: blake3::Hasher::new(), chunks: Vec::new() }
    }

    /// The next bytes of the file; they may leave out some.
    pub fn update(&mut self, at: u64, mut bytes: &[u8]) {
        if at != self.at {
            self.whole = at.is_multiple_of(CHUNK_BYTES);
            self.hasher.reset();
            self.at = at;
        }
        while !bytes.is_empty() {
            let start = self.at / CHUNK_BYTES * CHUNK_BYTES;
            let end = (start + CHUNK_BYTES).min(self.size);
            if self.at >= end {
                return; // more than the file should have
            }
            let (now, rest) = bytes.split_at(bytes.len().min((end - self.at) as usize));
            if self.whole {
                self.hasher.update(now);
            }
            self.at += now.len() as u64;
            bytes = rest;
            if self.at == end {
                if self.whole && end - start >= CHUNK_BYTES_MIN {
                    let digest = *self.hasher.finalize().as_bytes();
                    self.chunks.push(Chunk { at: start, length: end - start, digest });
                }
                self.hasher.reset();
                self.whole = true;
            }
        }
    }

    /// The chunks since the last call, in the order of the file.
    pub fn take(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.chunks)
    }
}
