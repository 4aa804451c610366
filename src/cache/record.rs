//! Records of the journal: one for each entry, one for each block of an object that is there.
//!
//! Their keys begin with the generation, big endian, so that what is read at the start comes in the order
//! in which it was admitted. Every value ends with a checksum over key and value.
use super::budget::Limits;
use super::codec::{Fields, Malformed, check, put_identity, take_block_bytes, take_identity};
use super::digest::Digest;
use super::key::Identity;
use crate::journal::Tree;

/// Format and session.
pub const META: Tree = Tree("cache");
/// Entries, by generation.
pub const ENTRIES: Tree = Tree("entry");
/// Blocks of objects, by generation and number.
pub const BLOCKS: Tree = Tree("block");

/// Key in [`META`]: the format.
pub const FORMAT: &[u8] = b"format";
/// Key in [`META`]: the number of the last session, u32, little endian, and a checksum.
pub const SESSION: &[u8] = b"session";
/// Key in [`META`]: the number of the session that ended in good order, as in [`SESSION`]; not there while one runs.
pub const CLEAN: &[u8] = b"clean";
/// Key in [`META`]: the limits that were given last: bytes, entries, bytes that stay free, each u64, little endian, and
/// a checksum.
pub const LIMITS: &[u8] = b"limits";
/// The format record: magic, then the version, u32, little endian.
pub const FORMAT_VALUE: &[u8] = b"ICECACHE\x01\0\0\0";

/// How an entry or a block was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// When it was used last, as a number that grows with each use of anything.
    pub tick: u64,
    /// How often.
    pub hits: u32,
    /// How long it took to get, in microseconds.
    pub cost_us: u32,
}

/// An entry: a whole file, or an object of which there are blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    /// Whose bytes these are.
    pub identity: Identity,
    /// How long its blocks are.
    pub block_bytes: u64,
    /// BLAKE3 of a whole file; zeros for an object.
    pub whole: Digest,
    /// When it was admitted, in seconds since 1970.
    pub created: u64,
    /// Whether its witness is a file of its own.
    pub sidecar: bool,
    /// How the file was used; of an object its blocks say it.
    pub used: Used,
}

/// The key of an entry's record.
pub fn entry_key(generation: u64) -> [u8; 8] {
    generation.to_be_bytes()
}

/// The key of a block's record.
pub fn block_key(generation: u64, block: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&generation.to_be_bytes());
    key[8..].copy_from_slice(&block.to_be_bytes());
    key
}

fn put_used(out: &mut Vec<u8>, used: &Used) {
    out.extend_from_slice(&used.tick.to_le_bytes());
    out.extend_from_slice(&used.hits.to_le_bytes());
    out.extend_from_slice(&used.cost_us.to_le_bytes());
}

fn take_used(fields: &mut Fields<'_>) -> Result<Used, Malformed> {
    Ok(Used { tick: fields.u64()?, hits: fields.u32()?, cost_us: fields.u32()? })
}

/// Splits the checksum off a value and proves it.
fn proven<'a>(key: &[u8], value: &'a [u8]) -> Result<Fields<'a>, Malformed> {
    let (body, sum) = value.split_last_chunk::<8>().ok_or(Malformed("it is cut short"))?;
    if *sum != check(&[key, body]) {
        return Err(Malformed("its checksum is wrong"));
    }
    Ok(Fields(body))
}

fn seal(key: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    let sum = check(&[key, &out]);
    out.extend_from_slice(&sum);
    out
}

impl EntryRecord {
    /// Its value under [`entry_key`].
    pub fn encode(&self, generation: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(&(self.block_bytes as u32).to_le_bytes());
        out.extend_from_slice(&self.whole);
        out.extend_from_slice(&self.created.to_le_bytes());
        out.push(self.sidecar.into());
        put_used(&mut out, &self.used);
        put_identity(&mut out, &self.identity);
        seal(&entry_key(generation), out)
    }

    /// Reads a record, and its generation from the key.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<(u64, Self), Malformed> {
        let mut fields = proven(key, value)?;
        let generation =
            key.try_into().map(u64::from_be_bytes).map_err(|_| Malformed("its key is no key"))?;
        let block_bytes = take_block_bytes(&mut fields)?;
        let whole = fields.array()?;
        let created = fields.u64()?;
        let [sidecar] = fields.array()?;
        let used = take_used(&mut fields)?;
        let identity = take_identity(&mut fields)?;
        fields.end()?;
        Ok((generation, Self { identity, block_bytes, whole, created, sidecar: sidecar != 0, used }))
    }
}

/// A block that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRecord {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How it was used.
    pub used: Used,
}

impl BlockRecord {
    /// Its value under [`block_key`].
    pub fn encode(&self, generation: u64, block: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(56);
        out.extend_from_slice(&self.digest);
        put_used(&mut out, &self.used);
        seal(&block_key(generation, block), out)
    }

