//! Any byte of any file of the cache may be wrong: every read gives the right bytes or says clearly that it
//! cannot.
use crate::common::{BLOCK, Source, assert_budget, config, content, files, key, object, place, read};
use crate::harness::{Dice, slice};
use bytes::Bytes;
use icecache::cache::{Cache, CacheError, ObjectId};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const SIZES: [u64; 4] = [0, 100, 3 * BLOCK + 1, 70 * BLOCK];

fn objects() -> [ObjectId; 2] {
    [object(50, 3 * BLOCK + 9), object(51, 200 * BLOCK)]
}

async fn build(dir: &Path, source: &Arc<Source>) {
    let cache = Cache::open(config(dir)).await.unwrap();
    for (n, size) in SIZES.iter().enumerate() {
        cache.insert(&key(n as u64), Bytes::from(content(n as u64, 0..*size))).await.unwrap();
    }
    for id in objects() {
        let blob = cache.blob(&id, source.clone()).unwrap();
        for block in [0, 2] {
            blob.read(block * BLOCK, 1).await.unwrap();
        }
        cache.quiet().await;
    }
    cache.close().await.unwrap();
}

/// Reads everything, several times; what is missing is as good as what is right.
async fn all_right(dir: &Path, source: &Arc<Source>, what: &str) {
    let cache = match Cache::open(config(dir)).await {
        Ok(cache) => cache,
        Err(CacheError::Journal(e)) => {
            eprintln!("{what}: {e}");
            return;
        }
        Err(e) => panic!("{what}: {e}"),
    };
    for _ in 0..2 {
        for (n, size) in SIZES.iter().enumerate() {
            if let Some(file) = cache.look_up_file(key(n as u64)).await.unwrap() {
                assert_eq!(read(&file), content(n as u64, 0..*size), "{what}: key {n}");
            }
        }
        for id in objects() {
            let seed = id.tag.parse().unwrap();
            let blob = cache.blob(&id, source.clone()).unwrap();
            for block in 0..4 {
                let range = block * BLOCK..((block + 1) * BLOCK).min(id.size);
                let got = blob.read(range.start, BLOCK as usize).await.unwrap();
                assert_eq!(got, content(seed, range), "{what}: block {block} of {id}");
            }
        }
    }
    cache.settled().await;
    cache.quiet().await;
    assert_budget(&cache, what);
    cache.close().await.unwrap();
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x41], at).unwrap();
}

fn witness(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4096);
    let _none = rustix::fs::lgetxattr(path, "user.icecache", rustix::buffer::spare_capacity(&mut bytes));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_anywhere_is_never_read() {
    let mut dice = Dice::seeded("flips");
    let dir = place();
    let (base, source) = (dir.path().join("base"), Arc::new(Source::default()));
    build(&base, &source).await;
    let mut all: Vec<PathBuf> = files(&base);
    all.sort();
    assert!(all.iter().any(|path| path.extension().is_some_and(|e| e == "w")), "no witness is a file");
    for round in 0..slice(1, 12) {
        for (n, path) in all.iter().enumerate() {
            let trial = dir.path().join(format!("trial-{round}-{n}"));
            let copied = Command::new("cp").arg("-a").arg(&base).arg(&trial).status().unwrap();
            assert!(copied.success());
            let path = trial.join(path.strip_prefix(&base).unwrap());
            let (size, attribute) = (path.metadata().unwrap().len(), witness(&path));
            if size > 0 {
                // Where something is, of a file that is mostly holes.
                let end = if path.ends_with("db") { 1 << 16 } else { size.min(BLOCK * 3) };
                let at = dice.below(end.min(size));
                flip(&path, at);
                all_right(&trial, &source, &format!("byte {at} of {}", path.display())).await;
            }
            if !attribute.is_empty() && path.exists() {
                let mut attribute = witness(&path);
                if !attribute.is_empty() {
                    let at = dice.below(attribute.len() as u64) as usize;
                    attribute[at] ^= 0x41;
                    rustix::fs::lsetxattr(
                        &path,
                        "user.icecache",
                        &attribute,
                        rustix::fs::XattrFlags::empty(),
                    )
                    .unwrap();
                    all_right(&trial, &source, &format!("byte {at} of the attribute of {}", path.display()))
                        .await;
                }
            }
            std::fs::remove_dir_all(&trial).unwrap();
        }
    }
}

