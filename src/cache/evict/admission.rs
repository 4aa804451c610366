//! [`Gate`]: what is let in at all, by its size and by how much has been written lately.
use crate::cache::config::Admission;
use crate::clock::Clock;
use crate::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Instant;

/// Why something stays outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is too large.
    Size,
    /// Too much was written in the last second.
    Rate,
}

/// Lets in, or not.
#[derive(Debug)]
pub struct Gate {
    rules: Admission,
    max_bytes: u64,
    clock: Arc<dyn Clock>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// What may be written at once; less than nothing where more was written than that.
    tokens: i64,
    filled: Instant,
}

impl Gate {
    /// Lets in by these rules, and nothing that the whole cache could not hold.
    pub fn new(rules: Admission, max_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        let tokens = rules.write_bytes_per_second.map_or(0, signed);
        let bucket = Bucket { tokens, filled: clock.now() };
        Self { rules, max_bytes, clock, bucket: Mutex::new(bucket) }
    }

    /// Whether a file of so many bytes may come in.
    pub fn size(&self, bytes: u64) -> Result<(), Refusal> {
        self.object(bytes)?;
        if bytes > self.max_bytes { Err(Refusal::Size) } else { Ok(()) }
    }

    /// Whether blocks of an object of so many bytes may come in: not all of them need be there at once.
    pub fn object(&self, bytes: u64) -> Result<(), Refusal> {
        let limit = self.rules.max_entry_bytes.unwrap_or(u64::MAX);
        if bytes > limit { Err(Refusal::Size) } else { Ok(()) }
    }

    /// Whether so many bytes may be written now; if so they count as written. More than a second's worth may begin when
    /// there is a second's worth; what comes after that waits until it is paid for.
    pub fn write(&self, bytes: u64) -> Result<(), Refusal> {
        let Some(rate) = self.rules.write_bytes_per_second else { return Ok(()) };
        let mut bucket = self.filled(rate);
        if bucket.tokens < signed(bytes.min(rate)) {
            return Err(Refusal::Rate);
        }
        bucket.tokens = bucket.tokens.saturating_sub(signed(bytes));
        Ok(())
    }

    /// So many bytes more are written of what was let in without knowing how much it would be.
    pub fn written(&self, bytes: u64) {
        let Some(rate) = self.rules.write_bytes_per_second else { return };
        let mut bucket = self.filled(rate);
        bucket.tokens = bucket.tokens.saturating_sub(signed(bytes));
    }

    fn filled(&self, rate: u64) -> MutexGuard<'_, Bucket> {
        let now = self.clock.now();
        let mut bucket = self.bucket.lock();
        let passed = now.saturating_duration_since(bucket.filled);
        let more = i64::try_from(passed.as_micros() * u128::from(rate) / 1_000_000).unwrap_or(i64::MAX);
        if more > 0 {
            bucket.tokens = bucket.tokens.saturating_add(more).min(signed(rate));
            bucket.filled = now;
        }
        bucket
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
