//! [`Keeper`]: when a directory is saved, and that those who wait for the same save share it.
use crate::config::text;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// By then a save has given up by itself whose time is over.
pub(super) const GIVE_UP: Duration = Duration::from_millis(50);
/// Who has waited that long for his turn waits no longer for what can be put off: that layers are merged.
const PATIENCE: Duration = Duration::from_secs(1);

/// Saves the directory. What blocks is never called twice at once.
pub trait Keep: Send + Sync + 'static {
    /// Makes what changed the newest version, until `limit` if there is one. Says what went wrong if anything is not saved.
    /// Blocks.
    fn save(&self, limit: Option<Instant>) -> Result<()>;

    /// After saves that nobody waits for any more: puts in order what they left in the remote. Fails without harm. Blocks.
    fn tidy(&self) {}

    /// When `tidy` gives up, the next one or the one that is under way; `None`: it takes its time.
    fn tidy_until(&self, _limit: Option<Instant>) {}

    /// The sandbox was resumed from a snapshot: brings what others have saved since that was taken, until `limit` if there
    /// is one. Blocks.
    fn renew(&self, limit: Option<Instant>) -> Result<()>;

    /// Whether nobody may work on the directory any more: a renewal was cut short when files had been written already, or
    /// could not begin since files of the directory are open, or the remote, which could not be read, turned out to have
    /// versions, so that nothing here will ever be saved.
    fn is_torn(&self) -> bool;

    /// Nobody may work on the directory any more, and what anybody was told of is saved: the rest need not be.
    fn leave(&self) {}
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
    /// Held by who works on the directory for as long as that really goes on, whether or not somebody still waits for it.
    turn: Arc<tokio::sync::Mutex<Last>>,
    queue: Arc<Mutex<Queue>>,
    passed: Mutex<Passed>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("when", &self.when).finish_non_exhaustive()
    }
}

type Turn = OwnedMutexGuard<Last>;

/// The last save.
#[derive(Debug, Default)]
struct Last {
    began: Option<Instant>,
    failure: Option<Arc<Error>>,
    /// It failed when its time was over. Others may have had more.
    cut_off: bool,
}

impl Last {
    /// How it went, for who has asked for a save at `asked` and has time until `limit`. `None` if it was none for him, or if
    /// he can do better.
    fn shared(&self, asked: Instant, limit: Option<Instant>) -> Option<Result<(), Arc<Error>>> {
        self.began.filter(|began| *began >= asked)?;
        match &self.failure {
            None => Some(Ok(())),
            Some(_) if self.cut_off && limit.is_none_or(|limit| limit > Instant::now()) => None,
            Some(error) => Some(Err(error.clone())),
        }
    }
}

/// Who waits for the turn, and for what.
#[derive(Debug, Default)]
struct Queue {
    /// What is done with it that is no save.
    work: Option<Work>,
    /// How many have lost their patience.
    impatient: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Tidying,
    Renewing,
}

/// While a work goes on.
struct Doing(Arc<Mutex<Queue>>);

impl Drop for Doing {
    fn drop(&mut self) {
        self.0.lock().work = None;
    }
}

/// Who waits and has no patience, until it has an end.
struct Impatient(Arc<Mutex<Queue>>);

impl Drop for Impatient {
    fn drop(&mut self) {
        self.0.lock().impatient -= 1;
    }
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
        let passed = Mutex::new(Passed { invocations: 0, since: Instant::now() });
        let keep = Mutex::new(Some(keep));
        Self { keep, when, turn: Arc::default(), queue: Arc::default(), passed }
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

    /// Saves what was there when this was called; whoever calls meanwhile shares the next save. Says by `limit`, if there is
    /// one, how that went, whatever else is under way.
    pub async fn save(&self, limit: Option<Instant>) -> Result<(), Arc<Error>> {
        let asked = Instant::now();
        let Some(turn) = self.turn(limit).await else {
            return Err(Arc::new(unavailable("another save took all of the time")));
        };
        if let Some(saved) = turn.shared(asked, limit) {
            return saved;
        }
        let Some(keep) = self.keep.lock().clone() else { return Ok(()) };
        let saving = with_turn(turn, keep, None, move |keep, last| {
            let began = Instant::now();
            let failure = keep.save(limit).err().map(Arc::new);
            let cut_off = failure.is_some() && limit.is_some_and(|limit| limit <= Instant::now());
            *last = Last { began: Some(began), failure: failure.clone(), cut_off };
            failure.map_or(Ok(()), Err)
        });
        let saved = match limit {
            None => saving.await,
            Some(limit) => match tokio::time::timeout_at((limit + GIVE_UP).into(), saving).await {
                Ok(saved) => saved,
                // It goes on, and nobody else has the turn before its end.
                Err(_) => Ok(Err(Arc::new(unavailable("the save was not over in time")))),
            },
        };
        saved.map_err(Arc::new)?
    }

