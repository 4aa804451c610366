//! [`Attributes`] of entries: owner, mode, times and extended ones, set and [read](metadata).
use crate::clock::Timestamp;
use crate::layer::entry::Metadata;
use crate::sync::Mutex;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// What a new entry inherits from its directory, whatever it is meant to have.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Which other attributes an entry that was there before loses, unless it is meant to have them. What the system labels
/// files with stays.
const OURS: [&[u8]; 3] = [b"user.", b"trusted.", b"security.capability"];

/// So many free blocks are room for every attribute: a file system that has them and has no space for one never has.
const ROOM_BLOCKS: u64 = 256;

/// What could not be kept, said once however many entries it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// Owners and groups need privileges.
    Owner,
    /// The directory that all goes into is somebody else's.
    Root,
    /// Some extended attributes need privileges.
    XattrDenied,
    /// The file system has no extended attributes of some kind.
    XattrUnsupported,
    /// The file system has no room for some extended attributes.
    XattrTooLarge,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Owner => "owners and groups could not be set without privileges",
            Self::Root => "the directory belongs to another user and keeps its own mode and times",
            Self::XattrDenied => "some extended attributes could not be set without privileges",
            Self::XattrTooLarge => "some extended attributes do not fit this file system",
            Self::XattrUnsupported => "this file system does not keep some extended attributes",
        })
    }
}

/// Gives entries their attributes; shared by all writing threads. Owner of the notes' lock.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    notes: Mutex<BTreeSet<Note>>,
}

impl Attributes {
    pub(super) fn notes(&self) -> Vec<Note> {
        self.notes.lock().iter().copied().collect()
    }

    /// Gives an open file or directory its own.
    ///
    /// No ACL but its own. Owner before mode (a change of owner clears suid), attributes before mode (writing `user.`
    /// attributes needs write permission), time last.
    pub(super) fn apply(&self, fd: impl AsFd, meta: &Metadata) -> Result<(), Errno> {
        self.apply_to(fd.as_fd(), meta, false)
    }

    /// The same, or none of it.
    ///
    /// # Errors
    /// `E2BIG` if the file system has no room for some extended attributes.
    pub(super) fn apply_all(&self, fd: impl AsFd, meta: &Metadata) -> Result<(), Errno> {
        self.apply_to(fd.as_fd(), meta, true)
    }

    fn apply_to(&self, fd: BorrowedFd<'_>, meta: &Metadata, all: bool) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        if let Err(e) = rustix::fs::fchown(fd, Some(uid), Some(gid)) {
            self.excuse_owner(e)?;
            let _ = rustix::fs::fchown(fd, None, Some(gid));
        }
        for inherited in ACLS.into_iter().filter(|acl| !has_xattr(meta, acl)) {
            ignore_missing(rustix::fs::fremovexattr(fd, inherited))?;
        }
        for left in left_over(&list(|buf| rustix::fs::flistxattr(fd, buf)), meta) {
            ignore_missing(rustix::fs::fremovexattr(fd, left))?;
        }
        for (name, value) in &meta.xattrs {
            let result = rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
            result.or_else(|e| self.excuse_xattr(e, fd, all))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode & 0o7777))?;
        rustix::fs::futimens(fd, &times(meta))
    }

    /// As [`apply`](Self::apply) for the directory that all goes into, which was there before. Whoever may write to it
    /// need not own it, such as a volume of a group, or `/tmp`.
    pub(super) fn apply_to_root(&self, fd: impl AsFd, meta: &Metadata) -> Result<(), Errno> {
        match self.apply(fd, meta) {
            Err(Errno::PERM) => {
                self.notes.lock().insert(Note::Root);
                Ok(())
            }
            other => other,
        }
    }

    /// As [`apply`](Self::apply) for what cannot be opened.
    pub(super) fn apply_at(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        meta: &Metadata,
        is_symlink: bool,
    ) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Err(e) = rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags) {
            self.excuse_owner(e)?;
            let _ = rustix::fs::chownat(parent, name, None, Some(gid), flags);
        }
        for inherited in ACLS.into_iter().filter(|acl| !is_symlink && !has_xattr(meta, acl)) {
            ignore_missing(rustix::fs::lremovexattr(by_descriptor(parent, name), inherited))?;
        }
        let there = list(|buf| rustix::fs::llistxattr(by_descriptor(parent, name), buf));
        for left in left_over(&there, meta) {
            ignore_missing(rustix::fs::lremovexattr(by_descriptor(parent, name), left))?;
        }
        for (attribute, value) in &meta.xattrs {
            let path = by_descriptor(parent, name);
            let result = rustix::fs::lsetxattr(&path, attribute.as_slice(), value, XattrFlags::empty());
            result.or_else(|e| self.excuse_xattr(e, parent, false))?;
        }
        if !is_symlink {
            let mode = Mode::from_raw_mode(meta.mode & 0o7777);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &times(meta), flags)
    }

    fn excuse_owner(&self, e: Errno) -> Result<(), Errno> {
        // INVAL: the id has no place in this user namespace.
        if !matches!(e, Errno::PERM | Errno::INVAL) {
            return Err(e);
        }
        self.notes.lock().insert(Note::Owner);
        Ok(())
    }

    fn excuse_xattr(&self, e: Errno, on: BorrowedFd<'_>, all: bool) -> Result<(), Errno> {
        let too_large = e == Errno::TOOBIG || e == Errno::NOSPC && has_room(on);
        let note = match e {
            _ if too_large && all => return Err(Errno::TOOBIG),
            _ if too_large => Note::XattrTooLarge,
            Errno::PERM | Errno::ACCESS => Note::XattrDenied,
            Errno::OPNOTSUPP => Note::XattrUnsupported,
            e => return Err(e),
        };
        self.notes.lock().insert(note);
        Ok(())
    }
}

