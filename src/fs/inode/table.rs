//! [`InodeTable`]: every inode the kernel knows, by number.
use super::descriptors::{Descriptors, Slot};
use super::foreign::Foreign;
use super::known::Known;
use super::{ABSENT_BASE, ABSENT_DEV, Directory, Inode, ROOT_ID, absent_id};
use crate::fs::attr::{Attr, FileKey};
use crate::path::RelPath;
use crate::state::backing::is_overlayfs;
use crate::sync::{Mutex, RwLock};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Every inode the kernel knows. Owner of its lock.
#[derive(Debug)]
pub struct InodeTable {
    root: Arc<Inode>,
    root_dir: Arc<OwnedFd>,
    /// See [`Attr::mount`].
    root_mount: u64,
    descriptors: Arc<Descriptors>,
    /// Whether a file keeps its birth time. On overlayfs one of the image gets another with its first change; there only
    /// the last name that goes tells a file from the next one of its number.
    keeps_births: bool,
    known: RwLock<Known>,
    foreign: Mutex<Foreign>,
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
        let mut known = Known::new();
        known.put(&inode);
        let keeps_births = !is_overlayfs(&root_dir);
        let (known, foreign) = (RwLock::new(known), Mutex::default());
        Ok(Self { root: inode, root_dir, root_mount: attr.mount, descriptors, keeps_births, known, foreign })
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
        known.get(id).filter(|inode| inode.is(attr) && !inode.is_dead()).cloned()
    }

    fn id_of(&self, known: &Known, key: FileKey) -> u64 {
        if key == self.root.key() {
            return ROOT_ID;
        }
        if key.dev == ABSENT_DEV {
            return absent_id(key.ino as u32);
        }
        if let Some(id) = known.renumbered(key) {
            return id;
        }
        if key.dev == self.root.dev && key.ino > ROOT_ID && key.ino < ABSENT_BASE {
            return key.ino;
        }
        self.foreign.lock().number(key)
    }

    /// Whether a file lies on the file system of the root. Its device does not tell on an overlayfs, where it may be that
    /// of a layer; what another mount leads to lies elsewhere unless it has the root's.
    fn is_native(&self, attr: &Attr) -> bool {
        attr.key.dev == self.root.dev || (attr.mount != 0 && attr.mount == self.root_mount)
    }

    /// The inode for what was just seen as `name` in `parent`; counts one lookup by the kernel.
    pub fn intern(&self, parent: &Arc<Inode>, name: &CStr, attr: &Attr) -> Arc<Inode> {
        {
            let known = self.known.read();
            let id = self.id_of(&known, attr.key);
            if let Some(inode) = known.get(id).filter(|inode| inode.is(attr) && !inode.is_dead()) {
                inode.lookups.add();
                inode.add_link(parent, name);
                return inode.clone();
            }
        }
        let mut known = self.known.write();
        let id = self.id_of(&known, attr.key);
        let there = known.get(id).cloned();
        let same = there.clone().filter(|inode| inode.is(attr) && !inode.is_dead());
        if let Some(inode) = same.or_else(|| known.recalls(id, attr)) {
            inode.lookups.add();
            inode.add_link(parent, name);
            return inode;
        }
        // A deleted file whose inode the backing has reused. Its number is not: the kernel takes an inode for bad (EIO)
        // of whose number it hears with another generation, and answers may reach it in any order.
        let id = if there.is_some() { known.renumber(attr.key) } else { id };
        let (native, attr) = (self.is_native(attr), &self.born(attr));
        let directory = attr.is_dir().then(|| Directory::new(Slot::default(), &self.descriptors));
        let inode = Arc::new(Inode::new(id, attr, native, directory, 1));
        inode.add_link(parent, name);
        known.put(&inode);
        inode
    }

    /// With the birth time that it has as long as the kernel knows it.
    fn born(&self, attr: &Attr) -> Attr {
        Attr { generation: if self.keeps_births { attr.generation } else { 0 }, ..*attr }
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
        let (native, attr) = (self.is_native(attr), &self.born(attr));
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
        known.arrived(&inode);
    }

    /// The kernel dropped `count` lookups.
    pub fn forget(&self, id: u64, count: u64) {
        if id == ROOT_ID {
            return;
        }
        let gone = self.known.write().forget(id, count);
        drop(gone); // closes a directory's descriptor outside the lock
    }

    /// How many inodes the kernel knows.
    pub fn len(&self) -> usize {
        self.known.read().len()
    }

    /// Never true: the root is always known.
    pub fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::{absent_key, number_shown};
    use super::*;
    use rustix::fs::{FileType, Mode, OFlags};
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

    /// The kernel calls an inode bad of whose number it hears with another generation.
    #[test]
    fn a_reused_inode_has_another_number_while_the_kernel_knows_both() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let mut attr = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        let mut seen = Vec::new();
        for _ in 0..3 {
            let inode = table.intern(table.root(), c"a", &attr);
            assert!(Arc::ptr_eq(&inode, &table.intern(table.root(), c"a", &attr)));
            assert!(Arc::ptr_eq(&inode, &table.find(&attr).expect("known")));
            assert_eq!(number_shown(inode.id, inode.key()), attr.key.ino);
            seen.push(inode);
            attr.generation += 1;
        }
        let ids: Vec<u64> = seen.iter().map(|inode| inode.id).collect();
        assert!(
            ids[0] == attr.key.ino && ids[1] != ids[0] && ids[2] != ids[1] && ids[2] != ids[0],
            "{ids:?}"
        );
        // Whichever is forgotten first, the last one is the file.
        attr.generation -= 1;
        for gone in [0, 1] {
            table.forget(ids[gone], 2);
            assert!(table.get(ids[gone]).is_err());
            assert_eq!(table.find(&attr).map(|found| found.id), Some(ids[2]));
        }
        table.forget(ids[2], 2);
        assert!(table.find(&attr).is_none());
        assert_eq!(table.intern(table.root(), c"a", &attr).id, attr.key.ino, "its own again");
    }

    /// What came to the disk keeps its number, also if the kernel learns of another file in its place there before it
    /// forgets it.
    #[test]
    fn what_has_the_place_of_a_file_that_arrived_is_not_that_file() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let mut attr = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        let absent = Attr { key: absent_key(7), generation: 0, ..attr };
        let before = table.intern(table.root(), c"a", &absent);
        table.arrive(7, &attr, None);
        assert_eq!(table.intern(table.root(), c"a", &attr).id, before.id);
        attr.generation += 1;
        let other = table.intern(table.root(), c"a", &attr);
        assert_ne!(other.id, before.id);
        table.forget(before.id, 2);
        assert_eq!(table.find(&attr).map(|found| found.id), Some(other.id));
    }

    /// Where the backing tells no birth time, that the last name went is all that tells one file from the next.
    #[test]
    fn what_comes_after_the_last_name_went_is_another_file() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let attr = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        let attr = Attr { generation: 0, ..attr };
        let before = table.intern(table.root(), c"a", &attr);
        assert!(Arc::ptr_eq(&before, &table.intern(table.root(), c"b", &attr)), "another name of it");
        before.dies();
        assert!(table.find(&attr).is_none());
        let after = table.intern(table.root(), c"a", &attr);
        assert!(after.id != before.id && Arc::ptr_eq(&after, &table.find(&attr).expect("known")));
    }

    /// On an overlayfs files may have the devices of its layers, and two of them one number.
    #[test]
    fn what_the_mount_of_the_root_leads_to_is_native() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let attr = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        assert!(attr.mount != 0 && table.intern(table.root(), c"a", &attr).native);
        let other = FileKey { dev: attr.key.dev + 1, ..attr.key };
        let layer = table.intern(table.root(), c"b", &Attr { key: other, ..attr });
        assert!(layer.native && layer.id != attr.key.ino);
        let other = FileKey { dev: attr.key.dev + 2, ..attr.key };
        for mount in [attr.mount + 1, 0] {
            let nested = table.intern(table.root(), c"c", &Attr { key: other, mount, ..attr });
            assert!(!nested.native && nested.id != layer.id);
            table.forget(nested.id, 1);
        }
        let id = layer.id;
        table.forget(id, 1);
        assert_eq!(table.intern(table.root(), c"b", &Attr { key: layer.key(), ..attr }).id, id, "forgotten");
    }

    /// One of the image of an overlayfs, known without the birth time that changes.
    #[test]
    fn a_file_that_is_copied_up_is_the_same() {
        let (dir, table) = table();
        std::fs::write(dir.path().join("a"), b"x").expect("write");
        let up = Attr::at(table.root().dir().expect("dir"), c"a").expect("stat");
        let inode = table.intern(table.root(), c"a", &Attr { generation: 0, ..up });
        assert!(Arc::ptr_eq(&inode, &table.find(&up).expect("known")));
        assert!(Arc::ptr_eq(&inode, &table.intern(table.root(), c"a", &up)));
        assert_eq!(inode.told(up).generation, 0, "else the kernel takes it for another one");
    }

    /// The kernel may forget a directory and still know a file in it, by another name of that.
    #[test]
    fn a_forgotten_directory_is_the_one_that_a_file_names() {
        let (dir, table) = table();
        for name in ["x", "y"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        std::fs::write(dir.path().join("x/a"), b"x").expect("write");
        std::fs::hard_link(dir.path().join("x/a"), dir.path().join("y/b")).expect("link");
        let (x, y) = (see(&table, c"x"), see(&table, c"y"));
        see_in(&table, &y, c"b");
        let file = see_in(&table, &x, c"a");
        let id = x.id;
        drop(x);
        table.forget(id, 1);
        assert!(table.get(id).is_err());
        let again = see(&table, c"x");
        again.remove_link(ROOT_ID, c"x");
        std::fs::rename(dir.path().join("x"), dir.path().join("z")).expect("rename");
        again.add_link(table.root(), c"z");
        assert_eq!(file.path(), RelPath::new("z/a").ok());
        assert!(table.get(id).is_ok_and(|found| Arc::ptr_eq(&found, &again)));
        // Nothing names y any more.
        let id = y.id;
        file.remove_link(id, c"b");
        drop(y);
        table.forget(id, 1);
        assert_eq!(table.known.read().remembered(), 0);
    }

    /// Also if the kernel still knows a deleted file of its number on the disk.
    #[test]
    fn a_forgotten_directory_is_found_beside_a_deleted_file_of_its_number() {
        let (dir, table) = table();
        std::fs::create_dir(dir.path().join("x")).expect("mkdir");
        std::fs::write(dir.path().join("x/a"), b"x").expect("write");
        std::fs::hard_link(dir.path().join("x/a"), dir.path().join("b")).expect("link");
        let attr = Attr::at(table.root().dir().expect("dir"), c"x").expect("stat");
        let file = Attr { mode: FileType::RegularFile.as_raw_mode() | 0o600, ..attr };
        let deleted = table.intern(table.root(), c"gone", &Attr { generation: attr.generation - 1, ..file });
        let x = see(&table, c"x");
        assert_ne!(x.id, deleted.id);
        let inside = see_in(&table, &x, c"a");
        table.forget(x.id, 1);
        let again = see(&table, c"x");
        assert!(Arc::ptr_eq(&again, &x), "{} was {}", again.id, x.id);
        assert!(Arc::ptr_eq(&again, &table.find(&attr).expect("known")));
        assert!(table.get(deleted.id).is_ok_and(|found| Arc::ptr_eq(&found, &deleted)));
        again.remove_link(ROOT_ID, c"x");
        again.add_link(table.root(), c"z");
        assert_eq!(inside.path(), RelPath::new("z/a").ok());
    }

    #[test]
    fn a_directory_is_opened_however_deep_it_is() {
        const DEPTH: usize = 6000;
        let (dir, table) = table();
        let mut deepest = table.root().clone();
        for _ in 0..DEPTH {
            let fd = deepest.dir().expect("opens");
            rustix::fs::mkdirat(&fd, c"d", Mode::RWXU).expect("mkdir");
            deepest = see_in(&table, &deepest, c"d");
        }
        table.descriptors.close_all();
        assert_eq!(Attr::at(deepest.dir().expect("opens"), c"").expect("stat").key, deepest.key());
        // The kernel forgets what is deepest first; in any other order each would drop the one above it.
        std::mem::forget((table, deepest));
        // No path is that long: from above, one after the other.
        let (top, aside) = (dir.path().join("d"), dir.path().join("e"));
        while std::fs::rename(top.join("d"), &aside).is_ok() {
            std::fs::remove_dir(&top).expect("rmdir");
            std::fs::rename(&aside, &top).expect("rename");
        }
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
