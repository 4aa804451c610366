//! Inodes: what the kernel knows by number, and where each can be found on the backing now.
mod descriptors;
mod foreign;
mod known;
mod lookups;
mod table;

pub use descriptors::open_max;
pub use table::InodeTable;

use super::attr::{Attr, FileKey};
use super::links::{Link, Links};
use super::listing::{Shelf, Shelves};
use super::open::OpenState;
use super::rare::Rare;
use crate::path::RelPath;
use crate::sync::{Mutex, RwLockWriteGuard};
use descriptors::{Descriptors, Slot};
use lookups::Lookups;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// The number of the root, given by the protocol.
pub const ROOT_ID: u64 = 1;

/// Numbers of files that cannot keep their backing inode number (another device than the root's, or
/// a number the protocol reserves) start here.
const FOREIGN_BASE: u64 = 1 << 62;

/// Files that are not on the disk yet have numbers from here on, and keep them afterwards for as long as
/// the kernel knows them.
const ABSENT_BASE: u64 = 1 << 61;

/// Files whose backing inode number the kernel still knows as that of another one, which is deleted, have numbers from
/// here on for as long as the kernel knows them.
const REUSED_BASE: u64 = FOREIGN_BASE + ABSENT_BASE;

/// Numbers from here on are of no file of the backing.
const NUMBERS_END: u64 = 1 << 63;

/// The device of what is not on the disk yet: no file system has it.
const ABSENT_DEV: u32 = u32::MAX;

/// Not a directory of the restored version's tree.
const NO_NODE: u32 = u32::MAX;

/// The number of a file that is not on the disk yet.
pub(super) fn absent_id(file: u32) -> u64 {
    ABSENT_BASE + u64::from(file)
}

/// What `stat` says is the number of the file that the kernel calls `id`: where it has its own, that one.
pub fn number_shown(id: u64, key: FileKey) -> u64 {
    if (REUSED_BASE..NUMBERS_END).contains(&id) { key.ino } else { id }
}

/// The file that has this number, if it was not on the disk when the kernel learned of it.
pub(super) fn numbered_file(id: u64) -> Option<u32> {
    id.checked_sub(ABSENT_BASE).and_then(|n| u32::try_from(n).ok())
}

/// The key of a file that is not on the disk yet.
pub(super) fn absent_key(file: u32) -> FileKey {
    FileKey { dev: ABSENT_DEV, ino: u64::from(file) }
}

/// Nobody has looked yet.
pub(super) const ACL_UNKNOWN: u8 = 2;

/// A file, directory or other entry that the kernel holds a reference to. There may be a million, nearly all
/// of them files that nobody has open: what only directories or few files have is behind a pointer.
#[derive(Debug)]
pub struct Inode {
    /// What the kernel calls it. Equal to the backing's inode number wherever possible, so that
    /// `st_ino` is the same with and without the mount.
    pub id: u64,
    /// See [`Attr::generation`].
    pub generation: u64,
    /// The halves of its key.
    ino: u64,
    dev: u32,
    lookups: Lookups,
    /// The dirty epoch in which its path was last marked, of which the lower half tells enough.
    pub(super) marked: AtomicU32,
    /// Whether it lies on the file system of the root (only there passthrough is offered).
    pub native: bool,
    dead: AtomicBool,
    links: Mutex<Links>,
    /// Open handles and what serves them. Owner of its lock: `fs::open`.
    pub(super) open: Mutex<Rare<OpenState>>,
    directory: Option<Box<Directory>>,
}

/// What only a directory has.
#[derive(Debug)]
pub(super) struct Directory {
    /// Open while it is used, so that a rename above it costs nothing.
    slot: Arc<Slot>,
    descriptors: Arc<Descriptors>,
    /// The listing pass under way.
    pub(super) shelf: Arc<Shelf>,
    /// Whether the kernel may hold a cached listing with attributes of it.
    pub(super) listed: AtomicBool,
    /// Whether it has a default ACL: [`ACL_UNKNOWN`], or the answer. Owner: `ops::create`.
    pub(super) default_acl: AtomicU8,
    /// Where it stands in the tree of what is absent. Owner: `fs::absent`.
    node: AtomicU32,
}

