//! [`LayerIndex`]: where in a layer each part of its tar stream is.
use super::LayerError;
use super::contents::{Contents, END_BYTES, PIECE_BYTES_MAX, PIECE_RAW_MAX};
use super::dictionary::{Dictionary, Unpacker};
use super::frame::SKIPPABLE_HEADER_BYTES;
use super::frame::{CONTENTS_MAGIC, FRAME_BYTES_MAX, FRAME_RAW_MAX, PREAMBLE_BYTES};
use super::section;
use super::table::{self, Counts, FOOTER_BYTES, FrameRow, ROW_BYTES};
use std::ops::Range;

#[cfg(test)]
pub(super) mod tests;

/// The data frames of a layer. Memory: 40 bytes for each MiB of the tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIndex {
    frames: Vec<Frame>,
    /// Where the last frame ends in the object.
    end: u64,
    raw_bytes: u64,
    entries: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    /// Where it begins in the object.
    start: u64,
    digest: [u8; 32],
}

/// Bytes of the tar stream in each frame but the last.
const STEP: u64 = FRAME_RAW_MAX as u64;

impl LayerIndex {
    /// How long the tail of a layer is, by its last bytes: give it at least [`FOOTER_BYTES`] of them.
    /// For layers of which no HEAD says it. Nothing is checked; [`read`](Self::read) does that.
    ///
    /// # Errors
    /// [`LayerError::NoContents`] for a layer of version 1, [`LayerError::UnknownVersion`],
    /// [`LayerError::Corrupt`] and [`LayerError::Truncated`] where no layer ends.
    pub fn tail_bytes(end: &[u8]) -> Result<u64, LayerError> {
        table::parse_footer(end).map(|(_, _, tail)| tail)
    }

