//! What entries are called: a [`Key`] names a file, an [`ObjectId`] an immutable remote object.
use super::error::CacheError;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest key of a file, in bytes.
pub const KEY_MAX_BYTES: usize = 1024;
/// The longest text in an object's identity (bucket, key or tag), in bytes.
pub const TEXT_MAX_BYTES: usize = 1024;

/// The name of a file in the cache: 1 to 1024 bytes of any value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// A key of these bytes; [`CacheError::Invalid`] if there are none or too many.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, CacheError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() || bytes.len() > KEY_MAX_BYTES {
            return Err(CacheError::Invalid { what: format!("a key of {} bytes", bytes.len()) });
        }
        Ok(Self(bytes.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    /// As text, what is no printable ASCII escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// One version of a remote object. Whoever has the same identity has the same bytes, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ObjectId {
    /// The bucket, or whatever tells stores apart (the URL of a directory).
    pub bucket: String,
    /// The object's key in it.
    pub key: String,
    /// Its ETag or version.
    pub tag: String,
    /// Its size in bytes.
    pub size: u64,
}

impl ObjectId {
    /// Refuses an identity that has no name, or texts that are too long.
    pub fn check(&self) -> Result<(), CacheError> {
        let long = [&self.bucket, &self.key, &self.tag].iter().any(|text| text.len() > TEXT_MAX_BYTES);
        if long || self.key.is_empty() || self.tag.is_empty() {
            return Err(CacheError::Invalid { what: format!("the identity of an object: {self}") });
        }
        Ok(())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({}, {} bytes)", self.bucket, self.key, self.tag, self.size)
    }
}

/// What an entry is the content of; the form in which witnesses and the journal keep it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A whole file.
    File {
        /// Its key.
        key: Key,
        /// Its size in bytes.
        size: u64,
    },
    /// Blocks of an object.
    Object(ObjectId),
}

impl Identity {
    /// The size of the whole content, in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Object(id) => id.size,
        }
    }

    /// The digest by which its files are named. Two identities never share one: kind and lengths are in it.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        match self {
            // The size is no part of it: a key names one file, whatever its size.
            Self::File { key, .. } => hasher.update(b"f").update(key.as_bytes()),
            Self::Object(id) => {
                hasher.update(b"o").update(&id.size.to_le_bytes());
                for text in [&id.bucket, &id.key, &id.tag] {
                    hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
                }
                &mut hasher
            }
        };
        *hasher.finalize().as_bytes()
    }
}
