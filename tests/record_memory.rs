//! The records of a large tree take little memory while they are written. Alone in its process, because memory is the
//! process's: beside other tests it measured what they took.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use icecache::clock::Timestamp;
use icecache::journal::SledJournal;
use icecache::path::RelPath;
use icecache::remote::Tag;
use icecache::state::identity::Identity;
use icecache::state::record::{Base, Records};
use std::sync::Arc;
use std::time::Duration;

const COUNT: u64 = 20_000;
const MEMORY_MAX: u64 = 40 << 20;

fn file(ino: u64) -> (RelPath, Identity) {
    let time = Timestamp { sec: 1_700_000_000, nsec: 5 };
    let mode = 0o100_644;
    let (dev, nlink, uid, gid, rdev, size) = (64, 1, 1000, 1000, 0, 300);
    let identity = Identity { dev, ino, mode, nlink, uid, gid, rdev, size, mtime: time, ctime: time };
    (RelPath::new(format!("some/directory/{:02}/file-{ino}", ino % 100)).unwrap(), identity)
}

#[test]
fn twenty_thousand_records_on_disk_take_little_memory() {
    let place = tempfile::tempdir().unwrap();
    let open = || {
        let journal =
            SledJournal::open(&place.path().join("journal"), Duration::from_secs(10)).unwrap().journal;
        Records::open(Arc::new(journal), "memory:", "n").unwrap()
    };
    let before = anonymous();
    let records = open();
    let base = Base { version: 1, tag: Tag("t1".into()), history: None };
    records.restored((0..COUNT).map(file), base, true).unwrap();
    let grown = anonymous().saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{grown} bytes");
    drop(records);
    assert_eq!(open().below(&RelPath::root()).filter(Result::is_ok).count() as u64, COUNT);
}

/// Memory of this process that no file backs, in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
