//! Whether the directory is the one that the records describe.
//!
//! A place for the state often outlives the directory: in a volume beside a container that is made anew, on a disk beside
//! a memory file system, or because somebody removes the directory and makes it again. What the records know is not there
//! then, and nobody has removed it: the newest version is to come back, as at a first start.
use super::lock::Locks;
use crate::config::MountSettings;
use crate::error::{Error, Result};
use crate::path::RelPath;
use crate::serve::startup::StatusPipe;
use crate::state::absent::Source;
use crate::state::backing::is_overlayfs;
use crate::state::identity::Identity;
use crate::state::record::{Place, Records};
use rustix::fs::{AtFlags, Mode};
use std::os::fd::AsFd;

/// Of so many recorded entries it is looked whether one is there as it was.
const LOOKED_AT_MAX: usize = 10_000;

/// Forgets what the records say of another directory, and notes that they describe this one.
pub(super) fn forget_another(
    settings: &MountSettings,
    records: &Records,
    locks: &Locks,
    status: &StatusPipe,
) -> Result<()> {
    copied_up(records, locks);
    let place =
        Place::of(locks.backing()).map_err(|e| Error::io("cannot look at the directory", e.into()))?;
    let knows = records.meta().base.is_some() || records.restoring()?.is_some();
    if knows && before(records)?.is_some_and(|before| differ(before, place)) && !has_any(records, locks)? {
        status.notice(format!(
            "{} was made anew since it was saved: nothing in it counts as removed, and the newest version comes back",
            settings.dir.display()
        ));
        Source::forget(&settings.state_dir.join("absent"));
        records.forget_directory()?;
    }
    Ok(records.stand_at(place)?)
}

/// A directory of an image is another one from the first change on that a container makes to it: the file system copies
/// it. That is to be before its place is noted; and what has not changed but for that is no change.
fn copied_up(records: &Records, locks: &Locks) {
    let dir = locks.backing();
    if is_overlayfs(dir)
        && let Ok(stat) = rustix::fs::fstat(dir)
    {
        // Where it is not ours to change nobody changes it either.
        let _no_change =
            rustix::fs::chmodat(dir, c".", Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty());
        if let Ok(after) = rustix::fs::fstat(dir)
            && let Err(error) =
                records.touched(&RelPath::root(), &Identity::from(&stat), &Identity::from(&after))
        {
            tracing::debug!(%error, "the directory will look as if it was changed here");
        }
    }
}

/// The place of before. Earlier programs noted the number alone, with the record of the root.
fn before(records: &Records) -> Result<Option<Place>> {
    if let Some(place) = records.meta().place {
        return Ok(Some(place));
    }
    let root = records.get(&RelPath::root())?;
    Ok(root.map(|root| Place { ino: root.ino, born: None }))
}

/// Whether two places look like those of two directories. On its own it proves nothing: the numbers that some network
/// file systems show change, and a directory of an image is born anew with its first change in a container.
fn differ(before: Place, now: Place) -> bool {
    match (before.born, now.born) {
        (Some(before), Some(now)) => before != now,
        _ => before.ino != now.ino,
    }
}

/// Whether anything stands there as the records know it. In another directory nothing does: no file of it has the change
/// times of files elsewhere.
fn has_any(records: &Records, locks: &Locks) -> Result<bool> {
    let root = locks.backing().as_fd();
    for record in records.below(&RelPath::root()).take(LOOKED_AT_MAX) {
        let (path, ident) = record?;
        let stands = rustix::fs::statat(root, path.to_cstring(), AtFlags::SYMLINK_NOFOLLOW);
        if stands.is_ok_and(|stat| Identity::from(&stat).unchanged_since(&ident)) {
            return Ok(true);
        }
    }
    Ok(false)
}
