//! Blocks of remote objects: one fetch for all, failures, full disks, and the whole as a file.
use crate::common::{BLOCK, Small, Source, assert_budget, config, content, object, place, read, taken};
use futures::StreamExt;
use icecache::cache::{
    Cache, CacheError, Chain, Config, Event, FetchError, ObjectId, Origin, Removed, StoreOrigin, Tier,
    TierError,
};
use icecache::journal::MemoryJournal;
use icecache::remote::{Condition, MemoryStore, ObjectStore};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

async fn open(config: Config) -> Cache {
    Cache::open_on(config, Arc::new(MemoryJournal::new())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_is_right_cold_and_warm() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let source = Arc::new(Source::default());
    for (seed, size) in [(1, 1), (2, BLOCK), (3, BLOCK + 1), (4, 10 * BLOCK + 777)] {
        let blob = cache.blob(&object(seed, size), source.clone()).unwrap();
        for _ in 0..2 {
            for (offset, length) in [(0, 1), (size - 1, 1), (size / 2, 3 * BLOCK), (0, size + 9), (size, 5)] {
                let end = (offset + length).min(size);
                assert_eq!(blob.read(offset, length as usize).await.unwrap(), content(seed, offset..end));
                let mut buffer = vec![0; length as usize];
                let n = blob.read_into(offset, &mut buffer).await.unwrap();
                assert_eq!(buffer[..n], content(seed, offset..end));
            }
        }
        cache.quiet().await;
        let mut buffer = vec![0; size as usize];
        assert_eq!(blob.read_now(0, &mut buffer), Some(size as usize));
        assert_eq!(buffer, content(seed, 0..size));
        assert_budget(&cache, "after reads");
    }
    assert!(source.asked.lock().unwrap().values().all(|n| *n == 1), "a block was fetched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_memory_still_had_was_not_read_from_the_disk() {
    let dir = place();
    let mut config = config(dir.path());
    config.memory_bytes = 2 * BLOCK;
    let cache = open(config).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, BLOCK), source.clone()).unwrap();
    blob.read(0, 1000).await.unwrap();
    cache.quiet().await;
    assert_eq!(blob.read(0, 1000).await.unwrap(), content(1, 0..1000));
    let totals = cache.stats().totals;
    assert_eq!((totals.memory_hits, totals.block_hits, totals.bytes_hit), (1, 1, 0));
    // Who comes when nobody reads it any more has it from the disk.
    drop(blob);
    let blob = cache.blob(&object(1, BLOCK), source.clone()).unwrap();
    assert_eq!(blob.read(0, 1000).await.unwrap(), content(1, 0..1000));
    let totals = cache.stats().totals;
    assert_eq!((totals.memory_hits, totals.block_hits, totals.bytes_hit), (1, 2, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_readers_of_a_cold_object_cost_one_fetch_a_block() {
    let dir = place();
    let mut config = config(dir.path());
    config.readahead_max = 8;
    config.memory_bytes = 16 * BLOCK;
    let cache = open(config).await;
    let source = Arc::new(Source { gate: Some(Semaphore::new(0)), ..Source::default() });
    let (id, blocks) = (object(7, 64 * BLOCK), 64);
    let first_bytes = Arc::new(Semaphore::new(0));
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let blob = cache.blob(&id, source.clone()).unwrap();
            let first_bytes = first_bytes.clone();
            tokio::spawn(async move {
                let mut hasher = blake3::Hasher::new();
                let mut stream = std::pin::pin!(blob.stream(0..u64::MAX));
                let mut pieces = 0;
                while let Some(piece) = stream.next().await {
                    hasher.update(&piece.unwrap());
                    pieces += 1;
                    if pieces == 1 {
                        first_bytes.add_permits(1);
                    }
                }
                hasher.finalize()
            })
        })
        .collect();
    // One block may come: everybody has it, and nobody can have the last one.
    let gate = source.gate.as_ref().unwrap();
    gate.add_permits(1);
    first_bytes.acquire_many(64).await.unwrap().forget();
    gate.add_permits(blocks);
    let expected = blake3::hash(&content(7, 0..64 * BLOCK));
    for reader in readers {
        assert_eq!(reader.await.unwrap(), expected);
    }
    let asked = source.asked.lock().unwrap();
    assert_eq!((asked.len(), asked.values().max()), (blocks, Some(&1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fetch_fails_all_who_wait_and_the_next_read_tries_again() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let failure = FetchError::Unavailable { message: "no route".into() };
    let source = Arc::new(Source {
        gate: Some(Semaphore::new(0)),
        failures: Mutex::new(vec![failure.clone()]),
        ..Source::default()
    });
    let blob = cache.blob(&object(1, BLOCK), source.clone()).unwrap();
    let mut events = cache.subscribe();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let blob = blob.clone();
            tokio::spawn(async move { blob.read(0, 10).await })
        })
        .collect();
    for _ in 0..8 {
        while !matches!(events.recv().await.unwrap(), Event::Miss(_)) {}
    }
    let gate = source.gate.as_ref().unwrap();
    gate.add_permits(1);
    for reader in readers {
        let error = reader.await.unwrap().unwrap_err();
        assert!(matches!(&error, CacheError::Fetch(found) if *found == failure), "{error}");
    }
    assert_budget(&cache, "after a failed fetch");
    assert_eq!(taken(dir.path()), (0, 0));
    gate.add_permits(1);
    assert_eq!(blob.read(0, 10).await.unwrap(), content(1, 0..10));
    assert_eq!((source.fetches(), cache.stats().totals.fetch_errors), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stalls_or_throttles_is_told_apart() {
    let dir = place();
    let mut config = config(dir.path());
    config.stall = Duration::from_millis(100);
    config.fetches_max = 1;
    let cache = open(config).await;
    let source = Arc::new(Source::default());
    source.hang.store(true, Relaxed);
    let blob = cache.blob(&object(1, BLOCK), source.clone()).unwrap();
    let stalled = blob.read(0, 1).await;
    assert!(matches!(stalled, Err(CacheError::Stalled { .. })), "{stalled:?}");
    source.hang.store(false, Relaxed);
    source.failures.lock().unwrap().push(FetchError::Throttled { message: "SlowDown".into() });
    let throttled = blob.read(0, 1).await;
    assert!(matches!(throttled, Err(CacheError::Fetch(FetchError::Throttled { .. }))), "{throttled:?}");
    let totals = cache.stats().totals;
    assert_eq!((totals.stalls, totals.fetches_throttled, totals.reads_throttled), (1, 1, 0));

    // Two at once where one may be: the second waits, and that is no miss of its own. However long this takes.
    let dir = place();
    let cache = open(Config { fetches_max: 1, ..crate::common::config(dir.path()) }).await;
    let gated = Arc::new(Source { gate: Some(Semaphore::new(0)), ..Source::default() });
    let reads: Vec<_> = [2, 3]
        .map(|seed| {
            let blob = cache.blob(&object(seed, BLOCK), gated.clone()).unwrap();
            tokio::spawn(async move { blob.read(0, 1).await })
        })
        .into();
    while cache.stats().totals.reads_throttled == 0 {
        tokio::task::yield_now().await;
    }
    gated.gate.as_ref().unwrap().add_permits(2);
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(cache.stats().totals.reads_throttled, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_go_one_by_one_and_those_in_use_stay() {
    let dir = place();
    let mut config = config(dir.path());
    config.max_bytes = 8 * BLOCK + 4096; // and the witness
    let cache = open(config).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, 20 * BLOCK), source.clone()).unwrap();
    for n in 0..20 {
        assert_eq!(blob.read(n * BLOCK, 9).await.unwrap(), content(1, n * BLOCK..n * BLOCK + 9));
        cache.quiet().await;
        assert_budget(&cache, "while blocks come and go");
    }
    assert_eq!(blob.blocks().0, 8);
    for n in 12..20 {
        blob.read(n * BLOCK, 1).await.unwrap();
    }
    assert_eq!(source.fetches(), 20, "the last ones are there");
    drop(blob);

    // A complete object that is held as a file keeps all its blocks.
    let small = cache.blob(&object(2, 8 * BLOCK - 3), source.clone()).unwrap();
    assert!(small.file().await.unwrap().is_none());
    // One after the other: of several at once each takes room for the witness until one has made it, and a limit
    // that is exact to the page has none to spare.
    for n in 0..8 {
        small.warm(n..n + 1).await.unwrap();
    }
    cache.quiet().await;
    let file = small.file().await.unwrap().unwrap();
    assert_eq!(file.checksum(), Some(*blake3::hash(&content(2, 0..8 * BLOCK - 3)).as_bytes()));
    let other = cache.blob(&object(3, 4 * BLOCK), source.clone()).unwrap();
    assert_eq!(other.read(0, 4 * BLOCK as usize).await.unwrap(), content(3, 0..4 * BLOCK), "past the cache");
    cache.quiet().await;
    assert_eq!(other.blocks().0, 0);
    assert!(cache.stats().totals.not_kept_full > 0);
    assert_eq!(read(&file), content(2, 0..8 * BLOCK - 3));
    assert_eq!(file.read(BLOCK - 5, 10).await.unwrap(), content(2, BLOCK - 5..BLOCK + 5));
    assert_budget(&cache, "while a whole object is held");
    drop((file, small, other));
    assert_budget(&cache, "after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_miss_that_reads_through() {
    let dir = place();
    let mut none = config(dir.path());
    none.min_free = u64::MAX / 2;
    let cache = open(none).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, 3 * BLOCK), source.clone()).unwrap();
    for _ in 0..2 {
        assert_eq!(blob.read(0, 3 * BLOCK as usize).await.unwrap(), content(1, 0..3 * BLOCK));
        cache.quiet().await;
    }
    let totals = cache.stats().totals;
    assert_eq!((source.fetches(), totals.not_kept_full, totals.refused_full), (6, 6, 0));
    drop(blob);
    assert_eq!(taken(dir.path()), (0, 0));
    assert!(cache.entries().is_empty());
}

/// ENOSPC itself: a file system that is smaller than the cache was told.
#[tokio::test(flavor = "multi_thread")]
async fn enospc_evicts_and_never_fails_a_reader() {
    if !crate::harness::is_root() {
        return crate::harness::skip("ENOSPC", "only root may mount a small file system");
    }
    let small = Small::new(2);
    let cache = open(config(small.path())).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, 64 * BLOCK), source.clone()).unwrap();
    for n in 0..64 {
        let got = blob.read(n * BLOCK, BLOCK as usize).await.unwrap();
        assert_eq!(got, content(1, n * BLOCK..(n + 1) * BLOCK));
    }
    cache.quiet().await;
    assert_budget(&cache, "on a full disk");
    let totals = cache.stats().totals;
    assert!(totals.evicted_free > 0 && blob.blocks().0 > 0, "{totals:?}");
    drop(blob);
    for n in 0..64 {
        let _refused = cache.insert(&crate::common::key(n), content(n, 0..BLOCK).into()).await;
        assert_budget(&cache, "of files on a full disk");
    }
    cache.close().await.unwrap();
}

/// What is large takes the place of many that are small, also where only the disk says that there is no room.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_as_many_go_as_it_takes() {
    if !crate::harness::is_root() {
        return crate::harness::skip("ENOSPC", "only root may mount a small file system");
    }
    let small = Small::new(2);
    let cache = open(config(small.path())).await;
    let mut small_ones = 0;
    while small.free() > 0 && small_ones < 1000 {
        let inserted =
            cache.insert(&crate::common::key(small_ones), content(small_ones, 0..5000).into()).await;
        inserted.unwrap().file().await.unwrap();
        small_ones += 1;
    }
    for n in 1000..1010 {
        let inserted = cache.insert(&crate::common::key(n), content(n, 0..4 * BLOCK).into()).await;
        drop(inserted.unwrap().file().await.unwrap());
        assert_budget(&cache, "while large ones take the place of small ones");
    }
    // The same for a block.
    small.fill();
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, BLOCK), source.clone()).unwrap();
    for _ in 0..2 {
        assert_eq!(blob.read(0, BLOCK as usize).await.unwrap(), content(1, 0..BLOCK));
        cache.quiet().await;
    }
    assert_eq!((source.fetches(), blob.blocks()), (1, (1, 1)), "it was kept");
    drop(blob);
    cache.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_is_read_ahead_of_and_a_random_one_is_not() {
    let dir = place();
    let mut config = config(dir.path());
    config.readahead_max = 8;
    let cache = open(config).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, 64 * BLOCK), source.clone()).unwrap();
    for n in [60, 3, 41, 17, 5, 33] {
        blob.read(n * BLOCK, 1).await.unwrap();
    }
    cache.quiet().await;
    assert_eq!(cache.stats().totals.readaheads, 0);
    for n in 20..24 {
        blob.read(n * BLOCK, BLOCK as usize).await.unwrap();
    }
    cache.quiet().await;
    assert!(cache.stats().totals.readaheads > 0);
    assert!(source.asked.lock().unwrap().values().all(|n| *n == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_an_origin_and_another_version_of_an_object_is_an_error() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let store = Arc::new(MemoryStore::new());
    let tag = store.put("k", content(1, 0..3 * BLOCK).into(), Condition::Always).await.unwrap();
    let id = ObjectId { bucket: "mem".into(), key: "k".into(), tag: tag.0, size: 3 * BLOCK };
    let origin = Arc::new(StoreOrigin::new(store.clone()));
    let blob = cache.blob(&id, origin.clone()).unwrap();
    assert_eq!(blob.read(BLOCK, 5).await.unwrap(), content(1, BLOCK..BLOCK + 5));
    store.put("k", content(2, 0..3 * BLOCK).into(), Condition::Always).await.unwrap();
    let changed = blob.read(0, 5).await;
    assert!(matches!(changed, Err(CacheError::Fetch(FetchError::Changed { .. }))), "{changed:?}");
    assert_eq!(blob.read(BLOCK, 5).await.unwrap(), content(1, BLOCK..BLOCK + 5), "what is there stays right");
    store.remove("k");
    let gone = blob.read(0, 5).await;
    assert!(matches!(gone, Err(CacheError::Fetch(FetchError::NotFound { .. }))), "{gone:?}");
    assert_eq!(cache.remove_object(&id).await, Removed::WhenUnpinned);
    drop(blob);
    cache.quiet().await;
    assert_eq!(taken(dir.path()), (0, 0));
}

/// A tier in memory, which fails when told so.
#[derive(Debug, Default)]
struct Shelf {
    there: Mutex<std::collections::HashMap<(ObjectId, u64), bytes::Bytes>>,
    broken: std::sync::atomic::AtomicBool,
    puts: Count,
}

#[derive(Debug)]
struct Count(Semaphore);

impl Default for Count {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[async_trait::async_trait]
impl Tier for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }

    async fn get(
        &self,
        object: &ObjectId,
        range: std::ops::Range<u64>,
    ) -> Result<Option<bytes::Bytes>, TierError> {
        if self.broken.load(Relaxed) {
            return Err(TierError::failed("broken"));
        }
        Ok(self.there.lock().unwrap().get(&(object.clone(), range.start)).cloned())
    }

    async fn put(
        &self,
        object: &ObjectId,
        range: std::ops::Range<u64>,
        bytes: bytes::Bytes,
    ) -> Result<(), TierError> {
        self.there.lock().unwrap().insert((object.clone(), range.start), bytes);
        self.puts.0.add_permits(1);
        Ok(())
    }
}

