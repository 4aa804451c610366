//! The volume as a cut sees it.
use super::Volume;
use super::attr::{Attr, FileKey};
use super::inode::Inode;
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::dirty::{DirtySet, Extent};
use crate::state::identity::FileId;
use crate::state::live::{Live, Writer};
use crate::state::mapped::mapped_files;
use crate::state::reach;
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Volume {
    fn leads_to(&self, path: &RelPath, inode: &Inode) -> bool {
        let look = |at: BorrowedFd<'_>, name: &CStr| Ok(Attr::at(at, name).ok());
        reach(Live::root(self), path, look).is_ok_and(|attr| attr.is_some_and(|attr| attr.key == inode.key()))
    }
}

impl Volume {
    /// Adds what is mapped and has no writer. What is mapped no longer is looked at once more.
    fn add_mapped(&self, writers: &mut Vec<Writer>) {
        let Some(mapped) = &self.mapped else { return };
        let Ok(root) = std::fs::read_link(format!("/proc/self/fd/{}", Live::root(self).as_raw_fd())) else {
            return;
        };
        let beneath = |path: &Path| RelPath::new(path.strip_prefix(&root).ok()?.as_os_str().as_bytes()).ok();
        let files = mapped_files(&root).into_iter();
        let now: HashMap<RelPath, u64> =
            files.filter_map(|(path, ino)| Some((beneath(&path)?, ino))).collect();
        let mut before = mapped.lock();
        for (path, ino) in before.iter().filter(|(path, _)| !now.contains_key(*path)) {
            tracing::trace!(%path, ino, "is mapped no longer");
            self.dirty().mark(path.clone(), Extent::Entry);
        }
        let known: HashSet<RelPath> = writers.iter().map(|writer| writer.path.clone()).collect();
        for (path, ino) in now.iter().filter(|(path, _)| !known.contains(*path)) {
            let look = |at: BorrowedFd<'_>, name: &CStr| Ok(Attr::at(at, name).ok());
            let attr = reach(Live::root(self), path, look).ok().flatten();
            if let Some(attr) = attr.filter(|attr| attr.key.ino == *ino) {
                let node = self.inodes.find(&attr).map_or(*ino, |inode| inode.id);
                writers.push(Writer { node, path: path.clone(), id: attr.key.id(), passing: false });
            }
        }
        *before = now;
    }
}

impl Live for Volume {
    fn root(&self) -> BorrowedFd<'_> {
        self.inodes.root_dir()
    }

    fn dirty(&self) -> &DirtySet {
        Self::dirty(self)
    }

    fn writers(&self, find: &dyn Fn(FileId) -> Option<RelPath>) -> Vec<Writer> {
        // Remembered, since the records stop telling once only one name is left.
        let found = |inode: &Inode| {
            let known = inode.open.lock().unasked.clone().filter(|path| self.leads_to(path, inode));
            let path = known.or_else(|| if inode.native { find(inode.key().id()) } else { None })?;
            inode.open.lock().unasked = Some(path.clone());
            Some(path)
        };
        let live = self.writable.sweep(|inode: &Arc<Inode>| match inode.path() {
            Some(_) => self.mark(inode),
            None => {
                if let Some(path) = found(inode) {
                    self.dirty().mark(path, Extent::Entry);
                }
            }
        });
        let writer = |inode: &Arc<Inode>| {
            let path = inode.path().or_else(|| found(inode))?;
            let passing = inode.open.lock().classic > 0;
            Some(Writer { node: inode.id, path, id: inode.key().id(), passing })
        };
        let mut writers: Vec<Writer> = live.iter().filter_map(writer).collect();
        self.add_mapped(&mut writers);
        writers
    }

    fn writers_are_mapped(&self) -> bool {
        self.maps_unseen.load(Ordering::Relaxed)
    }

    fn without_helper(&self) {
        self.set_cut_pid(0);
    }

    fn close(&self, deadline: Instant) -> bool {
        self.gate.close(deadline)
    }

    fn open(&self) {
        self.gate.open();
    }

    fn expect_held(&self, count: usize) {
        if let Some(kernel) = self.kernel.get() {
            kernel.expect_held(count);
        }
    }

    fn hold(&self, nodes: &[u64]) {
        self.holds.want(nodes.iter().copied());
    }

    fn wait_held(&self, deadline: Instant) -> Vec<u64> {
        self.holds.wait(deadline, || self.gate.locked())
    }

    fn release(&self, node: u64) {
        self.holds.release(node);
    }

    fn release_all(&self) {
        self.holds.release_all();
    }

    fn shelter(&self, files: Vec<FileId>) {
        self.shelter.admit(files.into_iter().map(FileKey::of));
    }

    fn content(&self, path: &RelPath, file: FileId) -> io::Result<Box<dyn Content>> {
        self.shelter.content(Live::root(self), path, FileKey::of(file))
    }

    fn unshelter(&self, file: FileId) {
        self.shelter.dismiss(FileKey::of(file));
    }

    fn abandon(&self) {
        self.shelter.clear();
    }
}
