//! The outer format: constants, the first and the last frame, and where a zstd frame ends.
//!
//! ```text
//! preamble   skippable 0x184D2A50   "ICELAYER" version flags checksum
//! data       zstd frames            up to 1 MiB of the tar stream each
//! table      skippable 0x184D2A51   a row per data frame, then the footer
//! ```
use super::LayerError;
use std::io::{self, Read};

/// The format this program writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// The most bytes of the tar stream in one frame.
pub const FRAME_RAW_MAX: usize = 1 << 20;
/// The most bytes one compressed frame may have (what zstd needs for incompressible input).
pub const FRAME_BYTES_MAX: usize = FRAME_RAW_MAX + (FRAME_RAW_MAX >> 8) + 64;
/// Bytes of the preamble, its frame header included: a block of tar, because GNU tar takes no file
/// that is shorter for an archive unless it is told `--zstd`.
pub const PREAMBLE_BYTES: usize = 8 + PREAMBLE_PAYLOAD;
/// Bytes of one row of the table.
pub const ROW_BYTES: usize = 40;
/// Bytes of the footer: the last bytes of a layer.
pub const FOOTER_BYTES: usize = 72;

pub(crate) const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();
pub(crate) const PREAMBLE_MAGIC: [u8; 4] = 0x184D_2A50u32.to_le_bytes();
pub(crate) const TABLE_MAGIC: [u8; 4] = 0x184D_2A51u32.to_le_bytes();
const PREAMBLE_PAYLOAD: usize = 504;
const NAME: [u8; 8] = *b"ICELAYER";
const FOOTER_NAME: [u8; 8] = *b"ICEFOOT\0";

/// The first frame of a layer.
pub fn preamble() -> [u8; PREAMBLE_BYTES] {
    let mut b = [0; PREAMBLE_BYTES];
    b[..4].copy_from_slice(&PREAMBLE_MAGIC);
    b[4..8].copy_from_slice(&(PREAMBLE_PAYLOAD as u32).to_le_bytes());
    b[8..16].copy_from_slice(&NAME);
    b[16..20].copy_from_slice(&VERSION.to_le_bytes());
    let sum = blake3::hash(&b[..24]);
    b[24..40].copy_from_slice(&sum.as_bytes()[..16]);
    b
}

/// Checks the first frame of a layer.
pub fn check_preamble(b: &[u8; PREAMBLE_BYTES]) -> Result<(), LayerError> {
    if b[..4] != PREAMBLE_MAGIC || b[8..16] != NAME {
        return Err(LayerError::NotALayer);
    }
    if b[24..40] != blake3::hash(&b[..24]).as_bytes()[..16] {
        return Err(LayerError::corrupt("preamble has a wrong checksum"));
    }
    let found = u32_at(b, 16);
    if found != VERSION {
        return Err(LayerError::UnknownVersion { found });
    }
    // Later versions may use the flags; this one knows none.
    if *b != preamble() {
        return Err(LayerError::corrupt("preamble has unknown flags"));
    }
    Ok(())
}

/// The row of one data frame.
pub fn row(compressed: u32, raw: u32, digest: &[u8; 32]) -> [u8; ROW_BYTES] {
    let mut b = [0; ROW_BYTES];
    b[..4].copy_from_slice(&compressed.to_le_bytes());
    b[4..8].copy_from_slice(&raw.to_le_bytes());
    b[8..].copy_from_slice(digest);
    b
}

/// What the footer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Data frames.
    pub frames: u64,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of the tar stream.
    pub raw_bytes: u64,
}

/// The header of the last frame of a layer with so many data frames.
pub fn table_header(frames: u64) -> Result<[u8; 8], LayerError> {
    let len = frames
        .checked_mul(ROW_BYTES as u64)
        .and_then(|n| u32::try_from(n + FOOTER_BYTES as u64).ok())
        .ok_or_else(|| LayerError::io("layer has too many frames", io::ErrorKind::FileTooLarge))?;
    let mut b = [0; 8];
    b[..4].copy_from_slice(&TABLE_MAGIC);
    b[4..].copy_from_slice(&len.to_le_bytes());
    Ok(b)
}

