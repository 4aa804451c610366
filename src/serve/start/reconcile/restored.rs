//! What a restore has put on the disk, until it becomes records.
use crate::layer::extract::Dirs;
use crate::path::RelPath;
use crate::serve::start::lock::Locks;
use crate::state::identity::Identity;
use crate::state::record::is_linked;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// By path, as it stands there.
pub type Restored = BTreeMap<RelPath, Identity>;

/// Looks once more at all names of files that have or had several: each that comes or goes moves the change
/// time of the others, and the next scan must not take that for a change.
pub fn look_at_linked(locks: &Locks, found: &mut Restored) {
    let linked: HashSet<u64> =
        found.values().filter(|identity| is_linked(identity)).map(|identity| identity.ino).collect();
    for (path, identity) in found.iter_mut().filter(|(_, identity)| linked.contains(&identity.ino)) {
        let stat = beneath(locks, path, |at, name| rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW));
        if let Ok(now) = stat.map(|stat| Identity::from(&stat))
            && (Identity { ctime: now.ctime, ..*identity }).unchanged_since(&now)
        {
            *identity = now;
        }
    }
}

/// Removes what a newer version no longer has, deepest first, and gives the directories it was in their
/// times back: the restore had set them, and the next flush must not take a removal for a change.
pub fn remove_all(locks: &Locks, paths: &[RelPath], found: &mut Restored) {
    let mut touched = BTreeSet::new();
    for path in paths {
        remove(locks, path);
        found.remove(path);
        touched.extend(path.parent());
    }
    for dir in touched {
        set_time_back(locks, &dir, found);
    }
}

/// Gives a directory the time that it was restored with.
pub fn set_time_back(locks: &Locks, dir: &RelPath, found: &mut Restored) {
    let Some(identity) = found.get_mut(dir) else { return };
    let time = Timespec { tv_sec: identity.mtime.sec, tv_nsec: i64::from(identity.mtime.nsec) };
    let times = Timestamps { last_access: time, last_modification: time };
    let done = beneath(locks, dir, |at, name| {
        rustix::fs::utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
    });
    match done {
        Ok(stat) => *identity = Identity::from(&stat),
        Err(e) => tracing::warn!(%dir, error = %e, "cannot set the time of a directory"),
    }
}

/// Removes one; what cannot be removed is found by the scan after.
pub fn remove(locks: &Locks, path: &RelPath) {
    let remove = || {
        beneath(locks, path, |at, name| {
            rustix::fs::unlinkat(at, name, AtFlags::empty())
                .or_else(|_| rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR))
        })
    };
    if remove() == Err(Errno::ACCESS)
        && let Some(dir) = path.parent()
    {
        // It may be ours, and closed to ourselves.
        let mode = beneath(locks, &dir, |at, name| {
            let mode = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode & 0o7777;
            rustix::fs::chmodat(at, name, Mode::from_raw_mode(mode | 0o700), AtFlags::empty()).map(|()| mode)
        });
        if let Ok(mode) = mode {
            let _kept = remove();
            let _as_before = beneath(locks, &dir, |at, name| {
                rustix::fs::chmodat(at, name, Mode::from_raw_mode(mode), AtFlags::empty())
            });
        }
    }
}

/// Calls with the directory that holds `path` and the name there. Through no link: a newer version may have one where there
/// was a directory, and what it leads to has nothing to do with what that had.
fn beneath<T>(
    locks: &Locks,
    path: &RelPath,
    call: impl FnOnce(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let root = locks.backing_fd().map_err(|_| Errno::BADF)?;
    let dir = Dirs::new(root).get(&path.parent().unwrap_or_default(), false)?;
    let name = CString::new(path.name().unwrap_or(b".")).map_err(|_| Errno::INVAL)?;
    call(dir.as_fd(), &name)
}
