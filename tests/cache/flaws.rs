//! The seven flaws of the library that this one is the heir of, each as a test.
use crate::common::{assert_budget, config, content, key, place, read};
use bytes::Bytes;
use icecache::cache::{Begun, Cache, CacheError, FillOptions, Inserted};
use icecache::journal::MemoryJournal;
use std::sync::Arc;
use std::time::Duration;

async fn open(dir: &std::path::Path) -> Cache {
    Cache::open_on(config(dir), Arc::new(MemoryJournal::new())).await.unwrap()
}

async fn put(cache: &Cache, n: u64) {
    cache.insert(&key(n), Bytes::from(content(n, 0..5000))).await.unwrap();
}

/// 1: "a crash loses up to ten minutes of entries, and then deletes their files".
#[tokio::test(flavor = "multi_thread")]
async fn flaw_1_files_that_no_journal_names_are_adopted() {
    let dir = place();
    let cache = open(dir.path()).await;
    for n in 0..20 {
        put(&cache, n).await;
    }
    std::mem::forget(cache);
    let cache = open(dir.path()).await; // on a journal that has never heard of them
    cache.settled().await;
    for n in 0..20 {
        assert_eq!(read(&cache.look_up_file(key(n)).await.unwrap().unwrap()), content(n, 0..5000));
    }
}

/// 2: "re-insert adds the size without subtracting the old one; a vanished file keeps its bytes".
#[tokio::test(flavor = "multi_thread")]
async fn flaw_2_the_budget_does_not_drift() {
    let dir = place();
    let cache = open(dir.path()).await;
    for _ in 0..10 {
        put(&cache, 1).await;
    }
    assert_budget(&cache, "after inserts of the same key");
    for _ in 0..10 {
        put(&cache, 2).await;
        cache.remove(key(2)).await;
    }
    assert_budget(&cache, "after inserts and deletes");
    let path = cache.hit(key(1)).unwrap().path();
    std::fs::remove_file(path).unwrap();
    assert!(cache.hit(key(1)).unwrap().open().is_err(), "whoever opens it finds out");
    assert!(cache.look_up(key(1)).await.unwrap().is_none());
    assert_eq!(cache.stats().totals.vanished, 1);
    assert_eq!(cache.stats().used, Default::default());
}

/// 3: "insert_count bumps twice per insert and again per repopulated entry".
#[tokio::test(flavor = "multi_thread")]
async fn flaw_3_an_insert_counts_once_and_what_comes_back_not_at_all() {
    let dir = place();
    let journal = Arc::new(MemoryJournal::new());
    let cache = Cache::open_on(config(dir.path()), journal.clone()).await.unwrap();
    for n in 0..5 {
        put(&cache, n).await;
        put(&cache, n).await;
    }
    assert_eq!(cache.stats().totals.file_inserts, 5);
    cache.close().await.unwrap();
    let cache = Cache::open_on(config(dir.path()), journal).await.unwrap();
    cache.settled().await;
    let totals = cache.stats().totals;
    assert_eq!((totals.file_inserts, totals.rehydrated, totals.file_hits), (0, 5, 0));
}

/// 4: "recency is set at insert only; accesses update another structure".
#[tokio::test(flavor = "multi_thread")]
async fn flaw_4_an_access_saves_from_eviction() {
    let dir = place();
    let mut config = config(dir.path());
    config.max_entries = 10;
    let cache = Cache::open_on(config, Arc::new(MemoryJournal::new())).await.unwrap();
    for n in 0..10 {
        put(&cache, n).await;
    }
    assert!(cache.look_up(key(0)).await.unwrap().is_some());
    assert!(cache.touch(key(1)));
    put(&cache, 10).await;
    put(&cache, 11).await;
    let left: Vec<u64> = (0..12).filter(|n| cache.stat(key(*n)).is_some()).collect();
    assert_eq!(left, [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]);
}

/// 5: "the test of the file is inverted: checked within ten seconds, skipped after".
#[tokio::test(flavor = "multi_thread")]
async fn flaw_5_a_file_is_verified_at_the_first_look_up_and_not_again() {
    let dir = place();
    let journal = Arc::new(MemoryJournal::new());
    let cache = Cache::open_on(config(dir.path()), journal.clone()).await.unwrap();
    put(&cache, 1).await;
    cache.close().await.unwrap();
    let cache = Cache::open_on(config(dir.path()), journal).await.unwrap();
    assert!(cache.hit(key(1)).is_none(), "not before it was verified");
    for _ in 0..100 {
        assert!(cache.look_up(key(1)).await.unwrap().is_some());
    }
    assert!(cache.hit(key(1)).is_some());
    assert_eq!(cache.stats().totals.bytes_verified, 5000);
}

