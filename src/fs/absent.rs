//! Entries that are not on the disk yet, as programs see them.
use super::Volume;
use super::attr::Attr;
use super::inode::{Inode, absent_key, numbered_file};
use super::listing::InTree;
use crate::state::absent::ranges::WHOLE_BYTES_MAX;
use crate::state::absent::tree::{FileRow, Node, What};
use crate::state::absent::{Absent, Shown};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::sync::Arc;

/// What an operation needs on the disk before it can begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing that is not there.
    Nothing,
    /// These files.
    Files(Vec<u32>),
    /// This file, but not its content.
    Empty(u32),
    /// Everything at a node of the tree and below it.
    Below(Vec<Node>),
}

impl Volume {
    /// What is not on the disk yet, if the volume was restored lazily.
    pub fn absent(&self) -> Option<&Arc<Absent>> {
        self.absent.as_ref()
    }

    /// Runs what adds or removes a name on the backing, or looks at a directory's times there; see
    /// [`Absent::naming`].
    pub(super) fn naming<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _naming = self.absent.as_ref().map(|absent| absent.naming());
        change()
    }

    /// The tree, and where a name stands in it; see [`Absent::child`].
    pub(super) fn in_tree(&self, parent: &Inode, name: &CStr) -> Option<(&Arc<Absent>, Node)> {
        let absent = self.absent.as_ref()?;
        Some((absent, absent.child(parent.node()?, name.to_bytes())?))
    }

    /// The tree, and where a directory stands in it.
    pub(super) fn tree_at(&self, dir: &Inode) -> InTree<'_> {
        Some((self.absent.as_deref()?, dir.node()?))
    }

    /// The inode behind a name; counts one reference of the kernel.
    pub(super) fn find(&self, parent: &Arc<Inode>, name: &CStr) -> io::Result<(Arc<Inode>, Attr)> {
        let dir = parent.dir()?;
        let in_tree = self.in_tree(parent, name);
        if let Some((absent, node)) = in_tree {
            let found = absent.resolve(dir, node, |file, row| {
                let attr = attr_of(absent, file, row);
                self.inodes.intern(parent, name, &attr).map(|inode| (inode, attr))
            })?;
            if let Some(found) = found {
                return found;
            }
        }
        let attr = self.naming(|| Attr::at(dir, name))?;
        let inode = self.inodes.intern(parent, name, &attr)?;
        if let Some((_, node)) = in_tree.filter(|_| attr.is_dir()) {
            inode.set_node(Some(node));
        }
        let attr = self.with_absent(&inode, attr);
        Ok((inode, attr))
    }

    /// Adds to the attributes of a directory what is not made in it yet.
    pub(super) fn with_absent(&self, inode: &Inode, attr: Attr) -> Attr {
        let Some((absent, node)) = self.absent.as_ref().zip(inode.node()) else { return inode.told(attr) };
        inode.told(Attr { nlink: attr.nlink + absent.absent_directories(node), ..attr })
    }

    /// Attributes of an inode that is not on the disk yet.
    pub(super) fn absent_attr(&self, inode: &Inode) -> Option<Attr> {
        let (absent, file) = self.absent.as_ref().zip(inode.absent_file())?;
        Some(attr_of(absent, file, absent.tree().file(file)))
    }

    /// Extended attributes of an inode that is not on the disk yet.
    pub(super) fn absent_xattrs(&self, inode: &Inode) -> Option<&[(Vec<u8>, Vec<u8>)]> {
        let (absent, file) = self.absent.as_ref().zip(inode.absent_file())?;
        Some(absent.tree().xattrs(file))
    }

    /// A file is opened for its content: that is remembered for the next cold start.
    pub(super) fn record_open(&self, inode: &Inode) {
        let Some(absent) = &self.absent else { return };
        absent.recorder().opened(inode.id, || {
            let tree = absent.tree();
            let file = numbered_file(inode.id).or_else(|| match tree.what(tree.find(&inode.path()?)?) {
                What::File(file) => Some(file),
                What::Directory | What::Special(_) => None,
            })?;
            // Of large ones the ranges count.
            (tree.file(file).size <= WHOLE_BYTES_MAX).then_some(file)
        });
    }

    /// What an operation on an inode needs. `emptied`: its content does not matter.
    pub fn need(&self, inode: u64, emptied: bool) -> Need {
        let file = self.absent.as_ref().and_then(|_| self.inodes.get(inode).ok()?.absent_file());
        match file {
            None => Need::Nothing,
            Some(file) if emptied => Need::Empty(file),
            Some(file) => Need::Files(vec![file]),
        }
    }

    /// What the move of a name needs; with `other` of another one as well (an exchange).
    pub fn need_to_move(&self, from: (u64, &CStr), other: Option<(u64, &CStr)>) -> Need {
        if self.absent.is_none() {
            return Need::Nothing;
        }
        let node = |(parent, name): (u64, &CStr)| {
            let parent = self.inodes.get(parent).ok()?;
            self.in_tree(&parent, name).map(|(_, node)| node)
        };
        let nodes: Vec<Node> = std::iter::once(from).chain(other).filter_map(node).collect();
        if nodes.is_empty() { Need::Nothing } else { Need::Below(nodes) }
    }

    /// Takes away a name of a file that is not on the disk. `false`: it is there, or is nothing.
    pub(super) fn unlink_absent(&self, parent: &Inode, name: &CStr) -> io::Result<bool> {
        let Some((absent, node)) = self.in_tree(parent, name) else { return Ok(false) };
        let What::File(file) = absent.tree().what(node) else { return Ok(false) };
        if !absent.remove(node)? {
            return Ok(false);
        }
        if let Some(inode) = self.inodes.find_absent(file) {
            inode.remove_link(parent.id, name);
        }
        Ok(true)
    }

    /// The node of a directory that is about to go or to be replaced; `ENOTEMPTY` if there is still
    /// something absent in it.
    pub(super) fn emptied_directory(&self, parent: &Inode, name: &CStr) -> io::Result<Option<Node>> {
        let Some((absent, node)) = self.in_tree(parent, name) else { return Ok(None) };
        if absent.tree().what(node) != What::Directory || absent.is_absent(node) {
            return Ok(None);
        }
        match absent.absent_children(node).next() {
            Some(_) => Err(Errno::NOTEMPTY.into()),
            None => Ok(Some(node)),
        }
    }

    /// A directory has left its place in the tree: what stands there later has nothing to do with it.
    pub(super) fn left_tree(&self, node: Option<Node>, inode: Option<&Inode>) -> io::Result<()> {
        if let Some(inode) = inode {
            inode.set_node(None);
        }
        match (&self.absent, node) {
            (Some(absent), Some(node)) => absent.remove_directory(node),
            _ => Ok(()),
        }
    }
}

impl Shown for Volume {
    fn arrived(&self, file: u32, stat: &Stat) {
        // Its birth time, which tells it from later files of that number, is not in a stat.
        let Some(inode) = self.inodes.find_absent(file) else { return };
        let attr = inode.at(|dir, name| Attr::at(dir, name));
        if let Ok(attr) = attr
            && attr.key.ino == stat.st_ino
        {
            self.inodes.arrive(file, &attr);
        }
    }
}

fn attr_of(absent: &Absent, file: u32, row: &FileRow) -> Attr {
    Attr {
        key: absent_key(file),
        generation: 0,
        mode: FileType::RegularFile.as_raw_mode() | row.mode,
        nlink: absent.absent_names(file).len() as u32,
        uid: row.uid,
        gid: row.gid,
        rdev: 0,
        size: row.size,
        blocks: row.size.div_ceil(512),
        blksize: 4096,
        atime: row.mtime,
        mtime: row.mtime,
        ctime: row.mtime,
    }
}