    /// Puts in order what saves have left in the remote, until `limit`. Not for long where others want to save.
    pub async fn tidy(&self, limit: Option<Instant>) {
        // Who has the turn tidies when he has saved.
        let turn = self.turn.clone().lock_owned();
        let Ok(turn) = tokio::time::timeout(PATIENCE, turn).await else { return };
        let Some(keep) = self.keep.lock().clone() else { return };
        let doing = {
            let mut queue = self.queue.lock();
            if queue.impatient > 0 {
                return;
            }
            keep.tidy_until(limit);
            queue.work = Some(Work::Tidying);
            Doing(self.queue.clone())
        };
        let _without_harm = with_turn(turn, keep, Some(doing), |keep, _| keep.tidy()).await;
    }

    /// The end is near: from now on nobody waits until layers are merged.
    pub fn tidy_no_more(&self) {
        self.hasten();
    }

    /// Brings what others have saved, when no save is under way; until `limit`.
    pub async fn renew(&self, limit: Instant) -> Result<()> {
        let turn = match self.turn(Some(limit)).await {
            Some(turn) => turn,
            // Nobody may begin before it is known how that went. Its own limit is not far.
            None if self.queue.lock().work == Some(Work::Renewing) => self.turn.clone().lock_owned().await,
            None => return Err(unavailable("a save took all of the time")),
        };
        let Some(keep) = self.keep.lock().clone() else { return Ok(()) };
        self.queue.lock().work = Some(Work::Renewing);
        let doing = Doing(self.queue.clone());
        let unsaved = self.passed.lock().invocations > 0;
        let renewing = with_turn(turn, keep, Some(doing), move |keep, last| {
            let renewed = keep.renew(Some(limit));
            if renewed.is_err() && keep.is_torn() && !unsaved && last.failure.is_none() {
                keep.leave();
            }
            renewed
        });
        renewing.await?
    }

    /// Whether nobody may work on the directory any more, as far as that is known while others work on it.
    pub fn is_torn(&self) -> bool {
        self.keep.lock().as_ref().is_some_and(|keep| keep.is_torn())
    }

    /// Somebody else keeps the directory from now on. When no save is under way all is let go of, its locks too; what is
    /// not saved stays in the directory.
    pub async fn let_go(&self) {
        let _turn = self.turn.lock().await;
        let keep = self.keep.lock().take();
        // It has threads that are waited for.
        let _gone = tokio::task::spawn_blocking(move || drop(keep)).await;
    }

    /// The turn; `None` if it cannot be had by `limit`.
    async fn turn(&self, limit: Option<Instant>) -> Option<Turn> {
        let turn = self.turn.clone().lock_owned();
        tokio::pin!(turn);
        // Half of the time is left for what the turn is wanted for.
        let left = limit.map_or(Duration::MAX, |limit| limit.saturating_duration_since(Instant::now()));
        if let Ok(turn) = tokio::time::timeout(PATIENCE.min(left / 2), &mut turn).await {
            return Some(turn);
        }
        self.hasten();
        let _while_it_waits = Impatient(self.queue.clone());
        match limit {
            None => Some(turn.await),
            Some(limit) => tokio::time::timeout_at(limit.into(), turn).await.ok(),
        }
    }

    /// One more has no patience: nobody merges layers meanwhile.
    fn hasten(&self) {
        let mut queue = self.queue.lock();
        queue.impatient += 1;
        // A save that has the turn has a limit of its own.
        if queue.work == Some(Work::Tidying)
            && let Some(keep) = &*self.keep.lock()
        {
            keep.tidy_until(Some(Instant::now()));
        }
    }
}

/// Has who holds the turn do something, on a thread that may wait.
async fn with_turn<T: Send + 'static>(
    mut turn: Turn,
    keep: Arc<dyn Keep>,
    doing: Option<Doing>,
    work: impl FnOnce(&dyn Keep, &mut Last) -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&*keep, &mut turn);
        drop((keep, doing));
        drop(turn); // last: the next one finds nothing of this one
        done
    });
    done.await.map_err(|_| Error::new(ErrorKind::Io, "the work on the directory was cut short"))
}

