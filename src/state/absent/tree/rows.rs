//! [`Rows`]: what is known of very many files, in little memory.
use super::{FileRow, Place};
use crate::clock::Timestamp;
use std::collections::HashMap;

/// Permission bits, owner and group: nearly all files of a tree share a few.
type Look = (u32, u32, u32);

/// A [`FileRow`] without gaps between its parts.
#[derive(Debug, Clone, Copy)]
struct Kept {
    offset: u64,
    length: u64,
    size: u64,
    seconds: i64,
    nanoseconds: u32,
    layer: u32,
    look: u32,
}

/// Rows by number.
#[derive(Debug, Default)]
pub(super) struct Rows {
    kept: Vec<Kept>,
    looks: Vec<Look>,
    /// The number of each look, while rows come.
    numbers: HashMap<Look, u32>,
}

impl Rows {
    pub(super) fn push(&mut self, row: &FileRow) {
        let look = (row.mode, row.uid, row.gid);
        // There are no more of them than rows, whose numbers have 32 bits.
        let next = self.looks.len() as u32;
        let look = *self.numbers.entry(look).or_insert_with(|| {
            self.looks.push(look);
            next
        });
        let Place { layer, offset, length } = row.place;
        let Timestamp { sec: seconds, nsec: nanoseconds } = row.mtime;
        self.kept.push(Kept { offset, length, size: row.size, seconds, nanoseconds, layer, look });
    }

    pub(super) fn get(&self, number: u32) -> FileRow {
        let Kept { offset, length, size, seconds, nanoseconds, layer, look } = self.kept[number as usize];
        let (mode, uid, gid) = self.looks[look as usize];
        let mtime = Timestamp { sec: seconds, nsec: nanoseconds };
        FileRow { place: Place { layer, offset, length }, size, mode, uid, gid, mtime }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// No more rows come for now: gives back what growing took.
    pub(super) fn settle(&mut self) {
        self.kept.shrink_to_fit();
        self.looks.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = FileRow> {
        let place = (any::<u32>(), any::<u64>(), any::<u64>());
        let look = (0..3u32, 0..2u32, 0..2u32);
        (place, any::<u64>(), look, any::<i64>(), 0..1_000_000_000u32).prop_map(
            |((layer, offset, length), size, (mode, uid, gid), sec, nsec)| FileRow {
                place: Place { layer, offset, length },
                size,
                mode,
                uid,
                gid,
                mtime: Timestamp { sec, nsec },
            },
        )
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were(all in proptest::collection::vec(row(), 0..50)) {
            let mut rows = Rows::default();
            all.iter().for_each(|row| rows.push(row));
            rows.settle();
            let back: Vec<FileRow> = (0..rows.len() as u32).map(|n| rows.get(n)).collect();
            prop_assert_eq!(back, all);
        }
    }

    #[test]
    fn a_row_takes_48_bytes() {
        assert_eq!(size_of::<Kept>(), 48);
    }
}