    /// Reads the whole tail (everything after the last data frame) of a layer of `layer_bytes` bytes.
    /// All lengths, counts and digests in it were checked when this returns, and so was that frames and
    /// tail fill the layer; the rows are checked as [`Contents`] yields them. The index lives on its
    /// own: drop the contents when they are not needed.
    ///
    /// # Errors
    /// As [`tail_bytes`](Self::tail_bytes); [`LayerError::Corrupt`] for whatever does not hold.
    pub fn read(tail: &[u8], layer_bytes: u64) -> Result<(Self, Contents<'_>), LayerError> {
        let (version, counts, length) = table::parse_footer(tail)?;
        if length != tail.len() as u64 {
            return Err(wrong("length of the tail"));
        }
        let (contents, table) = split(tail, counts.contents_bytes)?;
        let (header, table) = split(table, SKIPPABLE_HEADER_BYTES as u64)?;
        let (rows, footer) = split(table, (table.len() - FOOTER_BYTES) as u64)?;
        if header != table::header(version, counts)? {
            return Err(wrong("header of the table"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(rows);
        if footer != table::footer(version, counts, &hasher) {
            return Err(wrong("checksum of the table"));
        }
        let (data, pieces) = split(rows, rows.len() as u64 - counts.pieces * ROW_BYTES as u64)?;
        let index = Self::of_rows(data, counts)?;
        if index.end.checked_add(length) != Some(layer_bytes) {
            return Err(wrong("length of the layer"));
        }
        check_pieces(pieces, contents)?;
        Ok((index, Contents::new(pieces, contents, counts)))
    }

    fn of_rows(rows: &[u8], counts: Counts) -> Result<Self, LayerError> {
        let (rows, _) = rows.as_chunks::<ROW_BYTES>();
        if counts.raw_bytes < END_BYTES || counts.raw_bytes.div_ceil(STEP) != rows.len() as u64 {
            return Err(wrong("number of frames"));
        }
        let mut frames = Vec::with_capacity(rows.len());
        let (mut start, mut left) = (PREAMBLE_BYTES as u64, counts.raw_bytes);
        for row in rows {
            let row = FrameRow::parse(row);
            let raw = left.min(STEP);
            if row.length == 0 || row.length as usize > FRAME_BYTES_MAX || u64::from(row.raw) != raw {
                return Err(wrong("length of a data frame"));
            }
            frames.push(Frame { start, digest: row.digest });
            start += u64::from(row.length);
            left -= raw;
        }
        Ok(Self { frames, end: start, raw_bytes: counts.raw_bytes, entries: counts.entries })
    }

    /// The bytes of the object that hold the data frames which cover `span`, a range of the tar
    /// stream. What of it lies behind the stream does not count; a range without bytes needs no frame.
    pub fn range(&self, span: Range<u64>) -> Range<u64> {
        let frames = self.covering(&span);
        self.start_of(frames.start)..self.start_of(frames.end)
    }

    /// Bytes of the tar stream, the two zero blocks at its end included.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Entries of the layer, whiteouts included.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The frames that cover `span`, as numbers.
    pub fn covering(&self, span: &Range<u64>) -> Range<usize> {
        let end = span.end.min(self.raw_bytes);
        if span.start >= end {
            return 0..0;
        }
        (span.start / STEP) as usize..end.div_ceil(STEP) as usize
    }

    /// Which part of the tar stream a frame holds; one without bytes at the end for a frame that is not
    /// there.
    pub fn span_of(&self, frame: usize) -> Range<u64> {
        let at = |n: usize| (n as u64).saturating_mul(STEP).min(self.raw_bytes);
        at(frame)..at(frame.saturating_add(1))
    }

    /// The bytes of the object that frames of these numbers are.
    pub fn stored(&self, frames: Range<usize>) -> Range<u64> {
        self.start_of(frames.start)..self.start_of(frames.end)
    }

    /// The part of the tar stream that a frame holds, from the frame as the object has it, with the dictionary
    /// that the layer needs.
    ///
    /// # Errors
    /// [`LayerError::Corrupt`] if it is not the frame of this number, [`LayerError::Dictionary`].
    pub fn unpack(
        &self,
        frame: usize,
        stored: &[u8],
        dictionary: Option<&Dictionary>,
    ) -> Result<Vec<u8>, LayerError> {
        let (rows, _) = self.frames(&self.span_of(frame));
        let row = rows.first().ok_or_else(|| LayerError::corrupt("no such frame in the layer"))?;
        let mut raw = Vec::new();
        section::unpack(&mut Unpacker::of_known(dictionary), stored, row, &mut raw).map(|()| raw)
    }

    fn start_of(&self, frame: usize) -> u64 {
        self.frames.get(frame).map_or(self.end, |f| f.start)
    }

    /// What is known of the frames that cover `span`, and how many bytes of the first one stand
    /// before it.
    pub(super) fn frames(&self, span: &Range<u64>) -> (Vec<FrameRow>, usize) {
        let numbers = self.covering(span);
        let row = |n: usize| FrameRow {
            length: (self.start_of(n + 1) - self.start_of(n)) as u32,
            raw: (self.raw_bytes - n as u64 * STEP).min(STEP) as u32,
            digest: self.frames[n].digest,
        };
        (numbers.map(row).collect(), (span.start % STEP) as usize)
    }
}

/// Every piece is a frame of contents with the digest and the length it should have.
fn check_pieces(mut rows: &[u8], mut frames: &[u8]) -> Result<(), LayerError> {
    while let Some((row, rest)) = rows.split_first_chunk::<ROW_BYTES>() {
        let row = FrameRow::parse(row);
        let payload = (row.length as usize).checked_sub(SKIPPABLE_HEADER_BYTES);
        let payload = payload.filter(|n| *n <= PIECE_BYTES_MAX && row.raw as usize <= PIECE_RAW_MAX);
        let payload = payload.ok_or_else(|| wrong("length of a piece of the contents"))?;
        let (frame, others) = split(frames, u64::from(row.length))?;
        if !frame.starts_with(&table::skippable(CONTENTS_MAGIC, payload as u32)) {
            return Err(wrong("header of a piece of the contents"));
        }
        if *blake3::hash(frame).as_bytes() != row.digest {
            return Err(wrong("digest of a piece of the contents"));
        }
        (rows, frames) = (rest, others);
    }
    if frames.is_empty() { Ok(()) } else { Err(wrong("length of the contents")) }
}

fn split(bytes: &[u8], at: u64) -> Result<(&[u8], &[u8]), LayerError> {
    usize::try_from(at).ok().and_then(|at| bytes.split_at_checked(at)).ok_or_else(|| wrong("lengths"))
}

fn wrong(what: &str) -> LayerError {
    LayerError::corrupt(format!("tail of a layer does not hold: {what}"))
}
