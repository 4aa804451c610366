//! [`Descriptors`]: directories that are open, up to a number. The kernel may know more directories than a process may
//! have descriptors, so one that nobody has used for a while is closed, and opened anew by its names when it is used
//! again.
use crate::fs::listing::Shelves;
use crate::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many are closed at once where the process turns out to have no descriptor left.
const AT_ONCE: usize = 64;

/// One in so many directories that may be open is open a second time to be listed.
const LISTED_SHARE: usize = 8;

/// How many directories may be open: half of what the process may have, the rest is for files and clients.
pub fn open_max() -> usize {
    crate::descriptors::limit() / 2
}

/// The descriptor of one directory.
#[derive(Debug, Default)]
pub(super) struct Slot {
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Since somebody looked for one to close.
    used: AtomicBool,
    /// It stays open: no name leads to it.
    pinned: AtomicBool,
}

impl Slot {
    /// One that is open and stays so.
    pub(super) fn pinned(fd: Arc<OwnedFd>) -> Self {
        Self { fd: Mutex::new(Some(fd)), used: AtomicBool::new(true), pinned: AtomicBool::new(true) }
    }

    /// The descriptor, if it is open.
    pub(super) fn get(&self) -> Option<Arc<OwnedFd>> {
        let fd = self.fd.lock().clone()?;
        self.used.store(true, Ordering::Relaxed);
        Some(fd)
    }

    /// From now on, or no longer, it stays open if it is.
    pub(super) fn pin(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    fn close(&self) -> Option<Arc<OwnedFd>> {
        self.fd.lock().take()
    }
}

/// See the module. Owner of its locks; that of a slot may be taken while the ring's is held, not the other way round.
#[derive(Debug)]
pub(super) struct Descriptors {
    max: usize,
    ring: Mutex<Ring>,
    /// Held while a directory changes its name, and while directories are opened by their names. What is done under it
    /// waits for nothing but the disk.
    names: RwLock<()>,
    /// Directories that are open to be listed.
    shelves: Shelves,
}

/// Slots that were opened, longest ago first; one that was used since is passed over once ("second chance").
#[derive(Debug, Default)]
struct Ring {
    slots: VecDeque<Arc<Slot>>,
    /// How many of them are closed for ever.
    gone: usize,
}

impl Descriptors {
    /// None is open; later at most `max` are, but for those that are pinned.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            ring: Mutex::default(),
            names: RwLock::new(()),
            shelves: Shelves::new(max / LISTED_SHARE),
        }
    }

    /// Directories that are open to be listed.
    pub(super) fn shelves(&self) -> &Shelves {
        &self.shelves
    }

    /// As long as it is held, no directory is opened by its names.
    pub(super) fn renaming(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write()
    }

    /// As long as it is held, no directory changes its name.
    pub(super) fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read()
    }

    /// Opens a directory by its name.
    pub(super) fn open(&self, parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.at_the_expense_of_others(|| rustix::fs::openat(parent, name, flags, Mode::empty()))
    }

    /// Opens something; if the process has no descriptor left, directories are closed for it.
    pub(super) fn at_the_expense_of_others(
        &self,
        open: impl Fn() -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.close_some(AT_ONCE);
                open()
            }
            other => other,
        }
    }

    /// What was just opened for a slot; another may have been faster.
    pub(super) fn keep(&self, slot: &Arc<Slot>, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        {
            let mut open = slot.fd.lock();
            if let Some(earlier) = open.as_ref() {
                return earlier.clone();
            }
            *open = Some(fd.clone());
        }
        slot.used.store(true, Ordering::Relaxed);
        let over = {
            let mut ring = self.ring.lock();
            ring.slots.push_back(slot.clone());
            (ring.slots.len() - ring.gone).saturating_sub(self.max)
        };
        self.close_some(over);
        fd
    }

    /// Closes so many, unless all are pinned.
    fn close_some(&self, count: usize) {
        let mut closing = Vec::new();
        if count > 0 {
            let mut ring = self.ring.lock();
            // Who was passed over is not a second time.
            for _ in 0..2 * ring.slots.len() {
                let Some(slot) = ring.slots.pop_front() else { break };
                let used = slot.used.swap(false, Ordering::Relaxed);
                if used || slot.pinned.load(Ordering::Relaxed) {
                    ring.slots.push_back(slot);
                    continue;
                }
                match slot.close() {
                    None => ring.gone -= 1,
                    open => closing.push(open),
                }
                if closing.len() == count {
                    break;
                }
            }
        }
        drop(closing); // outside the lock
    }

    /// Nobody will use a slot any more.
    pub(super) fn forget(&self, slot: &Slot) {
        if slot.fd.lock().is_none() {
            return;
        }
        let mut ring = self.ring.lock();
        let closing = slot.close();
        if closing.is_some() {
            slot.used.store(false, Ordering::Relaxed);
            slot.pin(false);
            ring.gone += 1;
            if ring.gone > AT_ONCE && ring.gone > ring.slots.len() / 2 {
                ring.slots.retain(|slot| slot.fd.lock().is_some());
                ring.gone = 0;
            }
        }
        drop(ring);
        drop(closing); // outside the lock
    }

    /// Closes all that may be.
    #[cfg(test)]
    pub(super) fn close_all(&self) {
        self.close_some(usize::MAX);
    }

    /// How many are open of those that may be closed.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let ring = self.ring.lock();
        ring.slots.len() - ring.gone
    }
}
