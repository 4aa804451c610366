//! [`Gate`]: what is let in at all, by its size and by how much has been written lately.
use crate::cache::config::Admission;
use crate::clock::Clock;
use crate::sync::Mutex;
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
    tokens: u64,
    filled: Instant,
}

impl Gate {
    /// Lets in by these rules, and nothing that the whole cache could not hold.
    pub fn new(rules: Admission, max_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        let bucket = Bucket { tokens: rules.write_bytes_per_second.unwrap_or(0), filled: clock.now() };
        Self { rules, max_bytes, clock, bucket: Mutex::new(bucket) }
    }

    /// Whether an entry of so many bytes may come in.
    pub fn size(&self, bytes: u64) -> Result<(), Refusal> {
        let limit = self.rules.max_entry_bytes.unwrap_or(u64::MAX).min(self.max_bytes);
        if bytes > limit { Err(Refusal::Size) } else { Ok(()) }
    }

    /// Whether so many bytes may be written now; if so they count as written.
    pub fn write(&self, bytes: u64) -> Result<(), Refusal> {
        let Some(rate) = self.rules.write_bytes_per_second else { return Ok(()) };
        let now = self.clock.now();
        let mut bucket = self.bucket.lock();
        let passed = now.saturating_duration_since(bucket.filled);
        let more = u64::try_from(passed.as_micros() * u128::from(rate) / 1_000_000).unwrap_or(u64::MAX);
        if more > 0 {
            bucket.tokens = bucket.tokens.saturating_add(more).min(rate);
            bucket.filled = now;
        }
        // What is larger than a second's worth takes it all.
        let price = bytes.min(rate);
        if bucket.tokens < price {
            return Err(Refusal::Rate);
        }
        bucket.tokens -= price;
        Ok(())
    }
}
