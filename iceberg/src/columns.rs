//! [`Columns`]: where the column chunks of a Parquet file are, so that who reads one can be known to read on in it.
use crate::error::TableError;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaDataReader;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a file ends with: the length of its footer, and these four bytes.
pub const TAIL_BYTES: u64 = 8;
const MAGIC: &[u8] = b"PAR1";
/// A longer footer is not looked at.
pub const FOOTER_MAX_BYTES: u64 = 8 << 20;
/// So many chunks are known of one file; one that has more is read as any other file.
const CHUNKS_MAX: usize = 1 << 18;

/// A part of a column: all its values in one row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its bytes.
    pub bytes: Range<u64>,
    /// The number of its row group.
    pub group: u32,
    /// The number of its column.
    pub column: u32,
}

/// The chunks of a file, in the order of their bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    chunks: Vec<Chunk>,
    /// Where the last of all chunks ends: what follows tells of them.
    end: u64,
}

/// Where the footer of a file is, without its tail; `None` if that is none that can be read.
pub fn footer(tail: &[u8], size: u64) -> Option<Range<u64>> {
    let (length, magic) = tail.split_at_checked(4)?;
    let length = u64::from(u32::from_le_bytes(length.try_into().ok()?));
    let end = size.checked_sub(TAIL_BYTES)?;
    let start = end.checked_sub(length)?;
    (magic == MAGIC && length <= FOOTER_MAX_BYTES).then_some(start..end)
}

impl Columns {
    /// Reads a footer, without its tail, of a file of `size` bytes. Takes as long as the footer is.
    ///
    /// # Errors
    /// [`TableError::Malformed`], and [`TableError::TooLarge`] for too many chunks.
    pub fn read(footer: &[u8], size: u64) -> Result<Self, TableError> {
        Self::read_some(footer, size, |_, _| true)
    }

    /// The same, of some columns alone. `is_wanted` is asked about each, with its field id, if the file has such, and
    /// its path in the schema of the file, between dots.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_some(
        footer: &[u8],
        size: u64,
        is_wanted: impl Fn(Option<i32>, &str) -> bool,
    ) -> Result<Self, TableError> {
        let fault = |why: String| TableError::malformed("footer of a Parquet file", why);
        // The library trusts some numbers more than it should, and panics where they are wrong.
        let Self { mut chunks, end } = match catch_unwind(AssertUnwindSafe(|| chunks(footer, is_wanted))) {
            Ok(columns) => columns.map_err(|error| fault(error.to_string()))?,
            Err(_) => return Err(fault("its numbers do not fit each other".into())),
        };
        if chunks.len() > CHUNKS_MAX {
            let (size, limit) = (chunks.len() as u64, CHUNKS_MAX as u64);
            return Err(TableError::TooLarge { what: "number of column chunks".into(), size, limit });
        }
        chunks.sort_by_key(|chunk| chunk.bytes.start);
        let fits = end <= size && chunks.windows(2).all(|pair| pair[0].bytes.end <= pair[1].bytes.start);
        if fits {
            Ok(Self { chunks, end })
        } else {
            Err(fault("its column chunks overlap or lie outside".into()))
        }
    }

    /// The chunk that has this byte.
    pub fn at(&self, offset: u64) -> Option<&Chunk> {
        let after = self.chunks.partition_point(|chunk| chunk.bytes.start <= offset);
        self.chunks[..after].last().filter(|chunk| chunk.bytes.contains(&offset))
    }

    /// The chunks, in the order of their bytes.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Where the last chunk ends, of whichever column: from there to the end of the file are its indexes and its footer.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The chunks of a row group.
    pub fn of_group(&self, group: u32) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter().filter(move |chunk| chunk.group == group)
    }
}

