//! [`InodeTable`]: every inode the kernel knows, by number.
use super::descriptors::{Descriptors, Slot};
use super::{ABSENT_BASE, ABSENT_DEV, Directory, FOREIGN_BASE, Inode, ROOT_ID, absent_id};
use crate::fs::attr::{Attr, FileKey};
use crate::path::RelPath;
use crate::sync::{Mutex, RwLock};
use rustix::io::Errno;
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

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

/// An inode that is found by its number, which it knows itself.
#[derive(Debug)]
struct ById(Arc<Inode>);

impl Borrow<u64> for ById {
    fn borrow(&self) -> &u64 {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

/// Every inode the kernel knows. Owner of its lock.
#[derive(Debug)]
pub struct InodeTable {
    root: Arc<Inode>,
    root_dir: Arc<OwnedFd>,
    descriptors: Arc<Descriptors>,
    known: RwLock<Known>,
    /// Numbers given to files that cannot use their own. Never shrinks: such files are few.
    foreign: Mutex<HashMap<FileKey, u64>>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashSet<ById, BuildHasherDefault<IdHasher>>,
    /// Files that came to the disk while the kernel knew them, by what they are there.
    arrived: HashMap<FileKey, u64>,
}

impl Known {
    fn get(&self, id: u64) -> Option<&Arc<Inode>> {
        self.by_id.get(&id).map(|found| &found.0)
    }

    /// Takes the place of another one of its number.
    fn put(&mut self, inode: &Arc<Inode>) {
        self.by_id.replace(ById(inode.clone()));
    }
}

impl InodeTable {
    /// A table that knows only the root. At most so many other directories are open at a time.
    pub fn new(root: OwnedFd, open_max: usize) -> io::Result<Self> {
        let descriptors = Arc::new(Descriptors::new(open_max));
        let attr = Attr::at(&root, c"")?;
        let attr = Attr { generation: 0, ..attr };
        let root_dir = Arc::new(root);
        let directory = Directory::new(Slot::pinned(root_dir.clone()), &descriptors);
        let inode = Arc::new(Inode::new(ROOT_ID, &attr, true, Some(directory), 1));
        let mut known = Known::default();
        known.by_id.reserve(1024);
        known.put(&inode);
        Ok(Self { root: inode, root_dir, descriptors, known: RwLock::new(known), foreign: Mutex::default() })
    }

    /// The root.
    pub fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// The root's descriptor.
    pub fn root_dir(&self) -> BorrowedFd<'_> {
        self.root_dir.as_fd()
    }

    /// The inode the kernel calls `id`; `ESTALE` if it was forgotten.
    pub fn get(&self, id: u64) -> io::Result<Arc<Inode>> {
        self.known.read().get(id).cloned().ok_or_else(|| Errno::STALE.into())
    }

    /// The inode of a file of the backing, if the kernel knows it.
    pub fn find(&self, attr: &Attr) -> Option<Arc<Inode>> {
        let known = self.known.read();
        let id = self.id_of(&known, attr.key);
        known.get(id).filter(|i| i.generation == attr.generation).cloned()
    }

    fn id_of(&self, known: &Known, key: FileKey) -> u64 {
        if key == self.root.key() {
            return ROOT_ID;
        }
        if key.dev == ABSENT_DEV {
            return absent_id(key.ino as u32);
        }
        if !known.arrived.is_empty()
            && let Some(id) = known.arrived.get(&key)
        {
            return *id;
        }
        if key.dev == self.root.dev && key.ino > ROOT_ID && key.ino < ABSENT_BASE {
            return key.ino;
        }
        let mut foreign = self.foreign.lock();
        let next = FOREIGN_BASE + foreign.len() as u64;
        *foreign.entry(key).or_insert(next)
    }

    /// The inode for what was just seen as `name` in `parent`; counts one lookup by the kernel.
    pub fn intern(&self, parent: &Arc<Inode>, name: &CStr, attr: &Attr) -> Arc<Inode> {
        {
            let known = self.known.read();
            let id = self.id_of(&known, attr.key);
            if let Some(inode) = known.get(id).filter(|i| i.generation == attr.generation) {
                inode.lookups.add();
                inode.add_link(parent, name);
                return inode.clone();
            }
        }
        let mut known = self.known.write();
        let id = self.id_of(&known, attr.key);
        // The number may still be known for a deleted file whose inode the backing has reused. The
        // kernel will forget all lookups of that number, the old ones included.
        let earlier = match known.get(id) {
            Some(inode) if inode.generation == attr.generation => {
                inode.lookups.add();
                inode.add_link(parent, name);
                return inode.clone();
            }
            Some(old) => old.lookups.get(),
            None => 0,
        };
        let native = attr.key.dev == self.root.dev;
        let directory = attr.is_dir().then(|| Directory::new(Slot::default(), &self.descriptors));
        let inode = Arc::new(Inode::new(id, attr, native, directory, earlier + 1));
        inode.add_link(parent, name);
        known.put(&inode);
        inode
    }

    /// The inode of a file that is not on the disk yet, if the kernel knows it.
    pub fn find_absent(&self, file: u32) -> Option<Arc<Inode>> {
        self.known.read().get(absent_id(file)).cloned()
    }

    /// A file that was not on the disk is there now: from here on the kernel's number means that one. `unasked` as in
    /// [`OpenState`](super::OpenState).
    pub fn arrive(&self, file: u32, attr: &Attr, unasked: Option<RelPath>) {
        let mut known = self.known.write();
        let id = absent_id(file);
        let Some(before) = known.get(id) else { return };
        let native = attr.key.dev == self.root.dev;
        let inode = Inode::new(id, attr, native, None, before.lookups.get());
        *inode.links.lock() = std::mem::take(&mut *before.links.lock());
        let inode = Arc::new(inode);
        {
            let mut open = before.open.lock();
            *inode.open.lock() = std::mem::take(&mut *open);
            open.arrived = Some(inode.clone());
            if unasked.is_some() {
                inode.open.lock().unasked = unasked;
            }
        }
        known.put(&inode);
        known.arrived.insert(attr.key, id);
    }

    /// The kernel dropped `count` lookups.
    pub fn forget(&self, id: u64, count: u64) {
        if id == ROOT_ID {
            return;
        }
        let gone = {
            let mut known = self.known.write();
            let Some(inode) = known.get(id) else { return };
            let gone =
                if inode.lookups.forget(count) { known.by_id.take(&id).map(|found| found.0) } else { None };
            if let Some(inode) = gone.as_ref().filter(|inode| inode.is_numbered_absent()) {
                known.arrived.remove(&inode.key());
            }
            gone
        };
        drop(gone); // closes a directory's descriptor outside the lock
    }

    /// How many inodes the kernel knows.
    pub fn len(&self) -> usize {
        self.known.read().by_id.len()
    }

    /// Never true: the root is always known.
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::sync::atomic::{AtomicBool, Ordering};

    const OPEN_MAX: usize = 3;

    fn table() -> (tempfile::TempDir, InodeTable) {
        let dir = tempfile::tempdir().expect("temp dir");
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open");
        (dir, InodeTable::new(fd, OPEN_MAX).expect("table"))
    }

    fn see(table: &InodeTable, name: &CStr) -> Arc<Inode> {
        see_in(table, table.root(), name)
    }

    fn see_in(table: &InodeTable, dir: &Arc<Inode>, name: &CStr) -> Arc<Inode> {
        let attr = Attr::at(dir.dir().expect("dir"), name).expect("stat");
        table.intern(dir, name, &attr)
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

    /// With the counts of its `Arc` and the allocator's word it is a piece of 128 bytes.
    #[test]
    fn an_inode_is_small() {
        assert!(size_of::<Inode>() <= 104, "{} bytes", size_of::<Inode>());
    }

    #[test]
    fn a_reused_number_is_another_inode_that_inherits_the_lookups() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let mut attr = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        let old = table.intern(table.root(), c"a", &attr);
        attr.generation += 1;
        let new = table.intern(table.root(), c"a", &attr);
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
        let f = see_in(&table, &d, c"f");
        assert_eq!(f.path(), RelPath::new("d/f").ok());
        d.remove_link(ROOT_ID, c"d");
        d.add_link(table.root(), c"e");
        assert_eq!(f.path(), RelPath::new("e/f").ok());
    }

    fn name(n: usize) -> std::ffi::CString {
        std::ffi::CString::new(format!("{n}")).expect("no NUL")
    }

    #[test]
    fn few_directories_are_open_and_all_can_be_used() {
        let (dir, table) = table();
        for n in 0..20 {
            std::fs::create_dir_all(dir.path().join(format!("{n}/in/side"))).expect("mkdir");
        }
        let mut all = Vec::new();
        for n in 0..20 {
            let top = see(&table, &name(n));
            let below = see_in(&table, &top, c"in");
            all.extend([see_in(&table, &below, c"side"), below, top]);
        }
        // Last in, first out, and the other way round.
        for inode in all.iter().rev().chain(&all) {
            assert_eq!(Attr::at(inode.dir().expect("opens"), c"").expect("stat").key, inode.key());
            assert!(table.descriptors.count() <= OPEN_MAX);
        }
        for inode in &all {
            table.forget(inode.id, 1);
        }
        drop(all);
        assert_eq!(table.descriptors.count(), 0);
    }

    #[test]
    fn a_directory_is_opened_where_it_is_now_and_no_other_in_its_place() {
        let (dir, table) = table();
        for n in 0..20 {
            std::fs::create_dir(dir.path().join(format!("{n}"))).expect("mkdir");
        }
        let first = see(&table, c"0");
        let open_others = || {
            for n in 1..20 {
                see(&table, &name(n)).dir().expect("opens");
            }
        };
        first.dir().expect("opens");
        open_others();
        std::fs::rename(dir.path().join("0"), dir.path().join("moved")).expect("rename");
        std::fs::create_dir(dir.path().join("0")).expect("mkdir");
        assert_eq!(first.dir().map_err(|e| e.kind()).err(), Some(io::ErrorKind::NotFound), "another one");
        first.add_link(table.root(), c"moved");
        assert_eq!(Attr::at(first.dir().expect("opens"), c"").expect("stat").key, first.key());

        // Without a name it stays open.
        first.loses_name();
        std::fs::remove_dir(dir.path().join("moved")).expect("rmdir");
        first.remove_link(ROOT_ID, c"moved");
        open_others();
        assert_eq!(Attr::at(first.dir().expect("is open"), c"").expect("stat").key, first.key());
    }

    #[test]
    fn directories_that_are_renamed_meanwhile_are_found() {
        let (dir, table) = table();
        for n in 0..8 {
            std::fs::create_dir_all(dir.path().join(format!("{n}/in"))).expect("mkdir");
        }
        let tops: Vec<_> = (0..8).map(|n| see(&table, &name(n))).collect();
        let inner: Vec<_> = tops.iter().map(|top| see_in(&table, top, c"in")).collect();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..500 {
                    let (from, to) =
                        (if turn % 2 == 0 { "" } else { "x" }, if turn % 2 == 0 { "x" } else { "" });
                    for (n, top) in tops.iter().enumerate() {
                        let (old, new) = (format!("{n}{from}"), format!("{n}{to}"));
                        let _renaming = top.renaming();
                        std::fs::rename(dir.path().join(&old), dir.path().join(&new)).expect("rename");
                        top.add_link(table.root(), &std::ffi::CString::new(new).expect("no NUL"));
                    }
                }
                ended.store(true, Ordering::Relaxed);
            });
            while !ended.load(Ordering::Relaxed) {
                for inode in &inner {
                    assert_eq!(Attr::at(inode.dir().expect("opens"), c"").expect("stat").key, inode.key());
                }
            }
        });
    }
}
