//! Listings.
use crate::fs::Volume;
use crate::fs::attr::Attr;
use crate::fs::counters::Op;
use crate::fs::listing::{self, DirEntry};
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::ffi::CStr;
use std::io;
use std::sync::atomic::Ordering;

impl Volume {
    /// Lists names from cookie `at` on; `add` returns whether it took the entry.
    pub fn readdir(
        &self,
        dir: u64,
        at: u64,
        mut add: impl FnMut(&CStr, &DirEntry) -> bool,
    ) -> io::Result<()> {
        self.count(Op::Readdir);
        let dir = self.inode(dir)?;
        listing::list(&dir, at, self.tree_at(&dir), |name, entry| {
            if entry.ino != 0 {
                return add(name, entry);
            }
            let Ok(attr) = self.find(&dir, name).map(|(inode, attr)| {
                self.inodes.forget(inode.id, 1);
                attr
            }) else {
                return true; // gone, and still in the tree
            };
            add(name, &DirEntry { ino: attr.key.ino, file_type: attr.file_type(), ..entry.clone() })
        })
    }

    /// Lists names with their attributes; each entry taken counts one reference of the kernel.
    /// `.` and `..` come without attributes.
    pub fn readdirplus(
        &self,
        dir: u64,
        at: u64,
        mut add: impl FnMut(&CStr, &DirEntry, Option<(u64, &Attr)>) -> bool,
    ) -> io::Result<()> {
        self.count(Op::Readdirplus);
        let parent = self.inode(dir)?;
        if at == 0
            && let Some(directory) = parent.directory()
        {
            directory.listed.store(true, Ordering::Relaxed);
        }
        listing::list(&parent, at, self.tree_at(&parent), |name, entry| {
            if name == c"." || name == c".." {
                return add(name, entry, None);
            }
            // Gone since it was listed: left out, as a later readdir(2) would.
            let Ok((inode, attr)) = self.find(&parent, name) else { return true };
            let told;
            let entry = if entry.ino == 0 {
                told = DirEntry { ino: inode.id, file_type: attr.file_type(), ..entry.clone() };
                &told
            } else {
                entry
            };
            let taken = add(name, entry, Some((inode.id, &attr)));
            if !taken {
                self.inodes.forget(inode.id, 1);
            }
            taken
        })
    }

    /// Makes the names of a directory durable on the backing.
    pub fn fsyncdir(&self, dir: u64) -> io::Result<()> {
        self.count(Op::Fsyncdir);
        let dir = self.inode(dir)?;
        if let Some(absent) = &self.absent {
            absent.sync()?; // a name may have come from, or gone to, a directory of the tree
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::fsync(rustix::fs::openat(dir.dir()?, c".", flags, Mode::empty())?)?)
    }
}
