//! What is asked of the store for a reader of columns.
use crate::harness::{LIMIT, eventually};
use crate::lake::Lake;
use parquet::data_type::Int64Type;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// Two row groups of three columns, each chunk of some 4 MiB.
fn columns() -> Vec<u8> {
    let schema =
        parse_message_type("message m { required int64 a; required int64 b; required int64 c; }").unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties)).unwrap();
    let values: Vec<i64> = (0..500_000).collect();
    for _ in 0..2 {
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            column.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// Whether an object was asked for so many times, not counting the second requests for answers that were late on a busy
/// machine: one of these may not have been sent any more.
fn was_asked(lake: &Lake, key: &str, times: u64) -> bool {
    let log = lake.cloud.server.control().log();
    let gets =
        log.iter().filter(|request| request.operation == "GetObject" && request.key == key).count() as u64;
    let again = lake.stats()["hedged"]["sent"].as_u64().unwrap();
    (times..=times + again).contains(&gets)
}

/// Of a file of two row groups and three columns, one column is read: the store is asked for the footer, for the chunks
/// of this column, block by block and once each, and for nothing else.
#[test]
fn the_store_is_asked_for_the_columns_that_are_read() {
    let (lake, key, bytes) = (Lake::prepare(|_| false), "big/columns.parquet", columns());
    lake.cloud.server.put_into("lake", key, bytes.clone());
    lake.mount();
    let file = File::open(lake.dir.join("objects/s3/lake").join(key)).unwrap();
    eventually("the footer was asked for", LIMIT, || was_asked(&lake, key, 1).then_some(()));
    let read = |at: u64, length: u64| {
        let mut part = vec![0; length as usize];
        file.read_exact_at(&mut part, at).unwrap();
        assert!(part == bytes[at as usize..(at + length) as usize], "{at}");
    };
    read(bytes.len() as u64 - 8, 8);

    let metadata = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap().metadata().clone();
    let mut asked = 1;
    let mut seen = (bytes.len() as u64 - 1) / MIB..bytes.len() as u64 / MIB + 1; // the footer's block
    for group in 0..2 {
        let (start, length) = metadata.row_group(group).column(1).byte_range();
        read(start, 8);
        let (first, last) = (start / MIB, (start + length - 1) / MIB);
        asked += (first..=last).filter(|block| !seen.contains(block)).count() as u64;
        seen = first..last + 1;
        eventually("the chunk was asked for", LIMIT, || was_asked(&lake, key, asked).then_some(()));
        // Up to where the kernel would ask for more than the chunk.
        let mut at = start;
        while at + MIB < start + length {
            read(at, MIB / 4);
            at += MIB / 4;
        }
        assert!(was_asked(&lake, key, asked), "all of it was there, and nothing beyond it was asked for");
    }
    drop(file);
    lake.unmount();
}
