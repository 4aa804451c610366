//! [`chosen`]: which blocks of a Parquet file some of its columns are in.
use super::footer;
use super::selection::Column;
use crate::cache::{Blob, CacheError};
use icecache_iceberg::columns::Columns;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The numbers of the blocks: those of the columns, and of the indexes and the footer at the end of the file. All, if it
/// is not known how it is read: its footer cannot be read, or it has no field ids, and none of the columns by name. Brings
/// the footer.
///
/// # Errors
/// The footer cannot be brought.
pub(super) async fn chosen(
    blob: &Blob,
    columns: &Arc<BTreeSet<Column>>,
) -> Result<BTreeSet<u32>, CacheError> {
    let (wanted, has_ids) = (columns.clone(), Arc::new(AtomicBool::new(false)));
    let seen = has_ids.clone();
    let is_wanted = move |id: Option<i32>, path: &str| {
        seen.fetch_or(id.is_some(), Ordering::Relaxed);
        wanted.iter().any(|column| column.is(id, path))
    };
    let found = footer::columns(blob, is_wanted).await?;
    let is_known = |found: &Columns| has_ids.load(Ordering::Relaxed) || !found.chunks().is_empty();
    let Some(found) = found.filter(is_known) else {
        return Ok((0..blob.blocks().1).collect());
    };
    let chunks = found.chunks().iter().map(|chunk| chunk.bytes.clone());
    Ok(chunks
        .chain(std::iter::once(found.end()..blob.size()))
        .flat_map(|bytes| numbers(blob, &bytes))
        .collect())
}

/// The blocks that have these bytes.
fn numbers(blob: &Blob, bytes: &Range<u64>) -> Range<u32> {
    let length = blob.block_bytes();
    (bytes.start / length) as u32..bytes.end.div_ceil(length) as u32
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::cache::{Cache, Config, FetchError, Fetched, ObjectId, Origin};
    use bytes::Bytes;
    use futures::StreamExt;
    use parquet::data_type::Int64Type;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    #[derive(Debug)]
    struct File(Bytes);

    #[async_trait::async_trait]
    impl Origin for File {
        async fn fetch(&self, _: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
            let bytes = self.0.slice(range.start as usize..range.end as usize);
            let body = futures::stream::once(std::future::ready(Ok(bytes))).boxed();
            Ok(Fetched { body, source: "file" })
        }
    }

    /// A file of two columns, by this schema.
    fn file(schema: &str) -> Bytes {
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let mut writer =
            SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).expect("a writer");
        let values: Vec<i64> = (0..10_000).collect();
        let mut group = writer.next_row_group().expect("a group");
        while let Some(mut column) = group.next_column().expect("a column") {
            column.typed::<Int64Type>().write_batch(&values, None, None).expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.into_inner().expect("a file").into()
    }

    /// By its id; by a name that it had when the file was written; and of a file without ids in which none of them is
    /// found, everything: an engine may know better.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_is_not_found_is_looked_for_everywhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { block_bytes: 4096, ..Config::new(dir.path().join("cache")) };
        let cache = Cache::open(config).await.expect("a cache");
        let bare = "message m { required int64 x; required int64 old; }";
        let with_ids = "message m { required int64 x = 1; required int64 old = 2; }";
        for (key, schema, id, name, share) in [
            ("a", with_ids, 2, "new", 1..60),
            ("b", with_ids, 3, "added", 0..10),
            ("c", bare, 2, "old", 1..60),
            ("d", bare, 2, "new", 100..101),
        ] {
            let bytes = file(schema);
            let size = bytes.len() as u64;
            let object = ObjectId { bucket: "b".into(), key: key.into(), tag: "t".into(), size };
            let blob = cache.blob(&object, Arc::new(File(bytes))).expect("a blob");
            let column = Column { id, names: [name.to_owned()].into() };
            let blocks = chosen(&blob, &Arc::new(BTreeSet::from([column]))).await.expect("reads");
            let percent = blocks.len() * 100 / blob.blocks().1 as usize;
            assert!(share.contains(&percent), "{key}: {percent} %");
        }
    }
}
