//! [`Difference`]: what one version of a table has that another has not, found in the manifests they do not share.
use crate::error::TableError;
use crate::metadata::Metadata;
use crate::publication::{LiveFile, Publication, Sides};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What kind of change leads from one version to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// Nothing that a reader sees.
    None,
    /// Files were added.
    Append,
    /// Files were written anew with the same rows (compaction).
    Replace,
    /// Files were removed and added.
    Overwrite,
    /// Rows were deleted.
    Delete,
    /// The new version does not descend from the old one.
    Rollback,
    /// The snapshot is the same, the schema another.
    Schema,
    /// The snapshot is the same, a branch or tag has moved, come or gone.
    References,
    /// Another table of the same name: the identifiers differ.
    Replaced,
}

/// What one version of a table has that another has not.
#[derive(Debug, Clone)]
pub struct Difference {
    /// How the one became the other.
    pub kind: ChangeKind,
    /// Files of the current snapshot that the old one had not.
    pub added: Vec<LiveFile>,
    /// Files of the old current snapshot that the new one has not. Older snapshots may still need them. One whose name
    /// another file has by now is among both.
    pub removed: Vec<LiveFile>,
}

impl Difference {
    /// The files that came and went, by partition.
    pub fn by_partition(&self) -> BTreeMap<Arc<str>, (Vec<&LiveFile>, Vec<&LiveFile>)> {
        let mut partitions: BTreeMap<Arc<str>, (Vec<&LiveFile>, Vec<&LiveFile>)> = BTreeMap::new();
        for file in &self.added {
            partitions.entry(file.partition.clone()).or_default().0.push(file);
        }
        for file in &self.removed {
            partitions.entry(file.partition.clone()).or_default().1.push(file);
        }
        partitions
    }
}

/// [Writes](Publication::write) a version of a table, as far as it is not there, and compares its current snapshot with
/// that of another one. Reads the manifests that only one of them has, each once.
///
/// What is compared are the files that are there, not what manifests say was added or deleted: writers differ in
/// that, and it is forgotten by the snapshot after. Only a file that both have, and that came with a manifest of the new
/// one alone, is taken for another one of that name: it is among both, those that came and those that went.
///
/// # Errors
/// As [`Publication::write`] and [`Publication::files`].
pub async fn write_next(old: &Publication, new: &Publication) -> Result<Difference, TableError> {
    let kind = change_kind(old.metadata(), new.metadata());
    new.take_faults(old);
    let is_same = new.metadata().has_still(old.metadata(), old.metadata().current_snapshot)
        && old.metadata().current_snapshot == new.metadata().current_snapshot;
    let Sides { added, removed } = if is_same && kind != ChangeKind::Replaced {
        new.write().await?;
        Sides::default()
    } else {
        new.write_after(old).await?
    };
    Ok(Difference { kind, added, removed })
}

fn change_kind(old: &Metadata, new: &Metadata) -> ChangeKind {
    if old.uuid != new.uuid && old.uuid.is_some() {
        return ChangeKind::Replaced;
    }
    if old.current_snapshot == new.current_snapshot {
        return if !new.has_still(old, old.current_snapshot) {
            ChangeKind::Replace // the table has moved
        } else if old.schema_id != new.schema_id || old.schemas != new.schemas {
            ChangeKind::Schema
        } else if old.refs != new.refs {
            ChangeKind::References
        } else {
            ChangeKind::None
        };
    }
    let (Some(target), Some(start)) = (old.current_snapshot, new.current_snapshot) else {
        // From nothing, or back to it.
        return if old.current_snapshot.is_none() { ChangeKind::Append } else { ChangeKind::Rollback };
    };
    // From the new snapshot back to the old one; a parent that is not there any more ends the way.
    let mut kind = None;
    let mut at = new.snapshot(start);
    for _ in 0..=new.snapshots.len() {
        let Some(snapshot) = at else { break };
        if snapshot.id == target {
            return kind.unwrap_or(ChangeKind::Overwrite);
        }
        let own = match snapshot.operation.as_deref() {
            Some("append") => ChangeKind::Append,
            Some("replace") => ChangeKind::Replace,
            Some("delete") => ChangeKind::Delete,
            _ => ChangeKind::Overwrite,
        };
        kind = Some(match kind {
            None => own,
            Some(kind) if kind == own => own,
            Some(_) => ChangeKind::Overwrite,
        });
        let Some(parent) = snapshot.parent else { break };
        if parent == target {
            return kind.unwrap_or(ChangeKind::Overwrite);
        }
        at = new.snapshot(parent);
    }
    // The way ended before the old snapshot. Where a parent has been expired nobody can tell what lies behind it,
    // but a snapshot that is newer was not gone back to; and where the old one has been expired, it was not kept.
    // One that the old version knew, and that is no newer than what was current, was gone back to.
    let since = |of: &Metadata, id| of.snapshot(id).map(|snapshot| snapshot.timestamp_ms);
    if since(old, start).zip(since(old, target)).is_some_and(|(start, target)| start <= target) {
        return ChangeKind::Rollback;
    }
    let (before, after) = (new.snapshot(target), new.snapshot(start));
    match (before, after) {
        (Some(before), Some(after)) if at.is_some() || after.timestamp_ms <= before.timestamp_ms => {
            ChangeKind::Rollback
        }
        _ => ChangeKind::Overwrite,
    }
}
