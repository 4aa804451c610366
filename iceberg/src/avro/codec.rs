//! [`Codec`]: how the blocks of a file are compressed.
use super::AvroError;
use std::io::{Read, Write};

/// How the blocks of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Not at all.
    Null,
    /// Deflate without any header.
    Deflate,
    /// Snappy, then the CRC-32 of the content.
    Snappy,
    /// Zstandard.
    Zstandard,
}

/// Snappy's longest copy takes 3 bytes for 64; whoever claims more than this is wrong.
const SNAPPY_RATIO_MAX: usize = 32;
/// What is compressed here is read from the disk of this machine, and waited for by who wants the new version: time
/// counts, some bytes more do not.
const DEFLATE_LEVEL: flate2::Compression = flate2::Compression::fast();
/// The same.
const ZSTD_LEVEL: i32 = 1;

/// A block has so much more content than bytes, or less.
const INFLATED_GUESS: usize = 8;
/// Room is made in steps of so much, at least.
const INFLATED_STEP_BYTES: usize = 4 << 10;
const UNREADABLE: AvroError = AvroError::Malformed("block cannot be decompressed");

impl Codec {
    /// By the name in the header; none is `null`.
    pub fn by_name(name: Option<&[u8]>) -> Result<Self, AvroError> {
        Ok(match name {
            None | Some(b"null") => Self::Null,
            Some(b"deflate") => Self::Deflate,
            Some(b"snappy") => Self::Snappy,
            Some(b"zstandard") => Self::Zstandard,
            Some(other) => return Err(AvroError::Codec(other.escape_ascii().to_string())),
        })
    }

    /// Reads blocks, one after another.
    pub fn decoder(self) -> Decoder {
        Decoder { codec: self, inflate: (self == Self::Deflate).then(|| flate2::Decompress::new(false)) }
    }

    /// A block of this content.
    pub fn compress(self, content: Vec<u8>) -> Result<Vec<u8>, AvroError> {
        // None of them fails on memory.
        let fault = |_| AvroError::Malformed("block cannot be compressed");
        Ok(match self {
            Self::Null => content,
            Self::Deflate => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), DEFLATE_LEVEL);
                out.write_all(&content).and_then(|()| out.finish()).map_err(fault)?
            }
            Self::Zstandard => zstd::encode_all(&content[..], ZSTD_LEVEL).map_err(fault)?,
            Self::Snappy => {
                let mut out = snap::raw::Encoder::new()
                    .compress_vec(&content)
                    .map_err(|_| AvroError::Malformed("block cannot be compressed"))?;
                out.extend_from_slice(&crc32fast::hash(&content).to_be_bytes());
                out
            }
        })
    }
}

/// Reads the blocks of one file. What it takes to inflate one is made once: a file may have a block for each record.
#[derive(Debug)]
pub(crate) struct Decoder {
    codec: Codec,
    inflate: Option<flate2::Decompress>,
}

impl Decoder {
    /// Makes `out` the content of a block, at most `limit` bytes.
    pub fn decompress(&mut self, block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), AvroError> {
        out.clear();
        match self.codec {
            Codec::Null => out.extend_from_slice(block),
            Codec::Deflate => match &mut self.inflate {
                Some(state) => inflate(state, block, limit, out)?,
                None => return Err(UNREADABLE),
            },
            Codec::Zstandard => {
                let from = zstd::Decoder::with_buffer(block)
                    .map_err(|_| AvroError::Malformed("block is not zstandard"))?;
                from.take((limit as u64).saturating_add(1)).read_to_end(out).map_err(|_| UNREADABLE)?;
            }
            Codec::Snappy => {
                let fault = AvroError::Malformed("block is not snappy, or its checksum is wrong");
                let (data, sum) = block.split_last_chunk::<4>().ok_or(fault.clone())?;
                let length = snap::raw::decompress_len(data).map_err(|_| fault.clone())?;
                if length > limit {
                    return Err(AvroError::TooLarge { limit });
                }
                if length > data.len().saturating_mul(SNAPPY_RATIO_MAX) {
                    return Err(fault);
                }
                out.resize(length, 0);
                let written = snap::raw::Decoder::new().decompress(data, out).map_err(|_| fault.clone())?;
                out.truncate(written);
                if crc32fast::hash(out).to_be_bytes() != *sum {
                    return Err(fault);
                }
            }
        }
        if out.len() > limit { Err(AvroError::TooLarge { limit }) } else { Ok(()) }
    }
}

/// A block without any header. What follows its end is not looked at.
fn inflate(
    state: &mut flate2::Decompress,
    block: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), AvroError> {
    state.reset(false);
    out.reserve(block.len().saturating_mul(INFLATED_GUESS).min(limit));
    loop {
        let (read, had) = (state.total_in(), out.len());
        let left = block.get(read as usize..).unwrap_or_default();
        // All of it is here: nothing need be kept for what follows.
        let status =
            state.decompress_vec(left, out, flate2::FlushDecompress::Finish).map_err(|_| UNREADABLE)?;
        if status == flate2::Status::StreamEnd {
            return Ok(());
        }
        if out.len() > limit {
            return Err(AvroError::TooLarge { limit });
        }
        if out.len() == out.capacity() {
            out.reserve(out.len().clamp(INFLATED_STEP_BYTES, limit.max(INFLATED_STEP_BYTES)));
        } else if (state.total_in(), out.len()) == (read, had) {
            return Err(UNREADABLE); // it ends before its end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decompress(decoder: &mut Decoder, block: &[u8], limit: usize) -> Result<Vec<u8>, AvroError> {
        let mut out = b"what was there before".to_vec();
        decoder.decompress(block, limit, &mut out).map(|()| out)
    }

    #[test]
    fn blocks_come_back_and_bombs_do_not() {
        let content = b"manifest entry ".repeat(10_000);
        for name in ["null", "deflate", "snappy", "zstandard"] {
            let codec = Codec::by_name(Some(name.as_bytes())).unwrap();
            let block = codec.compress(content.clone()).unwrap();
            // One after another, also after one that was damaged.
            let mut decoder = codec.decoder();
            assert_eq!(decompress(&mut decoder, &block, content.len()).unwrap(), content, "{name}");
            let limit = content.len() - 1;
            assert_eq!(decompress(&mut decoder, &block, limit), Err(AvroError::TooLarge { limit }), "{name}");
            if codec != Codec::Null {
                for cut in [1, block.len() / 2, block.len() - 1] {
                    assert!(decompress(&mut decoder, &block[..cut], content.len()).is_err(), "{name}, {cut}");
                }
            }
            let few = codec.compress(b"few".to_vec()).unwrap();
            assert_eq!(decompress(&mut decoder, &few, 3).unwrap(), b"few", "{name}");
            assert_eq!(decompress(&mut decoder, &block, 1 << 30).unwrap(), content, "{name}");
        }
        assert_eq!(Codec::by_name(None), Ok(Codec::Null));
        assert_eq!(Codec::by_name(Some(b"bzip2")), Err(AvroError::Codec("bzip2".into())));
    }

    #[test]
    fn snappy_checks_its_sum_and_what_it_claims() {
        let mut block = Codec::Snappy.compress(b"content".to_vec()).unwrap();
        *block.last_mut().unwrap() ^= 1;
        let mut decoder = Codec::Snappy.decoder();
        assert!(decompress(&mut decoder, &block, 100).is_err());
        // A length of a gigabyte in front of nothing.
        let nothing = [0x80, 0x80, 0x80, 0x80, 0x04, 0, 0, 0, 0];
        assert!(decompress(&mut decoder, &nothing, usize::MAX).is_err());
    }
}
