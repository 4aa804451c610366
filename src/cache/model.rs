//! Fill, budget, pin and blocks in thousands of orders of their steps, which shuttle chooses; `scripts/suite/model`
//! runs them. Files are real, and so is what is compared at the end: budget, index and disk say the same.
//!
//! That they notice is proved by `scripts/suite/model --bite`: it takes seven checks out of a copy of the cache (the limit,
//! pins, who fills, who flies, what was removed), one after the other, and each time a model must fail.
#![allow(clippy::expect_used, clippy::panic)] // a test may panic
use super::blob_entry::{BlobEntry, Sought};
use super::budget::{Budget, DISK_UNIT, Disk, Limits, Used, on_disk};
use super::config::{BLOCK_MIN_BYTES, Config};
use super::core::{Core, Slot};
use super::error::CacheError;
use super::events::Cause;
use super::file::File;
use super::file_entry::FileEntry;
use super::fill::{Begun, Fill, FillOptions};
use super::flight::Flight;
use super::key::{Key, ObjectId};
use super::opening::assemble;
use super::trip::keep;
use crate::journal::{Batch, Journal, JournalError, Pairs, Tree};
use bytes::Bytes;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread::{self, JoinHandle};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Orders of each test that are tried by default, and in the longer tier.
const ORDERS: usize = 400;
const ORDERS_LONG: usize = 4000;
/// How often the order changes where it matters.
const CHANGES: usize = 3;
/// Stacks of the threads: files are written on them.
const STACK_BYTES: usize = 1 << 20;

/// Half of the orders are purely random, half run one thread as far as it goes, with few changes. All have the same
/// directory, one after the other: making one takes longer than what is done in it.
fn in_many_orders(work: impl Fn(&Path) + Send + Sync + 'static) {
    let long = std::env::var_os("ICECACHE_LONG").is_some_and(|v| v != "0");
    let orders = if long { ORDERS_LONG } else { ORDERS };
    let config = || {
        let mut config = shuttle::Config::new();
        config.stack_size = STACK_BYTES;
        config.silence_warnings = true;
        config
    };
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().to_path_buf();
    let work = Arc::new(move || {
        work(&path);
        each_file(&path, &mut |file| std::fs::remove_file(file).expect("removes"));
    });
    let again = work.clone();
    shuttle::Runner::new(RandomScheduler::new(orders / 2), config()).run(move || again());
    shuttle::Runner::new(PctScheduler::new(CHANGES, orders / 2), config()).run(move || work());
}

/// A journal that knows nothing, without locks: threads that are not modelled read it, too.
#[derive(Debug)]
struct Blank;

impl Journal for Blank {
    fn get(&self, _tree: Tree, _key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(None)
    }

    fn apply(&self, _batch: Batch) -> Result<(), JournalError> {
        Ok(())
    }

    fn scan(&self, _tree: Tree, _prefix: &[u8], _from: &[u8]) -> Pairs<'_> {
        Box::new(std::iter::empty())
    }

    fn flush(&self) -> Result<(), JournalError> {
        Ok(())
    }
}

/// A cache without tasks in the background.
fn cache(dir: &Path, max_bytes: u64) -> Arc<Core> {
    // Only its handle is needed: nothing is ever spawned.
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let build = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let runtime = RUNTIME.get_or_init(build).handle();
    let config = Config {
        max_bytes,
        min_free: 0,
        block_bytes: BLOCK_MIN_BYTES,
        flush_interval: Duration::from_secs(3600),
        ..Config::new(dir)
    };
    assemble(config, Arc::new(Blank), runtime).expect("opens")
}

fn each_file(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).expect("reads") {
        let entry = entry.expect("reads");
        match entry.file_type().expect("reads").is_dir() {
            true => each_file(&entry.path(), visit),
            false => visit(&entry.path()),
        }
    }
}

/// How many files there are beneath a directory.
fn files(dir: &Path) -> usize {
    let mut count = 0;
    each_file(dir, &mut |_| count += 1);
    count
}

fn bytes_of(file: &File) -> Vec<u8> {
    std::fs::read(file.path()).expect("what is held is there")
}

/// Fills a key, or finds that somebody does.
fn fill(core: &Arc<Core>, key: &Key, byte: u8) -> Result<Option<File>, CacheError> {
    match Fill::begin(core, key, FillOptions { size: None, filler: byte.to_string() })? {
        Begun::Fill(mut fill) => {
            fill.write_blocking(&[byte; 3000])?;
            fill.write_blocking(&[byte; 3000])?;
            fill.finish_blocking().map(Some)
        }
        Begun::There(file) => Ok(Some(file)),
        Begun::Filling(_) => Ok(None),
    }
}

