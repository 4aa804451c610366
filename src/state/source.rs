//! Where the content of planned files is read from.
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::backing::reach;
use crate::state::plan::Captured;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Gives the content of planned files as of the plan's instant. Called from one packing thread, in
/// path order, and only for files with content of their own (see [`Captured::has_content`]).
pub trait ContentSource: Send + Sync {
    /// Opens a file for reading; not called for empty ones. An error of this one file (it may not be read, its path is
    /// too long, its blocks are bad) leaves it out of the version, and the receipt says so; any other fails the commit. So does any error
    /// of a later read: part of the file may have been sent by then.
    fn open(&self, path: &RelPath, captured: &Captured) -> io::Result<Box<dyn Content>>;

    /// The content has been read (or left out, or is empty): what kept it unchanged may be released. Not called
    /// for the rest of the plan when a commit fails.
    fn done(&self, _path: &RelPath, _captured: &Captured) {}

    /// All content of the plan has been read. What the commit still does is done in the remote and in the records.
    fn all_read(&self) {}
}

/// A planned file is no longer there. Where nothing keeps files for us that says something of that one alone.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it was moved, replaced or removed while it was saved")]
pub(super) struct Vanished;

/// Whether a failed open or read says something of that file alone: then the others are saved, and it is tried
/// again with each flush. Anything else (no descriptors left, another file stands there now) fails the whole.
pub(super) fn is_of_one_file(e: &io::Error) -> bool {
    const OF_ONE: [Errno; 9] = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::NAMETOOLONG,
        Errno::LOOP,
        Errno::IO,
        Errno::UCLEAN, // ext4 and XFS: damaged metadata
        Errno::BADMSG, // the same where checksums say so
        Errno::NXIO,
        Errno::OVERFLOW,
    ];
    e.kind() == io::ErrorKind::PermissionDenied
        || e.get_ref().is_some_and(|inner| inner.is::<Vanished>())
        || e.raw_os_error().is_some_and(|raw| OF_ONE.iter().any(|errno| errno.raw_os_error() == raw))
}

/// Reads straight from a directory that nobody changes meanwhile.
#[derive(Debug)]
pub struct DirectorySource {
    root: OwnedFd,
}

impl DirectorySource {
    /// The files beneath `root`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }
}

impl ContentSource for DirectorySource {
    fn open(&self, path: &RelPath, _captured: &Captured) -> io::Result<Box<dyn Content>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let open =
            |at: BorrowedFd<'_>, name: &CStr| rustix::fs::openat2(at, name, flags, Mode::empty(), resolve);
        Ok(Box::new(File::from(reach(self.root.as_fd(), path, open)?)))
    }
}
