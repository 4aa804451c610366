//! [`Turning`]: tables that have changed, on their way to their next version. None waits for another, as long as there are
//! not too many.
use super::lake::Lake;
use super::slot::Slot;
use crate::sync::Mutex;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Notify;

/// So many at once: of one whose store does not answer nobody hears before the time of `--tables-timeout` is over.
const AT_ONCE: usize = 32;

/// Which tables are to be turned over. Owner of its lock; bounded by the tables there are.
#[derive(Debug, Default)]
pub(super) struct Turning {
    due: Mutex<Due>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Due {
    waiting: VecDeque<Arc<Slot>>,
    /// The paths of those that wait and of those that are on their way.
    all: HashSet<String>,
}

impl Turning {
    /// A table has changed; whether that is news.
    pub(super) fn add(&self, slot: &Arc<Slot>) -> bool {
        let mut due = self.due.lock();
        let is_new = due.all.insert(slot.path.clone());
        if is_new {
            due.waiting.push_back(slot.clone());
            drop(due);
            self.more.notify_one();
        }
        is_new
    }

    fn next(&self) -> Option<Arc<Slot>> {
        self.due.lock().waiting.pop_front()
    }

    fn done(&self, slot: &Slot) {
        self.due.lock().all.remove(&slot.path);
    }
}

impl Lake {
    /// Turns over what has changed, until it is dropped.
    pub(super) async fn turn_tables(&self) -> Infallible {
        let mut underway = FuturesUnordered::new();
        loop {
            while underway.len() < AT_ONCE
                && let Some(slot) = self.turning.next()
            {
                underway.push(async move {
                    let _told = self.turn_over(&slot).await;
                    self.turning.done(&slot);
                });
            }
            tokio::select! {
                Some(()) = underway.next() => {}
                () = self.turning.more.notified() => {}
            }
        }
    }
}
