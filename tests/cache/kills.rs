//! SIGKILL at random moments, with writers and readers running: nothing wrong is ever returned, the budget is
//! right after the restart, and no file is left that nobody knows.
use crate::common::{BLOCK, Source, assert_budget, config, content, files, key, object, place, read};
use crate::harness::child::{Part, Writer, part};
use crate::harness::{Dice, slice};
use bytes::Bytes;
use icecache::cache::{Begun, Cache, Config, FillOptions, Inserted, Removed};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const KEYS: u64 = 40;
const OBJECTS: u64 = 3;

fn tight(dir: &Path) -> Config {
    Config {
        max_bytes: 40 * BLOCK,
        max_entries: 30,
        flush_interval: Duration::from_millis(5),
        recency_interval: Duration::from_millis(20),
        readahead_max: 4,
        memory_bytes: 8 * BLOCK,
        ..config(dir)
    }
}

/// What a key has: whoever writes it writes the same.
fn of(n: u64) -> Vec<u8> {
    content(n, 0..n * n * 150)
}

/// The process that is killed. A wrong byte ends it.
pub fn play() {
    let Some(part) = part() else { return };
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::exit(7);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match part.role.as_str() {
            "keeper" => keep(part).await,
            _ => crowd(part).await,
        }
    });
}

/// Four tasks that write, read and delete for ever.
async fn crowd(part: Part) {
    let (cache, part) = (Cache::open(tight(&part.dir)).await.unwrap(), Arc::new(part));
    let steps = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let dice = Dice::from(u64::from(std::process::id()) * 7 + steps.fetch_add(1, Relaxed));
            tokio::spawn(work(cache.clone(), part.clone(), steps.clone(), dice))
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

/// What a keeper's step does: to which key, and the content, or nothing if it deletes.
fn step(number: u64) -> (u64, Option<Vec<u8>>) {
    let content = content(number, 0..1 + number * 7919 % 30_000);
    (number % KEYS, (number / KEYS).is_multiple_of(2).then_some(content))
}

/// One step after the other, each acknowledged before the next begins; there is room for everything.
async fn keep(part: Part) {
    let cache = Cache::open(config(&part.dir)).await.unwrap();
    for number in 0.. {
        match step(number) {
            (n, Some(content)) => {
                let inserted = cache.insert(&key(n), content.into()).await.unwrap();
                assert!(matches!(inserted, Inserted::New(_)), "step {number}: {inserted:?}");
            }
            (n, None) => assert_ne!(cache.remove(key(n)).await, Removed::Absent, "step {number}"),
        }
        part.done(number + 1);
    }
}

async fn work(cache: Cache, part: Arc<Part>, steps: Arc<AtomicU64>, mut dice: Dice) {
    let source = Arc::new(Source::default());
    loop {
        let n = dice.below(KEYS);
        match dice.below(8) {
            0..3 => drop(cache.insert(&key(n), Bytes::from(of(n))).await),
            3 => {
                if let Ok(Begun::Fill(mut fill)) = cache.begin(&key(n), FillOptions::default()) {
                    for piece in of(n).chunks(20_000) {
                        if fill.write(Bytes::copy_from_slice(piece)).await.is_err() {
                            break;
                        }
                    }
                    if fill.written() == of(n).len() as u64 {
                        let _deleted = fill.finish().await;
                    }
                }
            }
            4 => {
                if let Ok(Some(file)) = cache.look_up_file(key(n)).await {
                    assert!(read(&file) == of(n), "wrong bytes of key {n}");
                }
            }
            5 => {
                let _any: Removed = cache.remove(key(n)).await;
            }
            _ => {
                let id = object(100 + n % OBJECTS, 60 * BLOCK);
                let blob = cache.blob(&id, source.clone()).unwrap();
                let at = dice.below(60) * BLOCK;
                let got = blob.read(at, 3000).await.unwrap();
                assert!(got == content(100 + n % OBJECTS, at..at + 3000), "wrong bytes of {id}");
            }
        }
        part.done(steps.fetch_add(1, Relaxed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_comes_back_right() {
    let mut dice = Dice::seeded("kills");
    let dir = place();
    let home = dir.path().join("cache");
    let (mut rehydrated, mut adopted) = (0, 0);
    for round in 0..slice(20, 200) {
        let mut child = Writer::start("cache", &home, &dir.path().join(format!("progress-{round}")));
        child.await_steps(dice.below(300));
        assert!(child.runs(), "round {round}: the process has found something wrong");
        child.stop();

        let cache = Cache::open(tight(&home)).await.unwrap();
        let early: Vec<u64> = (0..KEYS).filter(|n| cache.stat(key(*n)).is_some()).collect();
        cache.settled().await;
        let totals = cache.stats().totals;
        assert_eq!(totals.journal_rebuilds, 0, "round {round}: a kill must not cost the journal");
        assert_budget(&cache, &format!("after the kill of round {round}"));
        assert!(files(&home.join("tmp")).is_empty());
        for n in 0..KEYS {
            if let Some(file) = cache.look_up_file(key(n)).await.unwrap() {
                assert!(read(&file) == of(n), "round {round}: wrong bytes of key {n}");
            }
        }
        let source = Arc::new(Source::default());
        for n in 0..OBJECTS {
            let id = object(100 + n, 60 * BLOCK);
            let blob = cache.blob(&id, source.clone()).unwrap();
            let got = blob.read(0, 60 * BLOCK as usize).await.unwrap();
            assert!(got == content(100 + n, 0..60 * BLOCK), "round {round}: wrong bytes of {id}");
        }
        cache.quiet().await;
        assert_eq!(cache.stats().totals.corrupt_drops, 0, "round {round}: {early:?}");
        assert_budget(&cache, &format!("after the reads of round {round}"));
        rehydrated += totals.rehydrated;
        adopted += totals.adopted;
        cache.close().await.unwrap();
    }
    eprintln!("rehydrated {rehydrated}, adopted {adopted}");
    assert!(rehydrated > 0 && adopted > 0, "the kills came at no interesting moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_kill_is_there_and_what_was_deleted_is_not() {
    let mut dice = Dice::seeded("keepers");
    let dir = place();
    let (mut adopted, mut deleted) = (0, 0);
    for round in 0..slice(10, 100) {
        let home = dir.path().join(format!("cache-{round}"));
        let child = Writer::start("keeper", &home, &dir.path().join(format!("progress-{round}")));
        child.await_steps(dice.below(400));
        let steps = child.stop();

        let cache = Cache::open(config(&home)).await.unwrap();
        cache.settled().await;
        adopted += cache.stats().totals.adopted;
        for n in 0..KEYS.min(steps) {
            let last = (0..steps).rev().find(|number| number % KEYS == n).unwrap();
            let (_, expected) = step(last);
            let found = cache.look_up_file(key(n)).await.unwrap().map(|file| read(&file));
            // The step that was under way may have been done.
            let under_way = steps % KEYS == n && found == step(steps).1;
            assert!(
                found == expected || under_way,
                "round {round}, key {n} after {steps} steps, last {last}"
            );
            deleted += u64::from(expected.is_none());
        }
        cache.close().await.unwrap();
    }
    assert!(adopted > 0 && deleted > 0, "the kills came at no interesting moment");
}
