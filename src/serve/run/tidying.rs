//! How long the end of a command may be held up by work for which nobody waits.
use std::time::{Duration, Instant};

/// At least that: most merges need no more.
const TIDYING_MIN: Duration = Duration::from_secs(10);

/// When layers are not merged any longer at the end of what `began` then. A large state takes long to merge, and its
/// restore has taken long as well; who ran for a moment is not held up for minutes, and nobody is for more than `most`.
pub fn tidying_until(began: Instant, most: Duration) -> Instant {
    let now = Instant::now();
    now + now.saturating_duration_since(began).min(most).max(TIDYING_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_it_took_so_far_within_bounds() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let seconds = |ran: u32, most: u32| {
            let began = now.checked_sub(second * ran).expect("the machine has run that long");
            (tidying_until(began, second * most) - now).as_secs()
        };
        assert_eq!(seconds(0, 60), 10);
        assert_eq!(seconds(30, 60), 30);
        assert_eq!(seconds(300, 60), 60);
        assert_eq!(seconds(300, 1), 10);
    }
}
