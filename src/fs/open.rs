//! Open files: what serves them, and which of them may still be written.
use super::Caller;
use super::attr::Attr;
use super::inode::Inode;
use super::rare::Empty;
use crate::path::RelPath;
use crate::state::absent::ranges::Reader;
use crate::sync::{Mutex, RwLock};
use rustix::fs::OFlags;
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many closed files keep their registration with the kernel, so that opening them again costs
/// no system call. Each keeps one file of the backing open inside the kernel.
pub const REGISTRATIONS_MAX: usize = 8192;

/// A file of the backing registered with the kernel for passthrough. What it is, only the transport
/// knows; dropping the last clone ends the registration.
#[derive(Clone)]
pub struct Registration(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

/// How a handle is counted that was opened with these flags and writes nothing yet.
pub(super) fn idle(flags: OFlags) -> OFlags {
    flags - OFlags::RWMODE
}

/// Whether a handle opened with these flags can write.
pub(super) fn writes(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::RDONLY
}

/// Whether the kernel opened it to run it: its own mark (`__FMODE_EXEC`, include/linux/fs.h) stands
/// among the flags, and it keeps the handle for as long as the program runs.
fn runs(flags: OFlags) -> bool {
    const EXEC: u32 = 1 << 5;
    flags.bits() & EXEC != 0
}

/// Registers a descriptor with the kernel.
pub type Register<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<Registration>;

/// How a file is to be opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// Who asks.
    pub caller: Caller,
    /// Those of open(2), and the kernel's own mark of a program that is to run.
    pub flags: OFlags,
    /// Emptying it takes its set-user-ID and set-group-ID bits.
    pub kill_privileges: bool,
}

impl Opening {
    /// Whether it can change the tree, so that it must pass the gate.
    pub fn changes(&self) -> bool {
        writes(self.flags) || self.empties()
    }

    /// Whether it may be answered before the file is here: nothing is read by it, and who appends does not do so to
    /// empty it. A file that is to be appended to comes at once, and the kernel serves it.
    pub fn can_wait(&self) -> bool {
        self.flags & OFlags::RWMODE == OFlags::WRONLY
            && !self.flags.intersects(OFlags::TRUNC | OFlags::APPEND)
    }

    /// Whether it empties the file.
    pub(super) fn empties(&self) -> bool {
        self.flags.contains(OFlags::TRUNC)
    }

    /// Whether the handle can write.
    pub(super) fn writes(&self) -> bool {
        writes(self.flags)
    }
}

/// How an opened file is served.
#[derive(Debug)]
pub enum Opened {
    /// By the kernel, from the backing.
    Passthrough(Registration),
    /// By us, through the handle of this number.
    Classic(u64),
}

/// What is open of one inode. All handles of an inode are served in the same way: the kernel
/// refuses a mixture. Which way, the first of them decides: a large one that was opened before all of it
/// was here is served by us until its last close.
#[derive(Debug, Default)]
pub struct OpenState {
    /// Handles the kernel holds.
    pub(super) handles: u32,
    /// How many of them can write.
    pub(super) writers: u32,
    /// How many of them are programs that run.
    pub(super) running: u32,
    /// How many of them are served by us: all or none.
    pub(super) classic: u32,
    /// The file was not on the disk and came there: this inode has taken its place.
    pub(super) arrived: Option<Arc<Inode>>,
    pub(super) registration: Option<Registration>,
    /// Reaches the file after its last name is gone.
    pub(super) orphan: Option<Arc<OwnedFd>>,
    /// A name that nobody asked for since the mount, found when all known ones were gone.
    pub(super) unasked: Option<RelPath>,
    /// In the queue of [`Registrations`].
    queued: bool,
    /// Opened since the queue last looked.
    used: bool,
}

