//! [`Block`]: a block of an object that is on the disk, and whether the page cache may be trusted with it.
use super::digest::{self, Digest};
use super::record::Used;
use super::trust::Trust;
use super::usage::Usage;

/// A block that is there.
#[derive(Debug)]
pub struct Block {
    /// Its number.
    pub number: u32,
    /// Its length in bytes.
    pub length: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// How it is used.
    pub usage: Usage,
    trust: Trust,
}

impl Block {
    /// A block; `trusted` if this process has just written it.
    pub fn new(number: u32, length: u64, digest: Digest, used: Used, trusted: bool) -> Self {
        Self { number, length, digest, usage: Usage::new(used), trust: Trust::new(trusted) }
    }

    /// Whether what the page cache has of it was written or verified by this process.
    pub fn is_verified(&self) -> bool {
        self.trust.is_right()
    }

    /// Whether the page cache may be believed about it.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Runs `copy`, which takes bytes out of the page cache, and says whether they are right: only if the
    /// disk was not read meanwhile.
    pub fn trusting(&self, copy: impl FnOnce() -> bool) -> bool {
        Trust::all(std::iter::once(&self.trust), copy)
    }

    /// Runs `read`, which reads all of it from the disk, and compares the bytes with the digest.
    pub fn verify<T: AsRef<[u8]>>(&self, offset: u64, read: impl FnOnce() -> Option<T>) -> Option<T> {
        let doubted = self.trust.doubt();
        let bytes = read()?;
        let right = bytes.as_ref().len() as u64 == self.length
            && digest::block(offset, bytes.as_ref()) == self.digest;
        if !right {
            return None;
        }
        self.trust.prove(doubted);
        Some(bytes)
    }
}
