//! What part of the requests of a trace each policy serves, and what part of the time of fetching it saves.
use icecache::cache::PolicyKind;
use icecache::cache::evict::{Facts, Unit, WHOLE};
use std::collections::HashMap;

/// Requests of each trace.
const REQUESTS: usize = 600_000;
/// Contents that a trace asks for again and again.
const CONTENTS: u64 = 40_000;
/// Part of their bytes for which there is room.
const ROOM: f64 = 0.1;

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

    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Contents by popularity: the nth is asked for in proportion to n to the power of minus `skew`.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(contents: u64, skew: f64) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=contents)
                .map(|n| {
                    sum += (n as f64).powf(-skew);
                    sum
                })
                .collect(),
        )
    }

    fn pick(&self, numbers: &mut Numbers) -> u64 {
        let at = numbers.part() * self.0.last().copied().unwrap_or(0.0);
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

/// Size in bytes and time to fetch in microseconds: from 4 KiB to 4 MiB, a tenth of them from far away.
fn nature(content: u64) -> (u64, u32) {
    let mut numbers = Numbers(content.wrapping_mul(31) + 5);
    let bytes = (4096.0 * 2_f64.powf(numbers.part() * 10.0)) as u64;
    let far = numbers.part() < 0.1;
    let cost = if far { 200_000 + bytes / 10 } else { 20_000 + bytes / 100 };
    (bytes, cost as u32)
}

type Trace = (&'static str, Vec<u64>);

fn traces() -> Vec<Trace> {
    let zipf = Zipf::new(CONTENTS, 0.9);
    let mut numbers = Numbers(42);
    let plain: Vec<u64> = (0..REQUESTS).map(|_| zipf.pick(&mut numbers)).collect();
    // After 20 requests a run of 20 contents that nobody asks for again.
    let mut once = 1 << 32;
    let polluted = (0..REQUESTS)
        .map(|n| {
            if n % 40 < 20 {
                return zipf.pick(&mut numbers);
            }
            once += 1;
            once
        })
        .collect();
    // Every fourth request belongs to a table of half of CONTENTS that is read from end to end, again and again.
    let mut row = 0;
    let table = (0..REQUESTS)
        .map(|n| {
            if n % 4 > 0 {
                return zipf.pick(&mut numbers);
            }
            row = (row + 1) % (CONTENTS / 2);
            (1 << 40) + row
        })
        .collect();
    vec![
        ("zipf 0.9", plain),
        ("zipf, half of it scans of what comes once", polluted),
        ("zipf, a quarter a table read in turns", table),
    ]
}

/// Hits in percent of the requests, and of the time that all fetches would take.
fn simulate(kind: PolicyKind, trace: &[u64], room: u64) -> (f64, f64) {
    let mut policy = kind.build();
    let mut there: HashMap<u64, (Unit, u32)> = HashMap::new();
    let mut contents: HashMap<Unit, u64> = HashMap::new();
    let (mut used, mut hits, mut saved, mut all, mut generation) = (0, 0_u64, 0_u64, 0_u64, 0);
    for (n, content) in trace.iter().enumerate() {
        let (bytes, cost_us) = nature(*content);
        let now = n as u64 / 100;
        let facts = |hits| Facts { bytes, cost_us, hits, fingerprint: *content, now };
        all += u64::from(cost_us);
        if let Some((unit, uses)) = there.get_mut(content) {
            *uses += 1;
            hits += 1;
            saved += u64::from(cost_us);
            policy.touched(*unit, facts(*uses));
            continue;
        }
        while let Some(unit) = policy.expired(now) {
            forget(unit, &mut there, &mut contents, &mut used);
        }
        while used + bytes > room {
            let Some(unit) = policy.victim() else { break };
            forget(unit, &mut there, &mut contents, &mut used);
        }
        generation += 1;
        let unit = Unit { generation, block: WHOLE };
        policy.admitted(unit, facts(0));
        there.insert(*content, (unit, 0));
        contents.insert(unit, *content);
        used += bytes;
    }
    (100.0 * hits as f64 / trace.len() as f64, 100.0 * saved as f64 / all as f64)
}

fn forget(
    unit: Unit,
    there: &mut HashMap<u64, (Unit, u32)>,
    contents: &mut HashMap<Unit, u64>,
    used: &mut u64,
) {
    if let Some(content) = contents.remove(&unit) {
        there.remove(&content);
        *used -= nature(content).0;
    }
}

/// Prints the table.
pub fn run() {
    let total: u64 = (0..CONTENTS).map(|content| nature(content).0).sum();
    let room = (total as f64 * ROOM) as u64;
    println!(
        "| hits in % of requests / of the time of all fetches | {} |",
        PolicyKind::ALL.map(|kind| kind.build().name()).join(" | ")
    );
    println!("|---|{}", "---:|".repeat(PolicyKind::ALL.len()));
    for (name, trace) in traces() {
        let figures = PolicyKind::ALL.map(|kind| {
            let (hits, saved) = simulate(kind, &trace, room);
            format!("{hits:.1} / {saved:.1}")
        });
        println!("| {name} | {} |", figures.join(" | "));
    }
    println!();
}
