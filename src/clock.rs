//! Time and randomness as values, so that tests can supply their own.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time of a file or a version: seconds and nanoseconds since 1970-01-01 UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds within the second, 0 to 999,999,999.
    pub nsec: u32,
}

impl Timestamp {
    /// The wall clock now.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        SystemTime::from(self).duration_since(SystemTime::from(earlier)).unwrap_or_default()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Self { sec: d.as_secs() as i64, nsec: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                let sec = -(d.as_secs() as i64);
                match d.subsec_nanos() {
                    0 => Self { sec, nsec: 0 },
                    n => Self { sec: sec - 1, nsec: 1_000_000_000 - n },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> Self {
        let nanos = Duration::from_nanos(u64::from(t.nsec));
        if t.sec >= 0 {
            UNIX_EPOCH + Duration::from_secs(t.sec as u64) + nanos
        } else {
            UNIX_EPOCH - Duration::from_secs(t.sec.unsigned_abs()) + nanos
        }
    }
}

/// Where debounce and back-off read the time; tests move it by hand.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// A monotonic instant.
    fn now(&self) -> Instant;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}
