//! [`Pace`]: how fast the background may bring content.
use crate::sync::Mutex;
use std::num::NonZeroU64;
use std::time::Duration;
use tokio::time::Instant;

/// The least that is asked for at once, however slow the pace: a frame.
const STEP_MIN: u64 = 1 << 20;

/// Bytes of one second, or no limit. Owner of its lock.
#[derive(Debug, Default)]
pub struct Pace {
    rate: Option<NonZeroU64>,
    /// When the next bytes may be asked for.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many bytes a second; `None`: as fast as it goes.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, next: Mutex::default() }
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// How much to ask for at once where `most` is the most: about what comes in a second.
    pub(super) fn step(&self, most: u64) -> u64 {
        self.rate.map_or(most, |rate| rate.get().clamp(STEP_MIN.min(most), most))
    }

    /// Waits until so many bytes may be asked for.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let turn = turn(&mut self.next.lock(), Instant::now(), bytes, rate);
        tokio::time::sleep_until(turn).await;
    }
}

/// Time that nobody used is gone: there is no burst after a pause.
fn turn(next: &mut Option<Instant>, now: Instant, bytes: u64, rate: NonZeroU64) -> Instant {
    let turn = next.map_or(now, |next| next.max(now));
    let takes = Duration::try_from_secs_f64(bytes as f64 / rate.get() as f64).unwrap_or(Duration::MAX);
    // So far away that it never comes.
    let far = || turn + Duration::from_secs(100 * 365 * 24 * 60 * 60);
    *next = Some(turn.checked_add(takes).unwrap_or_else(far));
    turn
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_pauses_are_not_saved_up() {
        let (rate, now) = (NonZeroU64::new(1000).expect("not zero"), Instant::now());
        let second = Duration::from_secs(1);
        let mut next = None;
        assert_eq!(turn(&mut next, now, 2000, rate), now, "the first need not wait");
        assert_eq!(turn(&mut next, now, 500, rate), now + 2 * second);
        assert_eq!(turn(&mut next, now + second, 500, rate), now + 2 * second + second / 2);
        assert_eq!(turn(&mut next, now + 100 * second, 1000, rate), now + 100 * second);
        assert_eq!(turn(&mut next, now + 100 * second, 1, rate), now + 101 * second);
        assert!(turn(&mut next, now, u64::MAX, rate) < turn(&mut next, now, u64::MAX, rate));
    }

    #[test]
    fn steps_are_about_a_second() {
        let step = |rate, most| Pace::new(NonZeroU64::new(rate)).step(most);
        assert_eq!(step(0, 16 << 20), 16 << 20);
        assert_eq!(step(1, 16 << 20), STEP_MIN);
        assert_eq!(step(5 << 20, 16 << 20), 5 << 20);
        assert_eq!(step(1 << 40, 16 << 20), 16 << 20);
    }
}
