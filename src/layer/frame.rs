//! The outer format: constants, the first frame, and where a zstd frame ends.
//!
//! ```text
//! preamble   skippable 0x184D2A50   "ICELAYER" version flags checksum
//! data       zstd frames            up to 1 MiB of the tar stream each
//! contents   skippable 0x184D2A52   what entries there are and where each begins (not in version 1)
//! table      skippable 0x184D2A51   a row for each frame above, then the footer
//! ```
use super::LayerError;
use std::io::Read;

/// The format this program writes. It reads this one and all before it.
pub const VERSION: u32 = 3;
/// The first format: without contents.
pub(crate) const VERSION_BARE: u32 = 1;
/// The most bytes of the tar stream in one frame.
pub const FRAME_RAW_MAX: usize = 1 << 20;
/// The most bytes one compressed frame may have (what zstd needs for incompressible input).
pub const FRAME_BYTES_MAX: usize = FRAME_RAW_MAX + (FRAME_RAW_MAX >> 8) + 64;
/// Bytes of the preamble, its frame header included: a block of tar, because GNU tar takes no file
/// that is shorter for an archive unless it is told `--zstd`.
pub const PREAMBLE_BYTES: usize = 8 + PREAMBLE_PAYLOAD;
/// Bytes of the header of a skippable frame: its magic and the length of what follows.
pub const SKIPPABLE_HEADER_BYTES: usize = 8;

pub(crate) const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();
pub(crate) const PREAMBLE_MAGIC: [u8; 4] = 0x184D_2A50u32.to_le_bytes();
pub(crate) const TABLE_MAGIC: [u8; 4] = 0x184D_2A51u32.to_le_bytes();
pub(crate) const CONTENTS_MAGIC: [u8; 4] = 0x184D_2A52u32.to_le_bytes();
const PREAMBLE_PAYLOAD: usize = 504;
const NAME: [u8; 8] = *b"ICELAYER";

/// Set in the preamble's flags where the data frames are compressed with a dictionary, whose digest follows.
const WITH_DICTIONARY: u32 = 1;

/// What the first frame of a layer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Its format.
    pub version: u32,
    /// The digest of the dictionary without which it cannot be read.
    pub dictionary: Option<[u8; 32]>,
}

/// The first frame of a layer that is compressed without a dictionary.
pub fn preamble() -> [u8; PREAMBLE_BYTES] {
    preamble_of(Preamble { version: VERSION, dictionary: None })
}

pub(crate) fn preamble_of(Preamble { version, dictionary }: Preamble) -> [u8; PREAMBLE_BYTES] {
    let mut b = [0; PREAMBLE_BYTES];
    b[..4].copy_from_slice(&PREAMBLE_MAGIC);
    b[4..8].copy_from_slice(&(PREAMBLE_PAYLOAD as u32).to_le_bytes());
    b[8..16].copy_from_slice(&NAME);
    b[16..20].copy_from_slice(&version.to_le_bytes());
    if let Some(digest) = dictionary {
        b[20..24].copy_from_slice(&WITH_DICTIONARY.to_le_bytes());
        b[40..72].copy_from_slice(&digest);
    }
    let sum = sum(&b, dictionary.is_some());
    b[24..40].copy_from_slice(&sum);
    b
}

fn sum(b: &[u8; PREAMBLE_BYTES], with_dictionary: bool) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&b[..24]);
    if with_dictionary {
        hasher.update(&b[40..72]);
    }
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

/// Checks the first frame of a layer and returns what it says.
pub fn check_preamble(b: &[u8; PREAMBLE_BYTES]) -> Result<Preamble, LayerError> {
    if b[..4] != PREAMBLE_MAGIC || b[8..16] != NAME {
        return Err(LayerError::NotALayer);
    }
    let with_dictionary = u32_at(b, 20) == WITH_DICTIONARY;
    if b[24..40] != sum(b, with_dictionary) {
        return Err(LayerError::corrupt("preamble has a wrong checksum"));
    }
    let found = u32_at(b, 16);
    if !(VERSION_BARE..=VERSION).contains(&found) {
        return Err(LayerError::UnknownVersion { found });
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(&b[40..72]);
    let said = Preamble { version: found, dictionary: with_dictionary.then_some(digest) };
    // Later versions may use other flags; these know but one.
    if *b != preamble_of(said) {
        return Err(LayerError::corrupt("preamble has unknown flags"));
    }
    Ok(said)
}

/// A zstd frame or what stands in its place.
#[derive(Debug)]
pub(crate) enum Next {
    /// A whole data frame is in the buffer.
    Data,
    /// The tail begins, with contents or the table; eight bytes of header are in the buffer.
    Tail,
}

/// Reads one frame of a layer into `buf`. A data frame ends where its blocks say; its content is
/// not looked at.
pub(crate) fn read_frame(input: &mut impl Read, buf: &mut Vec<u8>) -> Result<Next, LayerError> {
    buf.clear();
    take(input, buf, 5)?;
    if buf[..4] == TABLE_MAGIC || buf[..4] == CONTENTS_MAGIC {
        take(input, buf, 3)?;
        return Ok(Next::Tail);
    }
    if buf[..4] != ZSTD_MAGIC {
        return Err(LayerError::corrupt("neither a data frame nor contents nor the table"));
    }
    let descriptor = buf[4];
    let single_segment = descriptor & 0x20 != 0;
    // Our frames have a checksum and clear reserved bits; few name a dictionary.
    if descriptor & 0b0001_1100 != 0b0000_0100 {
        return Err(LayerError::corrupt("data frame has an unexpected form"));
    }
    let size_field = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let dictionary_field = [0, 1, 2, 4][usize::from(descriptor & 3)];
    take(input, buf, usize::from(!single_segment) + dictionary_field + size_field)?;
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

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Whether these bytes begin a layer of any version.
pub(crate) fn is_ours(b: &[u8]) -> bool {
    b.len() >= 16 && b[..4] == PREAMBLE_MAGIC && b[8..16] == NAME
}
