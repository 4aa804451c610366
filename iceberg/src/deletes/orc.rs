//! Position deletes in ORC become the same in Parquet: paths and positions, row by row.
//!
//! The column of deleted rows, which a writer may add and no reader needs, is left out.
use super::DELETES_MAX_BYTES;
use super::parquet::properties;
use crate::error::TableError;
use crate::manifest::{FILE_PATH_FIELD, POSITION_FIELD};
use crate::orc::{OrcError, OrcFile};
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use ::parquet::schema::types::ColumnPath;
use std::sync::Arc;

/// The most rows of a file: as many as one of [`DELETES_MAX_BYTES`] could have with four bytes for each.
const ROWS_MAX: u64 = DELETES_MAX_BYTES / 4;
/// A row group has at most so many rows.
const GROUP_ROWS: usize = 1 << 20;
/// And paths of so many bytes, each counted where it differs from the one before it.
const GROUP_PATHS_BYTES: usize = 16 << 20;
/// So many paths are handed on at a time.
const BATCH_ROWS: usize = 8 << 10;
/// As Iceberg's own writer makes it.
const SCHEMA: &str =
    "message table { required binary file_path (STRING) = 2147483546; required int64 pos = 2147483545; }";

/// Why a file cannot be rewritten.
enum Fault {
    Orc(OrcError),
    Parquet(ParquetError),
    Other(String),
    /// What of it, how much of that there is, and how much there may be.
    TooLarge(&'static str, u64, u64),
}

impl From<OrcError> for Fault {
    fn from(error: OrcError) -> Self {
        Self::Orc(error)
    }
}

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}

impl Fault {
    fn of(self, name: &str) -> TableError {
        let what = format!("position deletes {name}");
        match self {
            Self::Orc(OrcError::Encrypted) => {
                TableError::Encrypted { by: "its position deletes are in encrypted ORC files" }
            }
            Self::Orc(OrcError::Unknown(of)) => TableError::Unsupported {
                what: format!("{what}: {of}"),
                advice: "compact them (rewrite_position_delete_files) with write.delete.format.default=parquet",
            },
            Self::Orc(error) => TableError::malformed(what, error.to_string()),
            Self::Parquet(error) => TableError::malformed(what, error.to_string()),
            Self::Other(why) => TableError::malformed(what, why),
            Self::TooLarge(of, size, limit) => {
                TableError::TooLarge { what: format!("{of} {what}"), size, limit }
            }
        }
    }
}

