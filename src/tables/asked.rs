//! [`Asked`]: when a catalog is asked about a table: often about one that somebody reads, seldom about another, and about
//! none because of another. For catalogs that one question does not tell everything of.
use super::crowd::{Crowd, Place};
use super::lake::Lake;
use super::slot::Slot;
use super::tracker::{LATELY, Pace};
use super::turn::note_current;
use icecache_iceberg::catalog::{Change, Changes};
use icecache_iceberg::{CatalogError, TableId, Token};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// When last; of a table that was never asked about, when it was first seen.
    at: Option<Instant>,
    /// How long after that, unless somebody reads it.
    pause: Duration,
    /// Nobody waits that long: it is asked about as soon as possible.
    is_due: bool,
    is_underway: bool,
    /// The last answer did not come.
    has_failed: bool,
}

impl Asked {
    /// It is asked about as soon as possible, after an answer that is on its way.
    pub(super) fn soon(&mut self) {
        self.is_due = true;
    }

    /// Whether it is to be asked about as soon as possible.
    pub(super) fn is_due(&self) -> bool {
        self.is_due
    }

    /// How long it may wait; nothing, if it is on its way.
    fn left(&mut self, pace: Pace, is_read: bool) -> Option<Duration> {
        if self.is_underway {
            return None;
        }
        let at = *self.at.get_or_insert_with(Instant::now);
        // What does not answer is left alone longer, also while it is read.
        let pause = if is_read && !self.has_failed { pace.hot } else { self.pause.max(pace.hot) };
        Some(if self.is_due { Duration::ZERO } else { pause.saturating_sub(at.elapsed()) })
    }

    fn begin(&mut self) {
        (self.is_due, self.is_underway) = (false, true);
    }

    /// What has come of it.
    fn end(&mut self, pace: Pace, is_read: bool, changed: Result<bool, ()>) {
        self.is_underway = false;
        self.at = Some(Instant::now());
        self.has_failed = changed.is_err();
        let is_hot = changed == Ok(true) || is_read && changed.is_ok();
        self.pause = if is_hot { pace.hot } else { (self.pause.max(pace.hot) * 2).min(pace.idle) };
    }
}

impl Lake {
    /// The tables of a catalog that are due, and how long the next one may wait.
    pub(super) fn due(&self, number: usize, pace: Pace) -> (Vec<Arc<Slot>>, Duration) {
        let (mut due, mut next) = (Vec::new(), pace.idle);
        for slot in self.shown_of(number) {
            let left = slot.asked.lock().left(pace, self.is_read(&slot));
            match left {
                Some(Duration::ZERO) => due.push(slot),
                Some(left) => next = next.min(left),
                None => {}
            }
        }
        (due, next)
    }

    /// Asks a catalog about tables by one question, and hands on what has changed.
    pub(super) async fn ask_together(&self, number: usize, due: Vec<Arc<Slot>>, pace: Pace) {
        due.iter().for_each(|slot| slot.asked.lock().begin());
        let asked = self.asked_with(&due);
        let answer = match asked.is_empty() {
            true => Ok(Changes::default()),
            false => self.in_patience(self.ask_changes_of(number, &asked)).await,
        };
        if let Err(error) = &answer {
            tracing::warn!(%error, "a catalog does not answer; what is shown stays");
        }
        self.note_answer(number, due, answer, pace).await;
    }

    /// The same for a table that is asked about by itself. The catalog is away if it answers about none.
    pub(super) async fn ask_alone(&self, number: usize, slot: Arc<Slot>, pace: Pace) {
        let (named, due) = (&self.catalogs[number], vec![slot.clone()]);
        let asked = self.asked_with(&due);
        let answer = self.in_patience(named.catalog.poll(&asked)).await;
        let answer = answer.and_then(|mut changes| match changes.failed.pop() {
            Some((_, error)) => Err(error),
            None => Ok(changes),
        });
        let had_failed = slot.asked.lock().has_failed;
        let why = answer.as_ref().err().cloned();
        self.note_answer(number, due, answer, pace).await;
        match why {
            None => {
                let was_away = named.error().is_some();
                let _answers = named.hear(Ok(()));
                if was_away {
                    self.ask_soon(number); // about those that are left alone
                }
            }
            Some(error) => {
                tracing::debug!(table = %slot.id, %error, "cannot ask whether a table has changed");
                if self.shown_of(number).iter().all(|slot| slot.asked.lock().has_failed) {
                    if named.error().is_none() {
                        tracing::warn!(%error, "a catalog does not answer; what is shown stays");
                    }
                    let _is_away = named.hear::<()>(Err(error));
                } else if !had_failed {
                    self.ask_soon(number); // is it this table, or all?
                }
            }
        }
    }

