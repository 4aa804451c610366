//! [`Hinted`]: what somebody says has changed, until the catalog is asked about it.
//!
//! A hint is never more than a hint. Those that come while others wait or are followed become one question.
use super::lake::Lake;
use super::slot::Slot;
use crate::sync::Mutex;
use icecache_iceberg::Location;
use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Hints lead to a question about a table no more often than that.
const PAUSE: Duration = Duration::from_secs(1);
/// Where the metadata of a table is, below its folder.
const METADATA: &str = "/metadata/";
/// So many objects are looked at one by one.
const OBJECTS_MAX: usize = 1000;

/// The hints about one catalog that nobody has followed yet. Owner of its lock; bounded by the tables that are shown.
#[derive(Debug, Default)]
pub(super) struct Hinted {
    wanted: Mutex<Wanted>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    all: bool,
    /// By their paths below the mount.
    tables: BTreeSet<String>,
}

/// What became of hints.
#[derive(Debug, Default)]
pub struct HintCounts {
    asked: AtomicU64,
    merged: AtomicU64,
    refused: AtomicU64,
}

impl HintCounts {
    /// Somebody was not heard: without the token, or about nothing that is known.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Those for which a catalog is asked, those that others stand for, and those of which nothing came.
    pub fn all(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Relaxed);
        [("asked", of(&self.asked)), ("merged", of(&self.merged)), ("refused", of(&self.refused))]
    }

    fn count(&self, is_new: bool) {
        if is_new { &self.asked } else { &self.merged }.fetch_add(1, Relaxed);
    }
}

impl Lake {
    /// Somebody says that a table has changed, by one of its names: its catalog is asked soon, if it is shown. Whether
    /// there is such a table.
    pub fn hint_table(&self, name: &str) -> bool {
        let meant: Vec<_> = self.slots().into_iter().filter(|slot| self.means(slot, name)).collect();
        meant.iter().for_each(|slot| self.hint(slot));
        !meant.is_empty()
    }

    /// Somebody says that the table in this folder has changed.
    pub fn hint_folder(&self, folder: &str) {
        self.hint_where(|slot| {
            slot.current().is_some_and(|shown| shown.publication.metadata().location.as_str() == folder)
        });
    }

    /// Somebody says that there are new objects: tables have changed if they are of their metadata. Of more than can be
    /// looked at, all tables may have.
    pub fn hint_objects(&self, objects: &[Location]) {
        if objects.len() > OBJECTS_MAX {
            return self.hint_all();
        }
        let mut folders = HashSet::new();
        for object in objects.iter().map(Location::as_str) {
            folders.extend(object.rsplit_once('/').map(|(folder, _)| folder));
            folders.extend(object.match_indices(METADATA).map(|(at, _)| &object[..at]));
        }
        self.hint_where(|slot| {
            slot.current().is_some_and(|shown| {
                let from = shown.from.as_str().rsplit_once('/').map(|(folder, _)| folder);
                let table = shown.publication.metadata().location.as_str().trim_end_matches('/');
                folders.contains(table) || from.is_some_and(|from| folders.contains(from))
            })
        });
    }

    /// Somebody says that tables have changed, and not which.
    pub fn hint_all(&self) {
        for named in &self.catalogs {
            let before = std::mem::replace(&mut named.hinted.wanted.lock().all, true);
            self.hints.count(!before);
            named.hinted.more.notify_one();
        }
    }

    /// What became of hints.
    pub fn hints(&self) -> &HintCounts {
        &self.hints
    }

    fn hint_where(&self, is_meant: impl Fn(&Slot) -> bool) {
        self.slots().iter().filter(|slot| is_meant(slot)).for_each(|slot| self.hint(slot));
    }

    fn hint(&self, slot: &Arc<Slot>) {
        if slot.current().is_none() {
            return; // whoever looks into it finds what is current
        }
        let hinted = &self.catalogs[slot.catalog].hinted;
        let is_new = {
            let mut wanted = hinted.wanted.lock();
            // It may wait for an answer that is on its way.
            wanted.tables.insert(slot.path.clone()) && !wanted.all && !slot.asked.lock().is_due()
        };
        self.hints.count(is_new);
        hinted.more.notify_one();
    }

    /// Asks a catalog about what somebody says has changed.
    pub(super) async fn follow_hints(&self, number: usize) -> Infallible {
        let hinted = &self.catalogs[number].hinted;
        loop {
            let wanted = std::mem::take(&mut *hinted.wanted.lock());
            if !wanted.all && wanted.tables.is_empty() {
                hinted.more.notified().await;
                continue;
            }
            let next = Instant::now() + PAUSE;
            self.ask_because_of(number, &wanted).await;
            tokio::time::sleep_until(next).await;
        }
    }

    async fn ask_because_of(&self, number: usize, wanted: &Wanted) {
        let named = &self.catalogs[number];
        if named.catalog.has_one_question() {
            if let Err(error) = self.poll(number, wanted.all).await {
                tracing::debug!(%error, "hints came to nothing");
            }
            return;
        }
        if wanted.all {
            let _logged = self.ask_names_of(number).await;
            return self.ask_soon(number);
        }
        for slot in wanted.tables.iter().filter_map(|table| Some(self.table(table)?.0)) {
            slot.asked.lock().soon();
        }
        named.wanted.notify_one();
    }
}
