//! What values are called: [`BlockKey`], one for each range of each version of an object.
use crate::cache::ObjectId;
use crate::cache::key::Identity;
use std::fmt::Write;
use std::ops::Range;

/// Slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// The name of a block. Everything that its bytes depend on is in it, so what it names is never stale; and
/// how it was cut, so that two who cut differently never mix their parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockKey {
    /// `<namespace>:<version of our format>:{<digest>}:`
    prefix: String,
    slot: u16,
}

impl BlockKey {
    /// The name of this range of this object, cut into chunks of so many bytes.
    pub fn new(namespace: &str, object: &ObjectId, range: &Range<u64>, chunk_bytes: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&Identity::Object(object.clone()).digest());
        for number in [range.start, range.end, chunk_bytes] {
            hasher.update(&number.to_le_bytes());
        }
        let digest = hasher.finalize().to_hex();
        let mut prefix = String::with_capacity(namespace.len() + 70);
        let version = super::value::VERSION;
        // Writing to a string cannot fail.
        let _ = write!(prefix, "{namespace}:{version}:{{{digest}}}:");
        // A cluster looks at what is between the braces: all chunks of a block are in one slot.
        Self { prefix, slot: slot(digest.as_bytes()) }
    }

    /// The key of a chunk.
    pub fn chunk(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// The slot of a cluster in which all of it lies.
    pub fn slot(&self) -> u16 {
        self.slot
    }
}

/// The slot of a hash tag: CRC-16/XMODEM, as clusters compute it.
pub fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From the specification of Redis Cluster, and CLUSTER KEYSLOT.
        assert_eq!((slot(b"123456789"), slot(b"foo"), slot(b"")), (0x31C3, 12182, 0));
    }

    #[test]
    fn a_key_is_this_text_and_everything_is_in_it() {
        let object = ObjectId { bucket: "b".into(), key: "k".into(), tag: "t".into(), size: 9 };
        let key = BlockKey::new("icecache", &object, &(0..9), 4096);
        let digest = "df0fe63ae5c636b80499bfaf7291481ae0457554babd0b5f071cd9c66a6b9923";
        assert_eq!(key.chunk(3), format!("icecache:1:{{{digest}}}:3"));
        let tag = key.chunk(0).split(['{', '}']).nth(1).map(str::to_owned);
        assert_eq!(tag.map(|tag| slot(tag.as_bytes())), Some(key.slot()));

        let other = |change: &dyn Fn(&mut ObjectId)| {
            let mut object = object.clone();
            change(&mut object);
            BlockKey::new("icecache", &object, &(0..9), 4096)
        };
        let others = [
            other(&|object| object.bucket.push('x')),
            other(&|object| object.key.push('x')),
            other(&|object| object.tag.push('x')),
            other(&|object| object.size += 1),
            BlockKey::new("icecache", &object, &(0..8), 4096),
            BlockKey::new("icecache", &object, &(1..9), 4096),
            BlockKey::new("icecache", &object, &(0..9), 8192),
            BlockKey::new("another", &object, &(0..9), 4096),
        ];
        assert!(others.iter().all(|other| *other != key));
    }
}