/// A tier that is left out.
#[derive(Debug)]
struct LeftOut;

#[async_trait::async_trait]
impl Tier for LeftOut {
    fn name(&self) -> &'static str {
        "left out"
    }

    async fn get(&self, _: &ObjectId, _: std::ops::Range<u64>) -> Result<Option<bytes::Bytes>, TierError> {
        Err(TierError::not_asked("it is left out"))
    }

    async fn put(&self, _: &ObjectId, _: std::ops::Range<u64>, _: bytes::Bytes) -> Result<(), TierError> {
        Err(TierError::not_asked("it is left out"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tier_was_not_asked_for_is_no_error_of_it() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let source = Arc::new(Source::default());
    let chain = Arc::new(Chain::new(vec![Arc::new(LeftOut)], source.clone()));
    let blob = cache.blob(&object(1, BLOCK), chain.clone()).unwrap();
    assert_eq!(blob.read(0, 100).await.unwrap(), content(1, 0..100));
    let stats = chain.stats()[0];
    assert_eq!((stats.skipped, stats.errors, stats.misses), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_spares_the_origin_and_its_failure_is_a_miss() {
    let (source, shelf) = (Arc::new(Source::default()), Arc::new(Shelf::default()));
    let chain = Arc::new(Chain::new(vec![shelf.clone()], source.clone()));
    let id = object(1, 2 * BLOCK);
    for round in 0..3 {
        let dir = place(); // a machine of its own
        let cache = open(config(dir.path())).await;
        shelf.broken.store(round == 2, Relaxed);
        let blob = cache.blob(&id, chain.clone()).unwrap();
        assert_eq!(blob.read(0, 2 * BLOCK as usize).await.unwrap(), content(1, 0..2 * BLOCK));
        if round == 0 {
            shelf.puts.0.acquire_many(2).await.unwrap().forget();
        }
    }
    assert_eq!(source.fetches(), 4, "twice at first, twice past the broken shelf");
    let stats = chain.stats()[0];
    assert_eq!((stats.hits, stats.misses, stats.errors), (2, 2, 2));
}

/// Whoever waits for a block sees that it comes, also where tiers want the whole of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tier_does_not_keep_back_what_comes() {
    let (source, shelf) = (Arc::new(Source::default()), Arc::new(Shelf::default()));
    source.hang.store(true, Relaxed);
    let chain = Chain::new(vec![shelf.clone()], source.clone());
    let id = object(1, BLOCK);
    let first = async {
        let mut body = chain.fetch(&id, 0..BLOCK).await.unwrap().body;
        body.next().await.unwrap().unwrap()
    };
    let first = tokio::time::timeout(crate::harness::LIMIT, first).await.expect("the first half has come");
    assert_eq!(first, content(1, 0..BLOCK / 2));
    assert!(shelf.there.lock().unwrap().is_empty(), "a half is nothing for a tier");
}

/// A limit of size means objects as a whole, although they come block by block.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_object_that_is_too_large_nothing_is_kept() {
    let dir = place();
    let mut config = config(dir.path());
    config.admission.max_entry_bytes = Some(2 * BLOCK);
    let (cache, source) = (open(config).await, Arc::new(Source::default()));
    for (seed, blocks, kept) in [(1, 2, true), (2, 3, false)] {
        let blob = cache.blob(&object(seed, blocks * BLOCK), source.clone()).unwrap();
        assert_eq!(blob.read(BLOCK, 9).await.unwrap(), content(seed, BLOCK..BLOCK + 9));
        cache.quiet().await;
        assert_eq!(blob.blocks().0 > 0, kept, "{blocks} blocks");
    }
    assert_eq!(cache.stats().totals.not_admitted_size, 1);
}

/// What a warm has brought is there when it returns: the whole can be had as a file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_warmed_is_there_at_once() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let source = Arc::new(Source::default());
    for seed in 0..32 {
        let blob = cache.blob(&object(seed, 3 * BLOCK + 7), source.clone()).unwrap();
        blob.warm(0..u32::MAX).await.unwrap();
        assert_eq!(blob.blocks(), (4, 4));
        assert!(blob.file().await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_demoted_goes_first_unless_it_is_used_again() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let source = Arc::new(Source::default());
    for seed in 0..4 {
        cache.blob(&object(seed, BLOCK), source.clone()).unwrap().warm(0..1).await.unwrap();
    }
    assert_eq!(cache.demote_object(&object(1, BLOCK)), 1);
    assert_eq!(cache.demote_object(&object(2, BLOCK)), 1);
    assert_eq!(cache.demote_object(&object(9, BLOCK)), 0);
    let again = cache.blob(&object(1, BLOCK), source.clone()).unwrap();
    assert_eq!(again.read(0, 8).await.unwrap(), content(1, 0..8));
    drop(again);
    for goes in [2, 0, 3, 1] {
        assert!(cache.stat_object(&object(goes, BLOCK)).is_some(), "{goes} went too soon");
        cache.make_room(cache.stats().used.bytes - 1).await;
        assert!(cache.stat_object(&object(goes, BLOCK)).is_none(), "{goes} is still there");
    }
    assert_budget(&cache, "after demotions");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_on_what_was_removed_fills_no_disk() {
    let dir = place();
    let cache = open(config(dir.path())).await;
    let source = Arc::new(Source::default());
    let blob = cache.blob(&object(1, 40 * BLOCK), source.clone()).unwrap();
    blob.read(0, 9).await.unwrap();
    cache.quiet().await;
    let path = crate::common::files(&dir.path().join("objects")).remove(0);
    cache.remove_object(&object(1, 40 * BLOCK)).await;
    for n in 0..40 {
        assert_eq!(blob.read(n * BLOCK, 9).await.unwrap(), content(1, n * BLOCK..n * BLOCK + 9));
    }
    cache.quiet().await;
    assert!(
        crate::common::extents(&path) <= BLOCK,
        "{} bytes that nobody counts",
        crate::common::extents(&path)
    );
    assert!(cache.stats().used.bytes <= BLOCK + 4096);
    drop(blob);
    assert_eq!(taken(dir.path()), (0, 0));
}