/// 6: "a time-out runs into a clause that is missing": a filler that stalls leaves its waiters alone.
#[tokio::test(flavor = "multi_thread")]
async fn flaw_6_a_stalled_filler_is_given_up_and_its_waiters_are_told() {
    let dir = place();
    let mut config = config(dir.path());
    config.stall = Duration::from_millis(200);
    let cache = Cache::open_on(config, Arc::new(MemoryJournal::new())).await.unwrap();
    let Begun::Fill(mut fill) = cache.begin(&key(1), FillOptions::default()).unwrap() else { panic!() };
    fill.write(Bytes::from("some")).await.unwrap();
    let waiting = fill.waiting();
    let mut stream = waiting.stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "some");
    for error in [waiting.file().await.unwrap_err(), stream.next().await.unwrap_err()] {
        assert!(matches!(error, CacheError::Stalled { .. }), "{error}");
    }
    assert_budget(&cache, "while the filler still sleeps");
    put(&cache, 1).await; // the key is free
    let late = fill.write(Bytes::from("more")).await;
    assert!(matches!(late, Err(CacheError::Stalled { .. })), "{late:?}");
    assert_eq!(read(&cache.hit(key(1)).unwrap()), content(1, 0..5000), "and has changed nothing");
    let totals = cache.stats().totals;
    assert_eq!((totals.stalls, totals.fills_failed), (1, 1));
}

/// 7: "the checksum is stored, never verified; all entries pinned makes the collector spin; one server
/// serialises every hit".
#[tokio::test(flavor = "multi_thread")]
async fn flaw_7_wrong_bytes_are_never_handed_out() {
    let dir = place();
    let journal = Arc::new(MemoryJournal::new());
    let cache = Cache::open_on(config(dir.path()), journal.clone()).await.unwrap();
    put(&cache, 1).await;
    let path = cache.hit(key(1)).unwrap().path();
    cache.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[777] ^= 1;
    // In place, so that the attribute stays.
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::OpenOptions::new().write(true).open(&path).unwrap(),
        &bytes,
        0,
    )
    .unwrap();
    let cache = Cache::open_on(config(dir.path()), journal).await.unwrap();
    assert!(cache.look_up(key(1)).await.unwrap().is_none());
    assert_eq!(cache.stats().totals.corrupt_drops, 1);
    cache.settled().await; // the check after the start may have come across it, and holds it for a moment
    assert_eq!(cache.stats().used.bytes, 0);
}

/// 7, second part.
#[tokio::test(flavor = "multi_thread")]
async fn flaw_7_with_everything_held_an_insert_is_refused_at_once() {
    let dir = place();
    let mut config = config(dir.path());
    config.max_entries = 100;
    let cache = Cache::open_on(config, Arc::new(MemoryJournal::new())).await.unwrap();
    let mut held = Vec::new();
    for n in 0..100 {
        let Inserted::New(file) = cache.insert(&key(n), Bytes::from("x")).await.unwrap() else { panic!() };
        held.push(file);
    }
    for n in 100..200 {
        let refused = cache.insert(&key(n), Bytes::from("x")).await;
        assert!(matches!(refused, Err(CacheError::NoRoom { .. })), "{refused:?}");
    }
    held.truncate(99);
    cache.insert(&key(200), Bytes::from("x")).await.unwrap();
    assert_budget(&cache, "after refusals");
}

/// 7, third part: a hit takes no lock that an insert or another hit holds for long.
#[tokio::test(flavor = "multi_thread")]
async fn flaw_7_hits_go_on_while_an_insert_waits_for_its_bytes() {
    let dir = place();
    let cache = open(dir.path()).await;
    put(&cache, 1).await;
    let Begun::Fill(_slow) = cache.begin(&key(2), FillOptions::default()).unwrap() else { panic!() };
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let cache = cache.clone();
            std::thread::spawn(move || (0..10_000).all(|_| cache.hit(key(1)).is_some()))
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    assert_eq!(cache.stats().totals.file_hits, 40_000);
}
