//! What a cache makes of the same requests as another: here ours; `scripts/bench/foyer` replays them against foyer,
//! which has this file, too.
#![allow(dead_code, reason = "either program has a side of its own")]
use bytes::Bytes;
use std::future::Future;
use std::time::Instant;

/// A trace: contents of one size, asked for by popularity.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    /// Bytes of a content.
    pub bytes: usize,
    /// How many contents there are, and requests.
    pub contents: u64,
    pub requests: usize,
}

pub const SHAPES: [Shape; 2] = [
    Shape { name: "16 KiB", bytes: 16 << 10, contents: 40_000, requests: 100_000 },
    Shape { name: "1 MiB", bytes: 1 << 20, contents: 1000, requests: 5000 },
];
/// Room on the disk and in memory.
pub const DISK_BYTES: u64 = 256 << 20;
pub const MEMORY_BYTES: u64 = 32 << 20;
/// Bytes of what is asked for again and again afterwards: what fits the memory, and what fits the disk alone.
const HOT_BYTES: [u64; 2] = [16 << 20, 160 << 20];
/// How often a popular content is asked for: in proportion to its rank to the power of minus this.
const SKEW: f64 = 0.9;

/// Random numbers that are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn requests(shape: &Shape) -> Vec<u64> {
    let mut sum = 0.0;
    let mut until = |n: u64| {
        sum += (n as f64).powf(-SKEW);
        sum
    };
    let ends: Vec<f64> = (1..=shape.contents).map(&mut until).collect();
    let total = ends.last().copied().unwrap_or(0.0);
    let mut numbers = Numbers(42);
    let mut pick = || {
        let at = (numbers.next() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        ends.partition_point(|end| *end < at) as u64
    };
    (0..shape.requests).map(|_| pick()).collect()
}

/// The bytes of a content: they do not compress, and say whose they are.
pub fn value(content: u64, bytes: usize) -> Bytes {
    let mut numbers = Numbers(content);
    (0..bytes / 8).flat_map(|_| numbers.next().to_le_bytes()).collect::<Vec<u8>>().into()
}

/// A cache as this sees it: gives a content, and says whether it had it; one that it had not it keeps if it likes.
pub trait Rival {
    fn get(&self, content: u64) -> impl Future<Output = Result<(Bytes, bool), Box<dyn std::error::Error>>>;
}

/// Replays a trace, then what is hot; prints one line for each: shape, what, requests a second, hit ratio.
pub async fn replay(cache: &impl Rival, shape: &Shape) -> Result<(), Box<dyn std::error::Error>> {
    let trace = requests(shape);
    run(cache, shape, "zipf trace, misses made up and kept", &trace).await?;
    let mut numbers = Numbers(7);
    for (bytes, what) in HOT_BYTES.into_iter().zip(["16 MiB again and again", "160 MiB again and again"]) {
        let hot = bytes / shape.bytes as u64;
        // Once, so that they are there; what is measured is what comes then.
        for content in 0..hot {
            cache.get(content).await?;
        }
        let again: Vec<u64> = (0..shape.requests).map(|_| numbers.next() % hot).collect();
        run(cache, shape, what, &again).await?;
    }
    Ok(())
}

async fn run(
    cache: &impl Rival,
    shape: &Shape,
    what: &str,
    requests: &[u64],
) -> Result<(), Box<dyn std::error::Error>> {
    let (start, mut hits, mut seen) = (Instant::now(), 0_usize, 0_u64);
    for content in requests {
        let (bytes, hit) = cache.get(*content).await?;
        // Whoever asks for bytes reads them: one of each page.
        seen += bytes.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>();
        hits += usize::from(hit);
    }
    std::hint::black_box(seen);
    let took = start.elapsed().as_secs_f64();
    let (rate, ratio) = (requests.len() as f64 / took, hits as f64 / requests.len() as f64);
    #[allow(clippy::print_stdout, reason = "the lines are its result")]
    {
        println!("{}\t{what}\t{rate:.0}\t{ratio:.4}", shape.name);
    }
    Ok(())
}