/// The footer; `rows` has hashed all rows in their order.
pub fn footer(counts: Counts, rows: &blake3::Hasher) -> [u8; FOOTER_BYTES] {
    let mut b = [0; FOOTER_BYTES];
    b[..8].copy_from_slice(&counts.frames.to_le_bytes());
    b[8..16].copy_from_slice(&counts.entries.to_le_bytes());
    b[16..24].copy_from_slice(&counts.raw_bytes.to_le_bytes());
    b[24..28].copy_from_slice(&VERSION.to_le_bytes());
    b[64..72].copy_from_slice(&FOOTER_NAME);
    // The digest covers the rows, then the footer's own fields before it.
    let mut hasher = rows.clone();
    hasher.update(&b[..32]);
    b[32..64].copy_from_slice(hasher.finalize().as_bytes());
    b
}

/// A zstd frame or what stands in its place.
#[derive(Debug)]
pub(crate) enum Next {
    /// A whole data frame is in the buffer.
    Data,
    /// The table begins; its eight bytes of header are in the buffer.
    Table,
}

/// Reads one frame of a layer into `buf`. A data frame ends where its blocks say; its content is
/// not looked at.
pub(crate) fn read_frame(input: &mut impl Read, buf: &mut Vec<u8>) -> Result<Next, LayerError> {
    buf.clear();
    take(input, buf, 5)?;
    if buf[..4] == TABLE_MAGIC {
        take(input, buf, 3)?;
        return Ok(Next::Table);
    }
    if buf[..4] != ZSTD_MAGIC {
        return Err(LayerError::corrupt("neither a data frame nor the table"));
    }
    let descriptor = buf[4];
    let single_segment = descriptor & 0x20 != 0;
    // Our frames have a checksum, no dictionary, and clear reserved bits.
    if descriptor & 0b0001_1111 != 0b0000_0100 {
        return Err(LayerError::corrupt("data frame has an unexpected form"));
    }
    let size_field = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    take(input, buf, usize::from(!single_segment) + size_field)?;
    loop {
        let at = buf.len();
        take(input, buf, 3)?;
        let header = u32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], 0]);
        let len = match header >> 1 & 3 {
            1 => 1, // one byte, repeated
            0 | 2 => (header >> 3) as usize,
            _ => return Err(LayerError::corrupt("data frame has a reserved block")),
        };
        if buf.len() + len > FRAME_BYTES_MAX {
            return Err(LayerError::corrupt("data frame is too long"));
        }
        take(input, buf, len)?;
        if header & 1 != 0 {
            take(input, buf, 4)?;
            return Ok(Next::Data);
        }
    }
}

fn take(input: &mut impl Read, buf: &mut Vec<u8>, n: usize) -> Result<(), LayerError> {
    let at = buf.len();
    buf.resize(at + n, 0);
    input.read_exact(&mut buf[at..]).map_err(|e| LayerError::from_stream("layer ends within a frame", e))
}

/// Reads the rest of a layer after its last data frame and compares it with what was read.
pub(crate) fn check_table(
    input: &mut impl Read,
    header: &[u8],
    counts: Counts,
    rows: &blake3::Hasher,
) -> Result<(), LayerError> {
    let wrong = |what: &str| LayerError::corrupt(format!("frame table does not match: {what}"));
    if header != table_header(counts.frames)? {
        return Err(wrong("length"));
    }
    let mut read = blake3::Hasher::new();
    let mut left = counts.frames;
    let mut buf = [0; ROW_BYTES];
    while left > 0 {
        input.read_exact(&mut buf).map_err(|e| LayerError::from_stream("frame table", e))?;
        read.update(&buf);
        left -= 1;
    }
    let mut found = [0; FOOTER_BYTES];
    input.read_exact(&mut found).map_err(|e| LayerError::from_stream("footer", e))?;
    if read.finalize() != rows.finalize() {
        return Err(wrong("a frame's length or digest"));
    }
    if found != footer(counts, rows) {
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

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Whether these bytes begin a layer of any version.
pub(crate) fn is_ours(b: &[u8]) -> bool {
    b.len() >= 16 && b[..4] == PREAMBLE_MAGIC && b[8..16] == NAME
}
