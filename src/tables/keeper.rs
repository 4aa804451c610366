//! [`Keeper`]: brings what is to be in the cache before anybody reads it: pinned files, and after a change the
//! successors of what was hot. What only older snapshots need goes first when there is no room.
use super::crowd::{Crowd, Place};
use super::held::bytes_of;
use super::lake::Lake;
use super::report::Outcome;
use super::selection::{Want, Wanted};
use super::slot::{Brought, Shown, Slot};
use super::stock::{Share, Stock};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use icecache_iceberg::{Difference, Location, ObjectError};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So many files are brought at once, each of which waits for two answers of the store; the cache bounds how many of
/// their blocks are.
const FILES_AT_ONCE: usize = 16;
/// Of so many fewer tables than may be turned over at once: each brings that many files.
const SHARE: usize = 4;
/// What could not be brought is tried again after so long, then after twice that, and so on …
const AGAIN: Duration = Duration::from_secs(30);
/// … up to this.
const AGAIN_MAX: Duration = Duration::from_secs(120);
/// For what there was no room is tried again after so long at the earliest: it may have to be fetched to see that.
const FULL_AGAIN: Duration = Duration::from_secs(15 * 60);
/// Who removes what nobody needs waits so long for who writes what an older snapshot needs, and others wait for that.
const OLDER_PATIENCE: Duration = Duration::from_secs(1);
/// So many failures are told one by one.
const FAILURES_TOLD: usize = 10;

/// Which tables are to be looked after. Owner of its locks.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    due: Mutex<Due>,
    work: Notify,
}

#[derive(Debug, Default)]
struct Due {
    /// Those that somebody has called for, or whose time has come.
    now: BTreeSet<String>,
    /// Those that are being looked after: whoever calls for one is heard after that.
    underway: HashSet<String>,
    /// Those that are to be looked after again.
    again: HashMap<String, Again>,
}

/// When a table is looked after again.
#[derive(Debug, Default)]
struct Again {
    /// How often it went wrong, one time after the other.
    failures: u32,
    /// `None`: at once.
    at: Option<Instant>,
    /// There was no room.
    is_full: bool,
}

impl Again {
    fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    /// It went wrong for this reason, or is not all done; it is left alone longer each time that it goes wrong.
    fn note(&mut self, failure: Option<ErrorKind>) {
        let pause = match failure {
            None => AGAIN,
            Some(ErrorKind::Full) => FULL_AGAIN,
            Some(_) => (AGAIN * (1 << self.failures.min(8))).min(AGAIN_MAX),
        };
        self.failures = if failure.is_none() { 0 } else { self.failures + 1 };
        self.is_full = failure == Some(ErrorKind::Full);
        self.at = Some(Instant::now() + pause);
    }
}

impl Keeper {
    /// A table has changed, or its pins have.
    pub(super) fn call(&self, slot: &Slot) {
        self.due.lock().now.insert(slot.path.clone());
        self.work.notify_one();
    }

    /// Some of a table is not there; what was the matter. It is tried again after a while.
    pub(super) fn call_again(&self, table: &str, failure: Option<ErrorKind>) {
        self.due.lock().again.entry(table.to_owned()).or_default().note(failure);
        self.work.notify_one();
    }

    /// Less is pinned than before: for which there was no room, there may be now.
    pub(super) fn call_for_room(&self) {
        let mut due = self.due.lock();
        due.again.values_mut().filter(|again| again.is_full).for_each(|again| again.at = None);
        drop(due);
        self.work.notify_one();
    }

