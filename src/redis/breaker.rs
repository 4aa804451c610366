//! [`Breaker`]: keeps a server that fails from slowing those who can do without it.
//!
//! While it is closed it hands out what is used to ask the server, and is told how that went. After a few
//! failures it opens: nobody gets anything, and those who still wait are told to stop. Whoever keeps the
//! connection tries in the background, and closes it again; a reader is never the one who tries.
use crate::sync::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

/// What a failure costs, what a success gives back, and what there is to lose. Three failures in a row open it,
/// and so does more than one in eleven for long.
const FAILURE: u32 = 10;
const SUCCESS: u32 = 1;
const LIMIT: u32 = 30;

/// Open, or closed with what is used to ask.
#[derive(Debug)]
pub struct Breaker<T> {
    state: Mutex<State<T>>, // the one lock; held for a few instructions
    /// How often it has opened.
    openings: watch::Sender<u64>,
}

#[derive(Debug)]
struct State<T> {
    link: Option<Arc<T>>,
    lost: u32,
}

/// Leave to ask once. What it brings is told to the breaker.
#[derive(Debug)]
pub struct Pass<T> {
    /// What to ask with.
    pub link: Arc<T>,
    openings: watch::Receiver<u64>,
    before: u64,
}

impl<T> Pass<T> {
    /// Ends when the breaker opens: there is nothing to wait for any more.
    pub async fn opened(&mut self) {
        let before = self.before;
        // The breaker outlives its passes; if not, that is the end, too.
        let _ = self.openings.wait_for(|openings| *openings > before).await;
    }
}

impl<T> Breaker<T> {
    /// Open.
    pub fn new() -> Self {
        Self { state: Mutex::new(State { link: None, lost: 0 }), openings: watch::channel(0).0 }
    }

    /// Leave to ask, unless it is open.
    pub fn pass(&self) -> Option<Pass<T>> {
        let state = self.state.lock();
        let link = state.link.clone()?;
        let before = *self.openings.borrow();
        Some(Pass { link, openings: self.openings.subscribe(), before })
    }

    /// The server answers: closes, on probation if it has failed before. Then the next failure opens it.
    pub fn close(&self, link: T, probation: bool) {
        let mut state = self.state.lock();
        state.link = Some(Arc::new(link));
        state.lost = if probation { LIMIT - FAILURE } else { 0 };
    }

    /// An answer came.
    pub fn worked(&self) {
        let mut state = self.state.lock();
        state.lost = state.lost.saturating_sub(SUCCESS);
    }

    /// None came, or no good one. `true` if this opened it.
    pub fn failed(&self, pass: &Pass<T>) -> bool {
        self.lose(pass, FAILURE)
    }

    /// The connection is lost; nothing more can come through it. `true` if this opened it.
    pub fn broke(&self, pass: &Pass<T>) -> bool {
        self.lose(pass, LIMIT)
    }

    fn lose(&self, pass: &Pass<T>, lost: u32) -> bool {
        let mut state = self.state.lock();
        // What failed may be a connection that was given up long ago.
        if !state.link.as_ref().is_some_and(|link| Arc::ptr_eq(link, &pass.link)) {
            return false;
        }
        state.lost += lost;
        let opens = state.lost >= LIMIT;
        if opens {
            state.link = None;
            self.openings.send_modify(|openings| *openings += 1);
        }
        opens
    }

    /// Ends when it is open.
    pub async fn opened(&self) {
        let mut openings = self.openings.subscribe();
        while self.state.lock().link.is_some() {
            let _ = openings.changed().await;
        }
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().link.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn closed(probation: bool) -> Breaker<u8> {
        let breaker = Breaker::new();
        breaker.close(1, probation);
        breaker
    }

    fn pass(breaker: &Breaker<u8>) -> Pass<u8> {
        breaker.pass().expect("it is closed")
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_one_now_and_then_does_not() {
        let breaker = closed(false);
        let held = pass(&breaker);
        assert_eq!([1, 2, 3].map(|_| breaker.failed(&held)), [false, false, true]);
        assert!(breaker.pass().is_none() && !breaker.is_closed());

        let breaker = closed(false);
        let held = pass(&breaker);
        for _ in 0..100 {
            assert!(!breaker.failed(&held));
            (0..10).for_each(|_| breaker.worked());
        }
        // One in ten for long.
        let opened = (0..100).any(|_| {
            (0..8).for_each(|_| breaker.worked());
            breaker.failed(&held)
        });
        assert!(opened);
    }

    #[test]
    fn a_lost_connection_opens_it_at_once_and_probation_is_short() {
        let breaker = closed(false);
        assert!(breaker.broke(&pass(&breaker)));
        let breaker = closed(true);
        assert!(breaker.failed(&pass(&breaker)), "on probation");
        let breaker = closed(true);
        (0..20).for_each(|_| breaker.worked());
        assert!(!breaker.failed(&pass(&breaker)), "it has proved itself");
    }

    #[test]
    fn what_an_old_connection_says_is_nothing_to_the_new_one() {
        let breaker = closed(false);
        let old = pass(&breaker);
        assert!(breaker.broke(&old));
        breaker.close(2, false);
        assert!(!breaker.broke(&old));
        assert_eq!(*pass(&breaker).link, 2);
    }

    #[tokio::test]
    async fn who_waits_is_told_when_it_opens() {
        let breaker = Arc::new(closed(false));
        let mut waiting = pass(&breaker);
        let waiter = tokio::spawn(async move { waiting.opened().await });
        let keeper = tokio::spawn({
            let breaker = breaker.clone();
            async move { breaker.opened().await }
        });
        tokio::task::yield_now().await;
        assert!(breaker.broke(&pass(&breaker)));
        waiter.await.expect("told");
        keeper.await.expect("told");
        // Somebody who comes late is told at once.
        breaker.opened().await;
    }
}