/// While the cache runs: what the page cache no longer holds is verified again, and comes anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_rots_on_the_disk_is_fetched_again() {
    let dir = place();
    let cache = Cache::open(config(dir.path())).await.unwrap();
    let source = Arc::new(Source::default());
    let id = object(1, 4 * BLOCK);
    let blob = cache.blob(&id, source.clone()).unwrap();
    blob.warm(0..4).await.unwrap();
    cache.quiet().await;
    let path = blob.file().await.unwrap().unwrap().path();
    let verified = cache.stats().totals.bytes_verified;
    for _ in 0..10 {
        blob.read(BLOCK, BLOCK as usize).await.unwrap();
    }
    assert_eq!(cache.stats().totals.bytes_verified, verified, "what is in the page cache is not verified");

    // Behind our back, and out of the page cache.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    flip(&path, BLOCK + 4711);
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut buffer = vec![0; 1];
    assert_eq!(blob.read_now(BLOCK, &mut buffer), None, "it is not in the page cache");
    assert_eq!(blob.read(BLOCK, BLOCK as usize).await.unwrap(), content(1, BLOCK..2 * BLOCK));
    cache.quiet().await;
    let totals = cache.stats().totals;
    assert_eq!((totals.corrupt_drops, source.fetches()), (1, 5));
    assert!(totals.bytes_verified > verified);
    assert_eq!(blob.read(0, 4 * BLOCK as usize).await.unwrap(), content(1, 0..4 * BLOCK));
    assert_eq!(source.fetches(), 5, "the others were right");
    assert_budget(&cache, "after a repair");
}

/// A file of many blocks that was written by this process, read from its beginning after it has rotted on the disk.
/// What the kernel reads ahead of that nobody has looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_rots_on_the_disk_is_never_handed_out() {
    let dir = place();
    let cache = Cache::open(config(dir.path())).await.unwrap();
    let bytes = content(1, 0..32 * BLOCK);
    for (at, step) in [(3 * BLOCK + 5000, 4096), (31 * BLOCK, BLOCK as usize), (BLOCK, 300)] {
        let held = cache.insert(&key(1), bytes.clone().into()).await.unwrap().file().await.unwrap();
        let path = held.path();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        flip(&path, at);
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let (mut offset, dropped) = (0, cache.stats().totals.corrupt_drops);
        let error = loop {
            match held.read(offset, step).await {
                Ok(read) => {
                    assert!(read == bytes[offset as usize..][..read.len()], "byte {offset}, damaged at {at}");
                    offset += read.len() as u64;
                    assert!(!read.is_empty(), "the damage at {at} was not found");
                }
                Err(e) => break e,
            }
        };
        assert!(matches!(error, CacheError::Corrupt { .. }), "{error}");
        assert!(offset <= at && at < offset + BLOCK, "{offset}: found where it is, at {at}");
        assert_eq!(cache.stats().totals.corrupt_drops, dropped + 1);
        drop(held);
        assert!(cache.look_up(key(1)).await.unwrap().is_none());
    }
    assert_budget(&cache, "after the drops");
}

/// Cut short under a cache that knows it as right.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_short_is_dropped() {
    let dir = place();
    let cache = Cache::open(config(dir.path())).await.unwrap();
    let held = cache.insert(&key(1), content(1, 0..8 * BLOCK).into()).await.unwrap().file().await.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(held.path()).unwrap();
    file.set_len(5 * BLOCK + 7).unwrap();
    assert_eq!(held.read(4 * BLOCK, 99).await.unwrap(), content(1, 4 * BLOCK..4 * BLOCK + 99));
    let error = held.read(5 * BLOCK, BLOCK as usize).await.unwrap_err();
    assert!(matches!(error, CacheError::Corrupt { .. }), "{error}");
    drop(held);
    assert!(cache.look_up(key(1)).await.unwrap().is_none());
    assert_eq!(cache.stats().totals.corrupt_drops, 1);
    cache.insert(&key(1), content(1, 0..BLOCK).into()).await.unwrap();
    assert_budget(&cache, "after the drop");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_is_wrong_and_drops_it() {
    let dir = place();
    let cache = Cache::open(config(dir.path())).await.unwrap();
    let source = Arc::new(Source::default());
    cache.insert(&key(1), Bytes::from(content(1, 0..100))).await.unwrap();
    cache.insert(&key(2), Bytes::from(content(2, 0..100))).await.unwrap();
    let blob = cache.blob(&object(3, 2 * BLOCK), source.clone()).unwrap();
    blob.warm(0..2).await.unwrap();
    cache.quiet().await;
    flip(&cache.hit(key(2)).unwrap().path(), 50);
    let path = blob.file().await.unwrap().unwrap().path();
    flip(&path, BLOCK);
    let (mut right, mut dropped) = (0, 0);
    for info in cache.entries() {
        let verdict = cache.verify(&info.name).await.unwrap();
        right += verdict.right;
        dropped += verdict.dropped;
    }
    assert_eq!((right, dropped), (100 + BLOCK, 2));
    assert!(cache.look_up(key(2)).await.unwrap().is_none());
    assert_eq!(blob.read(BLOCK, 9).await.unwrap(), content(3, BLOCK..BLOCK + 9));
    cache.quiet().await;
    assert_budget(&cache, "after verify");
}