    /// The next table that is due, if there is room for one: those that went wrong the last time come after the others.
    fn next(&self, crowd: &Arc<Crowd>) -> Option<(String, Place)> {
        let mut all = self.due.lock();
        let Due { now: due, underway, again } = &mut *all;
        let now = Instant::now();
        let come = again.iter().filter(|(table, at)| at.is_due(now) && !underway.contains(*table));
        due.extend(come.map(|(table, _)| table.clone()));
        let has_failed = |table: &String| again.get(table).is_some_and(|again| again.failures > 0);
        let mut free = due.iter().filter(|table| !underway.contains(*table));
        let table = free.clone().find(|table| !has_failed(table)).or_else(|| free.next())?.clone();
        let place = crowd.enter(has_failed(&table))?;
        due.remove(&table);
        underway.insert(table.clone());
        Some((table, place))
    }

    /// One was looked after: whether all is done, or what was the matter.
    fn done(&self, table: &str, kept: Result<bool, ErrorKind>) {
        let mut due = self.due.lock();
        due.underway.remove(table);
        let failure = match kept {
            Ok(true) => {
                due.again.remove(table);
                return;
            }
            Ok(false) => None,
            Err(kind) => Some(kind),
        };
        due.again.entry(table.to_owned()).or_default().note(failure);
    }

    /// How long none is due that is not called for; nobody waits for those that wait for room.
    fn pause(&self) -> Duration {
        let due = self.due.lock();
        let waits = |table: &String| !due.now.contains(table) && !due.underway.contains(table);
        let next = due.again.iter().filter(|(table, _)| waits(table)).map(|(_, again)| again.at).min();
        let pause = |at: Option<Instant>| {
            at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
        };
        next.map_or(Duration::MAX, pause)
    }
}

impl Lake {
    /// Looks after tables until it is dropped, those with pins at once. None waits for another whose files do not come.
    pub(super) async fn keep(&self) -> Infallible {
        let pinned = self.pins.tables().into_iter().map(|table| (table, Again::default()));
        self.keeper.due.lock().again.extend(pinned);
        let (crowd, mut underway) = (Arc::new(Crowd::one_in(SHARE)), FuturesUnordered::new());
        loop {
            while let Some((table, place)) = self.keeper.next(&crowd) {
                underway.push(async move {
                    let wanted = place.wanted();
                    let kept = place.hold(self.look_after(&table, &wanted)).await;
                    if let Err(error) = &kept {
                        tracing::warn!(table, %error, "what is to be in the cache could not be brought");
                    }
                    self.keeper.done(&table, kept.map_err(|error| error.kind()));
                });
            }
            tokio::select! {
                Some(()) = underway.next() => {}
                () = crowd.has_room() => {}
                _in_time = tokio::time::timeout(self.keeper.pause(), self.keeper.work.notified()) => {}
            }
        }
    }

    /// Whether all is done. Where its files, or its catalog, do not come it is left when others want its place.
    async fn look_after(&self, table: &str, wanted: &Notify) -> Result<bool> {
        if self.table(table).is_none() && !self.pins.has(table) {
            return Ok(true); // it has gone, and nobody waits until it comes again
        }
        let slot = unless(wanted, self.shown_at(table)).await?;
        let differences = std::mem::take(&mut slot.account.lock().differences);
        let merged = merged(differences);
        if merged.is_some() {
            slot.is_unswept.store(true, Ordering::Relaxed);
        }
        let is_swept = match slot.is_unswept.load(Ordering::Relaxed) {
            false => true,
            true => match self.sweep(&slot, wanted).await {
                Ok(is_swept) => is_swept,
                Err(left) => {
                    slot.account.lock().differences.splice(0..0, merged);
                    return Err(left);
                }
            },
        };
        slot.is_unswept.store(!is_swept, Ordering::Relaxed);
        let all_there = unless(wanted, self.bring_all(&slot, merged)).await;
        if let Err(error) = &all_there {
            self.not_held(&slot, error);
        }
        Ok(all_there? && is_swept)
    }

