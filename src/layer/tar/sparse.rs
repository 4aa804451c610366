//! [`SparseMap`]: where a file has data; the rest are holes. Written as PAX sparse format 1.0.
use super::{BLOCK, pax::decimal};
use crate::layer::LayerError;
use crate::layer::content::Content;
use crate::layer::reference::References;
use std::io::{self, Read};

/// The most extents of one file that are kept: bounds memory. Beyond it the writer closes the
/// smallest holes (their zeros become data).
pub const EXTENTS_MAX: usize = 1 << 17;

/// A run of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// The data of a file, in order, without overlap, all within its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    /// Length of the file, holes included.
    pub size: u64,
    /// The data.
    pub extents: Vec<Extent>,
}

impl SparseMap {
    /// A file without holes.
    pub fn dense(size: u64) -> Self {
        let extents = if size == 0 { Vec::new() } else { vec![Extent { offset: 0, len: size }] };
        Self { size, extents }
    }

    /// How many bytes of data there are.
    pub fn data_len(&self) -> u64 {
        self.extents.iter().map(|e| e.len).sum()
    }

    /// Whether there is no hole.
    pub fn is_dense(&self) -> bool {
        self.data_len() == self.size
    }

    /// What of the data no reference gives.
    #[must_use]
    pub fn without(mut self, refs: &References) -> Self {
        if refs.is_empty() {
            return self;
        }
        let mut parts = refs.iter().peekable();
        let mut left = Vec::with_capacity(self.extents.len());
        for Extent { mut offset, len } in self.extents {
            let end = offset + len;
            while offset < end {
                while parts.next_if(|part| part.end() <= offset).is_some() {}
                let (skip_to, data_end) = match parts.peek() {
                    Some(part) if part.at <= offset => (part.end().min(end), offset),
                    Some(part) => (part.at.min(end), part.at.min(end)),
                    None => (end, end),
                };
                if data_end > offset {
                    left.push(Extent { offset, len: data_end - offset });
                }
                offset = skip_to;
            }
        }
        self.extents = left;
        self
    }

    /// Asks the file system where `file` has data within its first `size` bytes.
    pub fn of(file: &dyn Content, size: u64) -> io::Result<Self> {
        Self::of_bounded(file, size, EXTENTS_MAX)
    }

    fn of_bounded(file: &dyn Content, size: u64, extents_max: usize) -> io::Result<Self> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut gap_min = 1u64;
        let mut at = 0;
        while at < size {
            let Some(data) = file.data_after(at)? else { break };
            let start = data.start.min(size);
            if start >= size {
                break;
            }
            let end = data.end.clamp(start + 1, size);
            push_coalesced(&mut extents, Extent { offset: start, len: end - start }, gap_min);
            while extents.len() > extents_max {
                gap_min *= 2;
                let all = std::mem::take(&mut extents);
                all.into_iter().for_each(|e| push_coalesced(&mut extents, e, gap_min));
            }
            at = end;
        }
        Ok(Self { size, extents })
    }

    /// The map as it stands before the data: decimal numbers in lines, padded to a block.
    pub fn encode(&self) -> Vec<u8> {
        // A hole at the end needs an empty extent there, or some readers make the file too short.
        let ends_in_hole = self.extents.last().is_none_or(|e| e.offset + e.len < self.size);
        let end = ends_in_hole.then_some(Extent { offset: self.size, len: 0 });
        let mut out = format!("{}\n", self.extents.len() + usize::from(ends_in_hole)).into_bytes();
        for e in self.extents.iter().chain(&end) {
            out.extend_from_slice(format!("{}\n{}\n", e.offset, e.len).as_bytes());
        }
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    /// Reads a map in format 1.0 from the `stored` bytes of an entry; returns it and how many of
    /// these bytes it took.
    pub fn read(input: &mut impl Read, size: u64, stored: u64) -> Result<(Self, u64), LayerError> {
        let mut lines = Lines { input, block: [0; BLOCK], at: BLOCK, taken: 0, stored };
        let count = lines.number()?;
        if count > 2 * EXTENTS_MAX as u64 {
            return Err(LayerError::corrupt("sparse map has too many extents"));
        }
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push(Extent { offset: lines.number()?, len: lines.number()? });
        }
        let taken = lines.taken;
        let map = Self::checked(size, pairs)?;
        if map.data_len() != stored - taken {
            return Err(LayerError::corrupt("sparse map does not agree with the stored size"));
        }
        Ok((map, taken))
    }

    /// Extents in order, within `size`; empty ones are dropped.
    pub(super) fn checked(size: u64, pairs: Vec<Extent>) -> Result<Self, LayerError> {
        let mut end = 0;
        for e in &pairs {
            if e.offset < end {
                return Err(LayerError::corrupt("sparse map is not in order"));
            }
            end = e
                .offset
                .checked_add(e.len)
                .filter(|end| *end <= size)
                .ok_or_else(|| LayerError::corrupt("sparse map exceeds the file"))?;
        }
        let mut extents: Vec<Extent> = Vec::with_capacity(pairs.len());
        pairs.into_iter().filter(|e| e.len > 0).for_each(|e| push_coalesced(&mut extents, e, 1));
        Ok(Self { size, extents })
    }
}

fn push_coalesced(extents: &mut Vec<Extent>, e: Extent, gap_min: u64) {
    match extents.last_mut() {
        Some(last) if e.offset - (last.offset + last.len) < gap_min => {
            last.len = e.offset + e.len - last.offset;
        }
        _ => extents.push(e),
    }
}

struct Lines<'a, R> {
    input: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
    stored: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, LayerError> {
        let mut text = [0u8; 20];
        let mut n = 0;
        loop {
            if self.at == BLOCK {
                if self.taken + BLOCK as u64 > self.stored {
                    return Err(LayerError::corrupt("sparse map is longer than the entry"));
                }
                self.input
                    .read_exact(&mut self.block)
                    .map_err(|e| LayerError::from_stream("sparse map", e))?;
                self.taken += BLOCK as u64;
                self.at = 0;
            }
            let b = self.block[self.at];
            self.at += 1;
            if b == b'\n' {
                return decimal(&text[..n]).ok_or_else(|| LayerError::corrupt("sparse map has a bad number"));
            }
            *text.get_mut(n).ok_or_else(|| LayerError::corrupt("sparse map has a bad number"))? = b;
            n += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn too_many_extents_close_the_smallest_holes_and_lose_no_data() {
        let file = tempfile::tempfile().expect("temporary file");
        let mut at = 0;
        let mut starts = Vec::new();
        for i in 0..64u64 {
            file.write_all_at(&[1; 4096], at).expect("write");
            starts.push(at);
            at += if i % 2 == 0 { 3 * 4096 } else { 64 * 4096 };
        }
        file.set_len(at).expect("length");
        let whole = SparseMap::of(&file, at).expect("map");
        if whole.is_dense() {
            return; // a file system without holes
        }
        assert_eq!(whole.extents.len(), 64);
        let bounded = SparseMap::of_bounded(&file, at, 40).expect("map");
        assert_eq!(bounded.extents.len(), 32, "the small holes are closed, the large ones stay");
        for start in starts {
            let inside = |e: &&Extent| e.offset <= start && start + 4096 <= e.offset + e.len;
            assert!(bounded.extents.iter().any(|e| inside(&e)));
        }
    }
}
