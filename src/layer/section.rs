//! [`Section`]: a part of the tar stream of a layer, from the frames that cover it.
use super::LayerError;
use super::buffers::{Buffer, Buffers};
use super::dictionary::{Dictionary, Unpacker};
use super::index::LayerIndex;
use super::pipeline::Pipeline;
use super::table::FrameRow;
use std::io::{self, Read};
use std::ops::Range;

#[cfg(test)]
mod tests;

/// Up to so many frames are decompressed by the thread that reads: others would start too late.
const INLINE_MAX: usize = 4;

/// A frame as it came, and what it should be.
type Claimed = (Buffer, FrameRow);

/// Reads frames, checks each against the index and yields the bytes of the span.
pub struct Section<R> {
    source: R,
    expected: std::vec::IntoIter<FrameRow>,
    frames: Unpacking,
    buffers: Buffers,
    dictionary: Option<Dictionary>,
    inline: bool,
    current: Buffer,
    at: usize,
    /// Bytes of the first frame before the span.
    skip: usize,
    /// Bytes of the span that were not read yet.
    left: u64,
}

impl<R: Read> Section<R> {
    /// The bytes of `span` alone, whatever they are; `source` is as for [`LayerReader::section`](super::LayerReader::section).
    ///
    /// # Errors
    /// [`LayerError::Io`] (`InvalidInput`) if the span is not within the tar stream.
    pub fn bytes(source: R, index: &LayerIndex, span: Range<u64>) -> Result<Self, LayerError> {
        Self::new(source, index, span, super::writer::threads())
    }

    pub(super) fn new(
        source: R,
        index: &LayerIndex,
        span: Range<u64>,
        threads: usize,
    ) -> Result<Self, LayerError> {
        if span.start > span.end || span.end > index.raw_bytes() {
            return Err(LayerError::io("section lies outside the layer", io::ErrorKind::InvalidInput));
        }
        let (expected, skip) = index.frames(&span);
        let buffers = Buffers::default();
        Ok(Self {
            source,
            inline: expected.len() <= INLINE_MAX,
            expected: expected.into_iter(),
            frames: frames(threads, None, buffers.clone()),
            current: buffers.take(0),
            buffers,
            dictionary: None,
            at: 0,
            skip,
            left: span.end - span.start,
        })
    }

    /// Gives the dictionary with which the layer was compressed, if it was; before anything is read.
    #[must_use]
    pub fn with_dictionary(mut self, dictionary: Option<&Dictionary>) -> Self {
        if dictionary.is_some() {
            self.dictionary = dictionary.cloned();
            self.frames = self.begin();
        }
        self
    }

    /// Uses memory of `buffers`, and leaves it there; before anything is read.
    #[must_use]
    pub fn with_buffers(mut self, buffers: &Buffers) -> Self {
        self.buffers = buffers.clone();
        self.frames = self.begin();
        self
    }

    fn begin(&self) -> Unpacking {
        frames(super::writer::threads(), self.dictionary.clone(), self.buffers.clone())
    }

    /// Whether the span was read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// After the end of the tar stream: the span must end there, too.
    pub(super) fn finish(&self) -> Result<(), LayerError> {
        if self.is_over() { Ok(()) } else { Err(LayerError::corrupt("data after the end of the tar stream")) }
    }

    /// The next frame's content into `current`; false after the last.
    fn advance(&mut self) -> Result<bool, LayerError> {
        while !self.frames.is_full() && (!self.inline || self.frames.is_idle()) {
            let Some(row) = self.expected.next() else { break };
            let mut stored = self.buffers.take(row.length as usize);
            self.source
                .read_exact(&mut stored.bytes)
                .map_err(|e| LayerError::from_stream("frame of a section", e))?;
            if self.inline {
                self.frames.submit_inline((stored, row));
            } else {
                self.frames.submit((stored, row));
            }
        }
        let Some(result) = self.frames.next() else { return Ok(false) };
        self.current =
            result.map_err(|_| LayerError::io("decompression thread died", io::ErrorKind::Other))??;
        self.at = std::mem::take(&mut self.skip);
        Ok(true)
    }
}

type Unpacking = Pipeline<Claimed, Result<Buffer, LayerError>>;

fn frames(threads: usize, dictionary: Option<Dictionary>, buffers: Buffers) -> Unpacking {
    Pipeline::new(threads, move || {
        let (mut unpacker, buffers) = (Unpacker::of_known(dictionary.as_ref()), buffers.clone());
        Box::new(move |(stored, row): Claimed| {
            let mut raw = buffers.take(row.raw as usize);
            unpack(&mut unpacker, &stored.bytes, &row, &mut raw.bytes).map(|()| raw)
        })
    })
    .modest() // who waits for a little has it decompressed inline
}

/// The content of a frame, if it is the one that `row` describes, in this memory.
pub(super) fn unpack(
    unpacker: &mut Unpacker,
    bytes: &[u8],
    row: &FrameRow,
    into: &mut Vec<u8>,
) -> Result<(), LayerError> {
    if *blake3::hash(bytes).as_bytes() != row.digest {
        return Err(LayerError::corrupt("frame is not the one in the index"));
    }
    unpacker.unpack(bytes, row.raw as usize, into)?;
    if into.len() != row.raw as usize {
        return Err(LayerError::corrupt("frame has another length than the index says"));
    }
    Ok(())
}

impl<R: Read> Read for Section<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        while self.at >= self.current.bytes.len() {
            if !self.advance().map_err(LayerError::into_stream)? {
                return Ok(0);
            }
        }
        let n = buf
            .len()
            .min(self.current.bytes.len() - self.at)
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buf[..n].copy_from_slice(&self.current.bytes[self.at..self.at + n]);
        self.at += n;
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R> std::fmt::Debug for Section<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section").field("left", &self.left).finish_non_exhaustive()
    }
}