fn chunks(footer: &[u8], is_wanted: impl Fn(Option<i32>, &str) -> bool) -> Result<Columns, ParquetError> {
    let metadata = ParquetMetaDataReader::decode_metadata(footer)?;
    let leaves = metadata.file_metadata().schema_descr().columns().iter().map(|leaf| {
        let info = leaf.self_type().get_basic_info();
        is_wanted(info.has_id().then(|| info.id()), &leaf.path().string())
    });
    let wanted: Vec<bool> = leaves.collect();
    let mut columns = Columns::default();
    for (group, row_group) in (0..).zip(metadata.row_groups()) {
        for (column, chunk) in (0..).zip(row_group.columns()) {
            let (start, length) = chunk.byte_range();
            let end = start.checked_add(length);
            let end = end.ok_or_else(|| ParquetError::General("a column chunk without an end".into()))?;
            if length > 0 && chunk.file_path().is_none() {
                columns.end = columns.end.max(end);
                if wanted.get(column as usize) == Some(&true) {
                    columns.chunks.push(Chunk { bytes: start..end, group, column });
                }
            }
        }
    }
    Ok(columns)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;
    use ::parquet::data_type::Int64Type;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// A file of these many row groups of two columns.
    fn file(groups: usize) -> Vec<u8> {
        let schema = parse_message_type("message m { required int64 a; required int64 b; }").unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
        for group in 0..groups as i64 {
            let mut to = writer.next_row_group().unwrap();
            while let Some(mut column) = to.next_column().unwrap() {
                column.typed::<Int64Type>().write_batch(&[group, 7, group * 31], None, None).unwrap();
                column.close().unwrap();
            }
            to.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn read(file: &[u8]) -> Result<Columns, TableError> {
        let size = file.len() as u64;
        let footer = footer(&file[file.len() - 8..], size).unwrap();
        Columns::read(&file[footer.start as usize..footer.end as usize], size)
    }

    #[test]
    fn every_byte_of_a_column_is_of_its_chunk() {
        let file = file(3);
        let columns = read(&file).unwrap();
        let all: Vec<(u32, u32)> = columns.chunks.iter().map(|chunk| (chunk.group, chunk.column)).collect();
        assert_eq!(all, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        assert_eq!(columns.of_group(1).count(), 2);
        assert_eq!(columns.at(0), None, "the magic at its beginning");
        for chunk in &columns.chunks {
            assert_eq!(columns.at(chunk.bytes.start), Some(chunk));
            assert_eq!(columns.at(chunk.bytes.end - 1), Some(chunk));
        }
        assert_eq!(columns.at(file.len() as u64 - 1), None, "the footer");
    }

    #[test]
    fn columns_are_found_by_id_and_by_path() {
        let schema = "message m { required int64 a = 7; optional group s = 8 { required int64 b = 9; } \
                      required int64 c; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            let levels =
                (column.typed::<Int64Type>().get_descriptor().max_def_level() > 0).then_some([1_i16]);
            column.typed::<Int64Type>().write_batch(&[5], levels.as_ref().map(|l| &l[..]), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        let file = writer.into_inner().unwrap();
        let size = file.len() as u64;
        let range = footer(&file[file.len() - 8..], size).unwrap();
        let bytes = &file[range.start as usize..range.end as usize];
        let all = Columns::read(bytes, size).unwrap();
        let some = |is_wanted: &dyn Fn(Option<i32>, &str) -> bool| {
            let some = Columns::read_some(bytes, size, is_wanted).unwrap();
            assert_eq!(some.end(), all.end());
            some.chunks().iter().map(|chunk| chunk.column).collect::<Vec<_>>()
        };
        assert_eq!(all.chunks().len(), 3);
        assert_eq!(some(&|id, _| id == Some(9)), [1]);
        assert_eq!(some(&|id, path| id.is_none() && path == "c"), [2]);
        assert_eq!(some(&|_, path| path == "s.b" || path == "a"), [0, 1]);
        assert_eq!(some(&|_, _| false), [0_u32; 0]);
    }

    #[test]
    fn what_is_no_footer_is_none() {
        let file = file(1);
        let size = file.len() as u64;
        assert_eq!(footer(b"\x05\0\0\0PAR1", 100), Some(87..92));
        for tail in [&b"\x05\0\0\0PARE"[..], b"\xff\xff\xff\xffPAR1", b"\x60\0\0\0PAR1", b"PAR1", b""] {
            assert_eq!(footer(tail, 100), None, "{tail:?}");
        }
        assert_eq!(footer(b"\0\0\0\0PAR1", 7), None);
        assert!(Columns::read(b"no thrift", size).is_err());
        let range = footer(&file[file.len() - 8..], size).unwrap();
        let footer = &file[range.start as usize..range.end as usize];
        assert!(Columns::read(footer, 20).is_err(), "its chunks lie beyond the end");
        for cut in 0..footer.len() {
            let _whatever = Columns::read(&footer[..cut], size);
        }
        for at in 0..footer.len() {
            let mut damaged = footer.to_vec();
            damaged[at] = !damaged[at];
            let _whatever = Columns::read(&damaged, size);
        }
    }
}
