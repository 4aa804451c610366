//! What comes back after a stop, a crash, and the loss of the journal.
use crate::common::{BLOCK, Small, Source, assert_budget, config, content, key, object, place, read, taken};
use bytes::Bytes;
use icecache::cache::{Begun, Cache, CacheError, Config, FillOptions, Recall, Removed};
use icecache::journal::{Batch, Journal, JournalError, MemoryJournal, Pairs, Tree};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

async fn open(dir: &Path, journal: &Arc<MemoryJournal>) -> Cache {
    Cache::open_on(config(dir), journal.clone()).await.unwrap()
}

async fn fill(cache: &Cache, keys: std::ops::Range<u64>) {
    for n in keys {
        cache.insert(&key(n), Bytes::from(content(n, 0..n * 20_000))).await.unwrap();
    }
}

async fn all_there(cache: &Cache, keys: std::ops::Range<u64>) {
    for n in keys {
        let file = cache.look_up_file(key(n)).await.unwrap().unwrap_or_else(|| panic!("key {n} is missing"));
        assert_eq!(read(&file), content(n, 0..n * 20_000), "key {n}");
    }
}

/// A journal that loses what comes last, as a killed process does.
#[derive(Debug, Default)]
struct Forgetful {
    kept: MemoryJournal,
    is_deaf: AtomicBool,
}