/// Whether a disk that has no space for an attribute has some for anything else.
fn has_room(on: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatvfs(on).is_ok_and(|disk| disk.f_bavail >= ROOM_BLOCKS)
}

fn has_xattr(meta: &Metadata, name: impl AsRef<[u8]>) -> bool {
    meta.xattrs.iter().any(|(other, _)| other == name.as_ref())
}

/// Of the attributes that are there those of before.
fn left_over<'a>(there: &'a Result<Vec<u8>, Errno>, meta: &Metadata) -> Vec<&'a [u8]> {
    let names = there.as_ref().map_or(&[][..], Vec::as_slice).split(|b| *b == 0);
    names.filter(|name| OURS.iter().any(|ours| name.starts_with(ours)) && !has_xattr(meta, name)).collect()
}

/// It has none, can have none (a default one is of directories only), or may not lose it.
fn ignore_missing(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM | Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn times(meta: &Metadata) -> Timestamps {
    let mtime = Timespec { tv_sec: meta.mtime.sec, tv_nsec: i64::from(meta.mtime.nsec) };
    // The time of last access is not kept; the newer of the two is what most programs expect.
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// The attributes of what stands at `name`, as an entry has them.
pub(crate) fn metadata(parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> io::Result<Metadata> {
    let path = by_descriptor(parent, name);
    let mut xattrs = Vec::new();
    for attribute in list(|buf| rustix::fs::llistxattr(&path, buf))?.split(|b| *b == 0) {
        if attribute.is_empty() {
            continue;
        }
        match list(|buf| rustix::fs::lgetxattr(&path, attribute, buf)) {
            Ok(value) => xattrs.push((attribute.to_vec(), value)),
            Err(Errno::NODATA) => {} // removed meanwhile
            Err(e) => return Err(e.into()),
        }
    }
    xattrs.sort();
    Ok(Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 },
        xattrs,
    })
}

/// Reads into a buffer that is large enough for every attribute Linux has.
fn list(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; 256];
    loop {
        match read(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::RANGE) if buf.len() < 64 << 10 => buf.resize(64 << 10, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    }
}

/// A path for the calls that know no directory descriptors.
fn by_descriptor(parent: BorrowedFd<'_>, name: &[u8]) -> std::path::PathBuf {
    let mut path = std::path::PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    /// A file system without a place for it is not full.
    #[test]
    fn an_attribute_that_does_not_fit_is_no_full_disk() {
        let file = tempfile::tempfile().expect("file");
        let xattrs = vec![(b"user.large".to_vec(), vec![b'x'; 60_000])];
        let alone = rustix::fs::fsetxattr(&file, "user.large", &xattrs[0].1, XattrFlags::empty());
        if !matches!(alone, Err(Errno::NOSPC | Errno::TOOBIG)) {
            return; // it fits, or there are none
        }
        let meta = Metadata { mode: 0o640, xattrs, ..Metadata::default() };
        let attributes = Attributes::default();
        assert_eq!(attributes.apply_all(&file, &meta), Err(Errno::TOOBIG));
        assert!(!attributes.notes().contains(&Note::XattrTooLarge));
        attributes.apply(&file, &meta).expect("the rest of them");
        assert!(attributes.notes().contains(&Note::XattrTooLarge));
        assert_eq!(rustix::fs::fstat(&file).expect("stat").st_mode & 0o7777, 0o640);
    }
}
