//! [`Known`]: what the kernel knows, by number, and which numbers it may still know.
use super::{Inode, REUSED_BASE};
use crate::fs::attr::{Attr, FileKey};
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, Weak};

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

/// All inodes that the kernel knows, and what it must not be told anew of those it knew.
#[derive(Debug, Default)]
pub(super) struct Known {
    by_id: HashSet<ById, BuildHasherDefault<IdHasher>>,
    /// Numbers that files have for as long as the kernel knows them, by what they are on the disk: of those that came
    /// there meanwhile, and of those that have the place of a deleted one which the kernel knows, too.
    renumbered: HashMap<FileKey, u64>,
    /// How many of the latter there were.
    reused: u64,
    /// Directories that the kernel has forgotten, but not what is in them: a file that it knows by another name, too.
    /// Whoever renames one must find the very inode that such a file names as its directory.
    forgotten: HashMap<FileKey, Weak<Inode>>,
}

/// When so many are forgotten, those that nothing names any more go.
const FORGOTTEN_MIN: usize = 1024;

impl Known {
    /// With room for a small tree.
    pub(super) fn new() -> Self {
        let mut known = Self::default();
        known.by_id.reserve(1024);
        known
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: u64) -> Option<&Arc<Inode>> {
        self.by_id.get(&id).map(|found| &found.0)
    }

    /// The number that a file has in place of its own.
    pub(super) fn renumbered(&self, key: FileKey) -> Option<u64> {
        if self.renumbered.is_empty() { None } else { self.renumbered.get(&key).copied() }
    }

    /// Another number for a file than its own, and than any it had.
    pub(super) fn renumber(&mut self, key: FileKey) -> u64 {
        let id = REUSED_BASE + self.reused;
        self.reused += 1;
        self.renumbered.insert(key, id);
        id
    }

    /// A file came to the disk that the kernel knew before, by this number.
    pub(super) fn arrived(&mut self, inode: &Arc<Inode>) {
        self.put(inode);
        self.renumbered.insert(inode.key(), inode.id);
    }

    /// The kernel dropped so many lookups; the inode, if these were all.
    pub(super) fn forget(&mut self, id: u64, count: u64) -> Option<Arc<Inode>> {
        if !self.get(id)?.lookups.forget(count) {
            return None;
        }
        let inode = self.by_id.take(&id)?.0;
        if self.renumbered.get(&inode.key()) == Some(&id) {
            self.renumbered.remove(&inode.key());
        }
        if inode.is_dir() {
            self.forgets(&inode);
        }
        Some(inode)
    }

    /// The kernel has forgotten a directory.
    fn forgets(&mut self, directory: &Arc<Inode>) {
        if Arc::strong_count(directory) == 1 {
            return;
        }
        if self.forgotten.len() >= FORGOTTEN_MIN && self.forgotten.len() == self.forgotten.capacity() {
            self.forgotten.retain(|_, directory| directory.strong_count() > 0);
        }
        self.forgotten.insert(directory.key(), Arc::downgrade(directory));
    }

    /// A directory that was forgotten, if something names it still and no other has taken its number. By now it would
    /// have the number `id`.
    pub(super) fn recalls(&mut self, id: u64, attr: &Attr) -> Option<Arc<Inode>> {
        let found = if attr.is_dir() { self.forgotten.remove(&attr.key)?.upgrade()? } else { return None };
        if !found.is(attr) || found.is_dead() || self.get(found.id).is_some() {
            return None;
        }
        if found.id != id {
            self.renumbered.insert(attr.key, found.id);
        }
        self.put(&found);
        Some(found)
    }

    /// Takes the place of another one of its number.
    pub(super) fn put(&mut self, inode: &Arc<Inode>) {
        self.by_id.replace(ById(inode.clone()));
    }
}

#[cfg(test)]
impl Known {
    /// How many directories are remembered that the kernel has forgotten.
    pub(super) fn remembered(&self) -> usize {
        self.forgotten.len()
    }
}
