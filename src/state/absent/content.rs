//! [`Content`]: from which parts of which layers the bytes of a file come.
use super::tree::FileRow;
use crate::layer::{LayerError, Located};
use std::ops::Range;
use uuid::Uuid;

/// A run of bytes of a file, and where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first byte, in the file.
    pub at: u64,
    /// How many bytes.
    pub length: u64,
    /// The index of the layer, oldest first.
    pub layer: u32,
    /// The first byte, in the tar stream of that layer.
    pub stream: u64,
}

impl Piece {
    /// Its bytes in the file.
    pub fn range(&self) -> Range<u64> {
        self.at..self.at + self.length
    }

    /// Its bytes in the tar stream.
    pub fn span(&self) -> Range<u64> {
        self.stream..self.stream + self.length
    }

    /// The part of it that lies within a range of the file.
    fn clip(&self, range: &Range<u64>) -> Option<Self> {
        let (at, end) = (self.at.max(range.start), (self.at + self.length).min(range.end));
        (at < end).then(|| Self { at, length: end - at, stream: self.stream + (at - self.at), ..*self })
    }
}

/// Where the content of a file is. What no piece has is a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    size: u64,
    /// In the order of the file, without overlap.
    pieces: Vec<Piece>,
    /// Numbers of pieces in the order of layers and streams, if that is another.
    by_stream: Option<Vec<u32>>,
    /// Some come from overlapping bytes of a stream, so that in that order their ends do not ascend.
    overlapping: bool,
}

impl Content {
    /// A file of `size` bytes; `pieces` in the order of the file. Several may come from the same bytes.
    ///
    /// # Errors
    /// [`LayerError::Corrupt`] if they overlap in the file or exceed it.
    pub fn new(size: u64, pieces: Vec<Piece>) -> Result<Self, LayerError> {
        let mut end = 0;
        for piece in &pieces {
            let next = piece.at.checked_add(piece.length).filter(|next| piece.at >= end && *next <= size);
            end = next.ok_or_else(|| LayerError::corrupt("pieces of a file do not fit it"))?;
        }
        let place = |n: u32| pieces.get(n as usize).map(|p| (p.layer, p.stream));
        let mut by_stream: Vec<u32> = (0..pieces.len() as u32).collect();
        let sorted = by_stream.is_sorted_by_key(|n| place(*n));
        if !sorted {
            by_stream.sort_by_key(|n| place(*n));
        }
        let end = |n: u32| pieces.get(n as usize).map(|p| (p.layer, p.span().end));
        let overlapping = !by_stream.is_sorted_by_key(|n| end(*n));
        Ok(Self { size, by_stream: (!sorted).then_some(by_stream), overlapping, pieces })
    }

    /// A file whose content stands in its entry.
    ///
    /// # Errors
    /// [`LayerError::Corrupt`] if the entry is not what its row says.
    pub fn of_entry(
        row: &FileRow,
        located: &Located,
        layer_of: impl Fn(&Uuid) -> Option<u32>,
    ) -> Result<Self, LayerError> {
        let (map, place) = (&located.map, row.place);
        let length = located.headers + map.data_len().next_multiple_of(crate::layer::tar::BLOCK as u64);
        if map.size != row.size || length != place.length {
            return Err(LayerError::corrupt("an entry is not what the contents of its layer say"));
        }
        let mut stream = place.offset + located.headers;
        let piece = |extent: &crate::layer::tar::Extent| {
            let piece = Piece { at: extent.offset, length: extent.len, layer: place.layer, stream };
            stream += extent.len;
            piece
        };
        let mut pieces: Vec<Piece> = map.extents.iter().map(piece).collect();
        for part in located.refs.iter() {
            let layer = layer_of(&part.layer)
                .ok_or_else(|| LayerError::corrupt("a file refers to a layer that HEAD does not list"))?;
            pieces.push(Piece { at: part.at, length: part.length, layer, stream: part.from });
        }
        pieces.sort_unstable_by_key(|piece| piece.at);
        Self::new(row.size, pieces)
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The pieces that make up a range of the file, in its order; what none has is a hole.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.partition_point(|p| p.at + p.length <= range.start);
        self.pieces.iter().skip(first).map_while(move |piece| piece.clip(&range))
    }

