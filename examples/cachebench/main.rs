//! Measures the cache alone, each figure beside what it is to be held against.
//!
//! ```text
//! cachebench DIR [hit] [block] [readers] [rehydrate] [policies] [redis] [--entries N]
//! cachebench DIR rival
//! ```
//! DIR is made and removed. Without a name all are measured. Prints a markdown table for each; `rival`, which must be
//! asked for by name, is one side of `scripts/bench/foyer`.
#![allow(clippy::print_stdout, reason = "the tables are its result")]
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use icecache::cache::record::{ENTRIES, EntryRecord, Used, entry_key};
use icecache::cache::{Cache, Config, FetchError, Fetched, Key, ObjectId, Origin};
use icecache::journal::{Batch, Journal, SledJournal};
use std::error::Error;
use std::hint::black_box;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

mod ours;
mod policies;
#[cfg(feature = "redis")]
mod redis;
mod rival;

type Outcome<T> = Result<T, Box<dyn Error>>;

const MIB: usize = 1 << 20;
/// How long one figure is measured, and how often in turn with what it is held against.
const SPAN: Duration = Duration::from_millis(500);
const TURNS: usize = 9;

fn config(dir: &Path) -> Config {
    Config { min_free: 0, ..Config::new(dir) }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

/// How often a second `work` can be done.
fn rate(mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < SPAN {
        for _ in 0..64 {
            work()?;
        }
        count += 64;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

async fn hit(dir: &Path) -> Outcome<()> {
    let cache = Cache::open(config(dir)).await?;
    let keys: Vec<Key> =
        (0..1000).map(|n| Key::new(format!("a/key/of/usual/length/{n:06}"))).collect::<Result<_, _>>()?;
    for key in &keys {
        cache.insert(key, Bytes::from_static(&[7; 4096])).await?.file().await?;
    }
    let _held = cache.hit(&keys[0]).ok_or("not there")?;
    let mut turn = 0;
    let (mut one, mut any, mut opens) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        one.push(rate(|| {
            black_box(cache.hit(&keys[0]).ok_or("not there")?);
            Ok(())
        })?);
        any.push(rate(|| {
            turn = (turn + 7) % keys.len();
            black_box(cache.hit(&keys[turn]).ok_or("not there")?);
            Ok(())
        })?);
        let path = cache.hit(&keys[0]).ok_or("not there")?.path();
        opens.push(rate(|| {
            black_box(std::fs::metadata(&path)?);
            Ok(())
        })?);
    }
    println!("| look-ups on one core | a second | goal |\n|---|---:|---:|");
    println!("| a file that is held | {:.2} M | ≥ 1 M |", median(one) / 1e6);
    println!("| any of 1000 files | {:.2} M | |", median(any) / 1e6);
    println!("| for comparison: stat(2) of one of them | {:.2} M | |\n", median(opens) / 1e6);
    Ok(cache.close().await?)
}

/// Bytes that are made up, after a delay.
#[derive(Debug)]
struct Made {
    delay: Duration,
    fetches: AtomicU64,
}

#[async_trait]
impl Origin for Made {
    async fn fetch(&self, _id: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        self.fetches.fetch_add(1, Relaxed);
        tokio::time::sleep(self.delay).await;
        let bytes = Bytes::from(vec![range.start as u8; (range.end - range.start) as usize]);
        Ok(Fetched { body: futures::stream::iter([Ok(bytes)]).boxed(), source: "made up" })
    }
}

fn object(n: u64, mib: u64) -> ObjectId {
    ObjectId { bucket: "bench".into(), key: format!("object/{n}"), tag: "1".into(), size: mib << 20 }
}

async fn block(dir: &Path) -> Outcome<()> {
    const BLOCKS: u64 = 256;
    let cache = Cache::open(config(dir)).await?;
    let origin = Arc::new(Made { delay: Duration::ZERO, fetches: AtomicU64::new(0) });
    let blob = cache.blob(&object(1, BLOCKS), origin)?;
    blob.warm(0..BLOCKS as u32).await?;
    cache.quiet().await;
    let file = blob.file().await?.ok_or("not all of it was kept")?.open()?;
    let mut buffer = vec![0; MIB];
    let (mut plain, mut into, mut owned) = (Vec::new(), Vec::new(), Vec::new());
    // The same order of blocks for each, not the one of a reader that goes forward.
    let next = |at: &mut u64| {
        *at = (*at * 5 + 77) % BLOCKS;
        *at << 20
    };
    for _ in 0..TURNS {
        let mut at = 0;
        plain.push(rate(|| Ok(file.read_exact_at(&mut buffer, next(&mut at))?))?);
        at = 0;
        into.push(rate(|| {
            blob.read_now(next(&mut at), &mut buffer).map(drop).ok_or_else(|| "not in the page cache".into())
        })?);
        at = 0;
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < SPAN {
            black_box(blob.read(next(&mut at), MIB).await?);
            count += 1;
        }
        owned.push(f64::from(count) / start.elapsed().as_secs_f64());
    }
    let (plain, into, owned) = (median(plain), median(into), median(owned));
    println!("| 1 MiB blocks out of the page cache | GB/s | of pread | goal |\n|---|---:|---:|---:|");
    let gb = MIB as f64 / 1e9;
    println!("| pread(2) of the same file | {:.2} | | |", plain * gb);
    println!("| `read_now` into a buffer | {:.2} | {:.2} | ≥ 0.8 |", into * gb, into / plain);
    println!("| `read` as bytes of its own | {:.2} | {:.2} | ≥ 0.8 |\n", owned * gb, owned / plain);
    drop((file, blob));
    Ok(cache.close().await?)
}

/// Everybody reads the whole of a cold object; says how long that took and after what time everybody had its
/// first bytes.
async fn cold(cache: &Cache, origin: &Arc<Made>, id: &ObjectId, readers: usize) -> Outcome<(f64, f64)> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..readers)
        .map(|_| {
            let blob = cache.blob(id, origin.clone())?;
            Ok(tokio::spawn(async move {
                let (mut at, mut first) = (0, None);
                while let Ok(bytes) = blob.read(at, MIB).await
                    && !bytes.is_empty()
                {
                    first.get_or_insert_with(|| start.elapsed().as_secs_f64());
                    at += bytes.len() as u64;
                }
                (at, first.unwrap_or(f64::MAX))
            }))
        })
        .collect::<Outcome<_>>()?;
    let mut latest = 0.0_f64;
    for task in tasks {
        let (bytes, first) = task.await?;
        if bytes != id.size {
            return Err("a reader did not get everything".into());
        }
        latest = latest.max(first);
    }
    Ok((start.elapsed().as_secs_f64(), latest))
}

