//! Parquet files of any bytes: a footer is refused, or its chunks lie in the file, in order, each found by its own bytes;
//! position deletes are refused or rewritten. The library panics where numbers are wrong; that must not get out.
#![no_main]
use icecache_iceberg::columns::{Chunk, Columns, TAIL_BYTES, footer};
use icecache_iceberg::rewrite;
use libfuzzer_sys::fuzz_target;
use std::sync::Once;

/// The fuzzer's hook ends the process at any panic, also at those that are caught. What gets out of the target ends it
/// all the same.
fn only_our_own_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let theirs = |file: &str| file.contains("/parquet-") || file.contains("/bytes-");
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|at| theirs(at.file())) {
                eprintln!("{panic}");
            }
        }));
    });
}

fn read(bytes: &[u8], size: u64) {
    let Ok(columns) = Columns::read(bytes, size) else { return };
    let mut chunks: Vec<&Chunk> = (0..64).flat_map(|group| columns.of_group(group)).collect();
    chunks.sort_by_key(|chunk| chunk.bytes.start);
    let mut end = 0;
    for chunk in chunks {
        assert!(chunk.bytes.start >= end && chunk.bytes.start < chunk.bytes.end && chunk.bytes.end <= size);
        end = chunk.bytes.end;
        assert_eq!(columns.at(chunk.bytes.start), Some(chunk));
        assert_eq!(columns.at(chunk.bytes.end - 1), Some(chunk));
    }
    assert_eq!(columns.at(size), None);
}

fuzz_target!(|data: &[u8]| {
    only_our_own_panics();
    let size = data.len() as u64;
    if let Some(tail) = size.checked_sub(TAIL_BYTES)
        && let Some(range) = footer(&data[tail as usize..], size)
    {
        read(&data[range.start as usize..range.end as usize], size);
    }
    // These bytes as the footer of a large file, so that what is behind the frame is reached.
    read(data, 1 << 40);
    let _refused_or_rewritten = rewrite::deletes("PARQUET", data);
});
