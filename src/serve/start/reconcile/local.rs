//! [`Local`]: what was changed here, and whether some of it was changed elsewhere too, at a start that brings both together.
use super::restored::Restored;
use super::{Locks, is_below};
use crate::error::Result;
use crate::layer::{Entry, Kind};
use crate::path::RelPath;
use crate::state::backing::Backing;
use crate::state::dirty::Marks;
use crate::state::identity::Identity;
use crate::state::record::Records;
use crate::sync::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// What our version has of something that was removed here.
#[derive(Debug)]
pub enum Was {
    /// By its record.
    Recorded(Identity),
    /// By its layers: it was never on the disk.
    Laid(Entry),
    /// Nothing says.
    Unknown,
}

impl Was {
    fn is_alike(&self, there: &Identity) -> bool {
        match self {
            Self::Recorded(was) => is_alike(there, was),
            Self::Laid(was) => there.may_be(was),
            Self::Unknown => false,
        }
    }
}

/// What our version has at a path and below it; at least the path.
pub fn all_within(records: &Records, path: &RelPath) -> Result<BTreeMap<RelPath, Was>> {
    let mut within = BTreeMap::from([(path.clone(), Was::Unknown)]);
    let laid = records.absent().map(|absent| absent.laid_within(path)).unwrap_or_default();
    within.extend(laid.into_iter().map(|entry| (entry.path.clone(), Was::Laid(entry))));
    let own = records.get(path)?.map(|record| Ok((path.clone(), record)));
    for item in own.into_iter().chain(records.below(path)) {
        let (path, record) = item?;
        within.insert(path, Was::Recorded(record));
    }
    Ok(within)
}

/// What differs from the records here, and whether a newer version has some of it otherwise as well: then that version is
/// to be had as long as its tag is. Owner of its lock.
#[derive(Debug)]
pub struct Local {
    /// What differs from the records.
    pub marks: Marks,
    /// What of that is gone: it stays so.
    pub removed: BTreeMap<RelPath, Was>,
    /// What the version has otherwise and stays as it is.
    kept: Mutex<HashSet<RelPath>>,
    overlaps: AtomicBool,
}

impl Local {
    pub fn new(marks: Marks, removed: BTreeMap<RelPath, Was>) -> Self {
        Self { marks, removed, kept: Mutex::default(), overlaps: AtomicBool::new(false) }
    }

    /// Something stays as it is here. `entry`: what the version says of it; `is_newer`: and those before it did not, as
    /// far as its layers tell; `record`: what our version has, if anything.
    pub fn keeps(
        &self,
        path: &RelPath,
        (entry, is_newer): (&Entry, bool),
        record: Option<&Identity>,
        here: &Identity,
    ) {
        self.kept.lock().insert(path.clone());
        if is_newer && is_overlap(entry, record, here) {
            self.overlaps.store(true, Ordering::Relaxed);
        }
    }

    /// An entry has no place, because another file of its database stays as it is here. The rest as in [`keeps`](Self::keeps).
    pub fn holds(&self, (entry, is_newer): (&Entry, bool), record: Option<&Identity>) {
        if is_newer && record.is_none_or(|record| !record.may_be(entry)) {
            self.overlaps.store(true, Ordering::Relaxed);
        }
    }

    /// Looks at what the version does not have, and at what was removed here. `before`: all records; `found` and `kept`: what
    /// the version has, as it stands and where something else or nothing does.
    pub fn compare(
        &self,
        locks: &Locks,
        records: &Records,
        before: &[RelPath],
        (found, kept): (&Restored, &Restored),
    ) -> Result<()> {
        let mut backing = Backing::new(locks.backing().as_fd(), None);
        let mut overlaps = self.removed.iter().any(|(path, was)| {
            let there = found.get(path).or_else(|| kept.get(path));
            there.is_some_and(|there| !was.is_alike(there))
        });
        let stays = self.kept.lock();
        let is_lacking = |path: &&RelPath| {
            let ours = self.marks.contains_key(*path) || is_below(&self.marks, path);
            ours && !found.contains_key(*path) && !stays.contains(*path)
        };
        for path in before.iter().filter(is_lacking) {
            if overlaps {
                break;
            }
            let (here, was) = (backing.stat(path).ok().flatten(), records.get(path)?);
            overlaps = here.zip(was).is_some_and(|(here, was)| !is_alike(&here, &was));
        }
        self.overlaps.fetch_or(overlaps, Ordering::Relaxed);
        Ok(())
    }

    /// Whether both changed something.
    pub fn overlaps(&self) -> bool {
        self.overlaps.load(Ordering::Relaxed)
    }
}

/// Whether an entry is neither what the records have nor what is here, and that is not what the records have.
fn is_overlap(entry: &Entry, record: Option<&Identity>, here: &Identity) -> bool {
    let is_other = matches!(entry.kind, Kind::File { .. }) || !here.may_be(entry);
    is_other && record.is_none_or(|record| !record.may_be(entry) && !is_alike(here, record))
}

/// Whether two say the same of what a version keeps. Whoever adds or removes a name in a directory changes its times, and
/// means nothing by that.
pub(super) fn is_alike(one: &Identity, other: &Identity) -> bool {
    let of = |i: &Identity| (i.mode, i.uid, i.gid, i.rdev);
    let is_dir = one.file_type().is_dir();
    of(one) == of(other) && (is_dir || (one.size, one.mtime) == (other.size, other.mtime))
}
