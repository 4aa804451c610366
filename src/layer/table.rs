//! The table: what a layer says of its own frames, and the footer that ends it.
//!
//! A reader of the stream compares it with what it read; [`LayerIndex`](super::LayerIndex) begins
//! with it.
use super::LayerError;
use super::contents::{PIECE_BYTES_MAX, PIECE_RAW_MAX};
use super::frame::{CONTENTS_MAGIC, SKIPPABLE_HEADER_BYTES, TABLE_MAGIC, VERSION, VERSION_BARE};
use std::io::{self, Read};

/// Bytes of one row of the table.
pub const ROW_BYTES: usize = 40;
/// Bytes of the footer: the last bytes of a layer (of version 1: 72).
pub const FOOTER_BYTES: usize = 88;
/// In all versions the last bytes are the version, flags, the digest and a name.
const SEAL_BYTES: usize = 48;
const FOOTER_NAME: [u8; 8] = *b"ICEFOOT\0";
/// Bytes of contents that a reader of the stream has in memory.
const COPY_BUFFER: usize = 16 << 10;

/// What the footer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Data frames.
    pub frames: u64,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of the tar stream.
    pub raw_bytes: u64,
    /// Frames of the contents; none in version 1.
    pub pieces: u64,
    /// Bytes of these frames, headers included.
    pub contents_bytes: u64,
}

impl Counts {
    /// Bytes of the table, its header and footer included; `None` if no frame can be so long.
    fn table_bytes(&self, version: u32) -> Option<u64> {
        let payload = self
            .frames
            .checked_add(self.pieces)?
            .checked_mul(ROW_BYTES as u64)?
            .checked_add(footer_bytes(version) as u64)?;
        u32::try_from(payload).ok().map(|n| u64::from(n) + SKIPPABLE_HEADER_BYTES as u64)
    }
}

fn footer_bytes(version: u32) -> usize {
    if version == VERSION_BARE { FOOTER_BYTES - 16 } else { FOOTER_BYTES }
}

/// The row of one frame: its length, the length of its content, the digest of the frame as stored.
pub fn row(length: u32, raw: u32, digest: &[u8; 32]) -> [u8; ROW_BYTES] {
    let mut b = [0; ROW_BYTES];
    b[..4].copy_from_slice(&length.to_le_bytes());
    b[4..8].copy_from_slice(&raw.to_le_bytes());
    b[8..].copy_from_slice(digest);
    b
}

/// One row, read.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameRow {
    pub(super) length: u32,
    pub(super) raw: u32,
    pub(super) digest: [u8; 32],
}

impl FrameRow {
    pub(super) fn parse(b: &[u8; ROW_BYTES]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(&b[8..]);
        Self { length: u32_at(b, 0), raw: u32_at(b, 4), digest }
    }
}

/// The header of the table of such a layer.
///
/// # Errors
/// [`LayerError::Io`] (`FileTooLarge`) if it has more frames than one table can list.
pub fn header(version: u32, counts: Counts) -> Result<[u8; SKIPPABLE_HEADER_BYTES], LayerError> {
    let bytes = counts
        .table_bytes(version)
        .ok_or_else(|| LayerError::io("layer has too many frames", io::ErrorKind::FileTooLarge))?;
    Ok(skippable(TABLE_MAGIC, bytes as u32 - SKIPPABLE_HEADER_BYTES as u32))
}

/// The header of a skippable frame with a payload of so many bytes.
pub(super) fn skippable(magic: [u8; 4], payload: u32) -> [u8; SKIPPABLE_HEADER_BYTES] {
    let mut b = [0; SKIPPABLE_HEADER_BYTES];
    b[..4].copy_from_slice(&magic);
    b[4..].copy_from_slice(&payload.to_le_bytes());
    b
}

/// The footer; `rows` has hashed all rows in their order.
pub fn footer(version: u32, counts: Counts, rows: &blake3::Hasher) -> Vec<u8> {
    let mut b = Vec::with_capacity(FOOTER_BYTES);
    for count in [counts.frames, counts.entries, counts.raw_bytes] {
        b.extend_from_slice(&count.to_le_bytes());
    }
    if version != VERSION_BARE {
        b.extend_from_slice(&counts.pieces.to_le_bytes());
        b.extend_from_slice(&counts.contents_bytes.to_le_bytes());
    }
    b.extend_from_slice(&version.to_le_bytes());
    b.extend_from_slice(&0u32.to_le_bytes());
    // The digest covers the rows, then the footer's own fields before it.
    let digest = rows.clone().update(&b).finalize();
    b.extend_from_slice(digest.as_bytes());
    b.extend_from_slice(&FOOTER_NAME);
    b
}

