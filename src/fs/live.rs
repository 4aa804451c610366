//! The volume as a cut sees it.
use super::Volume;
use super::inode::Inode;
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::dirty::DirtySet;
use crate::state::live::{Live, Writer};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

impl Live for Volume {
    fn root(&self) -> BorrowedFd<'_> {
        match self.inodes.root().dir() {
            Ok(fd) => fd,
            Err(_) => rustix::fs::CWD.as_fd(), // the root always has a descriptor
        }
    }

    fn dirty(&self) -> &DirtySet {
        Self::dirty(self)
    }

    fn writers(&self) -> Vec<Writer> {
        let live = self.writable.sweep(|inode: &Arc<Inode>| self.mark(inode));
        live.iter().filter_map(|i| i.path().map(|path| Writer { node: i.id, path, ino: i.key.ino })).collect()
    }

    fn close(&self, deadline: Instant) -> bool {
        self.gate.close(deadline)
    }

    fn open(&self) {
        self.gate.open();
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

    fn shelter(&self, files: Vec<(RelPath, u64)>) {
        self.shelter.admit(files.into_iter().map(|(_, ino)| ino));
    }

    fn content(&self, path: &RelPath, ino: u64) -> io::Result<Box<dyn Content>> {
        self.shelter.content(Live::root(self), path, ino)
    }

    fn unshelter(&self, ino: u64) {
        self.shelter.dismiss(ino);
    }

    fn abandon(&self) {
        self.shelter.clear();
    }
}
