//! [`FramesOut`]: a tar stream on its way into compressed frames and the sink.
use super::LayerError;
use super::contents::Piece;
use super::dictionary::{self, Dictionary};
use super::frame::{self, FRAME_BYTES_MAX, FRAME_RAW_MAX, Preamble, preamble_of};
use super::pipeline::Pipeline;
use super::table::{self, Counts, row};
use std::io::{self, Write};
use zstd::zstd_safe::CParameter;

struct Compressed {
    raw: Vec<u8>,
    bytes: Vec<u8>,
    digest: [u8; 32],
}

/// Cuts what is written into frames, compresses them on worker threads and writes them in order.
pub(super) struct FramesOut<W> {
    sink: W,
    preamble: Preamble,
    whole: blake3::Hasher,
    written: u64,
    raw: Vec<u8>,
    spare: Vec<Vec<u8>>,
    frames: Pipeline<Vec<u8>, io::Result<Compressed>>,
    rows: Vec<u8>,
    counts: Counts,
}

/// What became of a finished stream.
pub(super) struct Written<W> {
    pub(super) sink: W,
    pub(super) bytes: u64,
    pub(super) raw_bytes: u64,
    pub(super) digest: [u8; 32],
    pub(super) tail: Tail,
}

/// Everything of a layer after its last data frame: contents, table and footer. Whoever has it
/// can read any part of the layer alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Its length in bytes; it ends the layer.
    pub bytes: u64,
    /// BLAKE3 of these bytes.
    pub digest: [u8; 32],
}

impl<W: Write> FramesOut<W> {
    pub(super) fn new(sink: W, level: i32, threads: usize, dictionary: Option<Dictionary>) -> Self {
        let digest = dictionary.as_ref().map(Dictionary::digest);
        Self {
            sink,
            preamble: Preamble { version: frame::VERSION, dictionary: digest },
            whole: blake3::Hasher::new(),
            written: 0,
            raw: Vec::new(),
            spare: Vec::new(),
            frames: Pipeline::new(threads, move || {
                let mut zstd = compressor(level, dictionary.as_ref());
                Box::new(move |raw: Vec<u8>| compress(&mut zstd, raw))
            })
            .modest(),
            rows: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Appends bytes of the tar stream.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len())?;
            let n = room.len();
            room.copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Up to `n` bytes of the stream for the caller to fill in place; at least one if `n` is not 0.
    pub(super) fn room(&mut self, n: usize) -> Result<&mut [u8], LayerError> {
        if self.raw.len() == FRAME_RAW_MAX {
            self.cut()?;
        }
        let at = self.raw.len();
        self.raw.resize((at + n).min(FRAME_RAW_MAX), 0);
        Ok(&mut self.raw[at..])
    }

    fn cut(&mut self) -> Result<(), LayerError> {
        while self.frames.is_full() {
            self.write_oldest()?;
        }
        let mut next = self.spare.pop().unwrap_or_default();
        next.clear();
        self.frames.submit(std::mem::replace(&mut self.raw, next));
        Ok(())
    }

    /// Whether a frame was waiting.
    fn write_oldest(&mut self) -> Result<bool, LayerError> {
        let Some(result) = self.frames.next() else { return Ok(false) };
        let frame = result
            .map_err(|_| LayerError::io("compression thread died", io::ErrorKind::Other))?
            .map_err(|e| LayerError::io("cannot compress", e))?;
        let (compressed, raw) = (frame.bytes.len() as u32, frame.raw.len() as u32);
        self.rows.extend_from_slice(&row(compressed, raw, &frame.digest));
        self.counts.frames += 1;
        self.counts.raw_bytes += u64::from(raw);
        self.put(&frame.bytes)?;
        self.spare.push(frame.raw);
        Ok(true)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        if self.written == 0 && self.counts.frames <= 1 {
            let first = preamble_of(self.preamble);
            self.written = first.len() as u64;
            self.whole.update(&first);
            self.sink.write_all(&first).map_err(|e| LayerError::io("cannot write layer", e))?;
        }
        self.whole.update(bytes);
        self.written += bytes.len() as u64;
        self.sink.write_all(bytes).map_err(|e| LayerError::io("cannot write layer", e))
    }

    /// Writes what is left, the contents, the table and the footer.
    pub(super) fn finish(mut self, entries: u64, contents: &[Piece]) -> Result<Written<W>, LayerError> {
        if !self.raw.is_empty() {
            while self.frames.is_full() {
                self.write_oldest()?;
            }
            let last = std::mem::take(&mut self.raw);
            if self.counts.frames == 0 && self.frames.is_idle() {
                self.frames.submit_inline(last);
            } else {
                self.frames.submit(last);
            }
        }
        while self.write_oldest()? {}
        self.counts.entries = entries;
        let start = self.written;
        let mut tail = blake3::Hasher::new();
        for piece in contents {
            let length = piece.frame.len() as u32;
            self.rows.extend_from_slice(&row(length, piece.raw, blake3::hash(&piece.frame).as_bytes()));
            self.counts.pieces += 1;
            self.counts.contents_bytes += u64::from(length);
            tail.update(&piece.frame);
            self.put(&piece.frame)?;
        }
        let mut rows = blake3::Hasher::new();
        rows.update(&self.rows);
        let table = std::mem::take(&mut self.rows);
        let header = table::header(frame::VERSION, self.counts)?;
        for part in [&header[..], &table, &table::footer(frame::VERSION, self.counts, &rows)] {
            tail.update(part);
            self.put(part)?;
        }
        self.sink.flush().map_err(|e| LayerError::io("cannot write layer", e))?;
        Ok(Written {
            sink: self.sink,
            bytes: self.written,
            raw_bytes: self.counts.raw_bytes,
            digest: *self.whole.finalize().as_bytes(),
            tail: Tail { bytes: self.written - start, digest: *tail.finalize().as_bytes() },
        })
    }
}

fn compressor(level: i32, dictionary: Option<&Dictionary>) -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut zstd = dictionary::compressor(level, dictionary)?;
    zstd.set_parameter(CParameter::ChecksumFlag(true))?;
    zstd.set_parameter(CParameter::ContentSizeFlag(true))?;
    Ok(zstd)
}

fn compress(zstd: &mut io::Result<zstd::bulk::Compressor<'static>>, raw: Vec<u8>) -> io::Result<Compressed> {
    let zstd = zstd.as_mut().map_err(|e| io::Error::other(e.to_string()))?;
    let mut bytes = Vec::with_capacity(FRAME_BYTES_MAX);
    zstd.compress_to_buffer(&raw, &mut bytes)?;
    let digest = *blake3::hash(&bytes).as_bytes();
    Ok(Compressed { raw, bytes, digest })
}
