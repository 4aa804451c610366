//! [`Block`]: a block of an object that is on the disk, and whether the page cache may be trusted with it.
use super::digest::{self, Digest};
use super::record::Used;
use super::usage::Usage;
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};

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
    /// Odd while what the page cache has of it is known to be right. Each time the disk is read anew it is
    /// counted up, so that whoever copied out of the page cache meanwhile notices.
    trust: AtomicU32,
}

impl Block {
    /// A block; `trusted` if this process has just written it.
    pub fn new(number: u32, length: u64, digest: Digest, used: Used, trusted: bool) -> Self {
        Self { number, length, digest, usage: Usage::new(used), trust: AtomicU32::new(trusted.into()) }
    }

    /// Whether what the page cache has of it was written or verified by this process.
    pub fn is_verified(&self) -> bool {
        self.trust.load(SeqCst) % 2 == 1
    }

    /// Runs `copy`, which takes bytes out of the page cache, and says whether they are right: only if the
    /// disk was not read meanwhile.
    pub fn trusting(&self, copy: impl FnOnce() -> bool) -> bool {
        let before = self.trust.load(SeqCst);
        before % 2 == 1 && copy() && self.trust.load(SeqCst) == before
    }

    /// Runs `read`, which reads all of it from the disk, and compares the bytes with the digest.
    pub fn verify<T: AsRef<[u8]>>(&self, offset: u64, read: impl FnOnce() -> Option<T>) -> Option<T> {
        let trust = match self.trust.load(SeqCst) {
            odd if odd % 2 == 1 => {
                let _other = self.trust.compare_exchange(odd, odd.wrapping_add(1), SeqCst, SeqCst);
                odd.wrapping_add(1)
            }
            even => even,
        };
        let bytes = read()?;
        let right = bytes.as_ref().len() as u64 == self.length
            && digest::block(offset, bytes.as_ref()) == self.digest;
        if !right {
            return None;
        }
        let _other = self.trust.compare_exchange(trust, trust.wrapping_add(1), SeqCst, SeqCst);
        Some(bytes)
    }
}