    async fn note_answer(
        &self,
        number: usize,
        due: Vec<Arc<Slot>>,
        answer: Result<Changes, CatalogError>,
        pace: Pace,
    ) {
        let outcome = |slot: &Slot| match &answer {
            Err(_) => Err(()),
            Ok(changes) if changes.failed.iter().any(|(id, _)| *id == slot.id) => Err(()),
            // What could not be shown is no reason to ask more often.
            Ok(_) if slot.retry.lock().is_early() => Ok(false),
            Ok(changes) => Ok(changes.changes.iter().any(|change| match change {
                Change::Changed(id) | Change::Dropped(id) => *id == slot.id,
            })),
        };
        for slot in &due {
            let (is_read, changed) = (self.is_read(slot), outcome(slot));
            slot.asked.lock().end(pace, is_read, changed);
        }
        if let Ok(changes) = &answer {
            note_current(&due, changes);
        }
        if let Ok(changes) = answer {
            self.hand_on(number, changes).await;
        }
    }

    /// What is not there in time is not there.
    async fn in_patience<T>(
        &self,
        work: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        let late = |_| Err(CatalogError::Unavailable { why: "it has not answered in time".to_owned() });
        tokio::time::timeout(self.patience, work).await.unwrap_or_else(late)
    }

    /// All tables of a catalog are asked about as soon as possible.
    pub(super) fn ask_soon(&self, number: usize) {
        self.shown_of(number).iter().for_each(|slot| slot.asked.lock().soon());
        self.catalogs[number].wanted.notify_one();
    }

    fn asked_with(&self, slots: &[Arc<Slot>]) -> Vec<(TableId, Token)> {
        let shown = slots.iter().filter_map(|slot| Some((slot.id.clone(), slot.current()?.asked_with())));
        shown.collect()
    }

    pub(super) fn shown_of(&self, number: usize) -> Vec<Arc<Slot>> {
        let of_it = |slot: &Arc<Slot>| slot.catalog == number && slot.current().is_some();
        self.slots().into_iter().filter(of_it).collect()
    }

    fn is_read(&self, slot: &Slot) -> bool {
        slot.used().is_some_and(|ms| self.ago(ms) < LATELY)
    }
}

/// Those of the tables that are due which are asked about by themselves now: those that have answered the last time first.
pub(super) fn begun(mut due: Vec<Arc<Slot>>, crowd: &Arc<Crowd>) -> Vec<(Arc<Slot>, Place)> {
    due.sort_by_cached_key(|slot| slot.asked.lock().has_failed);
    let entered = due.into_iter().map_while(|slot| {
        let mut asked = slot.asked.lock();
        let place = crowd.enter(asked.has_failed)?;
        asked.begin();
        drop(asked);
        Some((slot, place))
    });
    entered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_read_is_asked_about_often_and_nobody_because_of_others() {
        let pace = Pace { hot: Duration::from_secs(1), idle: Duration::from_secs(60) };
        let (mut read, mut idle) = (Asked::default(), Asked::default());
        for asked in [&mut read, &mut idle] {
            assert!(asked.left(pace, false).is_some_and(|left| left > Duration::ZERO), "it has just come");
        }
        for _ in 0..7 {
            read.begin();
            idle.begin();
            assert_eq!((read.left(pace, true), idle.left(pace, false)), (None, None));
            read.end(pace, true, Ok(false));
            idle.end(pace, false, Ok(false));
        }
        assert_eq!((read.pause, idle.pause), (pace.hot, pace.idle));
        assert!(idle.left(pace, true).is_some_and(|left| left <= pace.hot), "somebody reads it");
        idle.soon();
        assert_eq!(idle.left(pace, false), Some(Duration::ZERO));
        idle.begin();
        idle.soon();
        idle.end(pace, false, Ok(false));
        assert_eq!(idle.left(pace, false), Some(Duration::ZERO), "what was asked before is of before");
        read.end(pace, true, Err(()));
        assert!(read.has_failed && read.left(pace, true).is_some_and(|left| left > pace.hot));
        read.end(pace, true, Ok(false));
        assert_eq!(read.pause, pace.hot);
    }
}
