//! When to flush: after a pause in changes, but never much later than the first of them.
use std::time::{Duration, Instant};

/// The first wait after a failed flush; doubled with each further failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest wait after a failed flush.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Decides when the next flush is due.
#[derive(Debug)]
pub struct Schedule {
    debounce: Duration,
    max_delay: Duration,
    /// First and last change since the last flush began.
    changes: Option<(Instant, Instant)>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Schedule {
    /// `debounce`: how long nothing must have changed; `max_delay`: how long a change may wait.
    pub fn new(debounce: Duration, max_delay: Duration) -> Self {
        Self { debounce, max_delay: max_delay.max(debounce), changes: None, failures: 0, not_before: None }
    }

    /// Something changed at `at`; times may repeat and go back.
    pub fn changed(&mut self, at: Instant) {
        self.changes = Some(match self.changes {
            Some((first, last)) => (first.min(at), last.max(at)),
            None => (at, at),
        });
    }

    /// A flush begins: changes from now on are for the next.
    pub fn begun(&mut self) {
        self.changes = None;
    }

    /// The flush that began ended well.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// It failed at `now`: its changes wait for another attempt.
    pub fn failed(&mut self, now: Instant) {
        let backoff = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff);
        self.changed(now);
    }

    /// When the next flush is due; `None` while nothing has changed.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = self.changes?;
        // A failed flush is owed already: it waits for its back-off and for nothing else.
        Some(self.not_before.unwrap_or_else(|| (last + self.debounce).min(first + self.max_delay)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_pause_or_the_longest_delay_makes_it_due() {
        let start = Instant::now();
        let mut schedule = Schedule::new(S(1), S(10));
        assert_eq!(schedule.due(), None);
        for second in 0..30 {
            schedule.changed(start + S(second));
        }
        assert_eq!(schedule.due(), Some(start + S(10)), "constant writing does not put it off for ever");
        schedule.begun();
        schedule.changed(start + S(40));
        assert_eq!(schedule.due(), Some(start + S(41)));
    }

    #[test]
    fn failures_back_off_and_keep_the_change() {
        let start = Instant::now();
        let mut schedule = Schedule::new(S(1), S(10));
        for (failure, wait) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            let now = start + S(100 * failure as u64);
            schedule.begun();
            schedule.failed(now);
            assert_eq!(schedule.due(), Some(now + S(wait)));
            schedule.changed(now + S(wait));
            assert_eq!(schedule.due(), Some(now + S(wait)), "later changes do not put it off");
        }
        schedule.begun();
        schedule.succeeded();
        assert_eq!(schedule.due(), None);
        schedule.changed(start);
        assert_eq!(schedule.due(), Some(start + S(1)));
    }
}
