//! What witness and journal records share: reading fields with their lengths checked, identities as bytes,
//! and short checksums.
use super::key::{Identity, Key, ObjectId};
use std::fmt;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Parts of at most so many bytes are put together without asking for memory.
const SHORT_BYTES: usize = 512;

/// A checksum of records: the first 8 bytes of BLAKE3 over the parts.
pub fn check(parts: &[&[u8]]) -> [u8; 8] {
    // In one piece: a hasher that is fed costs more than the hashing of so few bytes.
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut short = [0; SHORT_BYTES];
    let digest = match (parts, short.get_mut(..length)) {
        ([whole], _) => blake3::hash(whole),
        (parts, Some(short)) => {
            let mut at = 0;
            for part in parts {
                short[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            blake3::hash(short)
        }
        (parts, None) => blake3::hash(&parts.concat()),
    };
    let mut short = [0; 8];
    short.copy_from_slice(&digest.as_bytes()[..8]);
    short
}

/// Takes fields off the front of a record.
#[derive(Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(*field)
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(field)
    }

    /// A u16, little endian.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// A u32, little endian.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// A u64, little endian.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("it is too long")) }
    }
}

/// The byte of a file.
pub const FILE: u8 = 1;
/// The byte of an object.
pub const OBJECT: u8 = 2;

/// Kind, size, and names with their lengths.
pub fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    match identity {
        Identity::File { key, size } => {
            out.push(FILE);
            out.extend_from_slice(&size.to_le_bytes());
            put_text(out, key.as_bytes());
        }
        Identity::Object(id) => {
            out.push(OBJECT);
            out.extend_from_slice(&id.size.to_le_bytes());
            for text in [&id.bucket, &id.key, &id.tag] {
                put_text(out, text.as_bytes());
            }
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    // Keys and texts are at most 1024 bytes.
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
}

/// The reverse of [`put_identity`].
pub fn take_identity(fields: &mut Fields<'_>) -> Result<Identity, Malformed> {
    let [kind] = fields.array()?;
    let size = fields.u64()?;
    match kind {
        FILE => {
            let length = fields.u16()?;
            let key = Key::new(fields.bytes(length.into())?).map_err(|_| Malformed("its key is no key"))?;
            Ok(Identity::File { key, size })
        }
        OBJECT => {
            let mut text = || {
                let length = fields.u16()?;
                String::from_utf8(fields.bytes(length.into())?.to_vec())
                    .map_err(|_| Malformed("a name is not UTF-8"))
            };
            let id = ObjectId { bucket: text()?, key: text()?, tag: text()?, size };
            id.check().map_err(|_| Malformed("its identity is none"))?;
            Ok(Identity::Object(id))
        }
        _ => Err(Malformed("its kind is not known")),
    }
}

/// The length of a block as it may stand in a record.
pub fn take_block_bytes(fields: &mut Fields<'_>) -> Result<u64, Malformed> {
    let bytes = u64::from(fields.u32()?);
    let range = super::config::BLOCK_MIN_BYTES..=super::config::BLOCK_MAX_BYTES;
    if !bytes.is_power_of_two() || !range.contains(&bytes) {
        return Err(Malformed("its blocks have an impossible length"));
    }
    Ok(bytes)
}
