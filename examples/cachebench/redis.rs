//! How long reads of cold blocks take without Redis, and with one that is well, stalled, or gone.
use super::{Made, Outcome, config, median};
use icecache::cache::{Cache, Chain, ObjectId, Tier};
use icecache::redis::{RedisOptions, RedisTier};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Small, so that the disk is not what is measured.
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 4000;
const READERS: u64 = 16;
const TURNS: u64 = 3;
/// What an origin near by takes.
const ORIGIN: Duration = Duration::from_millis(10);

/// A server of its own; ended with this.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Server {
    fn start() -> Outcome<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("redis-server: {e}; scripts/provision installs it"))?;
        let server = Self { child, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("redis-server does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    async fn tier(&self) -> Outcome<RedisTier> {
        let tier = RedisTier::open(RedisOptions::parse(&format!("redis://127.0.0.1:{}", self.port))?).await?;
        tier.ready().await?;
        Ok(tier)
    }
}

fn object(turn: u64) -> ObjectId {
    ObjectId { bucket: "bench".into(), key: "object".into(), tag: turn.to_string(), size: BLOCKS * BLOCK }
}

/// How long each read took, in milliseconds, ascending.
async fn reads(dir: &Path, id: &ObjectId, tier: Option<&RedisTier>) -> Outcome<Vec<f64>> {
    let cache =
        Cache::open(icecache::cache::Config { block_bytes: BLOCK, readahead_max: 0, ..config(dir) }).await?;
    let tiers = tier.map(|tier| Arc::new(tier.clone()) as Arc<dyn Tier>).into_iter().collect();
    let origin = Arc::new(Made { delay: ORIGIN, fetches: AtomicU64::new(0) });
    let chain = Arc::new(Chain::new(tiers, origin));
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let blob = cache.blob(id, chain.clone())?;
            Ok(tokio::spawn(async move {
                let mut took = Vec::new();
                for block in (reader..BLOCKS).step_by(READERS as usize) {
                    let start = Instant::now();
                    if blob
                        .read(block * BLOCK, BLOCK as usize)
                        .await
                        .is_ok_and(|bytes| bytes.len() as u64 == BLOCK)
                    {
                        took.push(start.elapsed().as_secs_f64() * 1e3);
                    }
                }
                took
            }))
        })
        .collect::<Outcome<_>>()?;
    let mut all = Vec::new();
    for reader in readers {
        all.extend(reader.await?);
    }
    if all.len() as u64 != BLOCKS {
        return Err("a read failed".into());
    }
    all.sort_by(f64::total_cmp);
    cache.close().await?;
    std::fs::remove_dir_all(dir)?;
    Ok(all)
}

/// Waits until nothing is written any more.
async fn settle(tier: &RedisTier) {
    let mut before = None;
    while before != Some(tier.status().totals) {
        before = Some(tier.status().totals);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Prints the table.
pub async fn run(dir: &Path) -> Outcome<()> {
    const CASES: [&str; 5] =
        ["without Redis", "healthy, nothing there", "healthy, read before", "stalled at the start", "gone"];
    std::fs::create_dir(dir)?;
    let place = dir.join("cache");
    let mut figures = CASES.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    let (mut hits, mut waited) = (0, 0);
    for turn in 0..TURNS {
        let id = object(turn);
        let server = Server::start()?;
        let mut took = vec![reads(&place, &id, None).await?];
        {
            let tier = server.tier().await?;
            took.push(reads(&place, &id, Some(&tier)).await?);
            settle(&tier).await;
            let before = tier.status().totals.hits;
            took.push(reads(&place, &id, Some(&tier)).await?);
            hits = tier.status().totals.hits - before;
        }
        let tier = server.tier().await?;
        kill_process(Pid::from_child(&server.child), Signal::STOP)?;
        took.push(reads(&place, &id, Some(&tier)).await?);
        waited = tier.status().totals.timed_out;
        drop(server);
        took.push(reads(&place, &id, Some(&tier)).await?);
        let percentile = |took: &[f64], part: f64| took[(took.len() as f64 * part) as usize];
        let plain = percentile(&took[0], 0.99);
        for ((half, most, ratio), took) in figures.iter_mut().zip(&took) {
            half.push(percentile(took, 0.5));
            most.push(percentile(took, 0.99));
            ratio.push(percentile(took, 0.99) / plain);
        }
    }
    println!(
        "| {BLOCKS} cold blocks of {} KiB, {READERS} readers, origin {} ms | p50 | p99 | p99 to that without | goal |",
        BLOCK >> 10,
        ORIGIN.as_millis()
    );
    println!("|---|---:|---:|---:|---:|");
    for (case, (half, most, ratio)) in CASES.into_iter().zip(figures) {
        let goal = if case.starts_with("stalled") { "≤ 1.2" } else { "" };
        println!(
            "| {case} | {:.2} ms | {:.2} ms | {:.2} | {goal} |",
            median(half),
            median(most),
            median(ratio)
        );
    }
    println!(
        "\nOf the blocks that were read before, {hits} were still there; {waited} reads waited for the stalled one in vain.\n"
    );
    Ok(())
}
