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
/// What its writers take as a default.
const ZSTD_LEVEL: i32 = 3;

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

    /// The content of a block, at most `limit` bytes of it.
    pub fn decompress(self, block: &[u8], limit: usize) -> Result<Vec<u8>, AvroError> {
        let out = match self {
            Self::Null => block.to_vec(),
            Self::Deflate => read(flate2::read::DeflateDecoder::new(block), limit)?,
            Self::Zstandard => read(
                zstd::Decoder::with_buffer(block)
                    .map_err(|_| AvroError::Malformed("block is not zstandard"))?,
                limit,
            )?,
            Self::Snappy => {
                let fault = AvroError::Malformed("block is not snappy, or its checksum is wrong");
                let (data, sum) = block.split_last_chunk::<4>().ok_or(fault.clone())?;
                let length = snap::raw::decompress_len(data).map_err(|_| fault.clone())?;
                if length > limit {
                    return Err(AvroError::TooLarge { limit });
                }
                if length > data.len().saturating_mul(SNAPPY_RATIO_MAX) {
                    return Err(fault);
                }
                let out = snap::raw::Decoder::new().decompress_vec(data).map_err(|_| fault.clone())?;
                if crc32fast::hash(&out).to_be_bytes() != *sum {
                    return Err(fault);
                }
                out
            }
        };
        if out.len() > limit { Err(AvroError::TooLarge { limit }) } else { Ok(out) }
    }

    /// A block of this content.
    pub fn compress(self, content: Vec<u8>) -> Result<Vec<u8>, AvroError> {
        // None of them fails on memory.
        let fault = |_| AvroError::Malformed("block cannot be compressed");
        Ok(match self {
            Self::Null => content,
            Self::Deflate => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
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

fn read(from: impl Read, limit: usize) -> Result<Vec<u8>, AvroError> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| AvroError::Malformed("block cannot be decompressed"))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_bombs_do_not() {
        let content = b"manifest entry ".repeat(10_000);
        for name in ["null", "deflate", "snappy", "zstandard"] {
            let codec = Codec::by_name(Some(name.as_bytes())).unwrap();
            let block = codec.compress(content.clone()).unwrap();
            assert_eq!(codec.decompress(&block, content.len()).unwrap(), content, "{name}");
            let limit = content.len() - 1;
            assert_eq!(codec.decompress(&block, limit), Err(AvroError::TooLarge { limit }), "{name}");
            if codec != Codec::Null {
                assert!(codec.decompress(&block[..block.len() / 2], content.len()).is_err(), "{name}");
            }
        }
        assert_eq!(Codec::by_name(None), Ok(Codec::Null));
        assert_eq!(Codec::by_name(Some(b"bzip2")), Err(AvroError::Codec("bzip2".into())));
    }

    #[test]
    fn snappy_checks_its_sum_and_what_it_claims() {
        let mut block = Codec::Snappy.compress(b"content".to_vec()).unwrap();
        *block.last_mut().unwrap() ^= 1;
        assert!(Codec::Snappy.decompress(&block, 100).is_err());
        // A length of a gigabyte in front of nothing.
        assert!(Codec::Snappy.decompress(&[0x80, 0x80, 0x80, 0x80, 0x04, 0, 0, 0, 0], usize::MAX).is_err());
    }
}
