//! Position deletes in Parquet: the column of paths is written anew, the others are copied as they are.
use super::Facts;
use crate::error::TableError;
use crate::manifest::FILE_PATH_FIELD;
use ::parquet::basic::Compression;
use ::parquet::column::reader::ColumnReader;
use ::parquet::column::writer::{ColumnCloseResult, ColumnWriter};
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// So many paths are read at a time.
const BATCH_ROWS: usize = 8 << 10;

/// The same file with every path mapped.
pub(super) fn rewrite(
    bytes: &Bytes,
    name: &str,
    map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, TableError> {
    guarded(name, || rewrite_file(bytes, map))
}

/// The bounds of the paths in it, where its row groups begin, and how many bytes its columns take.
pub(super) fn facts(bytes: Bytes, name: &str) -> Result<Facts, TableError> {
    guarded(name, || {
        let file = SerializedFileReader::new(bytes)?;
        let column = path_column(file.metadata())?;
        let mut bounds: Option<(String, String)> = None;
        let (mut splits, mut sizes) = (Vec::new(), BTreeMap::new());
        for group in file.metadata().row_groups() {
            splits.push(group.column(0).byte_range().0 as i64);
            for chunk in group.columns() {
                let info = chunk.column_descr().self_type().get_basic_info();
                if info.has_id() {
                    let size: &mut i64 = sizes.entry(info.id()).or_default();
                    *size = size.saturating_add(chunk.compressed_size());
                }
            }
            let Some(statistics) = group.column(column).statistics() else { continue };
            let text = |bytes: Option<&[u8]>| bytes.and_then(|b| String::from_utf8(b.to_vec()).ok());
            let (Some(low), Some(high)) =
                (text(statistics.min_bytes_opt()), text(statistics.max_bytes_opt()))
            else {
                continue;
            };
            bounds = Some(match bounds {
                Some((l, h)) => (l.min(low), h.max(high)),
                None => (low, high),
            });
        }
        Ok(Facts { bounds, splits: Some(splits), sizes: Some(sizes.into_iter().collect()) })
    })
}

/// The library trusts some numbers of a file more than it should, and panics where they are wrong.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, TableError> {
    let fault = |why: String| TableError::malformed(format!("position deletes {name}"), why);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| fault(error.to_string())),
        Err(_) => Err(fault("its numbers do not fit each other".into())),
    }
}

/// How files of deletes are written.
pub(super) fn properties(compression: Compression) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(compression)
        // Bounds are read from here, so they must be whole; an index of pages would be there for one column only.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(None)
        .set_offset_index_disabled(true)
}

/// Which column holds the paths.
fn path_column(metadata: &ParquetMetaData) -> Result<usize, ParquetError> {
    let schema = metadata.file_metadata().schema_descr();
    (0..schema.num_columns())
        .find(|n| {
            let info = schema.column(*n).self_type().get_basic_info().clone();
            info.has_id() && info.id() == FILE_PATH_FIELD
        })
        .ok_or_else(|| {
            ParquetError::General("it has no column with field id 2147483546, the path of a file".into())
        })
}

