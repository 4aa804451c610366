//! Memory of packing and reading does not depend on the size of a file, and little on their number. Alone in its process,
//! because the peak is the process's.
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use icecache::layer::{Entry, Kind, LayerIndex, LayerReader, LayerWriter, Metadata, PackOptions, References};
use icecache::path::RelPath;
use std::fs::File;
use std::os::unix::fs::FileExt;

const BOUND: u64 = 64 << 20;
/// So many that a list of them would exceed the bound.
const ENTRIES: u64 = 600_000;

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib << 10
}

#[test]
fn memory_stays_bounded_whatever_the_size() {
    let dense = tempfile::tempfile().expect("temporary file");
    let mut block = vec![0u8; 1 << 20];
    for i in 0..256u64 {
        // Half compressible: some work for the threads, some bytes for the sink.
        let mut state = i + 1;
        for b in &mut block[..512 << 10] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *b = (state >> 56) as u8;
        }
        dense.write_all_at(&block, i << 20).expect("write");
    }
    let sparse = tempfile::tempfile().expect("temporary file");
    sparse.write_all_at(b"end", (2 << 30) - 3).expect("write");
    let entry = |name: &str, size| Entry {
        path: RelPath::new(name).expect("path"),
        kind: Kind::File { size, fuzzy: false, refs: References::none() },
        meta: Metadata::default(),
    };
    let layer = tempfile::tempfile().expect("temporary file");
    let before = peak();
    let sink = layer.try_clone().expect("clone");
    let mut writer = LayerWriter::new(sink, PackOptions { level: 3, threads: 4 });
    writer.append(&entry("sparse", 2 << 30), Some(&sparse)).expect("append");
    writer.append(&entry("dense", 256 << 20), Some(&dense)).expect("append");
    let (_, summary) = writer.finish().expect("finish");
    let packed = peak() - before;
    assert!(packed <= BOUND, "packing took {packed} bytes");
    assert!(summary.raw_bytes < 257 << 20);

    rustix::fs::seek(&layer, rustix::fs::SeekFrom::Start(0)).expect("rewind");
    let out: [File; 2] = [(); 2].map(|()| tempfile::tempfile().expect("temporary file"));
    let mut reader = LayerReader::new(layer).expect("opens");
    for file in &out {
        reader.next_entry().expect("entry").expect("one");
        reader.content_to_file(file).expect("content");
    }
    assert_eq!(reader.next_entry().expect("end"), None);
    let all = peak() - before;
    assert!(all <= BOUND, "packing and reading took {all} bytes");
    assert_eq!(out[0].metadata().expect("stat").len(), 2 << 30);
    let mut found = vec![0; 1 << 20];
    out[1].read_exact_at(&mut found, 255 << 20).expect("read");
    assert!(found == block);

    // Entries that were written are not kept: of each a few bytes of compressed contents are.
    let layer = tempfile::tempfile().expect("temporary file");
    let mut writer =
        LayerWriter::new(layer.try_clone().expect("clone"), PackOptions { level: 1, threads: 4 });
    for i in 0..ENTRIES {
        writer.append(&entry(&format!("directory/file-{i:07}"), 0), None).expect("append");
    }
    let (_, summary) = writer.finish().expect("finish");
    let mut tail = vec![0; summary.tail.bytes as usize];
    layer.read_exact_at(&mut tail, summary.bytes - summary.tail.bytes).expect("read");
    let (_, contents) = LayerIndex::read(&tail, summary.bytes).expect("index");
    assert_eq!(contents.map(|row| row.expect("a row").length).sum::<u64>(), ENTRIES * 512);
    assert!(summary.tail.bytes < ENTRIES * 40, "{} bytes of contents", summary.tail.bytes);
    let all = peak() - before;
    assert!(all <= BOUND, "many entries took {all} bytes");
}
