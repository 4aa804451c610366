//! [`Stream`]: bytes that lie in chunks, each compressed by itself (specification: Compression).
use super::OrcError;
use super::codec::{Codec, Decoder};

/// The end of a stream where more was to come.
pub(super) const SHORT: OrcError = OrcError::Malformed("a stream ends before its values do");
/// What is in front of a chunk: its length, and whether it is compressed at all.
const HEADER_BYTES: usize = 3;
/// The most content of a chunk: a header cannot tell of more.
pub(super) const CHUNK_MAX_BYTES: usize = 8 << 20;

/// How the streams of a file are laid out, by its postscript.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub codec: Codec,
    /// The most content of one chunk, in bytes.
    pub chunk: usize,
}

/// A stream, unpacked chunk by chunk.
pub(super) struct Stream<'a> {
    /// Chunks that were not looked at yet; empty where nothing is compressed.
    chunks: &'a [u8],
    /// What is left of a chunk that is as it was written.
    plain: &'a [u8],
    /// A chunk that was unpacked, and how much of it is read.
    unpacked: Vec<u8>,
    at: usize,
    decoder: Decoder,
    limit: usize,
}

impl<'a> Stream<'a> {
    pub fn new(bytes: &'a [u8], layout: Layout) -> Self {
        let (chunks, plain) = if layout.codec == Codec::None { (&[][..], bytes) } else { (bytes, &[][..]) };
        let (decoder, limit) = (layout.codec.decoder(), layout.chunk);
        Self { chunks, plain, unpacked: Vec::new(), at: 0, decoder, limit }
    }

    /// Some of what comes; nothing only at the end.
    fn fill(&mut self) -> Result<&[u8], OrcError> {
        while self.plain.is_empty() && self.at == self.unpacked.len() && !self.chunks.is_empty() {
            self.next_chunk()?;
        }
        Ok(if self.plain.is_empty() { &self.unpacked[self.at..] } else { self.plain })
    }

    fn consume(&mut self, bytes: usize) {
        if self.plain.is_empty() { self.at += bytes } else { self.plain = &self.plain[bytes..] }
    }

    fn next_chunk(&mut self) -> Result<(), OrcError> {
        let (header, rest) = self.chunks.split_first_chunk::<HEADER_BYTES>().ok_or(SHORT)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let (chunk, rest) = rest.split_at_checked(header as usize >> 1).ok_or(SHORT)?;
        self.chunks = rest;
        if header & 1 == 1 {
            self.plain = chunk;
            return Ok(());
        }
        self.at = 0;
        self.decoder.decompress(chunk, self.limit, &mut self.unpacked)
    }

    pub fn byte(&mut self) -> Result<u8, OrcError> {
        let byte = *self.fill()?.first().ok_or(SHORT)?;
        self.consume(1);
        Ok(byte)
    }

    /// Appends so many bytes to `out`, which grows with what is there and not with what is claimed.
    pub fn take(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<(), OrcError> {
        let mut left = bytes;
        while left > 0 {
            let some = self.fill()?;
            if some.is_empty() {
                return Err(SHORT);
            }
            let now = some.len().min(left);
            out.extend_from_slice(&some[..now]);
            self.consume(now);
            left -= now;
        }
        Ok(())
    }

    /// All of a stream that has at most `limit` bytes.
    pub fn all(mut self, what: &'static str, limit: usize) -> Result<Vec<u8>, OrcError> {
        let mut out = Vec::new();
        loop {
            let some = self.fill()?;
            if some.is_empty() {
                return Ok(out);
            }
            if some.len() > limit - out.len() {
                return Err(OrcError::TooLarge { what, limit });
            }
            let now = some.len();
            out.extend_from_slice(some);
            self.consume(now);
        }
    }

    /// A number of variable length (specification: Base 128 Varint).
    pub fn varint(&mut self) -> Result<u64, OrcError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(OrcError::Malformed("a number is too long"))
    }
}

/// The number that a zigzag number stands for.
pub(super) fn signed(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::super::tests::chunks::{chunked, compress};
    use super::*;

    #[test]
    fn a_stream_comes_back_whatever_its_chunks() {
        let content: Vec<u8> = (0..5000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for codec in [Codec::None, Codec::Zlib, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            for chunk in [64, 1000, 1 << 18] {
                let layout = Layout { codec, chunk };
                let bytes = chunked(layout, &content);
                let stream = || Stream::new(&bytes, layout);
                assert_eq!(stream().all("it", content.len()).unwrap(), content, "{layout:?}");
                assert!(stream().all("it", content.len() - 1).is_err());
                let (mut some, mut out) = (stream(), Vec::new());
                some.take(7, &mut out).unwrap();
                out.push(some.byte().unwrap());
                some.take(2000, &mut out).unwrap();
                assert_eq!(out, content[..2008]);
                assert_eq!(some.take(content.len(), &mut out), Err(SHORT));
                assert_eq!(some.byte(), Err(SHORT));
                if codec != Codec::None {
                    assert!(Stream::new(&bytes[..bytes.len() - 1], layout).all("it", 1 << 20).is_err());
                    // A chunk that has more than the postscript allows.
                    let large = chunked(Layout { codec, chunk: 1 << 18 }, &content);
                    let small = Layout { codec, chunk: 63 };
                    assert!(Stream::new(&large, small).byte().is_err(), "{codec:?}");
                }
            }
        }
    }

    #[test]
    fn chunks_that_are_not_compressed_stand_among_those_that_are() {
        let layout = Layout { codec: Codec::Zlib, chunk: 100 };
        let packed = compress(Codec::Zlib, &[b'a'; 50]);
        let mut bytes = vec![(packed.len() << 1) as u8, 0, 0];
        bytes.extend_from_slice(&packed);
        bytes.extend_from_slice(&[3 << 1 | 1, 0, 0]);
        bytes.extend_from_slice(b"bcd");
        bytes.extend_from_slice(&[1, 0, 0]); // nothing
        let all = Stream::new(&bytes, layout).all("it", 100).unwrap();
        assert_eq!(all, [&[b'a'; 50][..], b"bcd"].concat());
    }

    #[test]
    fn numbers_end() {
        let layout = Layout { codec: Codec::None, chunk: 1 };
        assert_eq!(Stream::new(b"\xac\x02", layout).varint(), Ok(300));
        assert!(Stream::new(&[0xff; 11], layout).varint().is_err());
        assert_eq!([0, 1, 2, 3, u64::MAX].map(signed), [0, -1, 1, -2, i64::MIN]);
    }
}
