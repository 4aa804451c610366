//! [`Turning`]: tables that have changed, on their way to their next version. None waits for another, but for a moment: of
//! one whose store does not answer nobody hears before the time of `--tables-timeout` is over.
use super::crowd::{Crowd, Place};
use super::lake::Lake;
use super::slot::Slot;
use crate::sync::Mutex;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Notify;

/// Which tables are to be turned over. Owner of its lock; bounded by the tables there are.
#[derive(Debug, Default)]
pub(super) struct Turning {
    due: Mutex<Due>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Due {
    waiting: VecDeque<Arc<Slot>>,
    /// Those whose last turn has failed: they come after the others.
    doubtful: VecDeque<Arc<Slot>>,
    /// By the paths of those that wait and of those that are on their way.
    all: HashMap<String, Stage>,
}

/// How far one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Underway,
    /// It has changed since it began, or may have: its catalog may have been asked before that.
    Again,
}

impl Turning {
    /// A table has changed; whether that is news.
    pub(super) fn add(&self, slot: &Arc<Slot>) -> bool {
        let mut due = self.due.lock();
        if let Some(stage) = due.all.get_mut(&slot.path) {
            if *stage == Stage::Underway {
                *stage = Stage::Again;
            }
            return false;
        }
        due.all.insert(slot.path.clone(), Stage::Waiting);
        let has_failed = slot.retry.lock().why().is_some();
        if has_failed { &mut due.doubtful } else { &mut due.waiting }.push_back(slot.clone());
        drop(due);
        self.more.notify_one();
        true
    }

    fn next(&self, crowd: &Arc<Crowd>) -> Option<(Arc<Slot>, Place)> {
        let mut due = self.due.lock();
        let is_doubtful = due.waiting.is_empty();
        let wait = if is_doubtful { &mut due.doubtful } else { &mut due.waiting };
        let place = if wait.is_empty() { None } else { crowd.enter(is_doubtful) }?;
        let slot = wait.pop_front()?;
        due.all.insert(slot.path.clone(), Stage::Underway);
        Some((slot, place))
    }

    /// One has had its turn; whoever called for it meanwhile is heard, unless it is too soon to try again.
    fn done(&self, slot: &Arc<Slot>) {
        let is_early = slot.retry.lock().is_early();
        let stage = self.due.lock().all.remove(&slot.path);
        if stage == Some(Stage::Again) && !is_early {
            self.add(slot);
        }
    }
}

impl Lake {
    /// Turns over what has changed, until it is dropped.
    pub(super) async fn turn_tables(&self) -> Infallible {
        let (crowd, mut underway) = (Arc::<Crowd>::default(), FuturesUnordered::new());
        loop {
            while let Some((slot, place)) = self.turning.next(&crowd) {
                underway.push(async move {
                    let _told = place.hold(self.turn_over(&slot)).await;
                    self.turning.done(&slot);
                });
            }
            tokio::select! {
                Some(()) = underway.next() => {}
                () = crowd.has_room() => {}
                () = self.turning.more.notified() => {}
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use icecache_iceberg::TableId;

    #[test]
    fn what_changes_while_it_turns_over_has_another_turn() {
        let id = TableId { namespace: vec!["db".into()], name: "t".into() };
        let slot = Arc::new(Slot::new(0, id, "iceberg/db/t".into(), Arc::default()));
        let turning = Turning::default();
        let crowd = Arc::<Crowd>::default();
        let next = || turning.next(&crowd);
        assert!(turning.add(&slot) && !turning.add(&slot));
        assert!(next().is_some() && next().is_none(), "it waited once");
        turning.done(&slot);
        assert!(next().is_none(), "nothing was said since it began");
        assert!(turning.add(&slot) && next().is_some());
        assert!(!turning.add(&slot) && !turning.add(&slot));
        assert!(next().is_none(), "one turn at a time");
        turning.done(&slot);
        assert!(next().is_some() && next().is_none());
        assert!(!turning.add(&slot));
        slot.retry.lock().note(Err("malformed"));
        turning.done(&slot);
        assert!(next().is_none(), "it is left alone for a while");
        assert!(turning.add(&slot), "and not for ever");
    }
}
