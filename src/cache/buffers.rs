//! [`Pool`]: memory for blocks that are read, used again. A fresh megabyte costs more in page faults than
//! the copy out of the page cache.
use crate::sync::Mutex;
use bytes::Bytes;
use std::sync::{Arc, Weak};

/// How many buffers are kept for the next read.
const KEPT_MAX: usize = 32;

/// Buffers of one size.
#[derive(Debug)]
pub struct Pool {
    bytes: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

impl Pool {
    /// Of buffers of so many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, free: Mutex::default() })
    }

    /// A buffer for `length` bytes, whose content is arbitrary.
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        // Small reads are cheap to allocate, and would waste a whole buffer while they are held.
        let pooled = length <= self.bytes && length > self.bytes / 4;
        let memory = if pooled {
            self.free.lock().pop().unwrap_or_else(|| vec![0; self.bytes].into())
        } else {
            vec![0; length].into()
        };
        Buffer { memory, length, pool: if pooled { Arc::downgrade(self) } else { Weak::new() } }
    }
}

/// Memory to read into.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    length: usize,
    pool: Weak<Pool>,
}

impl Buffer {
    /// To be filled.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }

    /// As bytes that give the memory back when the last of them goes.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let mut free = pool.free.lock();
            if free.len() < KEPT_MAX {
                free.push(std::mem::take(&mut self.memory));
            }
        }
    }
}