/// What the last bytes of a layer with contents say, without its digest: its version, its counts, and
/// how long its tail is by these.
pub(super) fn parse_footer(end: &[u8]) -> Result<(u32, Counts, u64), LayerError> {
    let seal = end.len().checked_sub(SEAL_BYTES).ok_or_else(|| LayerError::truncated("footer"))?;
    if !end.ends_with(&FOOTER_NAME) {
        return Err(LayerError::corrupt("no footer at the end"));
    }
    let version = match u32_at(end, seal) {
        VERSION_BARE => return Err(LayerError::NoContents { version: VERSION_BARE }),
        found if (VERSION_BARE..=VERSION).contains(&found) => found,
        found => return Err(LayerError::UnknownVersion { found }),
    };
    let start = end.len().checked_sub(FOOTER_BYTES).ok_or_else(|| LayerError::truncated("footer"))?;
    let count = |n: usize| u64_at(end, start + 8 * n);
    let counts = Counts {
        frames: count(0),
        entries: count(1),
        raw_bytes: count(2),
        pieces: count(3),
        contents_bytes: count(4),
    };
    let tail = counts.table_bytes(version).and_then(|table| table.checked_add(counts.contents_bytes));
    Ok((version, counts, tail.ok_or_else(|| LayerError::corrupt("footer counts more than there can be"))?))
}

/// Reads the rest of a layer after its last data frame, of which `header` was read, and compares it
/// with what was read: `rows` has hashed the rows of all data frames.
pub(super) fn check_tail(
    input: &mut impl Read,
    header: &[u8],
    version: u32,
    mut counts: Counts,
    mut rows: blake3::Hasher,
) -> Result<(), LayerError> {
    let wrong = |what: &str| LayerError::corrupt(format!("frame table does not match: {what}"));
    let mut next = [0; SKIPPABLE_HEADER_BYTES];
    next.copy_from_slice(header.get(..SKIPPABLE_HEADER_BYTES).ok_or_else(|| wrong("header"))?);
    // However many pieces there are, two digests say whether they are those of the table.
    let (mut met, mut listed) = (blake3::Hasher::new(), blake3::Hasher::new());
    while version != VERSION_BARE && next[..4] == CONTENTS_MAGIC {
        let payload = u32_at(&next, 4);
        if payload as usize > PIECE_BYTES_MAX {
            return Err(LayerError::corrupt("piece of the contents is too long"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&next);
        hash_exact(input, u64::from(payload), &mut hasher)?;
        let length = payload + SKIPPABLE_HEADER_BYTES as u32;
        met.update(&row(length, 0, hasher.finalize().as_bytes()));
        counts.pieces += 1;
        counts.contents_bytes += u64::from(length);
        input.read_exact(&mut next).map_err(|e| LayerError::from_stream("frame table", e))?;
    }
    if next != self::header(version, counts)? {
        return Err(wrong("length"));
    }
    let mut read = blake3::Hasher::new();
    for _ in 0..counts.frames {
        read.update(&read_row(input)?);
    }
    if read.finalize() != rows.finalize() {
        return Err(wrong("a frame's length or digest"));
    }
    for _ in 0..counts.pieces {
        let mut piece = read_row(input)?;
        rows.update(&piece);
        if FrameRow::parse(&piece).raw as usize > PIECE_RAW_MAX {
            return Err(wrong("length of a piece of the contents"));
        }
        piece[4..8].fill(0); // what is not known without decompressing it
        listed.update(&piece);
    }
    if met.finalize() != listed.finalize() {
        return Err(wrong("a piece of the contents"));
    }
    let mut found = [0; FOOTER_BYTES];
    let found = &mut found[..footer_bytes(version)];
    input.read_exact(found).map_err(|e| LayerError::from_stream("footer", e))?;
    if *found != footer(version, counts, &rows) {
        return Err(wrong("footer"));
    }
    let mut one = [0; 1];
    loop {
        return match input.read(&mut one) {
            Ok(0) => Ok(()),
            Ok(_) => Err(LayerError::corrupt("bytes after the end")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => Err(LayerError::from_stream("end of layer", e)),
        };
    }
}

fn read_row(input: &mut impl Read) -> Result<[u8; ROW_BYTES], LayerError> {
    let mut row = [0; ROW_BYTES];
    input.read_exact(&mut row).map_err(|e| LayerError::from_stream("frame table", e))?;
    Ok(row)
}

fn hash_exact(input: &mut impl Read, mut left: u64, hasher: &mut blake3::Hasher) -> Result<(), LayerError> {
    let mut buffer = [0; COPY_BUFFER];
    while left > 0 {
        let n = left.min(COPY_BUFFER as u64) as usize;
        input.read_exact(&mut buffer[..n]).map_err(|e| LayerError::from_stream("contents", e))?;
        hasher.update(&buffer[..n]);
        left -= n as u64;
    }
    Ok(())
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}
