//! [`Hedged`]: an origin that is asked a second time where its first answer takes longer than nearly all before.
//!
//! Of many answers of an object store a few take ten times as long as the others, and a second request seldom meets
//! the same fate. It is sent when the first has not begun to be answered within the time in which 95 of 100 were. Both
//! go on, and who answers first is read; the other is dropped. Not more than one in ten is asked twice, so that a store
//! that is slow with everything is not asked for twice as much.
use super::key::ObjectId;
use super::tier::{FetchError, Fetched, Origin};
use crate::sync::Mutex;
use async_trait::async_trait;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// So many answers are remembered, and so many are needed to know what is usual.
const REMEMBERED: usize = 256;
const NEEDED: usize = 32;
/// Of a hundred answers so many come within the time that is waited.
const PERCENT: usize = 95;
/// No less is waited: a store on this machine is not asked twice for a pause of its scheduler.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// One request in so many may be sent twice; so many may have been saved up.
const ONE_IN: u32 = 10;
const SAVED_MAX: u32 = 10;

/// How often a second request was sent, and how often its answer was first.
#[derive(Debug, Default)]
pub struct Hedges {
    sent: AtomicU64,
    won: AtomicU64,
}

impl Hedges {
    /// Second requests, and those that were answered first.
    pub fn counts(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.won.load(Relaxed))
    }
}

/// See the module. Owner of its lock.
#[derive(Debug)]
pub struct Hedged {
    origin: Arc<dyn Origin>,
    hedges: Arc<Hedges>,
    pace: Mutex<Pace>,
}

/// How the origin has answered so far.
#[derive(Debug, Default)]
struct Pace {
    /// The last answers, in microseconds; the oldest is replaced.
    times: Vec<u32>,
    next: usize,
    /// Tenths of second requests that may be sent.
    saved: u32,
}

impl Pace {
    fn answered(&mut self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.times.len() < REMEMBERED {
            self.times.push(took);
        } else {
            self.times[self.next] = took;
            self.next = (self.next + 1) % REMEMBERED;
        }
    }

    /// How long to wait for an answer before another one is asked for; `None`: nobody knows yet.
    fn patience(&self) -> Option<Duration> {
        if self.times.len() < NEEDED {
            return None;
        }
        let mut times = self.times.clone();
        let at = (times.len() * PERCENT / 100).min(times.len() - 1);
        let (_, usual, _) = times.select_nth_unstable(at);
        Some(Duration::from_micros(u64::from(*usual)).max(WAIT_MIN))
    }

    /// One more request is sent anyway.
    fn save(&mut self) {
        self.saved = (self.saved + 1).min(SAVED_MAX * ONE_IN);
    }

    /// Whether another one may be sent now.
    fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(ONE_IN);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

impl Hedged {
    /// Asks `origin`, and counts in `hedges`.
    pub fn new(origin: Arc<dyn Origin>, hedges: Arc<Hedges>) -> Self {
        Self { origin, hedges, pace: Mutex::default() }
    }

    /// Waits for the first answer for so long; `None`: it is time for a second request.
    async fn first<T>(&self, first: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        let patience = {
            let mut pace = self.pace.lock();
            pace.save();
            pace.patience()
        };
        let Some(patience) = patience else { return Some(first.await) };
        if let Ok(answer) = tokio::time::timeout(patience, &mut *first).await {
            return Some(answer);
        }
        if self.pace.lock().spend() { None } else { Some(first.await) }
    }

