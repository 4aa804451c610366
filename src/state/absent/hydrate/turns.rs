//! [`Turns`]: who goes first, those who wait or the background.
use crate::sync::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// For so long after somebody has waited the background still holds back: who reads one file after another
/// does not wait between them.
const HOLD_BACK: Duration = Duration::from_millis(50);
/// After so many files were waited for it does not hold back any more: whoever reads as much reads on, and has
/// the rest soonest if it comes in large pieces.
const SCAN: u64 = 128;
/// After so many a file that is waited for brings along what follows it, which is to come anyway.
const FOLLOW: u64 = 8;
/// So many pieces are under way at once.
pub(super) const PIECES: usize = 3;
/// How often the background looks whether it may go on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// See the module. Owner of its lock.
#[derive(Debug)]
pub(super) struct Turns {
    /// How many wait; the background holds back meanwhile.
    waiting: AtomicUsize,
    /// When the last of them ended to wait, in milliseconds since the start.
    waited_ms: AtomicU64,
    start: Instant,
    /// How many files somebody waited for.
    demanded: AtomicU64,
    /// How many pieces the background brings at this moment.
    running: AtomicUsize,
    /// How many bring everything at this moment.
    sweeps: AtomicUsize,
    /// What comes along with files that are waited for.
    following: Mutex<Vec<Range<u32>>>,
    calm: Notify,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            waited_ms: AtomicU64::new(0),
            start: Instant::now(),
            demanded: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            sweeps: AtomicUsize::new(0),
            following: Mutex::default(),
            calm: Notify::new(),
        }
    }
}

impl Turns {
    /// Somebody waits, until it is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(self.clone())
    }

    /// Another file is waited for.
    pub(super) fn demand(&self) {
        self.demanded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn demanded(&self) -> u64 {
        self.demanded.load(Ordering::Relaxed)
    }

    /// Everything is brought, until it is dropped.
    pub(super) fn sweep(&self) -> Sweep<'_> {
        let others = self.sweeps.fetch_add(1, Ordering::AcqRel);
        Sweep { turns: self, others }
    }

    /// While somebody waits one piece at a time is brought, and no more: who waits mostly waits for the way
    /// to the store, and what the background has brought by then need not be waited for.
    pub(super) async fn turn(&self) -> Background<'_> {
        loop {
            let changed = self.calm.notified();
            let alone = self.waiting.load(Ordering::Acquire) == 0 && !self.held_back();
            let alone = alone || self.demanded() >= SCAN;
            let running = self.running.load(Ordering::Acquire);
            let following = self.following.lock().len();
            if running == 0 || alone && running + following <= PIECES {
                self.running.fetch_add(1, Ordering::AcqRel);
                return Background(self);
            }
            // Lest a notice between the two is missed for long.
            let _looked_again = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }

    /// Whether somebody has waited just now; nobody has before the first.
    fn held_back(&self) -> bool {
        let waited = self.waited_ms.load(Ordering::Relaxed);
        waited > 0 && self.start.elapsed().as_millis() as u64 - waited < HOLD_BACK.as_millis() as u64
    }

    /// What shall come along with `file`, as `range` says what could: `None` if it is to come alone, for it is the
    /// only one, not all are to come, or others come along already.
    pub(super) fn follow(
        self: &Arc<Self>,
        file: u32,
        range: impl FnOnce(&[Range<u32>]) -> Range<u32>,
    ) -> Option<Following> {
        if self.sweeps.load(Ordering::Acquire) == 0 || self.demanded() < FOLLOW {
            return None;
        }
        let mut following = self.following.lock();
        if following.len() >= PIECES || following.iter().any(|files| files.contains(&file)) {
            return None;
        }
        let files = range(&following);
        following.push(files.clone());
        Some(Following { turns: self.clone(), files })
    }

    /// Whether a file comes along with another at this moment.
    pub(super) fn follows(&self, file: u32) -> bool {
        self.following.lock().iter().any(|files| files.contains(&file))
    }

    /// Waits until nothing comes along any more.
    pub(super) async fn followed(&self) {
        while !self.following.lock().is_empty() {
            let changed = self.calm.notified();
            let _looked_again = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }

    /// Whoever waits for a turn looks again.
    pub(super) fn wake(&self) {
        self.calm.notify_waiters();
    }
}

/// See [`Turns::wait`].
pub(super) struct Waiting(Arc<Turns>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waited_ms.store(self.0.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}

/// See [`Turns::sweep`].
pub(super) struct Sweep<'a> {
    turns: &'a Turns,
    /// How many others there were.
    pub(super) others: usize,
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.turns.sweeps.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A piece of the background, until it is dropped.
pub(super) struct Background<'a>(&'a Turns);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.wake();
    }
}

/// What comes along with a file, until it is dropped.
pub(super) struct Following {
    turns: Arc<Turns>,
    pub(super) files: Range<u32>,
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut following = self.turns.following.lock();
        if let Some(at) = following.iter().position(|files| *files == self.files) {
            following.swap_remove(at);
        }
        drop(following);
        self.turns.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_comes_only_where_all_is_to_come_and_never_twice() {
        let turns: Arc<Turns> = Arc::default();
        let ten = |file: u32| move |_: &[Range<u32>]| file..file + 10;
        (0..FOLLOW).for_each(|_| turns.demand());
        assert!(turns.follow(0, ten(0)).is_none(), "not all are to come");
        let sweep = turns.sweep();
        let first = turns.follow(0, ten(0));
        assert_eq!(first.as_ref().map(|first| first.files.clone()), Some(0..10));
        assert!(turns.follows(9) && !turns.follows(10));
        assert!(turns.follow(5, ten(5)).is_none(), "it comes already");
        let others: Vec<_> = (1..PIECES as u32).map(|n| turns.follow(n * 10, ten(n * 10))).collect();
        assert!(others.iter().all(Option::is_some));
        assert!(turns.follow(90, ten(90)).is_none(), "too many at once");
        drop(first);
        assert!(!turns.follows(5) && turns.follow(90, ten(90)).is_some());
        drop((others, sweep));
        assert!(turns.follow(0, ten(0)).is_none(), "nothing is brought any more");
    }

    #[test]
    fn few_files_bring_nothing_along() {
        let turns: Arc<Turns> = Arc::default();
        let _sweep = turns.sweep();
        (1..FOLLOW).for_each(|_| turns.demand());
        assert!(turns.follow(0, |_| 0..10).is_none());
    }

    #[tokio::test]
    async fn the_background_takes_the_pieces_that_are_left() {
        let turns: Arc<Turns> = Arc::default();
        let sweep = turns.sweep();
        (0..FOLLOW).for_each(|_| turns.demand());
        let mut following: Vec<_> = (0..PIECES as u32).map(|n| turns.follow(n, |_| n..n + 1)).collect();
        let first = turns.turn().await;
        assert!(
            tokio::time::timeout(Duration::ZERO, turns.turn()).await.is_err(),
            "one more than there may be"
        );
        following.pop();
        let second = turns.turn().await;
        drop((first, second, following));
        turns.followed().await;
        assert_eq!(sweep.others, 0);
    }
}