impl Directory {
    fn new(slot: Slot, descriptors: &Arc<Descriptors>) -> Self {
        Self {
            slot: Arc::new(slot),
            descriptors: descriptors.clone(),
            shelf: Arc::default(),
            listed: AtomicBool::new(false),
            default_acl: AtomicU8::new(ACL_UNKNOWN),
            node: AtomicU32::new(NO_NODE),
        }
    }
}

impl Directory {
    /// Those that are under way.
    pub(super) fn shelves(&self) -> &Shelves {
        self.descriptors.shelves()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.descriptors.forget(&self.slot);
    }
}

impl Inode {
    /// The descriptor of a directory, opened if it is not; `ENOTDIR` for anything else, `ENOENT` for one that stands
    /// nowhere any more.
    pub fn dir(&self) -> io::Result<Arc<OwnedFd>> {
        let directory = self.directory().ok_or(Errno::NOTDIR)?;
        match directory.slot.get() {
            Some(fd) => Ok(fd),
            None => {
                let _still = directory.descriptors.still();
                self.opened(directory)
            }
        }
    }

    /// As [`dir`](Self::dir), while no directory changes its name: from the closest one above it that is open downwards.
    fn opened(&self, directory: &Directory) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = directory.slot.get() {
            return Ok(fd);
        }
        let mut way = vec![self.link()?];
        let mut fd = loop {
            let above = way.last().map(|link| link.parent.clone()).ok_or(Errno::NOENT)?;
            match above.directory().ok_or(Errno::NOTDIR)?.slot.get() {
                Some(fd) => break fd,
                None => way.push(above.link()?),
            }
        };
        while let Some(link) = way.pop() {
            let below = way.last().map(|link| &*link.parent).unwrap_or(self);
            let directory = below.directory().ok_or(Errno::NOTDIR)?;
            let opened = directory.descriptors.open(fd.as_fd(), link.name.as_c_str())?;
            // Beneath the mount another may have taken its place.
            if !below.is(&Attr::at(&opened, c"")?) {
                return Err(Errno::NOENT.into());
            }
            fd = directory.descriptors.keep(&directory.slot, opened);
        }
        Ok(fd)
    }

    /// The name of it that was seen last.
    fn link(&self) -> io::Result<Link> {
        Ok(self.links.lock().last().cloned().ok_or(Errno::NOENT)?)
    }

    /// Whether it is this file of the backing; where that keeps no birth time its number has to do.
    fn is(&self, attr: &Attr) -> bool {
        attr.key == self.key() && (self.generation == attr.generation || self.generation == 0)
    }

    /// Its last name is gone: what is found by its number from here on is another file.
    pub(super) fn dies(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// The descriptor of a directory that is to be listed.
    pub(super) fn listed_from(&self) -> io::Result<OwnedFd> {
        let directory = self.directory().ok_or(Errno::NOTDIR)?;
        let (dir, flags) = (self.dir()?, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC);
        let open = || rustix::fs::openat(&dir, c".", flags, Mode::empty());
        Ok(directory.descriptors.at_the_expense_of_others(open)?)
    }

    /// A directory that is about to lose its name stays open from here on: those who have it open may still ask.
    /// It has a name after all once it gets one, or with [`keeps_name`](Self::keeps_name).
    pub(super) fn loses_name(&self) {
        if let Some(directory) = self.directory() {
            directory.slot.pin(true);
            let _open = self.dir(); // of one that cannot be opened nobody learns anything
        }
    }

    /// See [`loses_name`](Self::loses_name).
    pub(super) fn keeps_name(&self) {
        if let Some(directory) = self.directory() {
            directory.slot.pin(false);
        }
    }

    /// Held while a directory changes its name on the backing and here.
    pub(super) fn renaming(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.directory().map(|directory| directory.descriptors.renaming())
    }

    /// What it has as a directory.
    pub(super) fn directory(&self) -> Option<&Directory> {
        self.directory.as_deref()
    }

    fn new(id: u64, attr: &Attr, native: bool, directory: Option<Directory>, lookups: u64) -> Self {
        Self {
            id,
            generation: attr.generation,
            ino: attr.key.ino,
            dev: attr.key.dev,
            lookups: Lookups::new(lookups),
            marked: AtomicU32::new(0),
            native,
            dead: AtomicBool::new(false),
            links: Mutex::default(),
            open: Mutex::default(),
            directory: directory.map(Box::new),
        }
    }

    /// Which file of the backing it is.
    pub fn key(&self) -> FileKey {
        FileKey { dev: self.dev, ino: self.ino }
    }

    /// The file, if it is not on the disk yet.
    pub(super) fn absent_file(&self) -> Option<u32> {
        (self.dev == ABSENT_DEV).then_some(self.ino as u32)
    }

    /// Where a directory stands in the tree of what is absent.
    pub(super) fn node(&self) -> Option<u32> {
        let node = self.directory()?.node.load(Ordering::Acquire);
        Some(node).filter(|node| *node != NO_NODE)
    }

    /// Its default ACL, if it is a directory, may have changed.
    pub(super) fn forget_default_acl(&self) {
        if let Some(directory) = self.directory() {
            directory.default_acl.store(ACL_UNKNOWN, Ordering::Relaxed);
        }
    }

    pub(super) fn set_node(&self, node: Option<u32>) {
        if let Some(directory) = self.directory() {
            directory.node.store(node.unwrap_or(NO_NODE), Ordering::Release);
        }
    }

    /// Attributes as the kernel is told them. It takes an inode whose generation changes for another
    /// one, and a file that came to the disk, or to the upper layer of an overlayfs, is still the same.
    pub(super) fn told(&self, attr: Attr) -> Attr {
        let generation = if self.is_numbered_absent() { 0 } else { self.generation };
        Attr { generation, ..attr }
    }

    fn is_numbered_absent(&self) -> bool {
        (ABSENT_BASE..FOREIGN_BASE).contains(&self.id)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.directory.is_some()
    }

    /// Runs `f` with a descriptor and a name that reach this inode now. `ENOENT` once it has no name.
    pub fn at<T>(&self, f: impl FnOnce(BorrowedFd<'_>, &CStr) -> io::Result<T>) -> io::Result<T> {
        if self.is_dir() {
            return f(self.dir()?.as_fd(), c".");
        }
        let link = self.link()?; // cloned, so that no system call runs under the lock
        f(link.parent.dir()?.as_fd(), link.name.as_c_str())
    }

    /// One path of this inode now, or `None` if it has no name left.
    pub fn path(&self) -> Option<RelPath> {
        if self.id == ROOT_ID {
            return Some(RelPath::root());
        }
        let mut names = Vec::new();
        let mut link = self.links.lock().last().cloned()?;
        loop {
            let parent = link.parent;
            names.push(link.name);
            if parent.id == ROOT_ID {
                break;
            }
            link = parent.links.lock().last().cloned()?;
        }
        Some(RelPath::root().join_all(names.iter().rev().map(|name| name.to_bytes())))
    }

    /// The directory that holds its last known name.
    pub fn parent(&self) -> Option<Arc<Inode>> {
        self.links.lock().last().map(|l| l.parent.clone())
    }

    /// Whether it has a name.
    pub fn is_linked(&self) -> bool {
        self.id == ROOT_ID || self.links.lock().last().is_some()
    }

    pub(super) fn add_link(&self, parent: &Arc<Inode>, name: &CStr) {
        let mut links = self.links.lock();
        if self.is_dir() {
            *links = Links::default();
        }
        links.add(parent, name);
        drop(links);
        self.keeps_name();
    }

    /// Whether it has a known name besides this one.
    pub(super) fn has_other_link(&self, parent: u64, name: &CStr) -> bool {
        self.links.lock().has_other(parent, name)
    }

    pub(super) fn remove_link(&self, parent: u64, name: &CStr) {
        self.links.lock().remove(parent, name);
    }
}