async fn readers(dir: &Path) -> Outcome<()> {
    let cache = Cache::open(config(dir)).await?;
    // 40 ms a block: S3 at 25 MB/s for each connection.
    let origin = Arc::new(Made { delay: Duration::from_millis(40), fetches: AtomicU64::new(0) });
    let (mut one, mut many, mut first, mut most) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for turn in 0..5 {
        one.push(cold(&cache, &origin, &object(2 * turn, 256), 1).await?.0);
        let before = origin.fetches.load(Relaxed);
        let (took, latest) = cold(&cache, &origin, &object(2 * turn + 1, 256), 64).await?;
        most = most.max(origin.fetches.load(Relaxed) - before);
        many.push(took);
        first.push(latest);
    }
    let (one, many) = (median(one), median(many));
    println!(
        "| a cold object of 256 MiB, 40 ms a block | time | of one reader's | fetches | first byte to all after | goal |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    println!("| one reader | {one:.3} s | | 256 | | |");
    println!(
        "| 64 readers | {many:.3} s | {:.2} | {most} | {:.3} s | ≤ 1.1, 256 |\n",
        many / one,
        median(first)
    );
    Ok(cache.close().await?)
}

/// Bytes of memory that were asked for and not given back, as the C library counts them.
fn allocated() -> u64 {
    // SAFETY: it only reads its own counters.
    let counted = unsafe { libc::mallinfo2() };
    (counted.uordblks + counted.hblkhd) as u64
}

async fn rehydrate(dir: &Path, entries: u64) -> Outcome<()> {
    let key = Key::new("the real one")?;
    let mut config = config(dir);
    config.max_entries = 2 * entries;
    config.max_bytes = u64::MAX / 2;
    let cache = Cache::open(config.clone()).await?;
    cache.insert(&key, Bytes::from_static(b"real bytes")).await?.file().await?;
    cache.close().await?;
    // Records of files of which only one is there: what is measured is the way from the journal to the first look-up.
    let path = dir.join("journal");
    {
        let journal = SledJournal::open(&path, Duration::from_secs(5))?.journal;
        for start in (0..entries).step_by(4096) {
            let mut batch = Batch::new();
            for n in start..(start + 4096).min(entries) {
                let key =
                    Key::new(format!("warehouse/db/table/data/{n:08}-{:016x}.parquet", n * 0x9E37_79B9))?;
                let record = EntryRecord {
                    identity: icecache::cache::key::Identity::File { key, size: 1 + n % 100_000 },
                    block_bytes: 1 << 20,
                    whole: *blake3::hash(&n.to_le_bytes()).as_bytes(),
                    created: 1_700_000_000,
                    sidecar: false,
                    used: Used { tick: n * 7919 % entries, hits: 1, cost_us: 1000 },
                };
                batch.put(ENTRIES, &entry_key(1 + n), record.encode(1 + n));
            }
            journal.apply(batch)?;
        }
        journal.flush()?;
    }
    let mut bare = Vec::new();
    for _ in 0..3 {
        let db = sled::Config::new().path(&path).flush_every_ms(None).open()?;
        let start = Instant::now();
        let mut bytes = 0;
        for pair in db.iter() {
            let (key, value) = pair?;
            bytes += key.len() + value.len();
        }
        black_box(bytes);
        bare.push(start.elapsed().as_secs_f64());
    }
    let before = allocated();
    let start = Instant::now();
    let cache = Cache::open(config).await?;
    let opened = start.elapsed().as_secs_f64();
    let found = cache.look_up(&key).await?.is_some();
    let first = start.elapsed().as_secs_f64();
    let stats = cache.stats();
    if !found || stats.settled || stats.totals.rehydrated != entries + 1 {
        return Err(format!("not as it should be: {found} {stats:?}").into());
    }
    let (bare, replay) = (median(bare), stats.totals.replay_us as f64 / 1e6);
    println!("| a start with {entries} entries | time | of sled's | goal |\n|---|---:|---:|---:|");
    println!("| bare iteration of sled | {bare:.2} s | | |");
    println!("| replay of the journal | {replay:.2} s | {:.2} | ≤ 3 s or ≤ 1.5 |", replay / bare);
    println!("| opened, sled's own start included | {opened:.2} s | | |");
    println!("| first look-up, verified, the checks still running | {first:.2} s | | |");
    let each = allocated().saturating_sub(before) / entries;
    println!(
        "| memory an entry, its key of 57 bytes and the journal's cache included | {each} bytes | | |\n"
    );
    Ok(())
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: cachebench DIR [WHAT...] [--entries N]")?;
    let (mut what, mut entries) = (Vec::new(), 1_000_000);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--entries" => entries = arguments.next().ok_or("--entries needs a number")?.parse()?,
            _ => what.push(argument),
        }
    }
    let wanted = |name: &str| what.is_empty() || what.iter().any(|w| w == name);
    let dir = Path::new(&dir);
    std::fs::create_dir(dir)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        if what.iter().any(|name| name == "rival") {
            ours::run(dir).await?;
        }
        if wanted("hit") {
            hit(&dir.join("hit")).await?;
        }
        if wanted("block") {
            block(&dir.join("block")).await?;
        }
        if wanted("readers") {
            readers(&dir.join("readers")).await?;
        }
        if wanted("policies") {
            policies::run();
        }
        #[cfg(feature = "redis")]
        if wanted("redis") {
            redis::run(&dir.join("redis")).await?;
        }
        if wanted("rehydrate") {
            rehydrate(&dir.join("rehydrate"), entries).await?;
        }
        Ok::<(), Box<dyn Error>>(())
    });
    std::fs::remove_dir_all(dir)?;
    result?;
    // The checks of a million files that were never there need not end.
    std::process::exit(0)
}
