//! [`Plain`]: a directory that no mount shows, as a cut sees it.
//!
//! Nothing is told of changes there: they are [scanned](crate::state::scan) for. Nobody can be held either, so
//! a version is one instant of the tree only if nobody writes while it is made. Whoever needs to know scans
//! once more afterwards: what was written meanwhile has moved its change time since it was looked at.
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::backing::reach;
use crate::state::dirty::DirtySet;
use crate::state::identity::{FileId, Identity};
use crate::state::live::{Live, Writer};
use crate::state::mapped::mapped_files;
use crate::state::plan::Plan;
use crate::state::source::Vanished;
use crate::sync::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// See the module.
pub struct Plain {
    root: OwnedFd,
    /// Where it is, as `/proc/PID/maps` names it.
    dir: PathBuf,
    dirty: DirtySet,
    /// A file that loses its end while it is read is taken as it is then.
    lenient: AtomicBool,
    when_read: Mutex<Option<WhenRead>>,
}

/// Called when all content of a plan has been read. It must not block.
pub type WhenRead = Box<dyn FnMut(&Arc<Plan>) + Send>;

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A file that has as many bytes as anybody wants: what is beyond its end is zero.
struct Endless(File);

impl Content for Endless {
    fn length(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match Content::read_at(&self.0, buffer, offset)? {
            0 => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            read => Ok(read),
        }
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.data_after(offset)
    }
}

impl Plain {
    /// The directory `root`, whose canonical path is `dir`.
    pub fn new(root: OwnedFd, dir: &Path) -> Self {
        Self {
            root,
            dir: dir.to_owned(),
            dirty: DirtySet::new(),
            lenient: AtomicBool::new(false),
            when_read: Mutex::default(),
        }
    }

    /// Whom to tell when a plan needs nothing more of the directory.
    pub fn when_read(&self, call: WhenRead) {
        *self.when_read.lock() = Some(call);
    }

    /// Whether a file that loses its end while it is read is saved all the same, with zeros in place of that. Else
    /// the save fails, and the next one sees the file anew; but one that is always being written needs an end.
    pub fn be_lenient(&self, lenient: bool) {
        self.lenient.store(lenient, Ordering::Relaxed);
    }

    /// The file at a path beneath us, if it is the one that is mapped.
    fn writer(&self, path: &Path, ino: u64) -> Option<Writer> {
        let below = path.strip_prefix(&self.dir).ok()?;
        let path = RelPath::new(below.as_os_str().as_bytes()).ok()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = reach(self.root.as_fd(), &path, |at, name| rustix::fs::statat(at, name, flags)).ok()?;
        (stat.st_ino == ino).then_some(Writer { node: ino, path, id: (stat.st_dev, ino), passing: false })
    }
}

impl Live for Plain {
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn dirty(&self) -> &DirtySet {
        &self.dirty
    }

    /// Those that are mapped: a store to a page that is dirty already moves no time. What is written by calls
    /// moves it each time.
    fn writers(&self, _: &dyn Fn(FileId) -> Option<RelPath>) -> Vec<Writer> {
        mapped_files(&self.dir).into_iter().filter_map(|(path, ino)| self.writer(&path, ino)).collect()
    }

    /// Each look reads the mappings of all processes.
    fn writers_are_rare(&self) -> bool {
        true
    }

    /// They are found by their paths: some file systems show another device in a mapping than stat does.
    fn writers_are_mapped(&self) -> bool {
        true
    }

    fn without_helper(&self) {}

    fn close(&self, _: Instant) -> bool {
        true
    }

    fn open(&self) {}

    fn expect_held(&self, _: usize) {}

    fn hold(&self, _: &[u64]) {}

    fn wait_held(&self, _: Instant) -> Vec<u64> {
        Vec::new()
    }

    fn release(&self, _: u64) {}

    fn release_all(&self) {}

    fn shelter(&self, _: Vec<FileId>) {}

    fn content(&self, path: &RelPath, id: FileId) -> io::Result<Box<dyn Content>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened =
            reach(self.root.as_fd(), path, |at, name| rustix::fs::openat(at, name, flags, Mode::empty()));
        match opened {
            Ok(file) if Identity::from(&rustix::fs::fstat(&file)?).id() == id => {
                let file = File::from(file);
                Ok(if self.lenient.load(Ordering::Relaxed) {
                    Box::new(Endless(file))
                } else {
                    Box::new(file)
                })
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(io::Error::other(Vanished)),
            Err(e) => Err(e.into()),
        }
    }

    fn unshelter(&self, _: FileId) {}

    fn all_read(&self, plan: &Arc<Plan>) {
        if let Some(call) = &mut *self.when_read.lock() {
            call(plan);
        }
    }

    fn abandon(&self) {}
}