    /// What the file has in a span of the tar stream of a layer.
    pub fn standing_in(&self, layer: u32, span: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let nth = |n: usize| match &self.by_stream {
            Some(order) => order.get(n).and_then(|n| self.pieces.get(*n as usize)),
            None => self.pieces.get(n),
        };
        // Where ends do not ascend all of a layer are looked at.
        let end = |p: &Piece| if self.overlapping { 0 } else { p.span().end };
        let before = |p: &Piece| p.layer < layer || (p.layer == layer && end(p) <= span.start && end(p) > 0);
        let (mut low, mut high) = (0, self.pieces.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if nth(middle).is_some_and(before) { low = middle + 1 } else { high = middle }
        }
        (low..self.pieces.len())
            .map_while(nth)
            .take_while(move |p| p.layer == layer && p.stream < span.end)
            .filter_map(move |p| {
                let (from, to) = (p.stream.max(span.start), (p.stream + p.length).min(span.end));
                let part = Piece { at: p.at + from.saturating_sub(p.stream), ..*p };
                (from < to).then(|| Piece { length: to - from, stream: from, ..part })
            })
    }

    /// The holes, in the order of the file.
    pub fn holes(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let ends = std::iter::once(0).chain(self.pieces.iter().map(|p| p.at + p.length));
        let starts = self.pieces.iter().map(|p| p.at).chain([self.size]);
        ends.zip(starts).map(|(end, start)| end..start).filter(|hole| !hole.is_empty())
    }

    /// Where the next data at or after `offset` begins; `None` if only a hole follows.
    pub fn data_after(&self, offset: u64) -> Option<u64> {
        self.within(offset..u64::MAX).next().map(|piece| piece.at)
    }

    /// Where the next hole at or after `offset` begins; the end of the file is one.
    pub fn hole_after(&self, offset: u64) -> u64 {
        let mut at = offset;
        for piece in self.within(offset..u64::MAX) {
            if piece.at > at {
                break;
            }
            at = piece.at + piece.length;
        }
        at
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn piece(at: u64, length: u64, layer: u32, stream: u64) -> Piece {
        Piece { at, length, layer, stream }
    }

    /// Two holes, and pieces of two layers, one of them out of its order.
    fn content() -> Content {
        let pieces = vec![piece(10, 10, 1, 500), piece(20, 30, 0, 100), piece(70, 20, 1, 200)];
        Content::new(100, pieces).expect("content")
    }

    #[test]
    fn ranges_lead_to_the_pieces_that_have_them() {
        let content = content();
        assert_eq!(content.within(0..10).count(), 0);
        assert_eq!(
            content.within(15..75).collect::<Vec<_>>(),
            [piece(15, 5, 1, 505), piece(20, 30, 0, 100), piece(70, 5, 1, 200)]
        );
        assert_eq!(content.within(50..70).count(), 0);
        assert_eq!(content.holes().collect::<Vec<_>>(), [0..10, 50..70, 90..100]);
        assert_eq!(
            (content.data_after(0), content.data_after(30), content.data_after(90)),
            (Some(10), Some(30), None)
        );
        assert_eq!((content.hole_after(0), content.hole_after(10), content.hole_after(75)), (0, 50, 90));
    }

    #[test]
    fn spans_lead_back_to_the_file() {
        let content = content();
        let found = |layer, span| content.standing_in(layer, span).collect::<Vec<_>>();
        assert_eq!(found(1, 0..1000), [piece(70, 20, 1, 200), piece(10, 10, 1, 500)]);
        assert_eq!(found(1, 210..502), [piece(80, 10, 1, 210), piece(10, 2, 1, 500)]);
        assert_eq!(found(0, 120..125), [piece(40, 5, 0, 120)]);
        assert!(found(0, 130..900).is_empty() && found(2, 0..900).is_empty());
    }

    #[test]
    fn what_is_there_more_than_once_is_found_each_time() {
        let pieces =
            vec![piece(0, 100, 0, 0), piece(100, 10, 0, 20), piece(110, 100, 0, 0), piece(210, 50, 1, 60)];
        let content = Content::new(300, pieces).expect("content");
        let found = |layer, span| content.standing_in(layer, span).collect::<Vec<_>>();
        assert_eq!(found(0, 50..60), [piece(50, 10, 0, 50), piece(160, 10, 0, 50)]);
        assert_eq!(found(0, 25..26), [piece(25, 1, 0, 25), piece(135, 1, 0, 25), piece(105, 1, 0, 25)]);
        assert_eq!(found(1, 0..1000), [piece(210, 50, 1, 60)]);
        assert!(found(0, 100..200).is_empty());
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        for pieces in [
            vec![piece(0, 101, 0, 0)],
            vec![piece(0, 20, 0, 0), piece(19, 1, 0, 20)],
            vec![piece(u64::MAX, 2, 0, 0)],
        ] {
            assert!(Content::new(100, pieces).is_err());
        }
    }
}