fn rewrite_file(
    bytes: &Bytes,
    mut map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, ParquetError> {
    let file = SerializedFileReader::new(bytes.clone())?;
    let metadata = file.metadata();
    let column = path_column(metadata)?;
    let info = metadata.file_metadata();
    let compression =
        metadata.row_groups().first().map_or(Compression::UNCOMPRESSED, |g| g.column(column).compression());
    let properties =
        properties(compression).set_key_value_metadata(info.key_value_metadata().cloned()).build();
    let schema = info.schema_descr().root_schema_ptr();
    let mut out = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    for n in 0..metadata.num_row_groups() {
        let from = file.get_row_group(n)?;
        let mut to = out.next_row_group()?;
        for (at, chunk) in metadata.row_group(n).columns().iter().enumerate() {
            if at == column {
                let mut writer =
                    to.next_column()?.ok_or_else(|| ParquetError::General("a column is missing".into()))?;
                rewrite_column(&*from, at, &mut writer, &mut map)?;
                writer.close()?;
            } else {
                let close = ColumnCloseResult {
                    bytes_written: chunk.compressed_size() as u64,
                    rows_written: metadata.row_group(n).num_rows() as u64,
                    metadata: chunk.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                to.append_column(bytes, close)?;
            }
        }
        to.close()?;
    }
    out.into_inner()
}

fn rewrite_column(
    from: &dyn RowGroupReader,
    at: usize,
    to: &mut SerializedColumnWriter<'_>,
    map: &mut impl FnMut(&str) -> Result<String, String>,
) -> Result<(), ParquetError> {
    let (ColumnReader::ByteArrayColumnReader(mut reader), ColumnWriter::ByteArrayColumnWriter(writer)) =
        (from.get_column_reader(at)?, to.untyped())
    else {
        return Err(ParquetError::General("the column of paths does not hold strings".into()));
    };
    // Rows are sorted by path: the same one comes many times over.
    let mut last: Option<(ByteArray, ByteArray)> = None;
    loop {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (rows, _, _) = reader.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values)?;
        if rows == 0 {
            return Ok(());
        }
        for value in &mut values {
            match &last {
                Some((old, new)) if old == value => *value = new.clone(),
                _ => {
                    let path = std::str::from_utf8(value.data())
                        .map_err(|_| ParquetError::General("a path is not UTF-8".into()))?;
                    let new = ByteArray::from(map(path).map_err(ParquetError::General)?.into_bytes());
                    last = Some((std::mem::replace(value, new.clone()), new));
                }
            }
        }
        let levels = (!levels.is_empty()).then_some(&levels[..]);
        writer.write_batch(&values, levels, None)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::data_type::{ByteArrayType, Int64Type};
    use ::parquet::schema::parser::parse_message_type;

    const SCHEMA: &str = "message table { required binary file_path (STRING) = 2147483546; required int64 pos = 2147483545; optional group row = 2147483544 { optional int32 id = 1; } }";

    fn file(groups: &[&[(&str, i64)]], compression: Compression) -> Bytes {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let kv = vec![::parquet::file::metadata::KeyValue::new("delete-type".into(), "position".to_owned())];
        let properties =
            WriterProperties::builder().set_compression(compression).set_key_value_metadata(Some(kv)).build();
        let mut out = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        for group in groups {
            let mut to = out.next_row_group().unwrap();
            let paths: Vec<ByteArray> = group.iter().map(|(p, _)| ByteArray::from(*p)).collect();
            let positions: Vec<i64> = group.iter().map(|(_, n)| *n).collect();
            let mut column = to.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&paths, None, None).unwrap();
            column.close().unwrap();
            let mut column = to.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&positions, None, None).unwrap();
            column.close().unwrap();
            let mut column = to.next_column().unwrap().unwrap();
            let ColumnWriter::Int32ColumnWriter(writer) = column.untyped() else { panic!("int32") };
            writer.write_batch(&vec![7; group.len()], Some(&vec![2; group.len()]), None).unwrap();
            column.close().unwrap();
            to.close().unwrap();
        }
        out.into_inner().unwrap().into()
    }

    fn rows(bytes: Bytes) -> Vec<String> {
        let file = SerializedFileReader::new(bytes).unwrap();
        file.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
    }

    #[test]
    fn paths_change_and_everything_else_stays() {
        let groups: [&[(&str, i64)]; 2] =
            [&[("s3://b/x", 1), ("s3://b/x", 5), ("s3://b/y", 0)], &[("s3://b/z", 9)]];
        for compression in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())]
        {
            let old = file(&groups, compression);
            let new =
                Bytes::from(rewrite(&old, "d", |path| Ok(path.replace("s3://", "file:///m/"))).unwrap());
            let expected: Vec<String> =
                rows(old).iter().map(|row| row.replace("s3://", "file:///m/")).collect();
            assert_eq!(rows(new.clone()), expected);
            let reader = SerializedFileReader::new(new.clone()).unwrap();
            let metadata = reader.metadata();
            assert_eq!(metadata.file_metadata().key_value_metadata().unwrap()[0].key, "delete-type");
            assert_eq!(
                metadata.file_metadata().schema_descr().column(1).self_type().get_basic_info().id(),
                2147483545
            );
            let facts = facts(new, "d").unwrap();
            assert_eq!(facts.bounds, Some(("file:///m/b/x".into(), "file:///m/b/z".into())));
            assert_eq!(facts.splits.unwrap().len(), 2);
            let sizes: Vec<(i32, i64)> = (0..3)
                .map(|n| {
                    let id = metadata.row_group(0).column(n).column_descr().self_type().get_basic_info().id();
                    (id, metadata.row_groups().iter().map(|group| group.column(n).compressed_size()).sum())
                })
                .collect();
            assert_eq!(facts.sizes, Some(vec![sizes[2], sizes[1], sizes[0]]), "by their ids");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let good = file(&[&[("s3://b/x", 1)]], Compression::SNAPPY);
        for cut in 0..good.len() {
            assert!(rewrite(&good.slice(..cut), "d", |path| Ok(path.into())).is_err(), "cut at {cut}");
        }
        assert!(rewrite(&good, "d", |_| Err("no".into())).is_err());
    }
}