fn unavailable(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, why)
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
    /// Saves as it is told to, and tidies until it is told not to.
    struct Told {
        save: Box<dyn Fn(Option<Instant>) -> Result<()> + Send + Sync>,
        tidies: Sender<()>,
        until: std::sync::Mutex<Option<Instant>>,
        changed: std::sync::Condvar,
    }

    impl Told {
        fn new(
            save: impl Fn(Option<Instant>) -> Result<()> + Send + Sync + 'static,
            tidies: Sender<()>,
        ) -> Self {
            Self {
                save: Box::new(save),
                tidies,
                until: std::sync::Mutex::default(),
                changed: Default::default(),
            }
        }
    }

    impl Keep for Told {
        fn save(&self, limit: Option<Instant>) -> Result<()> {
            (self.save)(limit)
        }

        fn tidy(&self) {
            self.tidies.send(()).expect("listened to");
            let ended = |until: &mut Option<Instant>| until.is_none_or(|until| until > Instant::now());
            drop(self.changed.wait_while(self.until.lock().expect("lock"), ended).expect("lock"));
        }

        fn tidy_until(&self, limit: Option<Instant>) {
            *self.until.lock().expect("lock") = limit;
            self.changed.notify_all();
        }

        fn renew(&self, _: Option<Instant>) -> Result<()> {
            Ok(())
        }

        fn is_torn(&self) -> bool {
            false
        }
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(200))
    }

    #[tokio::test]
    async fn nobody_waits_for_the_save_of_another_longer_than_he_may() {
        let ((begun, has_begun), (end, ends)) = (channel(), channel());
        let slow = Arc::new(Slow { count: AtomicU64::new(0), begun, end: Mutex::new(ends) });
        let keeper = Arc::new(Keeper::new(slow, When::BeforeResponse));
        let first = keeper.clone();
        // Nor for its own: it may hang in what has no limit.
        let first = tokio::spawn(async move { first.save(soon()).await });
        tokio::task::spawn_blocking(move || has_begun.recv().map(|()| has_begun))
            .await
            .expect("joins")
            .expect("begins");
        let other = keeper.save(soon()).await;
        assert!(other.is_err_and(|e| e.kind() == ErrorKind::Unavailable));
        assert!(first.await.expect("joins").is_err_and(|e| e.kind() == ErrorKind::Unavailable));
        assert!(!keeper.is_torn(), "it can be asked meanwhile");
        end.send(()).expect("heard");
        let _turn = keeper.turn.lock().await;
    }

    #[tokio::test]
    async fn who_has_time_does_not_share_a_failure_of_who_had_none() {
        let ((begun, has_begun), (end, ends)) = (channel(), channel());
        let (count, ends) = (AtomicU64::new(0), Mutex::new(ends));
        let save = move |limit: Option<Instant>| match count.fetch_add(1, Ordering::Relaxed) {
            0 => {
                begun.send(()).expect("listened to");
                ends.lock().recv().expect("told");
                Ok(())
            }
            1 => {
                let left = limit.expect("a limit").saturating_duration_since(Instant::now());
                std::thread::sleep(left); // as a store that does not answer
                Err(unavailable("no time"))
            }
            _ => Ok(()),
        };
        let keeper = Arc::new(Keeper::new(Arc::new(Told::new(save, channel().0)), When::BeforeResponse));
        let saves = |limit| {
            let keeper = keeper.clone();
            tokio::spawn(async move { keeper.save(limit).await })
        };
        let first = saves(None);
        let has_begun = tokio::task::spawn_blocking(move || has_begun.recv());
        has_begun.await.expect("joins").expect("begins");
        let (short, long) = (saves(Some(Instant::now() + Duration::from_secs(2))), saves(None));
        tokio::task::yield_now().await; // they wait for their turn
        end.send(()).expect("heard");
        assert!(first.await.expect("joins").is_ok());
        assert!(short.await.expect("joins").is_err());
        assert!(long.await.expect("joins").is_ok());
    }

    #[tokio::test]
    async fn who_saves_waits_for_no_tidying() {
        let (tidies, has_begun) = channel();
        let keeper = Arc::new(Keeper::new(Arc::new(Told::new(|_| Ok(()), tidies)), When::BeforeResponse));
        let tidier = keeper.clone();
        let tidying = tokio::spawn(async move { tidier.tidy(None).await });
        tokio::task::spawn_blocking(move || has_begun.recv()).await.expect("joins").expect("begins");
        let late = tokio::time::timeout(Duration::from_secs(60), keeper.save(None)).await;
        assert!(late.expect("waited for it").is_ok());
        tidying.await.expect("joins");
        keeper.tidy_no_more();
        keeper.tidy(None).await; // nobody ends it
    }
}