    /// The table at a path, which is shown by then.
    async fn shown_at(&self, table: &str) -> Result<Arc<Slot>> {
        if self.table(table).is_none() {
            let _stays_as_it_is = self.ask_names().await;
        }
        let Some((slot, "")) = self.table(table) else {
            let message = format!("the catalogs have no such table: {table}");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        self.show(&slot).await.map_err(|why| Error::new(ErrorKind::Io, why))?;
        Ok(slot)
    }

    /// Brings what is to be there of a table, after this change if there was one; `false` if somebody else does.
    async fn bring_all(&self, slot: &Slot, change: Option<Difference>) -> Result<bool> {
        if let Some(change) = change {
            self.follow(slot, &change).await;
        }
        if !self.pins.has(&slot.path) && !self.held.has_any_of(&slot.path) {
            return Ok(true);
        }
        // Who pins something else of it looks at its end whether all is as it should be.
        let Ok(turn) = slot.writing.pinning.try_lock() else { return Ok(false) };
        let held = self.hold_pinned(slot, turn).await?;
        match held.failed.first() {
            Some(why) => {
                let kind = if held.is_full { ErrorKind::Full } else { ErrorKind::Unavailable };
                Err(Error::new(kind, why.clone()))
            }
            None => Ok(true),
        }
    }

    /// After a start: whether the version before it has left more than is to be kept by now.
    pub(super) async fn is_to_be_swept(&self, slot: &Slot, shown: &Shown) -> bool {
        let is_more = shown.publication.may_exceed(self.retention).await.unwrap_or(false);
        slot.is_unswept.fetch_or(is_more, Ordering::Relaxed);
        is_more
    }

    /// Removes what no version that is kept leads to; `false` if somebody writes what an older snapshot needs, and that
    /// takes long. What was begun is not left half done.
    async fn sweep(&self, slot: &Slot, wanted: &Notify) -> Result<bool> {
        // Not while one is being published; that may take as long as its store.
        let _turn = unless(wanted, async { Ok(slot.writing.turn.lock().await) }).await?;
        let alone = tokio::time::timeout(OLDER_PATIENCE, slot.writing.older.write()).await;
        let (Ok(_alone), Some(shown)) = (alone, slot.current()) else { return Ok(false) };
        match shown.publication.sweep(self.retention, &slot.reach).await {
            Ok(swept) if swept.files == 0 => {}
            Ok(swept) => tracing::debug!(table = slot.path, ?swept, "older versions were removed"),
            Err(error) => {
                tracing::warn!(table = slot.path, %error, "older versions could not be removed");
            }
        }
        Ok(true)
    }

    /// After a change: brings what took the place of hot files, and lets go first what nobody reads any more. What a change
    /// leaves as it was costs no more than what the cache has of it: of a table there may be very many files.
    async fn follow(&self, slot: &Slot, difference: &Difference) {
        let stock = Stock::take(self.stores()).await;
        let stayed = self.stayed(&slot.path, &stock, difference);
        let kept_bytes = stayed.values().map(|share| share.cached).sum();
        let kept_blocks = stayed.values().map(|share| share.blocks).sum();
        let demoted = difference.removed.iter().filter(|file| {
            let id = stock.id(&file.location);
            id.is_some_and(|id| self.stores().cache().demote_object(&id) > 0)
        });
        let demoted = demoted.count() as u64;
        let successors = self.successors(&slot.path, &stock, stayed, difference);
        let brought = self.bring(&successors, Brought::Successor).await;
        for why in &brought.failed {
            tracing::debug!(table = slot.path, why, "a file could not be brought");
        }
        let mut unread = self.brought.lock();
        for file in &difference.removed {
            unread.remove(&file.location);
        }
        drop(unread);
        let mut account = slot.account.lock();
        if let Some(last) = &mut account.last {
            (last.kept_bytes, last.kept_blocks) = (Some(kept_bytes), Some(kept_blocks));
            (last.brought, last.demoted) = (brought.there.files, demoted);
        }
    }

    /// What the cache has of the files that a table had before a change and has still, by partition.
    fn stayed(&self, table: &str, stock: &Stock, difference: &Difference) -> HashMap<Arc<str>, Share> {
        let new: HashSet<&Location> = difference.added.iter().map(|file| &file.location).collect();
        let brought = self.brought.lock().clone();
        let mut stayed: HashMap<Arc<str>, Share> = HashMap::new();
        for (location, info) in stock.all().filter(|(location, _)| !new.contains(location)) {
            let path = self.mapping().object_path(&location);
            if let Some(partition) = self.known().partition_of(table, &path)
                && let Some((_, size)) = self.known().file(&path)
            {
                stayed.entry(partition).or_default().add(info, size, !brought.contains_key(&location));
            }
        }
        stayed
    }

    /// The files that came, of partitions that were hot, as far as there is room: what is free, and what those that
    /// went had.
    fn successors(
        &self,
        table: &str,
        stock: &Stock,
        mut stayed: HashMap<Arc<str>, Share>,
        difference: &Difference,
    ) -> Wanted {
        let cache = self.stores().cache();
        let free = cache.config().max_bytes.saturating_sub(cache.stats().used.bytes);
        let mut room = free + stock.share(&difference.removed, |_| false).cached;
        let brought = self.brought.lock().clone();
        let unread = |location: &Location| brought.contains_key(location);
        let hot = difference.by_partition().into_iter().filter(|(partition, (came, went))| {
            let mut before = stayed.remove(partition).unwrap_or_default();
            let bytes = came.iter().map(|file| file.size).sum();
            before.bytes = self.known().bytes_in(table, partition).saturating_sub(bytes);
            before.join(stock.share(went.iter().copied(), unread));
            before.is_hot()
        });
        let mut successors = Wanted::new();
        for file in hot.flat_map(|(_, (came, _))| came) {
            if file.size <= room {
                room -= file.size;
                successors.insert(file.location.clone(), (file.clone(), Want::Whole));
            }
        }
        successors
    }

    /// Brings files, as much of each as is wanted. `why` is remembered, for who asks why they are there.
    pub(super) async fn bring(&self, wanted: &Wanted, why: Brought) -> Outcome {
        let stock = Stock::take(self.stores()).await;
        let there = |location: &Location| stock.of(location).is_some();
        each(wanted.values().cloned(), |(file, want)| {
            let new = !there(&file.location);
            async move {
                let Some((blob, blocks)) = self.meant_of(&file, &want).await? else { return Ok(file.size) };
                let bytes = bytes_of(&blob, &blocks);
                if let Err(error) = blob.warm(blocks).await {
                    return Err(self.stores().gone_wrong(&file.location, &error));
                }
                if new {
                    self.brought.lock().insert(file.location, why);
                }
                Ok(bytes)
            }
        })
        .await
    }
}

/// Does something that can be left at any moment, until others want the place.
async fn unless<T>(wanted: &Notify, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        () = wanted.notified() => {
            let message = "it took long, and others were waiting: it goes on later";
            Err(Error::new(ErrorKind::Unavailable, message.to_owned()))
        }
    }
}

