//! What is told of a change of a table: to who watches, to who asks, and to the keeper.
use super::feed::{What, changes};
use super::lake::Lake;
use super::report::LastChange;
use super::slot::{Shown, Slot};
use icecache_iceberg::{ChangeKind, Difference};

/// What the keeper has not looked at yet is bounded: it is of use only soon.
const DIFFERENCES_MAX: usize = 16;

impl Lake {
    /// A table has turned over from one version to the next, which took so many requests, bytes and milliseconds.
    pub(super) fn tell(
        &self,
        slot: &Slot,
        (old, new): (&Shown, &Shown),
        difference: &Difference,
        (requests, bytes): (u64, u64),
        ms: u64,
    ) {
        let kind = difference.kind;
        let (added, removed) = (difference.added.len() as u64, difference.removed.len() as u64);
        let last = LastChange {
            time: jiff::Timestamp::now(),
            kind: word(kind).to_owned(),
            version: new.publication.number(),
            snapshot: new.publication.metadata().current_snapshot,
            requests,
            bytes,
            ms,
            added,
            removed,
            kept_bytes: None,
            kept_blocks: None,
            brought: 0,
            demoted: 0,
        };
        self.feed().tell_all(slot, changes(old, new, kind));
        self.feed().tell(
            &slot.path,
            What::Shown { version: last.version, snapshot: last.snapshot, added, removed, requests, ms },
        );
        let mut account = slot.account.lock();
        account.last = Some(last);
        account.differences.push(difference.clone());
        if account.differences.len() > DIFFERENCES_MAX {
            account.differences.remove(0);
        }
    }
}

/// A kind of change as reports have it.
fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::None => "none",
        ChangeKind::Append => "append",
        ChangeKind::Replace => "replace",
        ChangeKind::Overwrite => "overwrite",
        ChangeKind::Delete => "delete",
        ChangeKind::Rollback => "rollback",
        ChangeKind::Schema => "schema",
        ChangeKind::References => "references",
        ChangeKind::Replaced => "replaced",
        _ => "other",
    }
}
