//! [`Buffers`]: the memory of frames, used again.
//!
//! A frame has up to a mebibyte, and so has what it is stored in. Who allocates and frees both for each frame makes
//! the kernel clear, map and unmap their pages each time, which takes as long as to decompress them.
use crate::sync::Mutex;
use std::sync::Arc;

/// So many are kept: those of a few sections that are read at once.
const KEPT_MAX: usize = 12;

/// Clones share what they keep. Owner of its lock.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// One of `bytes`, with anything in it. It is kept again when it is dropped.
    pub(super) fn take(&self, bytes: usize) -> Buffer {
        let mut taken = self.0.lock().pop().unwrap_or_default();
        taken.reserve_exact(bytes.saturating_sub(taken.len()));
        taken.resize(bytes, 0);
        Buffer { bytes: taken, home: self.clone() }
    }

    /// Frees what is kept.
    pub fn clear(&self) {
        let kept = std::mem::take(&mut *self.0.lock());
        drop(kept);
    }
}

/// One of [`Buffers`].
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    home: Buffers,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock();
        if kept.len() < KEPT_MAX && self.bytes.capacity() > 0 {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Buffers").field(&self.0.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_used_again_up_to_a_bound() {
        let buffers = Buffers::default();
        let first = buffers.take(100);
        let at = first.bytes.as_ptr();
        drop(first);
        let again = buffers.take(50);
        assert_eq!((again.bytes.as_ptr(), again.bytes.len()), (at, 50));
        drop(again);
        assert_eq!(buffers.take(5000).bytes.len(), 5000);
        let many: Vec<Buffer> = (0..2 * KEPT_MAX).map(|_| buffers.take(10)).collect();
        drop(many);
        assert_eq!(buffers.0.lock().len(), KEPT_MAX);
        buffers.clear();
        drop(buffers.take(0));
        assert!(buffers.0.lock().is_empty());
    }
}
