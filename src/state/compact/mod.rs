//! Compaction: layers that follow each other become one, so that the chain of a version stays short however
//! many versions there were.
//!
//! [`choose`] says which: the newest ones (but for the very newest, by which others know the version), and
//! older ones as long as they are not larger than all of those, so that a layer doubles at least each time it
//! is merged.
//! `Merge` finds what is left of their rows. Content is copied out of layers that are small
//! or half dead; of others it is referred to where it stands, so that a large base is never rewritten for
//! a few changes. Now and then all layers are looked at (`Waste`): if a restore would read much that is of no
//! use, they become one, the oldest too, as long as that writes no more than a given multiple of what the newer
//! ones hold. The merged layer takes their place in HEAD by the same conditional write as any version,
//! which stays the same one; what earlier versions or references still need is held there.
mod content;
mod merge;
mod order;
mod rewrite;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
mod waste;

pub(in crate::state) use merge::Tail;
pub(in crate::state) use order::standing;
pub use rewrite::Rewritten;
pub(in crate::state) use rewrite::{Aim, rewrite};
pub(in crate::state) use waste::Waste;

use crate::state::head::LayerRef;
use std::ops::Range;

/// How many layers a version may have at most, if nothing else is said.
pub const CHAIN_DEFAULT: usize = 16;
/// The shortest chain that may be asked for.
pub const CHAIN_MIN: usize = 4;
/// A layer is merged with newer ones if it is not larger than so many times all of them. More makes chains
/// shorter and writes more: 10,000 equal flushes with 16 layers write each byte 4.5 times with 1, 6.1 with 2
/// and 9.1 with 4.
const GROWTH: u64 = 1;

/// Which layers of a chain, oldest first, to merge so that it has fewer than `most`.
pub fn choose(layers: &[LayerRef], most: usize) -> Option<Range<usize>> {
    if layers.len() < most.max(CHAIN_MIN) {
        return None;
    }
    let end = layers.len() - 1;
    // At least a third of the chain goes, or it would be as long again at once.
    let mut start = end - (most / 3).max(2).min(end);
    let mut bytes: u64 = layers[start..end].iter().map(|layer| layer.bytes).sum();
    while let Some(older) = start.checked_sub(1).and_then(|n| layers.get(n)) {
        if older.bytes > bytes.saturating_mul(GROWTH) || older.table.is_none() {
            break;
        }
        bytes += older.bytes;
        start -= 1;
    }
    // Layers of before there were tables can only be restored.
    (layers[start..end].iter().all(|layer| layer.table.is_some()) && end - start >= 2).then_some(start..end)
}
