//! The contents of a layer: a row for each entry, which says what it is and where it begins.
//!
//! They stand after the data, in pieces of up to 256 KiB that are compressed one by one, so that
//! neither who writes nor who reads them holds more than a piece. docs/FORMAT.md has the bytes.
mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::Contents;
pub(super) use encode::{Encoder, Piece};

use super::tar::{self, BLOCK, PAX_BYTES_MAX, SparseMap, padding};
use super::{Entry, Kind};
use std::ops::Range;

/// The most bytes of a piece with more than one row, before compression.
pub const PIECE_ROWS_MAX: usize = 256 << 10;
/// The most bytes of any piece, before compression: one row may have all attributes that the tar
/// stream can hold.
pub const PIECE_RAW_MAX: usize = PAX_BYTES_MAX as usize + (4 << 10);
/// The most bytes a compressed piece may have (what zstd needs for incompressible input).
pub const PIECE_BYTES_MAX: usize = PIECE_RAW_MAX + (PIECE_RAW_MAX >> 8) + 64;

/// Where the first row of the piece begins in the tar stream, and how many rows there are.
const PIECE_HEADER_BYTES: usize = 16;
/// Bytes of the tar stream after the last entry: two zero blocks.
pub(super) const END_BYTES: u64 = 2 * BLOCK as u64;
/// The most bytes an entry takes in the tar stream before its data, sparse map not counted: the
/// extended header with its own header, and the header.
const HEADERS_MAX: u64 = PAX_BYTES_MAX + 2 * BLOCK as u64;
/// What an extended attribute costs in an extended header besides its name and value, at least.
const XATTR_OVERHEAD: u64 = 16;

/// The kinds, as their number in a row.
mod kind {
    pub(super) const FILE: u8 = 0;
    pub(super) const DIRECTORY: u8 = 1;
    pub(super) const SYMLINK: u8 = 2;
    pub(super) const HARD_LINK: u8 = 3;
    pub(super) const FIFO: u8 = 4;
    pub(super) const CHAR_DEVICE: u8 = 5;
    pub(super) const BLOCK_DEVICE: u8 = 6;
    pub(super) const WHITEOUT: u8 = 7;
    /// A file that was mapped for writing during the cut.
    pub(super) const FUZZY_FILE: u8 = 8;
    /// A file of which parts stand in other layers (from version 3 on).
    pub(super) const PARTIAL_FILE: u8 = 9;
    /// Both.
    pub(super) const FUZZY_PARTIAL_FILE: u8 = 10;
}

/// An entry and where it stands in the tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is, exactly as the stream says.
    pub entry: Entry,
    /// Where its first header begins, in bytes of the tar stream.
    pub offset: u64,
    /// Bytes of the tar stream it takes: headers, sparse map, data, padding.
    pub length: u64,
}

impl Row {
    /// Its range of the tar stream.
    pub fn span(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// Where in the tar stream the content of a file begins, if it stands there whole, from the first byte
    /// to the last; nothing needs to be read for that.
    pub fn dense_data(&self) -> Option<u64> {
        let Kind::File { size, ref refs, .. } = self.entry.kind else { return None };
        if !refs.is_empty() {
            return None;
        }
        let headers = tar::encode(&self.entry, Some(&SparseMap::dense(size))).ok()?.len() as u64;
        (headers + size + padding(size) as u64 == self.length).then_some(self.offset + headers)
    }
}