fn key() -> Key {
    Key::new("key").expect("a key")
}

fn pinned(core: &Arc<Core>) -> Option<Arc<FileEntry>> {
    core.files.get(&key(), |slot| match slot {
        Slot::File(file) => {
            file.usage.pin();
            Some(file.clone())
        }
        Slot::Filling(_) => None,
    })?
}

fn there(core: &Arc<Core>) -> Option<File> {
    Some(File::pinned(core.clone(), pinned(core)?))
}

/// What the key names.
fn named(core: &Core) -> Option<Slot> {
    core.files.get(&key(), Slot::clone)
}

/// A thread that does this with the cache.
fn beside<R: Send + 'static>(
    core: &Arc<Core>,
    work: impl FnOnce(&Arc<Core>) -> R + Send + 'static,
) -> JoinHandle<R> {
    let core = core.clone();
    thread::spawn(move || work(&core))
}

#[derive(Debug)]
struct Endless;

impl Disk for Endless {
    fn free(&self) -> Option<u64> {
        None
    }
}

#[test]
fn charges_stay_within_the_limit_and_are_given_back() {
    in_many_orders(|_| {
        let limits = Limits { max_bytes: 100, max_entries: 2, min_free: 0 };
        let budget = Budget::new(limits, Box::new(Endless));
        let threads = [30, 40, 50].map(|bytes| {
            let budget = budget.clone();
            thread::spawn(move || {
                let Ok(mut charge) = budget.charge(bytes, 1) else { return };
                let _full = charge.grow(bytes, 0);
                let part = charge.split(10);
                let used = budget.used();
                assert!(used.bytes <= 100 && used.entries <= 2, "{used:?}");
                charge.absorb(part);
                charge.shrink(5, 0);
                assert!(budget.used().bytes >= charge.bytes());
            })
        });
        for thread in threads {
            thread.join().expect("ends");
        }
        assert_eq!(budget.used(), Used::default());
    });
}

#[test]
fn one_fills_and_nobody_sees_half() {
    in_many_orders(|dir| {
        let core = cache(dir, 1 << 20);
        let fillers = [b'a', b'b'].map(|byte| {
            beside(&core, move |core| match &fill(core, &key(), byte) {
                Ok(Some(file)) => {
                    let bytes = bytes_of(file);
                    assert!(bytes.len() == 6000 && bytes.iter().all(|b| *b == bytes[0]));
                }
                Ok(None) => {}
                Err(CacheError::Stalled { .. }) => {}
                Err(other) => panic!("{other}"),
            })
        });
        let stalling = beside(&core, |core| {
            if let Some(Slot::Filling(filling)) = named(core) {
                filling.abandon(core, CacheError::Stalled { after: Duration::ZERO });
            }
        });
        for thread in fillers.into_iter().chain([stalling]) {
            thread.join().expect("ends");
        }
        let held = there(&core);
        assert!(held.is_some() || core.files.get(&key(), |_| ()).is_none(), "nobody fills any more");
        let there = u64::from(held.is_some());
        assert_eq!(core.budget.used(), Used { bytes: there * (on_disk(6000) + DISK_UNIT), entries: there });
        assert_eq!(files(dir) as u64, there);
        assert!(core.fillings.lock().is_empty());
    });
}

#[test]
fn what_is_held_is_not_evicted() {
    in_many_orders(|dir| {
        let core = cache(dir, 1 << 20);
        drop(fill(&core, &key(), b'a').expect("fills"));
        let reader = beside(&core, |core| {
            let Some(held) = there(core) else { return };
            thread::yield_now();
            assert!(there(core).is_some(), "it was evicted while it was held");
            assert!(bytes_of(&held) == [b'a'; 6000], "it is not what it was");
        });
        let evictor = beside(&core, |core| core.evict_one(Cause::Bytes, &mut Vec::new()));
        reader.join().expect("ends");
        let evicted = evictor.join().expect("ends");
        assert_eq!(core.budget.used().entries, u64::from(!evicted));
        assert_eq!(files(dir), usize::from(!evicted));
    });
}

