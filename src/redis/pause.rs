//! [`Pause`]: how long to wait before the next attempt.
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// The first one that is not nothing.
const FIRST: Duration = Duration::from_millis(250);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// Who has worked for so long is trusted again.
const STEADY: Duration = Duration::from_secs(30);

/// How long to wait before the next attempt: nothing, then twice as long each time. A success that does not last
/// changes nothing.
#[derive(Debug, Default)]
pub struct Pause {
    next: Duration,
    worked_at: Option<Instant>,
}

impl Pause {
    /// An attempt has succeeded.
    pub fn worked(&mut self) {
        self.worked_at = Some(Instant::now());
    }

    /// Whether the last success is too recent to be trusted.
    pub fn is_shaky(&self) -> bool {
        !self.next.is_zero()
    }

    /// Waits as long as is right before the next attempt.
    pub async fn wait(&mut self) {
        let pause = self.next(Instant::now());
        if !pause.is_zero() {
            // Not all machines at the same moment: between three and five quarters of it.
            let quarter = pause / 4;
            let random = RandomState::new().build_hasher().finish() % 1000;
            tokio::time::sleep(quarter * 3 + quarter * 2 * random as u32 / 1000).await;
        }
    }

    fn next(&mut self, now: Instant) -> Duration {
        if self.worked_at.take().is_some_and(|at| now.saturating_duration_since(at) >= STEADY) {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST, LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_until_success_lasts() {
        let mut pause = Pause::default();
        assert!(!pause.is_shaky());
        let now = Instant::now();
        let pauses = [(); 9].map(|()| {
            pause.worked();
            pause.next(now).as_millis()
        });
        assert_eq!(pauses, [0, 250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000]);
        assert!(pause.is_shaky());
        pause.worked_at = Some(now);
        assert_eq!(pause.next(now + STEADY - Duration::from_millis(1)), LONGEST);
        pause.worked_at = Some(now);
        assert_eq!(pause.next(now + STEADY), Duration::ZERO);
    }
}
