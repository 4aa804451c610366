#![allow(clippy::single_range_in_vec_init)] // of bytes, not of numbers
use super::*;
use crate::cache::{Cache, Config, FetchError, Fetched, ObjectId, Origin};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use icecache_iceberg::columns::footer;
use parquet::data_type::Int64Type;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// Small blocks, so that a small file has many.
const BLOCK: u64 = 4096;
const GROUPS: u32 = 3;
/// So many values has a chunk: some hundred blocks, further from each other than what counts as near.
const VALUES: i64 = 200_000;

/// An origin that never answers.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Origin for Silent {
    async fn fetch(&self, _: &ObjectId, _: Range<u64>) -> Result<Fetched, FetchError> {
        std::future::pending().await
    }
}

/// A file, and which of its blocks were fetched.
#[derive(Debug, Default)]
struct File {
    bytes: Bytes,
    fetched: Mutex<Vec<u64>>,
}

#[async_trait]
impl Origin for File {
    async fn fetch(&self, _: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        self.fetched.lock().push(range.start / BLOCK);
        let bytes = self.bytes.slice(range.start as usize..range.end as usize);
        Ok(Fetched { body: futures::stream::once(std::future::ready(Ok(bytes))).boxed(), source: "file" })
    }
}

fn parquet_file() -> Bytes {
    let schema = "message m { required int64 a; required int64 b; required int64 c; required int64 d; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).expect("a writer");
    let values: Vec<i64> = (0..VALUES).collect();
    for _ in 0..GROUPS {
        let mut group = writer.next_row_group().expect("a group");
        while let Some(mut column) = group.next_column().expect("a column") {
            column.typed::<Int64Type>().write_batch(&values, None, None).expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
    }
    writer.into_inner().expect("a file").into()
}

struct Case {
    _dir: tempfile::TempDir,
    cache: Cache,
    file: Arc<File>,
    blob: Blob,
    known: Arc<Known>,
    columns: Columns,
}

impl Case {
    /// The file, opened: its footer is there.
    async fn open() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config =
            Config { block_bytes: BLOCK, fetches_max: 4096, ..Config::new(dir.path().join("cache")) };
        let cache = Cache::open(config).await.expect("a cache");
        let file = Arc::new(File { bytes: parquet_file(), fetched: Mutex::default() });
        let size = file.bytes.len() as u64;
        let id = ObjectId { bucket: "b".into(), key: "x.parquet".into(), tag: "t".into(), size };
        let blob = cache.blob(&id, file.clone()).expect("a blob");
        let tail = &file.bytes[file.bytes.len() - 8..];
        let footer = footer(tail, size).expect("a footer");
        let columns = Columns::read(&file.bytes[footer.start as usize..footer.end as usize], size);
        let columns = columns.expect("columns");
        let case = Self { _dir: dir, cache, file, blob, known: Arc::default(), columns };
        case.known.learn(&case.blob).await.expect("learns");
        assert_eq!(case.fetched().await, blocks(footer.start..size), "the footer, and nothing else");
        case
    }

    /// What was fetched since the last question, once nothing is on its way any more; nothing twice.
    async fn fetched(&self) -> BTreeSet<u64> {
        self.cache.quiet().await;
        let fetched = std::mem::take(&mut *self.file.fetched.lock());
        let set: BTreeSet<u64> = fetched.iter().copied().collect();
        assert_eq!(set.len(), fetched.len(), "a block was fetched twice");
        set
    }

    fn chunk(&self, group: u32, column: u32) -> Range<u64> {
        let found = self.columns.of_group(group).find(|chunk| chunk.column == column);
        found.expect("a chunk").bytes.clone()
    }

    /// What the mount does for one READ.
    async fn read(&self, ahead: &Ahead, offset: u64, length: u64) {
        ahead.read(&self.blob, offset, length);
        self.blob.read(offset, length as usize).await.expect("reads");
    }
}

fn blocks(bytes: Range<u64>) -> BTreeSet<u64> {
    (bytes.start / BLOCK..=(bytes.end - 1) / BLOCK).collect()
}