impl Journal for Forgetful {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.kept.get(tree, key)
    }
    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        if self.is_deaf.load(Relaxed) { Ok(()) } else { self.kept.apply(batch) }
    }
    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        self.kept.scan(tree, prefix, from)
    }
    fn flush(&self) -> Result<(), JournalError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_filled_anew_just_before_a_crash_has_what_came_last() {
    let (dir, journal, source) = (place(), Arc::new(Forgetful::default()), Arc::new(Source::default()));
    let open = || Cache::open_on(config(dir.path()), journal.clone());
    let (id, name) = (object(9, 2 * BLOCK), key(1));
    let cache = open().await.unwrap();
    cache.insert(&name, Bytes::from_static(b"before")).await.unwrap();
    cache.blob(&id, source.clone()).unwrap().read(0, 9).await.unwrap();
    cache.quiet().await;
    cache.close().await.unwrap();
    let cache = open().await.unwrap();
    cache.settled().await;
    journal.is_deaf.store(true, Relaxed);
    assert_eq!(cache.remove(&name).await, Removed::Gone);
    cache.insert(&name, Bytes::from_static(b"afterwards")).await.unwrap();
    cache.remove_object(&id).await;
    cache.blob(&id, source.clone()).unwrap().read(BLOCK, 9).await.unwrap();
    cache.quiet().await;
    cache.close().await.unwrap();
    journal.is_deaf.store(false, Relaxed);
    let cache = open().await.unwrap();
    cache.settled().await;
    let file = cache.look_up_file(&name).await.unwrap().expect("an acknowledged insert is lost");
    assert_eq!(read(&file), b"afterwards");
    let blob = cache.blob(&id, source.clone()).unwrap();
    assert_eq!(blob.blocks(), (1, 2), "the block that came last is lost");
    let fetches = source.fetches();
    assert_eq!(blob.read(BLOCK, 9).await.unwrap(), content(9, BLOCK..BLOCK + 9));
    assert_eq!(source.fetches(), fetches);
    drop((file, blob));
    assert_budget(&cache, "after the restart");
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_somebody_else_is_refused_and_left_as_it_is() {
    for names in [&["tmp/document"][..], &["HEAD", "objects/ab/cdef"], &["objects/pack/x"], &["notes"]] {
        let dir = place();
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let refused = Cache::open(config(dir.path())).await.expect_err("it is no cache");
        assert!(matches!(refused, CacheError::Invalid { .. }), "{names:?}: {refused}");
        for name in names {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), name.as_bytes(), "{names:?}");
        }
        assert!(!dir.path().join("journal").exists(), "{names:?}: it has been written to");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_in_the_order_of_use() {
    let dir = place();
    let source = Arc::new(Source::default());
    let id = object(9, 3 * BLOCK + 5);
    {
        let cache = Cache::open(config(dir.path())).await.unwrap();
        fill(&cache, 0..8).await;
        let blob = cache.blob(&id, source.clone()).unwrap();
        blob.read(0, 1).await.unwrap();
        blob.read(3 * BLOCK, 1).await.unwrap();
        cache.quiet().await;
        for n in [3, 0, 5] {
            assert!(cache.hit(key(n)).is_some());
        }
        cache.close().await.unwrap();
    }
    let cache = Cache::open(config(dir.path())).await.unwrap();
    all_there(&cache, 0..8).await;
    cache.settled().await;
    assert_budget(&cache, "after a restart");
    let totals = cache.stats().totals;
    assert_eq!((totals.rehydrated, totals.adopted, totals.lost, totals.strays_deleted), (9, 0, 0, 0));
    let blob = cache.blob(&id, source.clone()).unwrap();
    assert_eq!(blob.blocks(), (2, 4));
    assert_eq!(blob.read(3 * BLOCK, 9).await.unwrap(), content(9, 3 * BLOCK..3 * BLOCK + 5));
    blob.read(0, 1).await.unwrap();
    assert_eq!(source.fetches(), 2, "nothing is fetched again");
    drop(blob);
    cache.close().await.unwrap();

    // Since then all were used in order, so 0 to 3 go first.
    let mut small = config(dir.path());
    let total = taken(dir.path()).0;
    small.max_bytes = total - 4096 * (0..4_u64).map(|n| 1 + (n * 20_000).div_ceil(4096)).sum::<u64>();
    let cache = Cache::open(small).await.unwrap();
    cache.settled().await;
    assert_budget(&cache, "after a restart with a lower limit");
    for n in 0..8 {
        assert_eq!(cache.stat(key(n)).is_some(), n > 3, "key {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_flush_has_reached_is_adopted_after_a_crash() {
    let dir = place();
    let journal = Arc::new(MemoryJournal::new());
    let cache = open(dir.path(), &journal).await;
    fill(&cache, 0..4).await;
    cache.flush().await.unwrap();
    fill(&cache, 4..8).await;
    cache.remove(key(1)).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(9, 3 * BLOCK), source.clone()).unwrap();
    blob.read(BLOCK, 1).await.unwrap();
    cache.quiet().await;
    let crashed = Arc::new(journal.crashed());
    let held = cache.look_up_file(key(2)).await.unwrap().unwrap();
    cache.remove(key(2)).await; // held, so its bytes are still there when everything stops
    std::mem::forget((held, blob, cache));

    let cache = open(dir.path(), &crashed).await;
    cache.settled().await;
    assert_budget(&cache, "after a crash");
    for n in [0, 3, 4, 5, 6, 7] {
        all_there(&cache, n..n + 1).await;
    }
    for n in [1, 2] {
        assert!(cache.look_up(key(n)).await.unwrap().is_none(), "key {n} was deleted");
    }
    let totals = cache.stats().totals;
    assert_eq!((totals.rehydrated, totals.adopted), (4, 5), "{totals:?}");
    let blob = cache.blob(&object(9, 3 * BLOCK), source.clone()).unwrap();
    assert_eq!(blob.read(BLOCK, 7).await.unwrap(), content(9, BLOCK..BLOCK + 7));
    assert_eq!(source.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_filled_is_dropped() {
    let dir = place();
    let journal = Arc::new(MemoryJournal::new());
    let cache = open(dir.path(), &journal).await;
    let Begun::Fill(mut fill) = cache.begin(&key(1), Default::default()).unwrap() else { panic!() };
    fill.write(Bytes::from(content(1, 0..100_000))).await.unwrap();
    cache.flush().await.unwrap();
    let crashed = Arc::new(journal.crashed());
    std::mem::forget((fill, cache));
    let cache = open(dir.path(), &crashed).await;
    cache.settled().await;
    assert!(cache.look_up(key(1)).await.unwrap().is_none());
    assert_eq!(taken(dir.path()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_is_rebuilt_from_the_files() {
    let dir = place();
    let source = Arc::new(Source::default());
    {
        let cache = Cache::open(config(dir.path())).await.unwrap();
        fill(&cache, 0..8).await;
        cache.blob(&object(9, 100 * BLOCK), source.clone()).unwrap().read(7 * BLOCK, 1).await.unwrap();
        cache.quiet().await;
        cache.close().await.unwrap();
    }
    // Damage that sled itself notices, and a stray of nobody's.
    let db = dir.path().join("journal/db");
    let bytes = std::fs::read(&db).unwrap();
    std::fs::write(&db, vec![0xa5; bytes.len()]).unwrap();
    std::fs::write(dir.path().join("journal/conf"), b"this is not sled's configuration").unwrap();
    std::fs::write(dir.path().join("objects/00/stray"), b"?").unwrap();
    std::fs::create_dir(dir.path().join("journal.corrupt-before")).unwrap();
    let cache = Cache::open(config(dir.path())).await.unwrap();
    cache.settled().await;
    let totals = cache.stats().totals;
    assert_eq!((totals.journal_rebuilds, totals.rehydrated), (1, 0));
    assert_eq!((totals.adopted, totals.strays_deleted), (9, 1));
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let aside: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("journal.corrupt-")).collect();
    assert!(aside.len() == 1 && aside[0] != "journal.corrupt-before", "the newest is kept: {aside:?}");
    assert_budget(&cache, "after the journal was rebuilt");
    all_there(&cache, 0..8).await;
    cache.blob(&object(9, 100 * BLOCK), source.clone()).unwrap().read(7 * BLOCK, 1).await.unwrap();
    assert_eq!(source.fetches(), 1);
    cache.close().await.unwrap();
    let cache = Cache::open(config(dir.path())).await.unwrap();
    assert_eq!(cache.stats().totals.rehydrated, 9, "the new journal has them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_owner_is_told_who_the_first_is() {
    let dir = place();
    let first = Cache::open(config(dir.path())).await.unwrap();
    match Cache::open(config(dir.path())).await {
        Err(CacheError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("not busy: {other:?}"),
    }
    first.close().await.unwrap();
    Cache::open(config(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_format_is_refused_and_nothing_is_touched() {
    let dir = place();
    let journal = Arc::new(MemoryJournal::new());
    let cache = open(dir.path(), &journal).await;
    fill(&cache, 1..3).await;
    cache.close().await.unwrap();
    let mut batch = Batch::new();
    batch.put(icecache::cache::record::META, icecache::cache::record::FORMAT, *b"ICECACHE\x02\0\0\0");
    journal.apply(batch).unwrap();
    let before = taken(dir.path());
    let refused = Cache::open_on(config(dir.path()), journal.clone()).await;
    assert!(matches!(&refused, Err(CacheError::Journal(_))), "{refused:?}");
    assert_eq!(taken(dir.path()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_without_a_close_loses_nothing() {
    let dir = place();
    {
        let cache = Cache::open(config(dir.path())).await.unwrap();
        fill(&cache, 0..4).await;
        cache.settled().await;
    }
    let cache = Cache::open(config(dir.path())).await.unwrap();
    assert_eq!(cache.stats().totals.rehydrated, 4);
}

/// CACHE, What holds, 6: "After a clean stop everything is there at once". A reader has a block before it is on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_just_before_a_clean_stop_is_there_after_it() {
    let dir = place();
    let source = Arc::new(Source::default());
    for n in 0..40 {
        let cache = Cache::open(config(dir.path())).await.unwrap();
        let blob = cache.blob(&object(n, BLOCK), source.clone()).unwrap();
        blob.read(0, 1).await.unwrap();
        drop(blob);
        cache.close().await.unwrap();
    }
    let cache = Cache::open(config(dir.path())).await.unwrap();
    assert_eq!(cache.stats().used.entries, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_filled_keeps_it_neither_from_opening_nor_from_giving_room_back() {
    if !crate::harness::is_root() {
        return crate::harness::skip("a full disk", "only root may mount a small file system");
    }
    let small = Small::new(40);
    let home = small.path().join("cache");
    let cache = Cache::open(config(&home)).await.unwrap();
    for n in 0..20 {
        let inserted = cache.insert(&key(n), content(n, 0..1 << 20).into()).await.unwrap();
        drop(inserted);
    }
    cache.close().await.unwrap();
    small.fill();

    let cache = Cache::open(config(&home)).await.unwrap();
    cache.settled().await;
    let totals = cache.stats().totals;
    assert_eq!((totals.journal_rebuilds, totals.corrupt_drops), (0, 0), "{totals:?}");
    let left: Vec<u64> = (0..20).filter(|n| cache.stat(key(*n)).is_some()).collect();
    assert!(!left.is_empty() && left.len() < 20, "what the journal needs to open was given up: {left:?}");
    assert_eq!(left.last(), Some(&19), "the oldest go");
    for n in &left {
        let file = cache.look_up_file(key(*n)).await.unwrap().unwrap();
        assert!(read(&file) == content(*n, 0..1 << 20), "key {n}");
    }
    assert_budget(&cache, "after a start on a full disk");
    cache.close().await.unwrap();

    // Whoever wants some of the disk to stay free has it at once, and all the same finds what is left.
    let wants = Config { min_free: small.free() + (3 << 20), ..config(&home) };
    let min_free = wants.min_free;
    let cache = Cache::open(wants).await.unwrap();
    cache.settled().await;
    let journal = 1 << 20; // which is written to meanwhile
    assert!(small.free() + journal >= min_free, "{} of {min_free}", small.free());
    let totals = cache.stats().totals;
    assert!((1..=4).contains(&totals.evicted_free), "no more than is needed goes: {totals:?}");
    assert_budget(&cache, "after giving room back");
    cache.close().await.unwrap();
}

/// Whether a file of a cache says what it is, so that a start could find it again.
fn has_witness(path: &Path) -> bool {
    rustix::fs::getxattr(path, "user.icecache", &mut [0_u8; 4096]).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_somebody_read_it_stays_deleted_after_a_crash() {
    let (dir, journal) = (place(), Arc::new(Forgetful::default()));
    let open = || Cache::open_on(config(dir.path()), journal.clone());
    let cache = open().await.unwrap();
    // One that a reader began to read while it was filled, and has not gone on with since.
    let Begun::Fill(mut fill) = cache.begin(&key(1), FillOptions::default()).unwrap() else {
        panic!("is free")
    };
    fill.write(Bytes::from_static(b"deleted")).await.unwrap();
    let waiting = fill.waiting();
    let path = fill.finish().await.unwrap().path();
    // And one that is simply held.
    let held = cache.insert(&key(2), content(2, 0..3 * BLOCK).into()).await.unwrap().file().await.unwrap();
    cache.flush().await.unwrap();
    assert!(has_witness(&path) && has_witness(&held.path()));
    journal.is_deaf.store(true, Relaxed);
    for n in [1, 2] {
        assert_eq!(cache.remove(key(n)).await, Removed::WhenUnpinned, "key {n}");
    }
    assert!(!has_witness(&path) && !has_witness(&held.path()));
    // They go on, and compare what they read with what was written.
    assert_eq!(read(&waiting.file().await.unwrap()), b"deleted");
    assert_eq!(held.read(BLOCK, 9).await.unwrap(), content(2, BLOCK..BLOCK + 9));
    // What a kill leaves, seen by another process.
    let after = place();
    let mut copy = std::process::Command::new("cp");
    copy.args(["-a", "--"]).arg(dir.path().join("objects")).arg(after.path());
    assert!(copy.status().unwrap().success());
    drop((waiting, held));
    cache.close().await.unwrap();
    journal.is_deaf.store(false, Relaxed);
    let cache = Cache::open_on(config(after.path()), journal.clone()).await.unwrap();
    assert!(!cache.is_certain() || cache.stats().settled);
    for n in [1, 2] {
        assert!(cache.look_up(key(n)).await.unwrap().is_none(), "key {n} is back before the check");
    }
    cache.settled().await;
    for n in [1, 2] {
        assert!(cache.look_up(key(n)).await.unwrap().is_none(), "key {n} is back");
    }
    let totals = cache.stats().totals;
    assert_eq!((totals.lost, totals.corrupt_drops), (2, 0), "no damage: {totals:?}");
    assert_budget(&cache, "after the start");
    cache.close().await.unwrap();
    let cache = Cache::open_on(config(after.path()), journal.clone()).await.unwrap();
    assert!(cache.is_certain(), "it was closed in good order");
}

/// Who looks after a cache does not know its limits, and throws nothing out that they permit.
#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_the_last_time_are_remembered() {
    let (dir, journal) = (place(), Arc::new(MemoryJournal::new()));
    let open = |config: Config| Cache::open_on(config, journal.clone());
    let given = Config { max_bytes: 3 << 20, max_entries: 50, min_free: 1 << 20, ..config(dir.path()) };
    let cache = open(given.clone()).await.unwrap();
    fill(&cache, 0..10).await;
    cache.close().await.unwrap();
    // Only for this time.
    let looks = Config { max_bytes: u64::MAX >> 1, remember: false, ..given.clone() };
    open(looks).await.unwrap().close().await.unwrap();
    let recall = Recall { max_bytes: true, max_entries: false, min_free: true };
    let cache =
        open(Config { max_bytes: 1, max_entries: 60, min_free: 1 << 50, recall, ..given }).await.unwrap();
    let Config { max_bytes, max_entries, min_free, .. } = *cache.config();
    assert_eq!((max_bytes, max_entries, min_free), (3 << 20, 60, 1 << 20));
    all_there(&cache, 0..10).await;
    cache.close().await.unwrap();
    // By another witness, too: the journal is lost.
    let cache = Cache::open_on(Config { recall, ..config(dir.path()) }, Arc::new(MemoryJournal::new()))
        .await
        .unwrap();
    assert_eq!((cache.config().max_bytes, cache.config().min_free), (3 << 20, 1 << 20));
    cache.settled().await;
    all_there(&cache, 0..10).await;
    cache.close().await.unwrap();
}

/// It was in use, and the journal learns of uses now and then: not of those of what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_used_is_not_written_down_again() {
    let (dir, journal) = (place(), Arc::new(MemoryJournal::new()));
    let often = Config { recency_interval: Duration::ZERO, ..config(dir.path()) };
    let cache = Cache::open_on(often, journal.clone()).await.unwrap();
    let source = Arc::new(Source::default());
    let held = cache.insert(&key(1), content(1, 0..9).into()).await.unwrap().file().await.unwrap();
    let blob = cache.blob(&object(2, 2 * BLOCK), source.clone()).unwrap();
    blob.warm(0..2).await.unwrap();
    cache.quiet().await;
    cache.flush().await.unwrap();
    // Both are used, and then deleted while their reader goes on.
    drop(cache.hit(key(1)).unwrap());
    blob.read(0, 9).await.unwrap();
    assert_eq!(cache.remove(key(1)).await, Removed::WhenUnpinned);
    assert_eq!(cache.remove_object(blob.id()).await, Removed::WhenUnpinned);
    cache.flush().await.unwrap();
    let killed = journal.crashed();
    for tree in [icecache::cache::record::ENTRIES, icecache::cache::record::BLOCKS] {
        let left: Vec<_> = killed.scan_prefix(tree, b"").map(|pair| pair.unwrap().0).collect();
        assert!(left.is_empty(), "{tree:?}: {left:?}");
    }
    drop((held, blob));
}

/// A cache that has filled its disk itself, to the last block, has nothing to give up for its journal at a start.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_it_has_filled_itself_costs_nothing_at_a_start() {
    if !crate::harness::is_root() {
        return crate::harness::skip("a full disk", "only root may mount a small file system");
    }
    let small = Small::new(40);
    let home = small.path().join("cache");
    let cache = Cache::open(config(&home)).await.unwrap();
    let mut kept = 0;
    // What the journal writes at an end and at a start has room, and not the eight MiB that it might want.
    while small.free() > 4 << 20 {
        cache.insert(&key(kept), content(kept, 0..1 << 20).into()).await.unwrap();
        kept += 1;
    }
    cache.close().await.unwrap();
    for start in 0..3 {
        let cache = Cache::open(config(&home)).await.unwrap();
        cache.settled().await;
        let left = (0..kept).filter(|n| cache.stat(key(*n)).is_some()).count() as u64;
        assert_eq!(left, kept, "start {start}");
        cache.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_inodes_keeps_it_neither_from_opening_nor_from_filling() {
    if !crate::harness::is_root() {
        return crate::harness::skip("a disk without inodes", "only root may mount a small file system");
    }
    let small = Small::with("size=40m,nr_inodes=340");
    let home = small.path().join("cache");
    let cache = Cache::open(config(&home)).await.unwrap();
    for n in 0..100 {
        cache.insert(&key(n), content(n, 0..100).into()).await.unwrap();
    }
    let there = |n: &u64| cache.stat(key(*n)).is_some();
    assert!(!there(&0) && there(&99), "the oldest have made room for the newest");
    assert_budget(&cache, "without inodes");
    cache.close().await.unwrap();
    let mut taken = 0;
    while std::fs::File::create(small.path().join(format!("other-{taken}"))).is_ok() {
        taken += 1;
    }
    let cache = Cache::open(config(&home)).await.unwrap();
    cache.settled().await;
    assert!(cache.stat(key(99)).is_some() && cache.stats().totals.journal_rebuilds == 0);
    cache.close().await.unwrap();
}
