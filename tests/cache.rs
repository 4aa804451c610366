//! The cache as its users see it: files and blocks, restarts and crashes, limits, damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // a test may panic
#[path = "cache/blocks.rs"]
mod blocks;
#[path = "cache/common.rs"]
mod common;
#[path = "cache/damage.rs"]
mod damage;
#[path = "cache/files.rs"]
mod files;
#[path = "cache/flaws.rs"]
mod flaws;
mod harness;
#[path = "cache/kills.rs"]
mod kills;
#[path = "cache/random.rs"]
mod random;
#[path = "cache/restarts.rs"]
mod restarts;
#[path = "cache/storm.rs"]
mod storm;

/// The process that is killed (see `harness::child`).
#[test]
#[ignore = "the other end of the kills, not a test"]
fn role() {
    kills::play();
}
