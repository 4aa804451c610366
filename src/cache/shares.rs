//! [`Shares`]: how many blocks are fetched at once, and from which store.
//!
//! A store may take one more as long as it has less than [`SHARE`] times as many as are free. So one that does not answer
//! leaves some to the others, also if several do not; and of those who wait the store with the fewest goes first.
use crate::sync::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Of 64 a store has 48 at most, a second one 12, a third one 3, and one is left.
const SHARE: usize = 3;

/// See the module. Owner of its lock.
#[derive(Debug)]
pub struct Shares(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// Those of which a block is fetched or waited for.
    stores: HashMap<Arc<str>, Store>,
}

#[derive(Debug, Default)]
struct Store {
    held: usize,
    waiting: VecDeque<oneshot::Sender<Share>>,
}

/// One block may be fetched from a store, for as long as this lives.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Mutex<State>>,
    store: Arc<str>,
}

impl Shares {
    /// So many at once.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: most, stores: HashMap::new() })))
    }

    /// One more of a store, if it may have it now.
    pub fn try_take(&self, store: &str) -> Option<Share> {
        let mut state = self.0.lock();
        let may = match state.stores.get(store) {
            Some(own) => own.waiting.is_empty() && state.may(own),
            None => state.free > 0,
        };
        let store: Arc<str> = may.then(|| store.into())?;
        state.give(&store);
        Some(Share { shares: self.0.clone(), store })
    }

    /// One more of a store, when it is its turn; `None` when there are no more turns.
    pub async fn take(&self, store: &str) -> Option<Share> {
        let turn = {
            let mut state = self.0.lock();
            let (turn, comes) = oneshot::channel();
            state.stores.entry(store.into()).or_default().waiting.push_back(turn);
            comes
        };
        serve(&self.0);
        turn.await.ok()
    }
}

impl State {
    fn may(&self, store: &Store) -> bool {
        self.free > 0 && store.held < SHARE * self.free
    }

    fn give(&mut self, store: &Arc<str>) {
        self.free -= 1;
        self.stores.entry(store.clone()).or_default().held += 1;
    }

    /// Whose turn it is now.
    fn next(&mut self) -> Option<(Arc<str>, oneshot::Sender<Share>)> {
        loop {
            let may = self.stores.iter().filter(|(_, store)| !store.waiting.is_empty() && self.may(store));
            let store = may.min_by_key(|(_, store)| store.held).map(|(name, _)| name.clone())?;
            let own = self.stores.get_mut(&store)?;
            match own.waiting.pop_front() {
                Some(turn) if !turn.is_closed() => {
                    self.give(&store);
                    return Some((store, turn));
                }
                _ => self.tidy(&store),
            }
        }
    }

    /// Nobody wants anything of a store any more.
    fn tidy(&mut self, store: &Arc<str>) {
        if self.stores.get(store).is_some_and(|own| own.held == 0 && own.waiting.is_empty()) {
            self.stores.remove(store);
        }
    }
}

/// All whose turn it is have it.
fn serve(shares: &Arc<Mutex<State>>) {
    loop {
        let next = shares.lock().next();
        let Some((store, turn)) = next else { return };
        // Who has just gone gives it back.
        let _gone = turn.send(Share { shares: shares.clone(), store });
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut state = self.shares.lock();
            state.free += 1;
            if let Some(own) = state.stores.get_mut(&self.store) {
                own.held -= 1;
            }
            state.tidy(&self.store);
        }
        serve(&self.shares);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn all(shares: &Shares, store: &str) -> Vec<Share> {
        std::iter::from_fn(|| shares.try_take(store)).collect()
    }

    #[test]
    fn stores_that_do_not_answer_leave_some_to_the_others() {
        let shares = Shares::new(64);
        let silent: Vec<Vec<Share>> = ["a", "b", "c"].map(|store| all(&shares, store)).into();
        assert_eq!(silent.iter().map(Vec::len).collect::<Vec<_>>(), [48, 12, 3]);
        assert_eq!(all(&shares, "healthy").len(), 1);
        drop(silent);
        assert_eq!(all(&shares, "healthy").len(), 48);
        assert!(shares.0.lock().stores.is_empty() && shares.0.lock().free == 64);
        for few in 1..4 {
            assert_eq!(all(&Shares::new(few), "a").len(), few);
        }
    }

    #[test]
    fn who_has_fewest_goes_first_and_who_goes_away_takes_nothing() {
        let shares = Shares::new(4);
        let mut held = all(&shares, "a");
        held.extend(all(&shares, "b"));
        assert!(held.len() == 4 && shares.try_take("c").is_none());
        let (mut more, mut gone, mut other) =
            (Box::pin(shares.take("a")), Box::pin(shares.take("c")), Box::pin(shares.take("c")));
        assert!((&mut more).now_or_never().is_none() && (&mut gone).now_or_never().is_none());
        assert!((&mut other).now_or_never().is_none());
        drop(gone);
        drop(held.pop());
        assert!((&mut more).now_or_never().is_none());
        let taken = (&mut other).now_or_never();
        assert!(taken.is_some_and(|share| share.is_some()), "it was first");
        // That one is given back at once.
        assert!((&mut more).now_or_never().is_none() && held.len() == 3);
        held.pop();
        assert!((&mut more).now_or_never().is_some());
    }
}