impl Empty for OpenState {
    fn empty() -> &'static Self {
        static NONE: OpenState = OpenState {
            handles: 0,
            writers: 0,
            running: 0,
            classic: 0,
            arrived: None,
            registration: None,
            orphan: None,
            unasked: None,
            queued: false,
            used: false,
        };
        &NONE
    }

    fn is_empty(&self) -> bool {
        let Self { handles, writers, running, classic, arrived, .. } = self;
        let Self { registration, orphan, unasked, queued, .. } = self;
        *handles == 0
            && *writers == 0
            && *running == 0
            && *classic == 0
            && arrived.is_none()
            && registration.is_none()
            && orphan.is_none()
            && unasked.is_none()
            && !queued
    }
}

impl OpenState {
    /// Counts a handle that was opened with `flags` and decides whether it is classic, as `wanted` says if
    /// it is the first.
    pub(super) fn begin(&mut self, flags: OFlags, wanted: bool) -> bool {
        let classic = if self.handles == 0 { wanted } else { self.classic > 0 };
        self.count(flags, classic);
        classic
    }

    /// Takes the registration, or makes it by `register`.
    pub(super) fn register(
        &mut self,
        register: impl FnOnce() -> io::Result<Registration>,
    ) -> io::Result<Registration> {
        let registration = match &self.registration {
            Some(r) => r.clone(),
            None => self.registration.insert(register()?).clone(),
        };
        self.used = true;
        Ok(registration)
    }

    /// Counts one handle that was opened with `flags`.
    pub(super) fn count(&mut self, flags: OFlags, classic: bool) {
        self.handles += 1;
        self.classic += u32::from(classic);
        self.writers += u32::from(writes(flags));
        self.running += u32::from(runs(flags));
    }

    /// Takes it back.
    pub(super) fn uncount(&mut self, flags: OFlags, classic: bool) {
        self.handles = self.handles.saturating_sub(1);
        self.classic = self.classic.saturating_sub(u32::from(classic));
        self.writers = self.writers.saturating_sub(u32::from(writes(flags)));
        self.running = self.running.saturating_sub(u32::from(runs(flags)));
    }
}

impl Inode {
    /// Takes back the count of a handle that did not come to be.
    pub(super) fn uncount(&self, flags: OFlags, classic: bool) {
        let mut state = self.open.lock();
        state.uncount(flags, classic);
        state.tidy();
    }
}

/// Opens a file of the backing by a name it has.
pub(super) fn reach(inode: &Inode, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    inode.at(|dir, name| Ok(rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())?.into()))
}

/// Which registrations outlive their last close (second chance). Owner of its lock.
#[derive(Debug, Default)]
pub struct Registrations {
    queue: Mutex<VecDeque<Arc<Inode>>>,
}

impl Registrations {
    /// Notes that `inode` was registered and evicts what has not been used for longest.
    pub(super) fn admit(&self, inode: &Arc<Inode>) {
        {
            let mut state = inode.open.lock();
            if state.queued {
                return;
            }
            state.queued = true;
        }
        let mut queue = self.queue.lock();
        queue.push_back(inode.clone());
        // A bounded number of tries: an open must not pay for a queue full of files in use.
        for _ in 0..8 {
            if queue.len() <= REGISTRATIONS_MAX {
                break;
            }
            let Some(oldest) = queue.pop_front() else { break };
            let mut state = oldest.open.lock();
            if state.handles > 0 || std::mem::take(&mut state.used) {
                drop(state);
                queue.push_back(oldest);
            } else {
                state.queued = false;
                let ended = state.registration.take();
                state.tidy();
                drop(state);
                drop(ended);
            }
        }
    }
}

/// Where a handle of ours gets its data from.
#[derive(Debug)]
pub enum Data {
    /// The backing, opened with the access the caller asked for.
    File(File),
    /// A large file that was not on the disk at the open.
    Reader(Arc<Reader>),
    /// The same, opened to be written: with what is written first it becomes a [`Reader`](Self::Reader) that is
    /// writable. Until then it counts as no writer.
    Deferred(Arc<Reader>),
}