    /// Whatever else the same store is asked for: `ask` sends the question, once or twice.
    pub(super) async fn hedged<T, E, F>(&self, ask: impl Fn() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let begun = Instant::now();
        let mut first = pin!(ask());
        let answer = match self.first(&mut first).await {
            Some(answer) => answer,
            None => {
                self.hedges.sent.fetch_add(1, Relaxed);
                let mut second = pin!(ask());
                // One that fails leaves it to the other.
                let (answer, won) = tokio::select! {
                    answer = &mut first => match answer {
                        Ok(answer) => (Ok(answer), false),
                        Err(_) => (second.await, true),
                    },
                    answer = &mut second => match answer {
                        Ok(answer) => (Ok(answer), true),
                        Err(_) => (first.await, false),
                    },
                };
                self.hedges.won.fetch_add(u64::from(won && answer.is_ok()), Relaxed);
                answer
            }
        };
        if answer.is_ok() {
            // Of two the time of both: where all answers are late, late is what is usual.
            self.pace.lock().answered(begun.elapsed());
        }
        answer
    }
}

#[async_trait]
impl Origin for Hedged {
    async fn fetch(&self, object: &ObjectId, range: Range<u64>) -> Result<Fetched, FetchError> {
        self.hedged(|| self.origin.fetch(object, range.clone())).await
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::StreamExt;
    use std::collections::VecDeque;
    use tokio::sync::Notify;

    /// What one request is answered with.
    #[derive(Debug)]
    enum Answer {
        Bytes(&'static str),
        Error,
        /// The same once somebody says so; without anybody never.
        Late(Arc<Notify>, &'static str),
    }

    /// Answers as the script says, then with `usual`.
    #[derive(Debug, Default)]
    struct Script {
        answers: Mutex<VecDeque<Answer>>,
        asked: AtomicU64,
    }

    #[async_trait]
    impl Origin for Script {
        async fn fetch(&self, _: &ObjectId, _: Range<u64>) -> Result<Fetched, FetchError> {
            self.asked.fetch_add(1, Relaxed);
            let answer = self.answers.lock().pop_front().unwrap_or(Answer::Bytes("usual"));
            let bytes = match answer {
                Answer::Bytes(bytes) => bytes,
                Answer::Error => return Err(FetchError::Unavailable { message: "away".into() }),
                Answer::Late(notify, bytes) => {
                    notify.notified().await;
                    bytes
                }
            };
            let body = futures::stream::once(std::future::ready(Ok(Bytes::from(bytes)))).boxed();
            Ok(Fetched { body, source: "script" })
        }
    }

    struct Case {
        script: Arc<Script>,
        hedged: Hedged,
    }

    impl Case {
        fn new() -> Self {
            let script: Arc<Script> = Arc::default();
            Self { hedged: Hedged::new(script.clone(), Arc::default()), script }
        }

        /// One that knows what is usual.
        async fn learned() -> Self {
            let case = Self::new();
            for _ in 0..NEEDED {
                assert_eq!(case.fetch().await, Some("usual".into()));
            }
            case
        }

        fn script(&self, answers: impl IntoIterator<Item = Answer>) {
            self.script.answers.lock().extend(answers);
        }

        async fn fetch(&self) -> Option<Bytes> {
            let id = ObjectId { bucket: "b".into(), key: "k".into(), tag: "t".into(), size: 9 };
            let fetched = self.hedged.fetch(&id, 0..9).await.ok()?;
            Some(fetched.body.map(|piece| piece.expect("bytes")).next().await.expect("a piece"))
        }

        /// Requests, second ones, and those of them that were first.
        fn counts(&self) -> (u64, u64, u64) {
            let (sent, won) = self.hedged.hedges.counts();
            (self.script.asked.load(Relaxed), sent, won)
        }
    }

    const LEARNED: u64 = NEEDED as u64;

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_asked_for_once_more() {
        let case = Case::learned().await;
        let never = Arc::new(Notify::new());
        case.script([Answer::Late(never, "first"), Answer::Bytes("second")]);
        assert_eq!(case.fetch().await, Some("second".into()));
        assert_eq!(case.counts(), (LEARNED + 2, 1, 1));
    }

    #[tokio::test]
    async fn one_that_fails_leaves_it_to_the_other() {
        let case = Case::learned().await;
        let never = Arc::new(Notify::new());
        case.script([Answer::Late(never.clone(), "first"), Answer::Error]);
        let fetched = tokio::join!(case.fetch(), async {
            while case.counts().1 == 0 {
                tokio::task::yield_now().await;
            }
            never.notify_one();
        });
        assert_eq!((fetched.0, case.counts()), (Some("first".into()), (LEARNED + 2, 1, 0)));
        // One that fails before its time is no reason to ask again.
        case.script([Answer::Error]);
        assert_eq!((case.fetch().await, case.counts()), (None, (LEARNED + 3, 1, 0)));
    }

    #[test]
    fn what_is_usual_is_known_after_some_answers() {
        let mut pace = Pace::default();
        for ms in 1..NEEDED as u64 {
            pace.answered(Duration::from_millis(ms));
            assert_eq!(pace.patience(), None);
        }
        for ms in NEEDED as u64..=100 {
            pace.answered(Duration::from_millis(ms));
        }
        assert_eq!(pace.patience(), Some(Duration::from_millis(96)));
        for _ in 0..REMEMBERED {
            pace.answered(Duration::from_micros(3));
        }
        assert_eq!((pace.patience(), pace.times.len()), (Some(WAIT_MIN), REMEMBERED));
    }

    #[test]
    fn one_in_ten_may_be_sent_twice() {
        let mut pace = Pace::default();
        assert!(!pace.spend());
        (0..9).for_each(|_| pace.save());
        assert!(!pace.spend());
        pace.save();
        assert!(pace.spend() && !pace.spend());
        (0..1000).for_each(|_| pace.save());
        assert_eq!((0..1000).filter(|_| pace.spend()).count(), SAVED_MAX as usize);
    }
}
