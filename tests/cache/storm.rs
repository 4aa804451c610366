//! Many threads at once on few keys and little room: fill, budget and pins under contention.
use crate::common::{BLOCK, Source, agree, assert_budget, config, content, key, object, place, read};
use crate::harness::{Dice, LIMIT, eventually, slice};
use bytes::Bytes;
use icecache::cache::{Begun, Cache, Config, FillOptions, Found};
use icecache::journal::MemoryJournal;
use std::sync::Arc;

/// One worker: whatever it reads is right for its key, whoever wrote it.
async fn work(cache: Cache, source: Arc<Source>, mut dice: Dice, steps: u64) {
    let mut held = Vec::new();
    for _ in 0..steps {
        let n = dice.below(8);
        let size = n * 9000;
        match dice.below(12) {
            0..3 => drop(cache.insert(&key(n), Bytes::from(content(n, 0..size))).await),
            3 => {
                if let Ok(Begun::Fill(mut fill)) = cache.begin(&key(n), FillOptions::default()) {
                    let half = size / 2;
                    let first = fill.write(Bytes::from(content(n, 0..half))).await;
                    if first.is_ok() && dice.below(3) > 0 {
                        let _full = fill.write(Bytes::from(content(n, half..size))).await;
                        let _deleted = fill.finish().await;
                    }
                }
            }
            4..6 => match cache.look_up(key(n)).await.unwrap() {
                Some(Found::File(file)) => {
                    assert_eq!(read(&file), content(n, 0..size), "key {n}");
                    held.push((file, n));
                }
                Some(Found::Filling(waiting)) => {
                    let mut stream = waiting.stream();
                    let mut got = Vec::new();
                    let ended = loop {
                        match stream.next().await {
                            Ok(Some(piece)) => got.extend_from_slice(&piece),
                            Ok(None) => break true,
                            Err(_) => break false,
                        }
                    };
                    assert!(content(n, 0..size).starts_with(&got) && (!ended || got.len() as u64 == size));
                }
                None => {}
            },
            6 => drop(cache.remove(key(n)).await),
            7..10 => {
                let id = object(n % 3, 6 * BLOCK);
                let blob = cache.blob(&id, source.clone()).unwrap();
                let at = dice.below(6) * BLOCK + dice.below(1000);
                assert_eq!(blob.read(at, 5000).await.unwrap(), content(n % 3, at..at + 5000));
            }
            10 => drop(cache.remove_object(&object(n % 3, 6 * BLOCK)).await),
            _ => {
                if let Some((file, n)) = held.pop() {
                    assert_eq!(read(&file), content(n, 0..n * 9000), "held key {n}");
                }
            }
        }
        if held.len() > 2 {
            held.remove(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_everything_leaves_budget_and_bytes_right() {
    let mut dice = Dice::seeded("storm");
    let dir = place();
    let config =
        Config { max_bytes: 8 * BLOCK, max_entries: 7, memory_bytes: 3 * BLOCK, ..config(dir.path()) };
    let journal = Arc::new(MemoryJournal::new());
    let mut cache = Cache::open_on(config.clone(), journal.clone()).await.unwrap();
    let source = Arc::new(Source::default());
    for round in 0..slice(6, 60) {
        // Every other round begins with a restart. (What a crash leaves is judged where the process is killed,
        // in `kills`: an instance that is only forgotten here would go on beside the next one.)
        if round % 2 == 1 {
            cache.flush().await.unwrap();
            cache.close().await.unwrap();
            cache = Cache::open_on(config.clone(), journal.clone()).await.unwrap();
        }
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let own = Dice::from(dice.next());
                tokio::spawn(work(cache.clone(), source.clone(), own, 60))
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        cache.settled().await;
        cache.quiet().await;
        // The last reference to what has left may go a moment after the last fetch has ended.
        eventually("budget and disk agree", LIMIT, || agree(&cache).then_some(()));
        assert_budget(&cache, &format!("after round {round}"));
        let stats = cache.stats();
        assert_eq!(stats.filling, 0, "a fill was forgotten");
        assert!(stats.used.bytes <= 8 * BLOCK && stats.used.entries <= 7, "{stats:?}");
    }
}