/// Those that were not fetched before.
fn new(all: &mut BTreeSet<u64>, wanted: &[Range<u64>]) -> BTreeSet<u64> {
    let wanted: BTreeSet<u64> = wanted.iter().cloned().flat_map(blocks).collect();
    let new = wanted.difference(all).copied().collect();
    all.extend(wanted);
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_in_a_chunk_gets_all_of_it_and_no_other() {
    let case = Case::open().await;
    let (ahead, mut all) = (Ahead::new(case.known.clone()), BTreeSet::new());
    all.extend(blocks(case.blob.size() - 8..case.blob.size()));
    let a = case.chunk(0, 0);
    case.read(&ahead, a.start, 100).await;
    assert_eq!(case.fetched().await, new(&mut all, std::slice::from_ref(&a)));
    // All of it is there: who reads it to its end asks for nothing, nor does the kernel's own reading ahead make more
    // than what it asks for.
    let step = 64 << 10;
    let mut beyond = a.end;
    for offset in (a.start + step..a.end).step_by(step as usize) {
        case.read(&ahead, offset, step).await;
        beyond = offset + step;
    }
    assert_eq!(case.fetched().await, new(&mut all, &[a.end..beyond]));
    let c = case.chunk(0, 2);
    // As the kernel asks for the first byte of it.
    let page = c.start / 4096 * 4096;
    assert!(case.columns.at(page).is_some_and(|chunk| chunk.column == 1));
    case.read(&ahead, page, 16 << 10).await;
    assert_eq!(case.fetched().await, new(&mut all, &[page..c.end]));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_were_read_are_fetched_in_the_next_row_groups() {
    let case = Case::open().await;
    let mut all = blocks(case.blob.size() - 8..case.blob.size());
    let first = Ahead::new(case.known.clone());
    for column in [0, 2] {
        case.read(&first, case.chunk(0, column).start, 8).await;
        assert_eq!(case.fetched().await, new(&mut all, &[case.chunk(0, column)]));
    }
    // Also by another who has it open.
    let second = Ahead::new(case.known.clone());
    case.read(&second, case.chunk(1, 2).start, 8).await;
    assert_eq!(case.fetched().await, new(&mut all, &[case.chunk(1, 0), case.chunk(1, 2)]));
    case.read(&first, case.chunk(1, 0).start, 8).await;
    assert_eq!(case.fetched().await, BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_everything_is_served_like_any_other() {
    let case = Case::open().await;
    let ahead = Ahead::new(case.known.clone());
    let size = case.blob.size();
    let step = 128 << 10;
    for offset in (4..size).step_by(step as usize) {
        case.read(&ahead, offset, step.min(size - offset)).await;
    }
    let footer = blocks(size - 8..size);
    let all = case.fetched().await;
    assert!(blocks(4..size).difference(&footer).all(|block| all.contains(block)));
    let totals = case.cache.stats().totals;
    assert!(totals.readaheads > blocks(case.chunk(0, 0)).len() as u64, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_the_footer_came_counts() {
    let mut case = Case::open().await;
    case.known = Arc::default();
    let ahead = Ahead::new(case.known.clone());
    let mut all = blocks(case.blob.size() - 8..case.blob.size());
    case.read(&ahead, case.chunk(0, 1).start, 8).await;
    let start = case.chunk(0, 1).start;
    assert_eq!(case.fetched().await, new(&mut all, &[start..start + 8]));
    case.known.learn(&case.blob).await.expect("learns");
    assert_eq!(case.fetched().await, new(&mut all, &[case.chunk(0, 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_on_its_way_than_may_be() {
    let case = Case::open().await;
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { block_bytes: BLOCK, fetches_max: 5, ..Config::new(dir.path().join("cache")) };
    let cache = Cache::open(config).await.expect("a cache");
    let blob = cache.blob(case.blob.id(), Arc::new(Silent)).expect("a blob");
    let ahead = Ahead::new(case.known.clone());
    ahead.read(&blob, case.chunk(0, 0).start, 8);
    // One is left to other stores.
    assert_eq!(cache.stats().fetching, 4, "of a chunk of hundreds of blocks");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_footer_is_read_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { block_bytes: BLOCK, ..Config::new(dir.path().join("cache")) };
    let cache = Cache::open(config).await.expect("a cache");
    for (name, bytes) in [("short", vec![1; 5]), ("text", vec![b'x'; 9 * BLOCK as usize])] {
        let file = Arc::new(File { bytes: bytes.into(), fetched: Mutex::default() });
        let size = file.bytes.len() as u64;
        let id = ObjectId { bucket: "b".into(), key: name.into(), tag: "t".into(), size };
        let blob = cache.blob(&id, file.clone()).expect("a blob");
        let known = Arc::<Known>::default();
        known.learn(&blob).await.expect("nothing to learn");
        let ahead = Ahead::new(known);
        ahead.read(&blob, 0, 4);
        assert_eq!(blob.read(0, 4).await.expect("reads"), file.bytes[..4]);
    }
    assert!(Known::is_of("a/b.parquet") && !Known::is_of("a/b.orc"));
}