/// The same deletes in Parquet, with every path mapped. `rows` are those that the manifest counts.
pub(super) fn rewrite(
    bytes: &[u8],
    rows: u64,
    name: &str,
    map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, TableError> {
    rewrite_file(bytes, rows, map).map_err(|fault| fault.of(name))
}

fn rewrite_file(
    bytes: &[u8],
    rows: u64,
    mut map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, Fault> {
    let file = OrcFile::parse(bytes)?;
    if file.rows() > rows {
        return Err(Fault::Other(format!("it has {} rows, and its manifest counts {rows}", file.rows())));
    }
    if file.rows() > ROWS_MAX {
        return Err(Fault::TooLarge("rows of", file.rows(), ROWS_MAX));
    }
    let column = |id, name| {
        let missing = || Fault::Other(format!("it has no column with field id {id}, nor one called {name}"));
        file.column(id, name).ok_or_else(missing)
    };
    let (paths, positions) = (column(FILE_PATH_FIELD, "file_path")?, column(POSITION_FIELD, "pos")?);
    let mut out = Output::new()?;
    // Rows are sorted by path: the same one comes many times over.
    let mut last: Option<(Vec<u8>, ByteArray)> = None;
    file.pairs(paths, positions, |path, position| {
        if position < 0 {
            return Err(Fault::Other(format!("a row has position {position}")));
        }
        match &last {
            Some((old, new)) if old == path => out.row(new, false, position),
            _ => {
                let text =
                    std::str::from_utf8(path).map_err(|_| Fault::Other("a path is not UTF-8".into()))?;
                let new = ByteArray::from(map(text).map_err(Fault::Other)?.into_bytes());
                last = Some((path.to_vec(), new.clone()));
                out.row(&new, true, position)
            }
        }
    })?;
    out.finish()
}

/// A Parquet file that is being written.
struct Output {
    file: SerializedFileWriter<Vec<u8>>,
    /// The paths of the row group, and how many rows each has.
    paths: Vec<(ByteArray, usize)>,
    paths_bytes: usize,
    positions: Vec<i64>,
}

impl Output {
    fn new() -> Result<Self, Fault> {
        let properties = properties(Compression::ZSTD(ZstdLevel::default()))
            // What deletes in Parquet have, too.
            .set_key_value_metadata(Some(vec![KeyValue::new("delete-type".into(), "position".to_owned())]))
            // Positions hardly ever repeat themselves.
            .set_column_dictionary_enabled(ColumnPath::from("pos"), false)
            // Paths do, however long they are: beyond the limit each row would have its own.
            .set_dictionary_page_size_limit(2 * GROUP_PATHS_BYTES)
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
        Ok(Self { file, paths: Vec::new(), paths_bytes: 0, positions: Vec::new() })
    }

    /// Adds a row; `fresh` if its path is another than that of the row before it.
    fn row(&mut self, path: &ByteArray, fresh: bool, position: i64) -> Result<(), Fault> {
        match self.paths.last_mut() {
            Some((_, rows)) if !fresh => *rows += 1,
            _ => {
                self.paths.push((path.clone(), 1));
                self.paths_bytes += path.len();
            }
        }
        self.positions.push(position);
        if self.positions.len() < GROUP_ROWS && self.paths_bytes < GROUP_PATHS_BYTES {
            return Ok(());
        }
        self.end_group()
    }

    fn end_group(&mut self) -> Result<(), Fault> {
        let missing = || ParquetError::General("a column is missing".into());
        let mut group = self.file.next_row_group()?;
        let mut column = group.next_column()?.ok_or_else(missing)?;
        let mut paths = self.paths.iter().flat_map(|(path, rows)| std::iter::repeat_n(path, *rows)).cloned();
        loop {
            let batch: Vec<ByteArray> = paths.by_ref().take(BATCH_ROWS).collect();
            if batch.is_empty() {
                break;
            }
            column.typed::<ByteArrayType>().write_batch(&batch, None, None)?;
        }
        drop(paths);
        column.close()?;
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<Int64Type>().write_batch(&self.positions, None, None)?;
        column.close()?;
        group.close()?;
        self.paths.clear();
        self.paths_bytes = 0;
        self.positions.clear();
        match self.file.bytes_written() as u64 {
            0..=DELETES_MAX_BYTES => Ok(()),
            size => Err(Fault::TooLarge("what was made in Parquet of", size, DELETES_MAX_BYTES)),
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, Fault> {
        if !self.positions.is_empty() {
            self.end_group()?;
        }
        Ok(self.file.into_inner()?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts;
    use super::*;
    use crate::orc::tests::{styles, write};
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::RowAccessor;
    use bytes::Bytes;

    fn rows_of(parquet: Vec<u8>) -> Vec<(String, i64)> {
        let file = SerializedFileReader::new(Bytes::from(parquet)).unwrap();
        file.get_row_iter(None)
            .unwrap()
            .map(|row| {
                let row = row.unwrap();
                (row.get_string(0).unwrap().clone(), row.get_long(1).unwrap())
            })
            .collect()
    }

    #[test]
    fn rows_are_the_same_in_parquet_and_paths_are_mapped() {
        let rows: Vec<(String, i64)> =
            (0..30_000).map(|n| (format!("s3://b/{:03}", n / 211), n * 7 % 1000)).collect();
        let expected: Vec<_> =
            rows.iter().map(|(path, n)| (path.replace("s3://", "file:///m/"), *n)).collect();
        for style in styles().step_by(7) {
            let (orc, mut mapped) = (write(style, &rows), 0);
            let map = |path: &str| {
                mapped += 1;
                Ok(path.replace("s3://", "file:///m/"))
            };
            let parquet = rewrite(&orc, rows.len() as u64, "d", map).unwrap();
            assert_eq!(mapped, 143, "each path once");
            let facts = facts("PARQUET", parquet.clone().into(), "d").unwrap();
            assert_eq!(facts.bounds, Some(("file:///m/b/000".into(), "file:///m/b/142".into())));
            assert_eq!(facts.splits.unwrap(), [4]);
            let sizes = facts.sizes.unwrap();
            assert_eq!([sizes[0].0, sizes[1].0], [POSITION_FIELD, FILE_PATH_FIELD]);
            assert!(sizes.iter().map(|(_, size)| *size as usize).sum::<usize>() < parquet.len());
            assert_eq!(rows_of(parquet), expected, "{style:?}");
        }
    }

    #[test]
    fn long_paths_begin_row_groups() {
        let rows: Vec<(String, i64)> =
            (0..5_000).map(|n| (format!("s3://b/{n:04}{}", "k".repeat(8_000)), n)).collect();
        let orc = write(styles().nth(5).unwrap(), &rows);
        let parquet = rewrite(&orc, u64::MAX, "d", |path| Ok(path.to_owned())).unwrap();
        let splits = facts("PARQUET", parquet.clone().into(), "d").unwrap().splits.unwrap();
        assert_eq!(splits.len(), 3, "40 MB, 16 MiB in each: {splits:?}");
        assert_eq!(rows_of(parquet), rows);
    }

    #[test]
    fn no_rows_are_a_file_without_row_groups() {
        let orc = write(styles().next().unwrap(), &[]);
        let parquet = rewrite(&orc, 0, "d", |_| Err("nobody asks".into())).unwrap();
        let facts = facts("PARQUET", parquet.into(), "d").unwrap();
        assert_eq!((facts.bounds, facts.splits, facts.sizes), (None, Some(Vec::new()), Some(Vec::new())));
    }

    #[test]
    fn what_cannot_be_rewritten_says_why() {
        let style = styles().next().unwrap();
        let keep = |path: &str| Ok(path.to_owned());
        let rows = [("s3://b/x".to_owned(), 1), ("s3://b/y".to_owned(), -1)];
        let why = |bytes: &[u8], rows| rewrite(bytes, rows, "s3://b/d.orc", keep).unwrap_err().to_string();
        assert_eq!(
            why(b"PAR1", 9),
            "malformed position deletes s3://b/d.orc: it is not an ORC file: it does not begin with ORC"
        );
        let told = why(&write(style, &rows), 1);
        assert!(told.ends_with("it has 2 rows, and its manifest counts 1"), "{told}");
        let told = why(&write(style, &rows), 2);
        assert!(told.ends_with("a row has position -1"), "{told}");
        let refused = rewrite(&write(style, &rows[..1]), 1, "d", |_| Err("no location".into()));
        assert!(refused.unwrap_err().to_string().ends_with("no location"));
        // What a writer may do that none does.
        let mut lzo = write(style, &rows[..1]);
        let at = lzo.len() - 1 - usize::from(lzo[lzo.len() - 1]) + 3;
        lzo[at] = 3;
        assert!(matches!(rewrite(&lzo, 1, "d", keep), Err(TableError::Unsupported { .. })));
    }
}