    /// Reads a record; generation and number are in the key.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<(u64, u32, Self), Malformed> {
        let mut fields = proven(key, value)?;
        let (generation, number) = key.split_first_chunk::<8>().ok_or(Malformed("its key is no key"))?;
        let number = number.try_into().map(u32::from_be_bytes).map_err(|_| Malformed("its key is no key"))?;
        let record = Self { digest: fields.array()?, used: take_used(&mut fields)? };
        fields.end()?;
        Ok((u64::from_be_bytes(*generation), number, record))
    }
}

/// The value of [`SESSION`].
pub fn encode_session(session: u32) -> Vec<u8> {
    seal(SESSION, session.to_le_bytes().to_vec())
}

/// The value of [`CLEAN`].
pub fn encode_clean(session: u32) -> Vec<u8> {
    seal(CLEAN, session.to_le_bytes().to_vec())
}

/// Reads the value of [`SESSION`], or of [`CLEAN`].
pub fn decode_session(key: &[u8], value: &[u8]) -> Result<u32, Malformed> {
    let mut fields = proven(key, value)?;
    let session = fields.u32()?;
    fields.end()?;
    Ok(session)
}

/// The value of [`LIMITS`].
pub fn encode_limits(limits: &Limits) -> Vec<u8> {
    let Limits { max_bytes, max_entries, min_free } = limits;
    seal(LIMITS, [max_bytes, max_entries, min_free].iter().flat_map(|n| n.to_le_bytes()).collect())
}

/// Reads the value of [`LIMITS`].
pub fn decode_limits(value: &[u8]) -> Result<Limits, Malformed> {
    let mut fields = proven(LIMITS, value)?;
    let (max_bytes, max_entries, min_free) = (fields.u64()?, fields.u64()?, fields.u64()?);
    fields.end()?;
    Ok(Limits { max_bytes, max_entries, min_free })
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::cache::key::{Key, ObjectId};

    fn used() -> Used {
        Used { tick: 3, hits: 2, cost_us: 1 }
    }

    fn file() -> EntryRecord {
        let identity = Identity::File { key: Key::new("k").expect("a key"), size: 258 };
        EntryRecord { identity, block_bytes: 4096, whole: [5; 32], created: 6, sidecar: true, used: used() }
    }

    #[test]
    fn records_are_these_bytes() {
        let key = [0, 0, 0, 0, 0, 0, 0, 9];
        let mut expected = b"\0\x10\0\0".to_vec();
        expected.extend_from_slice(&[5; 32]);
        expected.extend_from_slice(b"\x06\0\0\0\0\0\0\0\x01");
        expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0");
        expected.extend_from_slice(b"\x01\x02\x01\0\0\0\0\0\0\x01\0k");
        let sum = blake3::hash(&[&key[..], &expected].concat());
        expected.extend_from_slice(&sum.as_bytes()[..8]);
        assert_eq!(file().encode(9), expected);
        assert_eq!(entry_key(9), key);

        let key = [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 4];
        assert_eq!(block_key(9, 4), key);
        let mut expected = vec![7; 32];
        expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0");
        let sum = blake3::hash(&[&key[..], &expected].concat());
        expected.extend_from_slice(&sum.as_bytes()[..8]);
        assert_eq!(BlockRecord { digest: [7; 32], used: used() }.encode(9, 4), expected);
        assert_eq!(FORMAT_VALUE, b"ICECACHE\x01\0\0\0");

        let mut expected = b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
        let sum = blake3::hash(&[LIMITS, &expected].concat());
        expected.extend_from_slice(&sum.as_bytes()[..8]);
        assert_eq!(encode_limits(&Limits { max_bytes: 1, max_entries: 2, min_free: 3 }), expected);
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let id = ObjectId { bucket: String::new(), key: "k".into(), tag: "t".into(), size: 1 };
        let object = EntryRecord { identity: Identity::Object(id), sidecar: false, ..file() };
        for record in [file(), object] {
            let good = record.encode(9);
            assert_eq!(EntryRecord::decode(&entry_key(9), &good), Ok((9, record)));
            assert!(EntryRecord::decode(&entry_key(8), &good).is_err(), "of another key");
            for n in 0..good.len() {
                let mut bad = good.clone();
                bad[n] ^= 1;
                assert!(EntryRecord::decode(&entry_key(9), &bad).is_err(), "byte {n}");
            }
        }
        let block = BlockRecord { digest: [7; 32], used: used() };
        let good = block.encode(9, 4);
        assert_eq!(BlockRecord::decode(&block_key(9, 4), &good), Ok((9, 4, block)));
        assert!(BlockRecord::decode(&block_key(9, 5), &good).is_err());
        assert_eq!(decode_session(SESSION, &encode_session(77)), Ok(77));
        assert_eq!(decode_session(CLEAN, &encode_clean(77)), Ok(77));
        assert!(decode_session(CLEAN, &encode_session(77)).is_err(), "of another key");
        let limits = Limits { max_bytes: 1 << 40, max_entries: 7, min_free: 0 };
        let good = encode_limits(&limits);
        assert_eq!(decode_limits(&good), Ok(limits));
        for n in 0..good.len() {
            assert!(decode_limits(&good[..n]).is_err(), "{n} bytes of it");
        }
    }
}