#[test]
fn what_is_deleted_stays_for_those_who_hold_it() {
    in_many_orders(|dir| {
        let core = cache(dir, 1 << 20);
        drop(fill(&core, &key(), b'a').expect("fills"));
        let reader = beside(&core, |core| {
            let Some(entry) = pinned(core) else { return };
            let held = File::pinned(core.clone(), entry.clone());
            let before = bytes_of(&held);
            assert!(before == [b'a'; 6000] || before == [b'b'; 6000], "neither the old one nor the new one");
            thread::yield_now();
            assert!(bytes_of(&held) == before, "it has changed while it was held");
            let named = matches!(named(core), Some(Slot::File(found)) if Arc::ptr_eq(&found, &entry));
            let witness = core.store.get_witness(&entry.name());
            assert!(named || witness.is_err(), "after a kill a start would find again what was deleted");
        });
        let again = beside(&core, |core| {
            let Some(Slot::File(file)) = named(core) else { panic!("it is not there") };
            assert!(core.drop_file(&file));
            let new = fill(core, &key(), b'b').expect("its name is free").expect("nobody else fills");
            assert!(bytes_of(&new) == [b'b'; 6000], "it is not the new one");
        });
        reader.join().expect("ends");
        again.join().expect("ends");
        assert_eq!(core.budget.used(), Used { bytes: on_disk(6000) + DISK_UNIT, entries: 1 });
        assert_eq!(files(dir), 1);
    });
}

/// Keeps a block as a fetch does that has brought it.
fn bring(core: &Arc<Core>, entry: &Arc<BlobEntry>, number: u32) {
    let bytes = Bytes::from(vec![7; entry.range(number).1 as usize]);
    keep(core, entry, number, &bytes, Duration::ZERO);
}

fn object(size: u64) -> ObjectId {
    ObjectId { bucket: "b".into(), key: "k".into(), tag: "t".into(), size }
}

/// A thread that wants a block: reads it if it is there, brings it if nobody does.
fn want(core: &Arc<Core>, id: &ObjectId, flying: &AtomicU32) {
    let entry = core.blob(id);
    let begin = || Flight::begin().1;
    match entry.seek(0, begin) {
        Sought::There(block) => {
            let mut bytes = [0; 100];
            entry
                .file()
                .and_then(|file| {
                    thread::yield_now();
                    file.read_exact_at(&mut bytes, 0).map_err(|e| CacheError::io("read", entry.path(), e))
                })
                .expect("reads");
            assert_eq!(bytes, [7; 100], "it was taken away while it was held");
            block.usage.unpin();
        }
        Sought::Flying(_) => {}
        Sought::Missing(_) => {
            assert_eq!(flying.fetch_add(1, SeqCst), 0, "two fetch the same block");
            bring(core, &entry, 0);
            flying.fetch_sub(1, SeqCst);
            entry.land(0);
        }
    }
    core.leave(&entry);
}

#[test]
fn a_block_is_fetched_once_and_stays_while_it_is_held() {
    in_many_orders(|dir| {
        let core = cache(dir, 1 << 20);
        let id = object(4000);
        let flying = Arc::new(AtomicU32::new(0));
        let readers = [(); 3].map(|()| {
            let (id, flying) = (id.clone(), flying.clone());
            beside(&core, move |core| want(core, &id, &flying))
        });
        let evictor = beside(&core, |core| {
            core.evict_one(Cause::Bytes, &mut Vec::new());
        });
        for thread in readers.into_iter().chain([evictor]) {
            thread.join().expect("ends");
        }
        let left = core.blobs.get(&id, |entry| (entry.blocks_here(), entry.charged()));
        let used = core.budget.used();
        let (blocks, bytes) = left.unwrap_or_default();
        assert_eq!(used, Used { bytes, entries: u64::from(left.is_some()) });
        let witness = if left.is_some_and(|(_, bytes)| bytes > 0) { DISK_UNIT } else { 0 };
        assert_eq!(bytes, u64::from(blocks) * on_disk(4000) + witness);
        assert!(left.is_none_or(|(blocks, _)| blocks == 1), "nothing is there of it, and nobody reads it");
        assert_eq!(files(dir), usize::from(left.is_some()));
    });
}

#[test]
fn what_is_kept_while_its_object_is_removed_leaves_no_witness() {
    in_many_orders(|dir| {
        let core = cache(dir, 1 << 20);
        let entry = core.blob(&object(2 * BLOCK_MIN_BYTES));
        bring(&core, &entry, 0);
        let (kept, removed) = (entry.clone(), entry.clone());
        let keeper = beside(&core, move |core| bring(core, &kept, 1));
        let remover = beside(&core, move |core| assert!(core.drop_blob(&removed)));
        keeper.join().expect("ends");
        remover.join().expect("ends");
        // Its bytes stay as long as we hold it; a start after a kill must not find what they are.
        assert!(core.store.get_witness(&entry.name()).is_err());
        core.leave(&entry);
        drop(entry);
        assert_eq!(core.budget.used(), Used::default());
        assert_eq!(files(dir), 0);
    });
}
