//! The witness: what lies beside the bytes of an entry and says what they are. With it alone, without the
//! journal, an entry comes back.
//!
//! A header, then for each block a slot, empty or with the block's digest. Slots are at fixed places and
//! each has a checksum of its own, so that a block is added or taken away by one small write. docs/FORMAT.md
//! has the bytes.
use super::budget::on_disk;
use super::codec::{Fields, Malformed, check, put_identity, take_block_bytes, take_identity};
use super::digest::Digest;
use super::key::{Identity, Key, ObjectId};

/// First bytes of a witness.
pub const MAGIC: &[u8; 8] = b"ICEWITNS";
/// The version written and understood.
pub const VERSION: u32 = 1;
/// Length of a slot.
pub const SLOT_BYTES: usize = 40;
/// Bytes of a header beside its texts: magic, version, length, block length, generation, digest, kind, size, checksum.
const FIXED_BYTES: u64 = 8 + 4 + 4 + 4 + 8 + 32 + 1 + 8 + 8;
/// The longest header: with an object's three texts.
pub const HEADER_MAX_BYTES: usize = 4096;
/// The most blocks of one entry; with blocks of 1 MiB that is 16 TiB.
pub const BLOCKS_MAX: u64 = 1 << 24;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose bytes these are.
    pub identity: Identity,
    /// Which generation of that entry.
    pub generation: u64,
    /// How long its blocks are.
    pub block_bytes: u64,
    /// BLAKE3 of a whole file; zeros for an object.
    pub whole: Digest,
}

impl Header {
    /// How many blocks the content has.
    pub fn blocks(&self) -> u64 {
        self.identity.size().div_ceil(self.block_bytes)
    }

    /// How many slots follow: none if a file is no more than one block, because `whole` says it all.
    pub fn slots(&self) -> u64 {
        match self.identity {
            Identity::File { size, .. } => file_slots(size, self.block_bytes),
            Identity::Object(_) => self.blocks(),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let mut body = Vec::with_capacity(192);
        body.extend_from_slice(&(self.block_bytes as u32).to_le_bytes());
        body.extend_from_slice(&self.generation.to_le_bytes());
        body.extend_from_slice(&self.whole);
        put_identity(&mut body, &self.identity);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
        let sum = check(&[&out]);
        out.extend_from_slice(&sum);
        out
    }

    /// Reads a header, and says how long it was.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), Malformed> {
        let mut fields = Fields(bytes);
        if &fields.array::<8>()? != MAGIC {
            return Err(Malformed("its magic is not ours"));
        }
        if fields.u32()? != VERSION {
            return Err(Malformed("its version is not known"));
        }
        let length = fields.u32()? as usize;
        if length > HEADER_MAX_BYTES {
            return Err(Malformed("its header is too long"));
        }
        let mut body = Fields(fields.bytes(length)?);
        let end = bytes.len() - fields.0.len();
        if fields.array()? != check(&[&bytes[..end]]) {
            return Err(Malformed("its checksum is wrong"));
        }
        let block_bytes = take_block_bytes(&mut body)?;
        let generation = body.u64()?;
        let whole = body.array()?;
        let identity = take_identity(&mut body)?;
        body.end()?;
        let header = Self { identity, generation, block_bytes, whole };
        if header.blocks() > BLOCKS_MAX {
            return Err(Malformed("it has too many blocks"));
        }
        Ok((header, end + 8))
    }
}

fn file_slots(size: u64, block_bytes: u64) -> u64 {
    let blocks = size.div_ceil(block_bytes);
    if blocks <= 1 { 0 } else { blocks }
}

/// What a witness takes on the disk. An attribute as well: it is longer than an inode has room for, and then
/// file systems give it a page of its own.
fn room(texts: usize, slots: u64) -> u64 {
    on_disk(FIXED_BYTES + texts as u64 + slots * SLOT_BYTES as u64)
}

/// What a file takes on the disk that does not depend on its bytes, in bytes: its witness.
pub fn room_for_file(key: &Key, size: u64, block_bytes: u64) -> u64 {
    room(2 + key.as_bytes().len(), file_slots(size, block_bytes))
}

/// What an object takes on the disk before it has a block, in bytes: its witness.
pub fn room_for_object(id: &ObjectId, block_bytes: u64) -> u64 {
    let texts = [&id.bucket, &id.key, &id.tag].map(|text| 2 + text.len());
    room(texts.iter().sum(), id.size.div_ceil(block_bytes))
}

/// A slot with a block's digest, or an empty one.
pub fn slot(generation: u64, block: u32, digest: Option<&Digest>) -> [u8; SLOT_BYTES] {
    let mut out = [0; SLOT_BYTES];
    if let Some(digest) = digest {
        out[..32].copy_from_slice(digest);
        out[32..].copy_from_slice(&slot_check(generation, block, digest));
    }
    out
}

fn slot_check(generation: u64, block: u32, digest: &Digest) -> [u8; 8] {
    check(&[&generation.to_le_bytes(), &block.to_le_bytes(), digest])
}

/// The digest in a slot; `None` if it is empty or not right.
pub fn read_slot(generation: u64, block: u32, slot: &[u8; SLOT_BYTES]) -> Option<Digest> {
    let (digest, sum) = slot.split_first_chunk::<32>()?;
    (sum == slot_check(generation, block, digest)).then_some(*digest)
}

/// A whole witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// What it begins with.
    pub header: Header,
    /// The digests of the blocks that are there, by number; as many as there are slots.
    pub slots: Vec<Option<Digest>>,
    /// How many of the empty ones are so because what stands there is not right.
    pub wrong: u32,
}

impl Witness {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.header.encode();
        for (n, digest) in self.slots.iter().enumerate() {
            out.extend_from_slice(&slot(self.header.generation, n as u32, digest.as_ref()));
        }
        out
    }

    /// Reads a witness. A slot that is missing or not right is an empty one; of a file's all must be right,
    /// and make the digest of the whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, start) = Header::decode(bytes)?;
        let (found, _) = bytes[start..].as_chunks::<SLOT_BYTES>();
        let count = header.slots() as usize;
        let read = |n: usize| found.get(n).and_then(|slot| read_slot(header.generation, n as u32, slot));
        if let Identity::File { .. } = header.identity {
            if found.len() < count {
                return Err(Malformed("it is cut short"));
            }
            let slots: Vec<_> = (0..count).map(read).collect();
            let nodes: Option<Vec<Digest>> = slots.iter().copied().collect();
            let nodes = nodes.ok_or(Malformed("a slot is wrong"))?;
            if count > 0 && super::digest::root(&nodes) != Some(header.whole) {
                return Err(Malformed("its digests contradict each other"));
            }
            return Ok(Self { header, slots, wrong: 0 });
        }
        // No more is kept than there is: a header may promise millions of slots.
        let mut slots: Vec<_> = (0..count.min(found.len())).map(read).collect();
        slots.resize(count, None);
        let is_wrong =
            |(slot, read): (&[u8; SLOT_BYTES], &Option<Digest>)| read.is_none() && slot != &[0; SLOT_BYTES];
        // It is written whole from the beginning: what is cut off is damaged.
        let cut_off = count.saturating_sub(found.len());
        let wrong = (found.iter().zip(&slots).filter(|pair| is_wrong(*pair)).count() + cut_off) as u32;
        Ok(Self { header, slots, wrong })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
