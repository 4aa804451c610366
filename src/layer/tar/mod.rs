//! The tar dialect of a layer: ustar headers, PAX records parsed by length, PAX sparse 1.0.
//!
//! The codec is our own because keys and values may hold any byte (newlines and NULs in extended
//! attributes) and because holes must survive; both need the records by length and the map.
mod decode;
mod encode;
mod header;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::entry as test_entry;

pub use decode::{Decoded, Decoder, Dialect};
pub(crate) use encode::encode;
pub use header::{Header, TypeFlag};
pub use pax::Pax;
pub use sparse::{EXTENTS_MAX, Extent, SparseMap};

/// The unit of a tar stream.
pub const BLOCK: usize = 512;

/// The most bytes the extended header of one entry may have: bounds what a reader allocates.
pub const PAX_BYTES_MAX: u64 = 8 << 20;

/// Zero bytes that fill the last block of `len` bytes.
pub fn padding(len: u64) -> usize {
    (BLOCK as u64 - len % BLOCK as u64) as usize % BLOCK
}

/// What starts the name of a whiteout, as in OCI layers.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Our vendor records live in `comment`, the one key that every tar ignores without a word.
pub(crate) const COMMENT: &[u8] = b"comment";
pub(crate) const WHITEOUT_RECORD: &[u8] = b"ICECACHE.whiteout=";
pub(crate) const FUZZY_RECORD: &[u8] = b"ICECACHE.fuzzy=1";
pub(crate) const REFERENCES_RECORD: &[u8] = b"ICECACHE.refs=";
