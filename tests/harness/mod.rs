//! What the suites share: a real mount with a guard, its plain twin, trees and their differences.
#![allow(dead_code)] // each test program uses its own part
#![allow(unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

pub mod child;
pub mod command;
pub mod in_turn;
pub mod lab;
pub mod load;
pub mod ops;
pub mod overlayfs;
pub mod process;
pub mod served;
pub mod snapshot;
pub mod subject;
pub mod twin;

pub use command::{Finished, LIMIT, eventually, run, tool, wait_for};
pub use in_turn::InTurn;
pub use lab::{Lab, Mode, Setup, detach};
pub use overlayfs::{Layers, Overlay};
pub use snapshot::{KEPT, TIMELESS, Tree, show};
pub use subject::{Subject, must_notice};
pub use twin::{Defect, Twin};

/// Whether the long slices were asked for (`ICECACHE_LONG=1`).
pub fn long() -> bool {
    std::env::var_os("ICECACHE_LONG").is_some_and(|v| v != "0")
}

/// The count for the default slice, or the long one.
pub fn slice(default: usize, long_slice: usize) -> usize {
    if long() { long_slice } else { default }
}

/// Whether we may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a test (or a part of it) does not run here.
pub fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
}

/// Random numbers from a printed seed (`ICECACHE_SEED` repeats a run).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From the environment, else from the clock; the seed is printed.
    pub fn seeded(what: &str) -> Self {
        let clock =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("ICECACHE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(clock);
        eprintln!("{what}: ICECACHE_SEED={seed}");
        Self(seed | 1)
    }

    /// From a number that another one gave.
    pub fn from(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number (splitmix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
