//! Inodes: what the kernel knows by number, and where each can be found on the backing now.
use super::attr::{Attr, FileKey};
use super::links::Links;
use super::listing::Listing;
use super::open::OpenState;
use super::rare::Rare;
use crate::path::RelPath;
use crate::sync::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// The number of the root, given by the protocol.
pub const ROOT_ID: u64 = 1;

/// Numbers of files that cannot keep their backing inode number (another device below the root, or
/// a number the protocol reserves) start here.
const FOREIGN_BASE: u64 = 1 << 62;

/// Nobody has looked yet.
pub(super) const ACL_UNKNOWN: u8 = 2;

/// A file, directory or other entry that the kernel holds a reference to.
#[derive(Debug)]
pub struct Inode {
    /// What the kernel calls it. Equal to the backing's inode number wherever possible, so that
    /// `st_ino` is the same with and without the mount.
    pub id: u64,
    /// Which file of the backing it is.
    pub key: FileKey,
    /// See [`Attr::generation`].
    pub generation: u64,
    /// Whether it lies on the device of the root (only there passthrough is offered).
    pub native: bool,
    /// Directories keep a descriptor, so that a rename above them costs nothing.
    dir: Option<OwnedFd>,
    nlookup: AtomicU64,
    links: Mutex<Links>,
    /// Open handles and what serves them. Owner of its lock: `fs::open`.
    pub(super) open: Mutex<Rare<OpenState>>,
    /// The listing pass under way. Owner of its lock: `fs::listing`.
    pub(super) listing: Mutex<Option<Box<Listing>>>,
    /// Whether the kernel may hold a cached listing with attributes of this directory.
    pub(super) listed: AtomicBool,
    /// Whether a directory has a default ACL: [`ACL_UNKNOWN`], or the answer. Owner: `ops::create`.
    pub(super) default_acl: AtomicU8,
    /// The dirty epoch in which its path was last marked.
    pub(super) marked: AtomicU64,
}

impl Inode {
    /// The descriptor of a directory; `ENOTDIR` for anything else.
    pub fn dir(&self) -> io::Result<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd).ok_or_else(|| Errno::NOTDIR.into())
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.dir.is_some()
    }

    /// Runs `f` with a descriptor and a name that reach this inode now. `ENOENT` once it has no name.
    pub fn at<T>(&self, f: impl FnOnce(BorrowedFd<'_>, &CStr) -> io::Result<T>) -> io::Result<T> {
        if let Some(dir) = &self.dir {
            return f(dir.as_fd(), c".");
        }
        // Cloned, so that no system call runs under the lock.
        let link = self.links.lock().last().cloned();
        let link = link.ok_or(Errno::NOENT)?;
        f(link.parent.dir()?, link.name.as_c_str())
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
        Some(names.iter().rev().fold(RelPath::root(), |path, name| path.join(name.to_bytes())))
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
    }

    /// Whether it has a known name besides this one.
    pub(super) fn has_other_link(&self, parent: u64, name: &CStr) -> bool {
        self.links.lock().has_other(parent, name)
    }

    pub(super) fn remove_link(&self, parent: u64, name: &CStr) {
        self.links.lock().remove(parent, name);
    }
}

/// Inode numbers are well spread already; one multiplication is hash enough.
#[derive(Debug, Default, Clone)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// Every inode the kernel knows. Owner of its lock.
#[derive(Debug)]
pub struct InodeTable {
    root: Arc<Inode>,
    by_id: RwLock<IdMap<Arc<Inode>>>,
    /// Numbers given to files that cannot use their own. Never shrinks: such files are few.
    foreign: Mutex<HashMap<FileKey, u64>>,
}

impl InodeTable {
    /// A table that knows only the root.
    pub fn new(root: OwnedFd) -> io::Result<Self> {
        let attr = Attr::at(&root, c"")?;
        let inode = Arc::new(Inode {
            id: ROOT_ID,
            key: attr.key,
            generation: 0,
            native: true,
            dir: Some(root),
            nlookup: AtomicU64::new(1),
            links: Mutex::default(),
            open: Mutex::default(),
            listing: Mutex::default(),
            listed: AtomicBool::new(false),
            default_acl: AtomicU8::new(ACL_UNKNOWN),
            marked: AtomicU64::new(0),
        });
        let mut by_id: IdMap<Arc<Inode>> = IdMap::default();
        by_id.reserve(1024);
        by_id.insert(ROOT_ID, inode.clone());
        Ok(Self { root: inode, by_id: RwLock::new(by_id), foreign: Mutex::default() })
    }

    /// The root.
    pub fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// The inode the kernel calls `id`; `ESTALE` if it was forgotten.
    pub fn get(&self, id: u64) -> io::Result<Arc<Inode>> {
        self.by_id.read().get(&id).cloned().ok_or_else(|| Errno::STALE.into())
    }

    /// The inode of a file of the backing, if the kernel knows it.
    pub fn find(&self, attr: &Attr) -> Option<Arc<Inode>> {
        let id = self.id_of(attr.key);
        self.by_id.read().get(&id).filter(|i| i.generation == attr.generation).cloned()
    }

    fn id_of(&self, key: FileKey) -> u64 {
        if key == self.root.key {
            return ROOT_ID;
        }
        if key.dev == self.root.key.dev && key.ino > ROOT_ID && key.ino < FOREIGN_BASE {
            return key.ino;
        }
        let mut foreign = self.foreign.lock();
        let next = FOREIGN_BASE + foreign.len() as u64;
        *foreign.entry(key).or_insert(next)
    }

