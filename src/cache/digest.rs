//! Checksums of contents: BLAKE3 of the whole, and of each block the node of BLAKE3's own tree.
//!
//! A block's node depends on its offset, so right bytes at a wrong place are noticed; and the nodes of all
//! blocks make the digest of the whole without reading anything again.
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// A checksum of 32 bytes.
pub type Digest = [u8; 32];

/// A short form of a digest: what has the same content has the same one, now and after a restart.
pub fn fingerprint(digest: &Digest) -> u64 {
    digest.first_chunk().map_or(0, |front| u64::from_le_bytes(*front))
}

/// The node of the block that begins at `offset`. Blocks are a power of two long, at least 4096 bytes, and
/// begin at multiples of their length; the last one of a content may be shorter, none is empty.
pub fn block(offset: u64, bytes: &[u8]) -> Digest {
    debug_assert!(!bytes.is_empty());
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// The digest of a content of more than one block, from the nodes of all its blocks; `None` if there are
/// fewer than two.
pub fn root(nodes: &[Digest]) -> Option<Digest> {
    let (left, right) = halves(nodes)?;
    Some(*merge_subtrees_root(&node(left), &node(right), Mode::Hash).as_bytes())
}

fn node(nodes: &[Digest]) -> ChainingValue {
    match halves(nodes) {
        None => nodes.first().copied().unwrap_or_default(),
        Some((left, right)) => merge_subtrees_non_root(&node(left), &node(right), Mode::Hash),
    }
}

/// The left one holds the largest power of two that leaves something to the right.
fn halves(nodes: &[Digest]) -> Option<(&[Digest], &[Digest])> {
    (nodes.len() > 1).then(|| nodes.split_at(nodes.len().div_ceil(2).next_power_of_two()))
}

/// Digests a content as it comes.
#[derive(Debug)]
pub struct Digester {
    block_bytes: u64,
    /// Of the block that is under way, which is not full.
    hasher: blake3::Hasher,
    in_block: u64,
    nodes: Vec<Digest>,
}

/// What a content's checksums are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// BLAKE3 of the whole.
    pub whole: Digest,
    /// The nodes of its blocks; empty if there is no more than one block.
    pub blocks: Vec<Digest>,
}

impl Digester {
    /// Nothing yet.
    pub fn new(block_bytes: u64) -> Self {
        Self { block_bytes, hasher: blake3::Hasher::new(), in_block: 0, nodes: Vec::new() }
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // A full block is closed only when more follows: one that is the whole content has no node.
            if self.in_block == self.block_bytes {
                self.close();
            }
            let room = (self.block_bytes - self.in_block).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(room as usize);
            self.hasher.update(now);
            self.in_block += room;
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.nodes.push(self.hasher.finalize_non_root());
        self.hasher = blake3::Hasher::new();
        self.hasher.set_input_offset(self.nodes.len() as u64 * self.block_bytes);
        self.in_block = 0;
    }

    /// All of it.
    pub fn finish(mut self) -> Digests {
        if self.nodes.is_empty() {
            return Digests { whole: *self.hasher.finalize().as_bytes(), blocks: Vec::new() };
        }
        self.close();
        Digests { whole: root(&self.nodes).unwrap_or_default(), blocks: self.nodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_blocks_is_that_of_the_whole() {
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for length in [0, 1, 4095, 4096, 4097, 8192, 8193, 12_288, 12_289, 20_480, 32_768, 40_000] {
            let content = &bytes[..length];
            let mut digester = Digester::new(4096);
            for piece in content.chunks(1000) {
                digester.update(piece);
            }
            let digests = digester.finish();
            assert_eq!(&digests.whole, blake3::hash(content).as_bytes(), "{length} bytes");
            if length > 4096 {
                let blocks: Vec<_> =
                    content.chunks(4096).enumerate().map(|(n, b)| block(n as u64 * 4096, b)).collect();
                assert_eq!(digests.blocks, blocks);
            } else {
                assert!(digests.blocks.is_empty());
            }
        }
    }

    #[test]
    fn a_block_at_another_place_has_another_digest() {
        assert_ne!(block(0, b"same"), block(4096, b"same"));
    }
}
