//! [`Dictionary`]: what many small files have in common, so that a layer of a few of them need not say it.
//!
//! A frame that was compressed with one names it by its number; a layer whose frames were, names it by its
//! digest in the preamble. Nobody reads such a layer without it.
use super::LayerError;
use super::entry::Entry;
use super::tar::{SparseMap, encode};
use std::fmt;
use std::io;
use std::sync::Arc;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{DParameter, get_dict_id_from_frame};

/// The most bytes a dictionary may have.
pub const DICTIONARY_BYTES_MAX: usize = 1 << 20;
/// What one is made of at most: more gained nothing in trees that were measured.
const TRAINED_BYTES_MAX: usize = 110 << 10;
/// How the dictionaries of zstd begin.
const MAGIC: [u8; 4] = 0xEC30_A437u32.to_le_bytes();

/// A compression dictionary. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub struct Dictionary(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    bytes: Vec<u8>,
    id: u32,
    digest: [u8; 32],
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionary").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl Dictionary {
    /// A dictionary of these bytes, as [`bytes`](Self::bytes) gave them.
    ///
    /// # Errors
    /// [`LayerError::Corrupt`] if they are none.
    pub fn new(bytes: Vec<u8>) -> Result<Self, LayerError> {
        let id = match bytes.get(..8) {
            Some(start) if start[..4] == MAGIC && bytes.len() <= DICTIONARY_BYTES_MAX => {
                u32::from_le_bytes([start[4], start[5], start[6], start[7]])
            }
            _ => 0,
        };
        if id == 0 {
            return Err(LayerError::corrupt("not a compression dictionary"));
        }
        let digest = *blake3::hash(&bytes).as_bytes();
        let dictionary = Self(Arc::new(Inner { bytes, id, digest }));
        // Its tables are looked at only by who uses it.
        decompressor(Some(&dictionary)).map_err(|e| LayerError::corrupt(format!("not a dictionary: {e}")))?;
        Ok(dictionary)
    }

    /// Makes one of samples (see [`sample`]); takes about a second for ten MiB.
    ///
    /// # Errors
    /// [`LayerError::Io`] if they are too few, or have nothing in common.
    pub fn train(samples: &[Vec<u8>]) -> Result<Self, LayerError> {
        let trained = zstd::dict::from_samples(samples, TRAINED_BYTES_MAX);
        Self::new(trained.map_err(|e| LayerError::io("cannot make a dictionary", e))?)
    }

    /// What is to be kept of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// By what layers name it.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest
    }

    /// By what frames name it.
    pub(super) fn id(&self) -> u32 {
        self.0.id
    }
}

/// What stands in a layer for a small file without holes: its headers and its content.
pub fn sample(entry: &Entry, content: &[u8]) -> Result<Vec<u8>, LayerError> {
    let mut sample = encode(entry, Some(&SparseMap::dense(content.len() as u64)))?;
    sample.extend_from_slice(content);
    Ok(sample)
}

pub(super) fn compressor(level: i32, dictionary: Option<&Dictionary>) -> io::Result<Compressor<'static>> {
    match dictionary {
        Some(dictionary) => Compressor::with_dictionary(level, dictionary.bytes()),
        None => Compressor::new(level),
    }
}

fn decompressor(dictionary: Option<&Dictionary>) -> io::Result<Decompressor<'static>> {
    match dictionary {
        Some(dictionary) => Decompressor::with_dictionary(dictionary.bytes()),
        None => Decompressor::new(),
    }
}

/// Decompresses frames, with or without a dictionary.
pub(super) struct Unpacker {
    zstd: io::Result<Decompressor<'static>>,
    id: u32,
}

impl Unpacker {
    pub(super) fn new(dictionary: Option<&Dictionary>) -> Self {
        Self { zstd: decompressor(dictionary), id: dictionary.map_or(0, Dictionary::id) }
    }

    /// The same for frames whose digests were found to be those of an index: their own checksums have nothing to
    /// add.
    pub(super) fn of_known(dictionary: Option<&Dictionary>) -> Self {
        let mut known = Self::new(dictionary);
        if let Ok(zstd) = &mut known.zstd
            && let Err(e) = zstd.set_parameter(DParameter::ForceIgnoreChecksum(true))
        {
            known.zstd = Err(e);
        }
        known
    }

    /// The content of a frame, which must not exceed `limit` bytes, in the memory of `raw`; no more is allocated.
    pub(super) fn unpack(&mut self, frame: &[u8], limit: usize, raw: &mut Vec<u8>) -> Result<(), LayerError> {
        let zstd = self
            .zstd
            .as_mut()
            .map_err(|e| LayerError::io("cannot decompress", io::Error::other(e.to_string())))?;
        if let Some(id) = get_dict_id_from_frame(frame).filter(|id| id.get() != self.id) {
            return Err(LayerError::Dictionary { which: format!("number {id}") });
        }
        raw.clear();
        raw.reserve_exact(limit);
        zstd.decompress_to_buffer(frame, raw)
            .map_err(|e| LayerError::corrupt(format!("frame does not decompress: {e}")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
