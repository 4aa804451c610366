//! [`Part`]: some blocks of an object, which stay as long as somebody holds this.
use super::blob_entry::BlobEntry;
use super::block::Block;
use super::core::Core;
use std::sync::Arc;

/// Blocks of one object that are not evicted while this lives. They are read through a [`Blob`](super::Blob), which
/// verifies them; one that turns out to be damaged goes all the same.
#[derive(Debug)]
pub struct Part {
    core: Arc<Core>,
    entry: Arc<BlobEntry>,
    blocks: Vec<Arc<Block>>,
}

impl Part {
    /// These blocks; `None` if one of them is not there.
    pub(super) fn pinned(
        core: Arc<Core>,
        entry: Arc<BlobEntry>,
        numbers: impl Iterator<Item = u32>,
    ) -> Option<Self> {
        entry.enter();
        let mut part = Self { core, entry, blocks: Vec::new() }; // dropped, it lets go of what it has so far
        for number in numbers {
            part.blocks.push(part.entry.pin_block(number)?);
        }
        Some(part)
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.length).sum()
    }

    /// Whether all of them are still there.
    pub fn is_there(&self) -> bool {
        let same = |block: &Arc<Block>| {
            self.entry.block(block.number).is_some_and(|there| Arc::ptr_eq(&there, block))
        };
        !self.entry.is_removed() && self.blocks.iter().all(same)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.blocks.iter().for_each(|block| block.usage.unpin());
        self.core.leave(&self.entry);
    }
}
