//! Where the content of planned files is read from.
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::plan::Captured;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Gives the content of planned files as of the plan's instant. Called from one packing thread, in
/// path order, and only for files with content of their own (see [`Captured::has_content`]).
pub trait ContentSource: Send + Sync {
    /// Opens a file for reading. `PermissionDenied` leaves this one file out of the version (the
    /// receipt says so); any other error fails the commit.
    fn open(&self, path: &RelPath, captured: &Captured) -> io::Result<Box<dyn Content>>;

    /// The content has been read (or left out): what kept it unchanged may be released. Not called
    /// for the rest of the plan when a commit fails.
    fn done(&self, _path: &RelPath, _captured: &Captured) {}
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
        let (dir, name) = match (path.parent(), path.name()) {
            (Some(parent), Some(name)) if path.as_bytes().len() > crate::state::backing::PIECE_MAX => {
                let dir =
                    crate::state::backing::open_directory(rustix::fd::AsFd::as_fd(&self.root), &parent)?;
                (Some(dir), name.to_vec())
            }
            _ => (None, path.as_bytes().to_vec()),
        };
        let at = dir.as_ref().unwrap_or(&self.root);
        Ok(Box::new(File::from(rustix::fs::openat2(at, name, flags, Mode::empty(), resolve)?)))
    }
}
