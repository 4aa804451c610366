//! [`Stray`]: what to do with files that were there before and that the version does not have.
use super::opening::ASIDE_WITHIN;
use crate::config::words;
use crate::error::{Error, Result};
use crate::layer::extract::remove_all;
use crate::serve::startup::StatusPipe;
use crate::state::dirty::Marks;
use crate::state::identity::Identity;
use crate::state::open_directory;
use crate::state::record::Records;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};

words! {
    /// See the module.
    pub Stray {
        /// They stay, and the next version has them.
        Keep = "keep",
        /// They are removed. Never where the remote has no version yet, nor where a session that is known here, by its
        /// state directory, has left something unsaved; nor what was put aside because the version has it otherwise, or
        /// stands on another file system.
        Delete = "delete",
    }
}

/// Removes what `marks` name and the records do not know, and takes it out of the marks.
pub(super) fn delete(
    root: BorrowedFd<'_>,
    records: &Records,
    marks: &mut Marks,
    status: &StatusPipe,
) -> Result<()> {
    let mut kept = Marks::new();
    for (path, extent) in std::mem::take(marks) {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            kept.insert(path, extent);
            continue;
        };
        if records.any_within(&path)? || path.as_bytes() == ASIDE_WITHIN.as_bytes() {
            kept.insert(path, extent);
            continue;
        }
        let failed = |e: Errno| Error::io(format!("cannot remove stray file: {path}"), e.into());
        let dir = open_directory(root, &parent).map_err(failed)?;
        let before = Identity::from(&rustix::fs::fstat(&dir).map_err(failed)?);
        match remove_all(dir.as_fd(), name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::XDEV) => {
                status.notice(format!("another file system is mounted there, it is not deleted: {path}"));
                kept.insert(path.clone(), extent);
            }
            Err(e) => return Err(failed(e)),
        }
        // That it was tidied up is no change of the directory: it is as the version has it.
        let time = Timespec { tv_sec: before.mtime.sec, tv_nsec: i64::from(before.mtime.nsec) };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = rustix::fs::utimensat(&dir, c".", &times, AtFlags::empty());
        if set.is_ok() {
            let after =
                Identity { nlink: before.nlink, ..Identity::from(&rustix::fs::fstat(&dir).map_err(failed)?) };
            records.touched(&parent, &before, &after)?;
        }
    }
    *marks = kept;
    Ok(())
}
