//! [`Keeper`]: when a directory is saved, and that those who wait for the same save share it.
use crate::config::text;
use crate::error::{Error, Result};
use crate::sync::Mutex;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Saves the directory. Blocks; is never called twice at once.
pub trait Keep: Send + Sync + 'static {
    /// Makes what changed the newest version, until `limit` if there is one. Says what went wrong if anything is not saved.
    fn save(&self, limit: Option<Instant>) -> Result<()>;

    /// After saves that nobody waits for any more: puts in order what they left in the remote, until `limit` if there is
    /// one. Fails without harm.
    fn tidy(&self, _limit: Option<Instant>) {}

    /// The sandbox was resumed from a snapshot: brings what others have saved since that was taken, until `limit` if there
    /// is one.
    fn renew(&self, limit: Option<Instant>) -> Result<()>;

    /// Whether nobody may work on the directory any more: a renewal was cut short when files had been written already, or
    /// the remote, which could not be read, turned out to have versions, so that nothing here will ever be saved.
    fn is_torn(&self) -> bool;
}

/// When to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// At the end of each invocation, before its answer is handed on: who gets that knows that all is saved.
    #[default]
    BeforeResponse,
    /// At the end of each invocation, when its answer has been handed on.
    AfterResponse,
    /// After each so many invocations.
    Count(u64),
    /// After the first invocation that ends so long after the last save.
    Every(Duration),
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "before-response" => return Ok(Self::BeforeResponse),
            "after-response" => return Ok(Self::AfterResponse),
            _ => {}
        }
        if let Ok(count) = text.parse::<u64>()
            && count > 0
        {
            return Ok(Self::Count(count));
        }
        match text::duration(text) {
            Ok(time) if !time.is_zero() => Ok(Self::Every(time)),
            _ => Err(format!(
                "expected before-response, after-response, a number of invocations or a time: {text}"
            )),
        }
    }
}

/// See the module.
pub struct Keeper {
    /// `None`: somebody else keeps the directory.
    keep: Mutex<Option<Arc<dyn Keep>>>,
    when: When,
    /// Held while a save goes on.
    turn: tokio::sync::Mutex<Last>,
    passed: Mutex<Passed>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("when", &self.when).finish_non_exhaustive()
    }
}

/// The last save.
#[derive(Debug, Default)]
struct Last {
    began: Option<Instant>,
    failure: Option<Arc<Error>>,
}

/// What has passed since the last save that was due.
#[derive(Debug)]
struct Passed {
    invocations: u64,
    since: Instant,
}

impl Keeper {
    /// Has `keep` save at the times of `when`.
    pub fn new(keep: Arc<dyn Keep>, when: When) -> Self {
        let passed = Passed { invocations: 0, since: Instant::now() };
        let keep = Mutex::new(Some(keep));
        Self { keep, when, turn: tokio::sync::Mutex::default(), passed: Mutex::new(passed) }
    }

    /// When it saves.
    pub fn when(&self) -> When {
        self.when
    }

    /// An invocation has ended: whether a save is due.
    pub fn ended(&self) -> bool {
        let mut passed = self.passed.lock();
        passed.invocations += 1;
        let due = match self.when {
            When::BeforeResponse | When::AfterResponse => true,
            When::Count(count) => passed.invocations >= count,
            When::Every(time) => passed.since.elapsed() >= time,
        };
        if due {
            *passed = Passed { invocations: 0, since: Instant::now() };
        }
        due
    }

    /// Saves what was there when this was called; whoever calls meanwhile shares the next save.
    pub async fn save(&self, limit: Option<Instant>) -> Result<(), Arc<Error>> {
        let asked = Instant::now();
        let mut last = self.turn.lock().await;
        if last.began.is_some_and(|began| began >= asked) {
            return last.failure.clone().map_or(Ok(()), Err);
        }
        let began = Instant::now();
        let Some(keep) = self.keep.lock().clone() else { return Ok(()) };
        let saved = tokio::task::spawn_blocking(move || keep.save(limit)).await;
        let saved = saved.unwrap_or_else(|_| Err(Error::new(crate::ErrorKind::Io, "the save was cut short")));
        let failure = saved.err().map(Arc::new);
        *last = Last { began: Some(began), failure: failure.clone() };
        failure.map_or(Ok(()), Err)
    }