/// Does something with each file, a few at once; it says how many bytes are there then.
pub(super) async fn each<T, F: Future<Output = Result<u64, ObjectError>>>(
    files: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut files, mut going) = (files.into_iter(), FuturesUnordered::new());
    loop {
        // None is made before its turn: of a table there may be very many.
        while going.len() < FILES_AT_ONCE
            && let Some(file) = files.next()
        {
            going.push(work(file));
        }
        let Some(result) = going.next().await else { return outcome };
        match result {
            Ok(bytes) => outcome.there.add(bytes),
            Err(error) => {
                outcome.failed_files += 1;
                if outcome.failed.len() < FAILURES_TOLD {
                    outcome.failed.push(error.to_string());
                }
            }
        }
    }
}

/// Several changes, one after the other, as one.
fn merged(differences: Vec<Difference>) -> Option<Difference> {
    differences.into_iter().reduce(|mut all, next| {
        let gone: HashSet<Location> = next.removed.iter().map(|file| file.location.clone()).collect();
        all.added.retain(|file| !gone.contains(&file.location));
        let back: HashSet<Location> = next.added.iter().map(|file| file.location.clone()).collect();
        all.removed.retain(|file| !back.contains(&file.location));
        all.added.extend(next.added);
        all.removed.extend(next.removed);
        all.kind = next.kind;
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecache_iceberg::TableId;
    use std::cell::Cell;

    /// What fails is not asked for all the time, and that for which there is no room hardly ever.
    #[test]
    fn who_fails_is_left_alone_longer() {
        let mut again = Again::default();
        let start = Instant::now();
        assert!(again.is_due(start));
        let mut pause = |failure| {
            again.note(failure);
            let pause = again.at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            assert!(!again.is_due(start));
            pause.as_secs_f64().round() as u64
        };
        let unavailable = Some(ErrorKind::Unavailable);
        assert_eq!([unavailable; 4].map(&mut pause), [30, 60, 120, 120]);
        assert_eq!(pause(None), 30);
        assert_eq!([unavailable, Some(ErrorKind::Full), unavailable].map(&mut pause), [30, 900, 120]);
    }

    /// One whose files do not come holds up no other, and is never looked after twice at once.
    #[test]
    fn none_waits_for_another() {
        let keeper = Keeper::default();
        let crowd = Arc::<Crowd>::default();
        let slot = |path: &str| {
            let id = TableId { namespace: vec!["db".into()], name: path.into() };
            Slot::new(0, id, path.to_owned(), Arc::default())
        };
        let next = || keeper.next(&crowd).map(|(table, _)| table);
        keeper.call(&slot("a"));
        keeper.call(&slot("b"));
        assert_eq!((next(), next(), next()), (Some("a".to_owned()), Some("b".to_owned()), None));
        keeper.call(&slot("a"));
        keeper.call(&slot("b"));
        assert_eq!(next(), None, "both are being looked after");
        keeper.done("b", Ok(true));
        assert_eq!((next(), next()), (Some("b".to_owned()), None), "who called meanwhile is heard");
        keeper.done("a", Err(ErrorKind::Unavailable));
        keeper.done("b", Ok(true));
        keeper.call(&slot("b"));
        assert_eq!((next(), next()), (Some("b".to_owned()), Some("a".to_owned())), "who fails comes last");
        assert!(!keeper.pause().is_zero());
    }

    /// Room that somebody gives back is used at once by who waits for it, and by nobody else.
    #[test]
    fn who_waits_for_room_is_called_when_there_is_some() {
        let keeper = Keeper::default();
        assert_eq!(keeper.pause(), Duration::MAX);
        keeper.call_again("full", Some(ErrorKind::Full));
        keeper.call_again("away", Some(ErrorKind::Unavailable));
        let crowd = Arc::<Crowd>::default();
        assert!(keeper.next(&crowd).is_none() && keeper.pause() <= AGAIN && !keeper.pause().is_zero());
        keeper.call_for_room();
        assert!(keeper.pause().is_zero());
        assert!(keeper.next(&crowd).is_some_and(|(table, _)| table == "full"));
        assert!(keeper.next(&crowd).is_none() && !keeper.pause().is_zero());
    }

    /// Of a table with very many files only a few are taken up at a time.
    #[tokio::test]
    async fn no_more_is_made_than_is_worked_on() {
        let (now, most) = (Cell::new(0), Cell::new(0));
        let outcome = each(0..1000_u64, |bytes| {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            let now = &now;
            async move {
                tokio::task::yield_now().await;
                now.set(now.get() - 1);
                Ok(bytes)
            }
        });
        let outcome = outcome.await;
        assert_eq!((outcome.there.files, outcome.there.bytes), (1000, 999 * 1000 / 2));
        assert_eq!(most.get(), FILES_AT_ONCE);
    }
}
