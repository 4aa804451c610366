//! [`Feed`]: what becomes of tables, event by event, for whoever listens.
use super::slot::{Shown, Slot};
use crate::sync::Mutex;
use icecache_iceberg::ChangeKind;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::sync::watch;

/// So many events are remembered for who is slow.
const REMEMBERED: usize = 4096;

/// Something that happened to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was noticed.
    pub time: jiff::Timestamp,
    /// The table's path below the mount.
    pub table: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The table has a snapshot that it had not.
    SnapshotAdded {
        /// Its identifier.
        snapshot: i64,
        /// The one that it was made from.
        parent: Option<i64>,
        /// `append`, `replace`, `overwrite` or `delete`; version 1 of the format may not say.
        operation: Option<String>,
    },
    /// The current snapshot is not a descendant of the one before.
    RolledBack {
        /// The one before.
        from: Option<i64>,
        /// The current one.
        to: Option<i64>,
    },
    /// A branch other than `main` has moved, come (`from` is null) or gone (`to` is null).
    BranchMoved {
        /// Its name.
        name: String,
        /// Its snapshot before.
        from: Option<i64>,
        /// Its snapshot now.
        to: Option<i64>,
    },
    /// The same of a tag.
    TagMoved {
        /// Its name.
        name: String,
        /// Its snapshot before.
        from: Option<i64>,
        /// Its snapshot now.
        to: Option<i64>,
    },
    /// The table has another schema.
    SchemaChanged {
        /// The number of the schema before.
        from: Option<i64>,
        /// The number of the schema now.
        to: Option<i64>,
    },
    /// It is another table of the same name.
    Replaced,
    /// The catalog has it no more.
    Dropped,
    /// The new version is shown: the last event of a change.
    Shown {
        /// The `N` of `v<N>.metadata.json`.
        version: u64,
        /// The current snapshot.
        snapshot: Option<i64>,
        /// How many files came.
        added: u64,
        /// How many went.
        removed: u64,
        /// Requests that it took to fetch what is new.
        requests: u64,
        /// From the notice to the turn of the hint, in milliseconds.
        ms: u64,
    },
    /// A new version cannot be shown: the old one stays.
    Failed {
        /// Why.
        why: String,
    },
}

/// Events since somebody asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The events, in order.
    pub events: Vec<Event>,
    /// What to ask for next.
    pub next: u64,
    /// There were more, which are not remembered any more.
    pub missed: bool,
    /// There will be no more: the mount ends.
    pub ended: bool,
}

/// See the module. Owner of its lock.
#[derive(Debug)]
pub struct Feed {
    kept: Mutex<VecDeque<Event>>,
    /// The number of the next event, and whether the mount ends.
    next: watch::Sender<(u64, bool)>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { kept: Mutex::default(), next: watch::Sender::new((0, false)) }
    }
}

impl Feed {
    /// Something has happened to a table.
    pub(super) fn tell(&self, table: &str, what: What) {
        let event = Event { time: jiff::Timestamp::now(), table: table.to_owned(), what };
        tracing::info!(table, what = ?event.what, "a table");
        let mut kept = self.kept.lock();
        if kept.len() == REMEMBERED {
            kept.pop_front();
        }
        kept.push_back(event);
        self.next.send_modify(|(next, _)| *next += 1);
    }

    /// There will be no more: whoever waits is told.
    pub fn end(&self) {
        self.next.send_modify(|(_, ended)| *ended = true);
    }

    /// The events from this number on; waits for one, but no longer than `patience`. Without a number: none, and
    /// at once, only which one is next.
    pub async fn since(&self, number: Option<u64>, patience: Duration) -> Batch {
        if let Some(number) = number {
            let mut next = self.next.subscribe();
            let come = next.wait_for(|(next, ended)| *next > number || *ended);
            let _in_time = tokio::time::timeout(patience, come).await;
        }
        let kept = self.kept.lock();
        let (next, ended) = *self.next.borrow();
        let oldest = next - kept.len() as u64;
        let from = number.unwrap_or(next).min(next);
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        Batch { events: kept.iter().skip(skip).cloned().collect(), next, missed: from < oldest, ended }
    }
}

/// What leads from one version of a table to the next, but for that it is shown.
pub(super) fn changes(old: &Shown, new: &Shown, kind: ChangeKind) -> Vec<What> {
    let (before, after) = (old.publication.metadata(), new.publication.metadata());
    if kind == ChangeKind::Replaced {
        return vec![What::Replaced];
    }
    let mut events = Vec::new();
    // There may be very many of them.
    let had: HashSet<i64> = before.snapshots.iter().map(|snapshot| snapshot.id).collect();
    for snapshot in after.snapshots.iter().filter(|snapshot| !had.contains(&snapshot.id)) {
        events.push(What::SnapshotAdded {
            snapshot: snapshot.id,
            parent: snapshot.parent,
            operation: snapshot.operation.clone(),
        });
    }
    if kind == ChangeKind::Rollback {
        events.push(What::RolledBack { from: before.current_snapshot, to: after.current_snapshot });
    }
    let names = before.refs.keys().chain(after.refs.keys().filter(|name| !before.refs.contains_key(*name)));
    for name in names.filter(|name| *name != "main") {
        let (was, is) = (before.refs.get(name), after.refs.get(name));
        let (from, to) = (was.map(|reference| reference.snapshot), is.map(|reference| reference.snapshot));
        if from == to {
            continue;
        }
        let name = name.clone();
        events.push(match is.or(was).is_some_and(|reference| reference.is_branch) {
            true => What::BranchMoved { name, from, to },
            false => What::TagMoved { name, from, to },
        });
    }
    if before.schema_id != after.schema_id {
        events.push(What::SchemaChanged { from: before.schema_id, to: after.schema_id });
    }
    events
}

impl Feed {
    /// All that a change was.
    pub(super) fn tell_all(&self, slot: &Slot, events: Vec<What>) {
        events.into_iter().for_each(|what| self.tell(&slot.path, what));
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn an_event_is_this_line() {
        let what = What::BranchMoved { name: "dev".into(), from: None, to: Some(7) };
        let event = Event { time: jiff::Timestamp::UNIX_EPOCH, table: "iceberg/db/t".into(), what };
        let line = r#"{"time":"1970-01-01T00:00:00Z","table":"iceberg/db/t","event":"branch_moved","name":"dev","from":null,"to":7}"#;
        assert_eq!(serde_json::to_string(&event).expect("text"), line);
        assert_eq!(serde_json::from_str::<Event>(line).expect("an event"), event);
    }

    #[tokio::test]
    async fn who_asks_has_what_came_since_and_is_told_what_is_forgotten() {
        let feed = Feed::default();
        let ever = Duration::from_secs(3600);
        feed.tell("a", What::Replaced);
        let begun = feed.since(None, ever).await;
        assert_eq!(begun, Batch { next: 1, ..Batch::default() });
        let (batch, ()) = tokio::join!(feed.since(Some(1), ever), async { feed.tell("b", What::Dropped) });
        assert_eq!((batch.events[0].table.as_str(), batch.events.len(), batch.next), ("b", 1, 2));
        for _ in 0..REMEMBERED {
            feed.tell("c", What::Dropped);
        }
        let batch = feed.since(Some(1), ever).await;
        assert!(batch.missed && batch.events.len() == REMEMBERED);
        assert!(!feed.since(Some(2), ever).await.missed);
        feed.end();
        let last = feed.since(Some(batch.next), ever).await;
        assert!(last.ended && last.events.is_empty());
    }
}
