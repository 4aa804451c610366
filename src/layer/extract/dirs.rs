//! [`Dirs`]: directories beneath a root, opened without ever following a symbolic link.
use crate::layer::LayerError;
use crate::path::RelPath;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The most directories kept open, and how many of the descriptors that a process may have they may be: there are several
/// of these at once, beside all else that a daemon has open.
const OPEN_MAX: usize = 128;
const OPEN_ONE_IN: usize = 32;
/// The longest path handed to the kernel at once (it takes less than 4096 bytes).
const STEP_MAX: usize = 3800;

/// Directories beneath one root, opened once and kept (up to a number).
#[derive(Debug)]
pub(crate) struct Dirs {
    root: Arc<OwnedFd>,
    open: HashMap<RelPath, Arc<OwnedFd>>,
    open_max: usize,
}

impl Dirs {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self::keeping(root, OPEN_MAX.min(crate::descriptors::limit() / OPEN_ONE_IN).max(1))
    }

    /// One that keeps at most so many open.
    pub(crate) fn keeping(root: OwnedFd, open_max: usize) -> Self {
        Self { root: Arc::new(root), open: HashMap::new(), open_max }
    }

    /// The directory that holds `entry`; missing ones are made.
    pub(crate) fn parent(&mut self, entry: &RelPath) -> Result<Arc<OwnedFd>, LayerError> {
        let dir = entry.parent().unwrap_or_default();
        self.get(&dir, true).map_err(|e| failed(e, entry))
    }

    /// As [`parent`](Self::parent), but `None` if it is missing.
    pub(crate) fn existing_parent(&mut self, entry: &RelPath) -> Result<Option<Arc<OwnedFd>>, LayerError> {
        let dir = entry.parent().unwrap_or_default();
        match self.get(&dir, false) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(failed(e, entry)),
        }
    }

    /// Forgets `path` and everything below it: something else may stand there now.
    pub(crate) fn forget(&mut self, path: &RelPath) {
        self.open.retain(|open, _| !open.starts_with(path));
    }

    /// Opens `dir`. `LOOP` or `NOTDIR`: a component is no directory.
    pub(crate) fn get(&mut self, dir: &RelPath, create: bool) -> Result<Arc<OwnedFd>, Errno> {
        if dir.is_root() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(fd) = self.open.get(dir) {
            return Ok(Arc::clone(fd));
        }
        let fd = match self.open(dir, create) {
            // The process has no descriptor left.
            Err(Errno::MFILE | Errno::NFILE) if !self.open.is_empty() => {
                self.open.clear();
                self.open(dir, create)?
            }
            other => other?,
        };
        if self.open.len() >= self.open_max {
            self.open.clear();
        }
        let fd = Arc::new(fd);
        self.open.insert(dir.clone(), Arc::clone(&fd));
        Ok(fd)
    }

    fn open(&self, dir: &RelPath, create: bool) -> Result<OwnedFd, Errno> {
        match self.open_by_steps(dir) {
            // Missing: make it; openat2 forbidden or unknown here: a component at a time is as safe.
            Err(Errno::NOENT | Errno::NOSYS | Errno::PERM | Errno::AGAIN) => self.walk(dir, create),
            other => other,
        }
    }

    fn open_by_steps(&self, dir: &RelPath) -> Result<OwnedFd, Errno> {
        let mut rest = dir.as_bytes();
        let mut at: Option<OwnedFd> = None;
        loop {
            let end = match rest.get(..STEP_MAX) {
                Some(start) => start.iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?,
                None => rest.len(),
            };
            let next = open_step(at.as_ref().unwrap_or(&self.root), &rest[..end])?;
            if end == rest.len() {
                return Ok(next);
            }
            rest = &rest[end + 1..];
            at = Some(next);
        }
    }

    fn walk(&self, dir: &RelPath, create: bool) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        for name in dir.components() {
            let parent = at.as_ref().unwrap_or(&self.root);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                Err(Errno::NOENT) if create => {
                    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat(parent, name, flags, Mode::empty())?
                }
                other => other?,
            };
            at = Some(next);
        }
        at.ok_or(Errno::NOENT)
    }
}

fn open_step(at: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        at.as_fd(),
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

fn failed(e: Errno, entry: &RelPath) -> LayerError {
    match e {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            LayerError::refused("a part of its path is not a directory", entry)
        }
        e => LayerError::io(format!("cannot open the directory of: {entry}"), e),
    }
}