    /// Puts in order what saves have left in the remote, until `limit`.
    pub async fn tidy(&self, limit: Option<Instant>) {
        let _turn = self.turn.lock().await;
        let Some(keep) = self.keep.lock().clone() else { return };
        let _without_harm = tokio::task::spawn_blocking(move || keep.tidy(limit)).await;
    }

    /// Brings what others have saved, when no save is under way; until `limit`.
    pub async fn renew(&self, limit: Instant) -> Result<()> {
        let _turn = self.turn.lock().await;
        let Some(keep) = self.keep.lock().clone() else { return Ok(()) };
        let renewed = tokio::task::spawn_blocking(move || keep.renew(Some(limit))).await;
        renewed
            .unwrap_or_else(|_| Err(Error::new(crate::ErrorKind::Io, "the look at the remote was cut short")))
    }

    /// Whether the directory is between two versions.
    pub async fn is_torn(&self) -> bool {
        let _turn = self.turn.lock().await;
        self.keep.lock().clone().is_some_and(|keep| keep.is_torn())
    }

    /// Somebody else keeps the directory from now on. When no save is under way all is let go of, its locks too; what is
    /// not saved stays in the directory.
    pub async fn let_go(&self) {
        let _turn = self.turn.lock().await;
        let keep = self.keep.lock().take();
        // It has threads that are waited for.
        let _gone = tokio::task::spawn_blocking(move || drop(keep)).await;
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    #[test]
    fn times_are_understood() {
        assert_eq!("before-response".parse(), Ok(When::BeforeResponse));
        assert_eq!("after-response".parse(), Ok(When::AfterResponse));
        assert_eq!("10".parse(), Ok(When::Count(10)));
        assert_eq!("30s".parse(), Ok(When::Every(Duration::from_secs(30))));
        for wrong in ["", "0", "0s", "never", "-1"] {
            assert!(wrong.parse::<When>().is_err(), "{wrong}");
        }
    }

    /// Says when a save has begun, and ends it when it is told to.
    struct Slow {
        count: AtomicU64,
        begun: Sender<()>,
        end: Mutex<Receiver<()>>,
    }

    impl Keep for Slow {
        fn save(&self, _: Option<Instant>) -> Result<()> {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.begun.send(()).expect("listened to");
            self.end.lock().recv().expect("told");
            Ok(())
        }

        fn renew(&self, _: Option<Instant>) -> Result<()> {
            Ok(())
        }

        fn is_torn(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn who_asks_during_a_save_shares_the_next_one() {
        let ((begun, has_begun), (end, ends)) = (channel(), channel());
        let slow = Arc::new(Slow { count: AtomicU64::new(0), begun, end: Mutex::new(ends) });
        let keeper = Arc::new(Keeper::new(slow.clone(), When::BeforeResponse));
        let saves = |n: usize| {
            let keepers = std::iter::repeat_n(keeper.clone(), n);
            keepers.map(|keeper| tokio::spawn(async move { keeper.save(None).await })).collect::<Vec<_>>()
        };
        let first = saves(1);
        let has_begun = tokio::task::spawn_blocking(move || has_begun.recv().map(|()| has_begun)).await;
        let has_begun = has_begun.expect("joins").expect("begins");
        let others = saves(5);
        tokio::task::yield_now().await; // they wait for their turn
        end.send(()).expect("heard");
        end.send(()).expect("heard");
        for save in first.into_iter().chain(others) {
            assert!(save.await.expect("joins").is_ok());
        }
        assert!(has_begun.recv().is_ok());
        assert_eq!(slow.count.load(Ordering::Relaxed), 2, "the others shared one");
    }

    #[tokio::test]
    async fn a_save_is_due_after_so_many_invocations_or_so_much_time() {
        struct Nothing;
        impl Keep for Nothing {
            fn save(&self, _: Option<Instant>) -> Result<()> {
                Ok(())
            }

            fn renew(&self, _: Option<Instant>) -> Result<()> {
                Ok(())
            }

            fn is_torn(&self) -> bool {
                false
            }
        }
        let due = |when| {
            let keeper = Keeper::new(Arc::new(Nothing), when);
            (0..6).map(|_| keeper.ended()).collect::<Vec<_>>()
        };
        assert_eq!(due(When::Count(3)), [false, false, true, false, false, true]);
        assert_eq!(due(When::AfterResponse), [true; 6]);
        assert_eq!(due(When::Every(Duration::from_secs(3600))), [false; 6]);
        assert_eq!(due(When::Every(Duration::from_nanos(1))), [true; 6]);
    }
}
