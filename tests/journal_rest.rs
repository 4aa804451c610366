//! An idle journal: no wake-up, little memory. In a process of its own, because the threads and the memory of all
//! journals of a process are one.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use icecache::journal::{Batch, Journal, SledJournal, Tree};
use std::time::Duration;

const RECORDS: Tree = Tree("record");
const COUNT: u32 = 20_000;
/// A rest begins two seconds after the last use.
const LIMIT: Duration = Duration::from_secs(60);
/// Long enough for each of the library's threads to wake three times.
const WATCHED: Duration = Duration::from_millis(3500);
/// Opened anew it takes some 11 MB of these records, and 42 after they were written.
const MEMORY_MAX_KIB: u64 = 16 << 10;

#[test]
fn an_idle_journal_wakes_nobody_and_gives_its_memory_back() {
    icecache::memory::be_frugal(); // as the daemon is
    let dir = tempfile::tempdir().unwrap();
    let empty = anonymous_kib();
    let journal = SledJournal::open(&dir.path().join("journal"), LIMIT).unwrap().journal;
    for round in 0..2_u8 {
        for first in (0..COUNT).step_by(4000) {
            let mut batch = Batch::new();
            for n in first..first + 4000 {
                batch.put(RECORDS, format!("some/directory/file{n:08}").as_bytes(), vec![round; 48]);
            }
            journal.apply(batch).unwrap();
            journal.flush().unwrap();
        }
        let (resting, renewals) = journal.wait_rest(LIMIT);
        assert!(resting, "it does not come to rest");
        assert_eq!(renewals, u64::from(round) + 1, "opened anew once for each time much was written");
        let grown = anonymous_kib().saturating_sub(empty);
        assert!(grown < MEMORY_MAX_KIB, "{grown} KiB for an idle journal");
        let before = wake_ups();
        std::thread::sleep(WATCHED); // what does not happen sends no event
        let after = wake_ups();
        // One switch each may be that of falling asleep.
        let quiet = before.iter().zip(&after).all(|(b, a)| b.0 == a.0 && a.1 - b.1 <= 1);
        assert!(quiet && before.len() == after.len(), "threads woke: {before:?}, {after:?}");
        let last = journal.get(RECORDS, format!("some/directory/file{:08}", COUNT - 1).as_bytes()).unwrap();
        assert_eq!(last, Some(vec![round; 48]));
        assert_eq!(journal.scan_prefix(RECORDS, b"some/").filter(Result::is_ok).count(), COUNT as usize);
    }
}

fn wake_ups() -> Vec<(String, u64)> {
    let task = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let field = |name| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let name = field("Name:").filter(|name| name.starts_with("sled-io-") || name == "journal")?;
        Some((name, field("voluntary_ctxt_switches:")?.parse().ok()?))
    };
    let mut all: Vec<_> = std::fs::read_dir("/proc/self/task").unwrap().filter_map(task).collect();
    assert!(all.len() > 7, "the library's threads are called otherwise: {all:?}");
    all.sort();
    all
}

fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