/// A file opened on the classic path.
#[derive(Debug)]
pub struct Handle {
    /// Its data.
    pub data: Data,
    /// What was opened.
    pub inode: Arc<Inode>,
    /// Whether it can write.
    pub writable: bool,
    /// The helper of the cut has opened it; see [`CUT_HANDLE`](super::CUT_HANDLE).
    pub cut: bool,
}

impl Handle {
    /// The file on the backing; `EOPNOTSUPP` while not all of it is there, for which the kernel has another
    /// road.
    pub(super) fn file(&self) -> io::Result<&File> {
        match &self.data {
            Data::File(file) => Ok(file),
            Data::Reader(reader) | Data::Deferred(reader) => {
                reader.file().ok_or_else(|| rustix::io::Errno::OPNOTSUPP.into())
            }
        }
    }
}

/// The handles of the classic path. Owner of its lock.
#[derive(Debug)]
pub struct Handles {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<Handle>>>,
}

impl Default for Handles {
    fn default() -> Self {
        // 0 is every passthrough handle, 1 the cut's.
        Self { next: AtomicU64::new(2), open: RwLock::default() }
    }
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().get(&number).cloned()
    }

    /// Puts another in the place of `before`. `false`: it is not there any more.
    pub(super) fn replace(&self, number: u64, before: &Arc<Handle>, handle: &Arc<Handle>) -> bool {
        let mut open = self.open.write();
        let found = open.get_mut(&number).filter(|found| Arc::ptr_eq(found, before));
        found.map(|found| *found = handle.clone()).is_some()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.write().remove(&number)
    }
}

/// Files that a handle or a mapping may still write, though we see none of it. Owner of its lock.
#[derive(Debug, Default)]
pub struct Writable {
    inodes: Mutex<HashMap<u64, Arc<Inode>>>,
}

impl Writable {
    pub(super) fn insert(&self, inode: &Arc<Inode>) {
        self.inodes.lock().insert(inode.id, inode.clone());
    }

    /// Drops every file that nothing can write any more and returns the others, and how many were
    /// dropped. `dropped` is called for each of the former: whatever it was sent last has reached
    /// the backing.
    pub(super) fn sweep(&self, mut dropped: impl FnMut(&Arc<Inode>)) -> Vec<Arc<Inode>> {
        // Tested outside the lock: a lease test is system calls.
        let all: Vec<Arc<Inode>> = self.inodes.lock().values().cloned().collect();
        let mut live = Vec::new();
        for inode in all {
            if inode.open.lock().writers > 0 || is_written(&inode) {
                live.push(inode);
            } else {
                // Before it goes: two may sweep at once, and neither may miss it in both places.
                dropped(&inode);
                if !self.remove_closed(&inode) {
                    live.push(inode);
                }
            }
        }
        live
    }

    /// Removes it unless a writable open came in between.
    fn remove_closed(&self, inode: &Arc<Inode>) -> bool {
        let mut inodes = self.inodes.lock();
        if inode.open.lock().writers > 0 {
            return false;
        }
        inodes.remove(&inode.id);
        true
    }

    /// How many files a handle can write now.
    pub(super) fn count_open(&self) -> usize {
        self.inodes.lock().values().filter(|i| i.open.lock().writers > 0).count()
    }
}

/// The lease test: the kernel grants a read lease on a file only if no descriptor and no mapping
/// can write it, those of processes that never asked us included.
fn is_written(inode: &Inode) -> bool {
    use rustix::fs::Mode;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = inode.at(|dir, name| {
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let attr = Attr::at(&file, c"")?;
        if attr.key != inode.key() { Err(rustix::io::Errno::NOENT.into()) } else { Ok(file) }
    });
    match opened {
        Ok(file) => super::sys::has_writer(&file),
        // Gone or unreadable: whoever marked its path will see what is there.
        Err(_) => false,
    }
}
