//! [`Latency`]: how often something took how long, as metrics show it.
use std::time::Duration;

/// Upper ends of the buckets, in milliseconds; one more bucket has no end.
pub const LATENCY_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

/// The bucket in which a time is counted.
pub fn bucket(time: Duration) -> usize {
    LATENCY_MS.iter().position(|end| time <= Duration::from_millis(*end)).unwrap_or(LATENCY_MS.len())
}

/// Times, counted by [`LATENCY_MS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// How many are in each bucket, and in none before it.
    pub counts: [u64; LATENCY_MS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Latency {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.counts[bucket(time)] += 1;
        self.sum += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_below_the_next_end() {
        let mut latency = Latency::default();
        for us in [1000, 1001, 30_000_001] {
            latency.add(Duration::from_micros(us));
        }
        assert_eq!((latency.counts[0], latency.counts[1], latency.counts[12]), (1, 1, 1));
        assert_eq!(latency.sum, Duration::from_micros(30_002_002));
    }
}