    /// The inode for what was just seen as `name` in `parent`; counts one lookup by the kernel.
    pub fn intern(&self, parent: &Arc<Inode>, name: &CStr, attr: &Attr) -> io::Result<Arc<Inode>> {
        let id = self.id_of(attr.key);
        if let Some(inode) = self.by_id.read().get(&id).filter(|i| i.generation == attr.generation) {
            inode.nlookup.fetch_add(1, Ordering::Relaxed);
            inode.add_link(parent, name);
            return Ok(inode.clone());
        }
        let dir = if attr.is_dir() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Some(rustix::fs::openat(parent.dir()?, name, flags, Mode::empty())?)
        } else {
            None
        };
        let mut by_id = self.by_id.write();
        // The number may still be known for a deleted file whose inode the backing has reused. The
        // kernel will forget all lookups of that number, the old ones included.
        let earlier = match by_id.get(&id) {
            Some(inode) if inode.generation == attr.generation => {
                inode.nlookup.fetch_add(1, Ordering::Relaxed);
                inode.add_link(parent, name);
                return Ok(inode.clone());
            }
            Some(old) => old.nlookup.load(Ordering::Relaxed),
            None => 0,
        };
        let inode = Arc::new(Inode {
            id,
            key: attr.key,
            generation: attr.generation,
            native: attr.key.dev == self.root.key.dev,
            dir,
            nlookup: AtomicU64::new(earlier + 1),
            links: Mutex::default(),
            open: Mutex::default(),
            listing: Mutex::default(),
            listed: AtomicBool::new(false),
            default_acl: AtomicU8::new(ACL_UNKNOWN),
            marked: AtomicU64::new(0),
        });
        inode.add_link(parent, name);
        by_id.insert(id, inode.clone());
        Ok(inode)
    }

    /// The kernel dropped `count` lookups.
    pub fn forget(&self, id: u64, count: u64) {
        if id == ROOT_ID {
            return;
        }
        let gone = {
            let mut by_id = self.by_id.write();
            let Some(inode) = by_id.get(&id) else { return };
            let before = inode.nlookup.fetch_sub(count, Ordering::Relaxed);
            if before > count { None } else { by_id.remove(&id) }
        };
        drop(gone); // closes a directory's descriptor outside the lock
    }

    /// How many inodes the kernel knows.
    pub fn len(&self) -> usize {
        self.by_id.read().len()
    }

    /// Never true: the root is always known.
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (tempfile::TempDir, InodeTable) {
        let dir = tempfile::tempdir().expect("temp dir");
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open");
        (dir, InodeTable::new(fd).expect("table"))
    }

    fn see(table: &InodeTable, name: &CStr) -> Arc<Inode> {
        let attr = Attr::at(table.root().dir().expect("dir"), name).expect("stat");
        table.intern(table.root(), name, &attr).expect("intern")
    }

    #[test]
    fn hard_links_are_one_inode_and_forget_counts() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("link");
        let a = see(&table, c"a");
        let b = see(&table, c"b");
        assert_eq!(a.id, b.id);
        table.forget(a.id, 1);
        assert!(table.get(a.id).is_ok());
        table.forget(a.id, 1);
        assert!(table.get(a.id).is_err());
    }

    #[test]
    fn the_name_seen_last_counts_until_it_is_removed() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        for name in ["b", "c"] {
            std::fs::hard_link(dir.path().join("a"), dir.path().join(name)).expect("link");
        }
        let file = see(&table, c"a");
        for name in [c"b", c"c", c"b"] {
            see(&table, name);
        }
        let path = || file.path().map(|path| path.as_path().display().to_string());
        assert_eq!(path().as_deref(), Some("c"));
        assert!(file.has_other_link(ROOT_ID, c"c"));
        file.remove_link(ROOT_ID, c"b");
        assert_eq!(path().as_deref(), Some("c"));
        file.remove_link(ROOT_ID, c"c");
        assert_eq!(path().as_deref(), Some("a"));
        assert!(!file.has_other_link(ROOT_ID, c"a") && file.is_linked());
        file.remove_link(ROOT_ID, c"a");
        assert!(!file.is_linked() && path().is_none());
    }

    /// With the counts of its `Arc` and the allocator's word it is a piece of 160 bytes.
    #[test]
    fn an_inode_is_small() {
        assert!(size_of::<Inode>() <= 136, "{} bytes", size_of::<Inode>());
    }

    #[test]
    fn a_reused_number_is_another_inode_that_inherits_the_lookups() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let mut attr = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        let old = table.intern(table.root(), c"a", &attr).expect("intern");
        attr.generation += 1;
        let new = table.intern(table.root(), c"a", &attr).expect("intern");
        assert_eq!(old.id, new.id);
        assert!(!Arc::ptr_eq(&old, &new));
        table.forget(old.id, 1);
        assert!(Arc::ptr_eq(&table.get(new.id).expect("still known"), &new));
    }

    #[test]
    fn paths_follow_renames_of_directories() {
        let (dir, table) = table();
        std::fs::create_dir(dir.path().join("d")).expect("mkdir");
        std::fs::write(dir.path().join("d/f"), b"x").expect("write");
        let d = see(&table, c"d");
        let attr = Attr::at(d.dir().expect("dir"), c"f").expect("stat");
        let f = table.intern(&d, c"f", &attr).expect("intern");
        assert_eq!(f.path(), RelPath::new("d/f").ok());
        d.remove_link(ROOT_ID, c"d");
        d.add_link(table.root(), c"e");
        assert_eq!(f.path(), RelPath::new("e/f").ok());
    }
}
