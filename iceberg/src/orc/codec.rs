//! [`Codec`]: how the chunks of a file are compressed (specification: Compression).
use super::OrcError;

/// How the chunks of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    /// Deflate without any header.
    Zlib,
    Snappy,
    Lz4,
    Zstd,
}

/// A byte of LZ4 lengthens a copy by 255 at most.
const LZ4_RATIO_MAX: usize = 256;
const UNREADABLE: OrcError = OrcError::Malformed("a chunk cannot be decompressed");

impl Codec {
    /// By the number in the postscript.
    pub fn by_number(number: u64) -> Result<Self, OrcError> {
        Ok(match number {
            0 => Self::None,
            1 => Self::Zlib,
            2 => Self::Snappy,
            4 => Self::Lz4,
            5 => Self::Zstd,
            3 => return Err(OrcError::Unknown("compression LZO".into())),
            6 => return Err(OrcError::Unknown("compression Brotli".into())),
            other => return Err(OrcError::Unknown(format!("compression {other}"))),
        })
    }

    /// Reads chunks, one after another.
    pub fn decoder(self) -> Decoder {
        Decoder { codec: self, inflate: None, zstd: None }
    }
}

/// Reads the chunks of one stream. What a codec needs for that is made with the first of them.
pub(super) struct Decoder {
    codec: Codec,
    /// Some hundred bytes, which most streams do without.
    inflate: Option<Box<flate2::Decompress>>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decoder {
    /// The content of a chunk in place of what `out` has; an error if it has more than `limit` bytes.
    pub fn decompress(&mut self, chunk: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), OrcError> {
        out.clear();
        match self.codec {
            Codec::None => out.extend_from_slice(chunk),
            Codec::Zlib => {
                let state = self.inflate.get_or_insert_with(|| Box::new(flate2::Decompress::new(false)));
                state.reset(false);
                // One byte more than there may be: the end of the content is met then, too.
                out.reserve_exact(limit + 1);
                let status = state.decompress_vec(chunk, out, flate2::FlushDecompress::Finish);
                if status.map_err(|_| UNREADABLE)? != flate2::Status::StreamEnd && out.len() <= limit {
                    return Err(UNREADABLE);
                }
            }
            Codec::Snappy => {
                let length = snap::raw::decompress_len(chunk).map_err(|_| UNREADABLE)?;
                out.resize(length.min(limit + 1), 0);
                if length <= limit {
                    snap::raw::Decoder::new().decompress(chunk, out).map_err(|_| UNREADABLE)?;
                }
            }
            Codec::Lz4 => {
                out.resize(limit.min(chunk.len().saturating_mul(LZ4_RATIO_MAX)), 0);
                let length = lz4_flex::block::decompress_into(chunk, out).map_err(|_| UNREADABLE)?;
                out.truncate(length);
            }
            Codec::Zstd => {
                let state = match &mut self.zstd {
                    Some(state) => state,
                    none => none.insert(zstd::bulk::Decompressor::new().map_err(|_| UNREADABLE)?),
                };
                out.reserve_exact(limit);
                state.decompress_to_buffer(chunk, out).map_err(|_| UNREADABLE)?;
            }
        }
        if out.len() > limit { Err(OrcError::TooLarge { what: "a chunk", limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::chunks::compress;
    use super::*;

    const ALL: [Codec; 5] = [Codec::None, Codec::Zlib, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    #[test]
    fn chunks_come_back_and_have_their_bound() {
        let content = b"some content that repeats itself, ".repeat(100);
        for codec in ALL {
            let chunk = compress(codec, &content);
            let (mut decoder, mut out) = (codec.decoder(), Vec::new());
            // One after another, also after one that was damaged.
            for limit in [content.len(), 1 << 20] {
                decoder.decompress(&chunk, limit, &mut out).unwrap();
                assert_eq!(out, content, "{codec:?}");
                assert!(decoder.decompress(&chunk, content.len() - 1, &mut out).is_err(), "{codec:?}");
                if codec != Codec::None {
                    for cut in 0..chunk.len() {
                        let cut = decoder.decompress(&chunk[..cut], limit, &mut out);
                        assert!(cut.is_err() || out.len() < content.len(), "{codec:?}");
                    }
                }
            }
            decoder.decompress(&compress(codec, b""), 10, &mut out).unwrap();
            assert_eq!(out, b"", "{codec:?}");
        }
        // A gigabyte that is claimed in front of nothing.
        let claimed =
            Codec::Snappy.decoder().decompress(&[0x80, 0x80, 0x80, 0x80, 0x04], 1 << 18, &mut Vec::new());
        assert!(matches!(claimed, Err(OrcError::TooLarge { .. })));
    }

    #[test]
    fn codecs_that_are_not_read_are_named() {
        assert_eq!(Codec::by_number(3).unwrap_err().to_string(), "compression LZO is not known");
        assert_eq!(Codec::by_number(6).unwrap_err().to_string(), "compression Brotli is not known");
        assert!(Codec::by_number(7).is_err());
    }
}
