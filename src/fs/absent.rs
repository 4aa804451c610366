//! Entries that are not on the disk yet, as programs see them.
use super::Volume;
use super::attr::Attr;
use super::inode::{Inode, absent_key, numbered_file};
use super::listing::InTree;
use crate::layer::References;
use crate::path::RelPath;
use crate::state::absent::ranges::WHOLE_BYTES_MAX;
use crate::state::absent::tree::{FileRow, Node, What, XattrsOf};
use crate::state::absent::{Absent, Held, Shown};
use crate::state::dirty::Extent;
use crate::state::live::Live;
use crate::state::reach;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What an operation needs on the disk before it can begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing that is not there.
    Nothing,
    /// These files.
    Files(Vec<u32>),
    /// Of this file no more than so many bytes, to which it is about to be cut.
    Shortened(u32, u64),
    /// Nothing, but it waits for the disk: no thread that serves requests may do it.
    Disk,
}

/// A directory of the tree that is about to move.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// It leaves the tree: all of it is on the disk.
    pub(super) left: Option<Node>,
    /// It takes what is absent in it with it.
    taken: Option<(Node, OwnedFd)>,
}

impl Volume {
    /// What is not on the disk yet, if the volume was restored lazily.
    pub fn absent(&self) -> Option<&Arc<Absent>> {
        self.absent.as_ref()
    }

    /// Runs what adds or removes a name on the backing, changes attributes of a directory, or looks at its
    /// times there; see [`Absent::naming`].
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
            let found = absent.resolve(dir.as_fd(), node, |file, row| {
                let attr = self.shown(absent, file, row);
                (self.inodes.intern(parent, name, &attr), attr)
            })?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let attr = self.naming(|| Attr::at(&dir, name))?;
        let inode = self.inodes.intern(parent, name, &attr);
        if attr.is_dir()
            && let Some(node) = self.directory_at(in_tree, &attr)
        {
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
        if !absent.wants(file) {
            // It has no name any more, or has just come to the disk.
            let orphan = inode.open.lock().orphan.clone();
            if let Some(fd) = orphan {
                return Attr::at(&fd, c"").ok().map(|attr| inode.told(attr));
            }
            let attr = inode.at(|dir, name| Attr::at(dir, name)).ok().filter(Attr::is_file);
            if let Some(attr) = attr {
                return Some(inode.told(attr));
            }
        }
        Some(self.shown(absent, file, absent.tree().file(file)))
    }

    /// Extended attributes of an inode that is not on the disk yet.
    pub(super) fn absent_xattrs(&self, inode: &Inode) -> Option<XattrsOf<'_>> {
        let (absent, file) = self.absent.as_ref().zip(inode.absent_file())?;
        // Without a name it has what it was given since.
        if inode.open.lock().orphan.is_some() {
            return None;
        }
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

    /// What an operation on an inode needs. With a `length` it cuts or extends it to that.
    pub fn need(&self, inode: u64, length: Option<u64>) -> Need {
        let found = self.absent.as_ref().zip(self.inodes.get(inode).ok());
        let Some((absent, inode)) = found else { return Need::Nothing };
        let Some(file) = inode.absent_file() else { return Need::Nothing };
        let size = absent.tree().file(file).size;
        let shorter = length.filter(|length| *length == 0 || *length < size && size > WHOLE_BYTES_MAX);
        match shorter {
            // A program that runs is not cut.
            Some(length) if inode.open.lock().running == 0 => Need::Shortened(file, length),
            _ => Need::Files(vec![file]),
        }
    }

    /// What the move of a name to another one needs; `flags` as in renameat2(2). Directories take with them
    /// what is absent in them. With `whole` a file is not moved without its content.
    pub fn need_to_move(&self, from: (u64, &CStr), to: (u64, &CStr), flags: u32, whole: bool) -> Need {
        let Some(absent) = &self.absent else { return Need::Nothing };
        let other = (flags & libc::RENAME_EXCHANGE != 0).then_some(to);
        let file = |(parent, name): (u64, &CStr)| {
            let parent = self.inodes.get(parent).ok()?;
            let (absent, node) = self.in_tree(&parent, name)?;
            match absent.tree().what(node) {
                What::File(file) if absent.is_absent(node) => Some(file),
                _ => None,
            }
        };
        let is_taken = || {
            let parent = self.inodes.get(to.0).ok();
            parent.is_some_and(|parent| parent.dir().is_ok_and(|dir| Attr::at(dir, to.1).is_ok()))
        };
        let files: Vec<u32> = std::iter::once(from).chain(other).filter_map(file).collect();
        match files[..] {
            [] => {}
            // Only the log learns of it.
            [file] if !whole && other.is_none() && absent.can_restate(file) && !is_taken() => {
                return Need::Disk;
            }
            _ => return Need::Files(files),
        }
        let takes = |(parent, name): (u64, &CStr)| {
            let parent = self.inodes.get(parent).ok()?;
            self.directory_node(&parent, name).filter(|(absent, node)| absent.has_absent_within(*node))
        };
        if std::iter::once(from).chain(other).find_map(takes).is_some() { Need::Disk } else { Need::Nothing }
    }

    /// The tree, and where an absent file of this name stands in it.
    pub(super) fn absent_file_at(&self, parent: &Inode, name: &CStr) -> Option<(&Arc<Absent>, Node, u32)> {
        let (absent, node) = self.in_tree(parent, name)?;
        match absent.tree().what(node) {
            What::File(file) if absent.is_absent(node) => Some((absent, node, file)),
            _ => None,
        }
    }

    /// Takes away a name of a file that is not on the disk. `false`: it is there, or is nothing.
    pub(super) fn unlink_absent(&self, parent: &Inode, name: &CStr) -> io::Result<bool> {
        let Some((absent, node, file)) = self.absent_file_at(parent, name) else { return Ok(false) };
        self.may_change_names(parent)?;
        let Some(held) = absent.hold(node)? else { return Ok(false) };
        self.removed_absent(held, file, parent, name).map(|()| true)
    }

    /// A name of a file that is not on the disk is gone, or another has it.
    pub(super) fn removed_absent(
        &self,
        held: Held<'_>,
        file: u32,
        parent: &Inode,
        name: &CStr,
    ) -> io::Result<()> {
        held.removed()?;
        if let Some(inode) = self.inodes.find_absent(file) {
            inode.remove_link(parent.id, name);
        }
        Ok(())
    }

    /// The node of a directory on the disk: the one that it was moved away from, or got since then, or that of its name,
    /// if the way there leads to it: what left the tree with a directory above it has lost that, and may have got another.
    fn directory_at(&self, in_tree: Option<(&Arc<Absent>, Node)>, attr: &Attr) -> Option<Node> {
        let absent = self.absent.as_ref()?;
        let moved = absent.moved_at(attr.key.ino).filter(|_| attr.key.dev == self.inodes.root().key().dev);
        moved.or_else(|| in_tree.map(|(_, node)| node).filter(|node| absent.leads_to(*node)))
    }

    fn directory_node(&self, parent: &Inode, name: &CStr) -> Option<(&Arc<Absent>, Node)> {
        let absent = self.absent.as_ref()?;
        let attr = Attr::at(parent.dir().ok()?, name).ok().filter(Attr::is_dir)?;
        Some((absent, self.directory_at(self.in_tree(parent, name), &attr)?))
    }

    /// The node of a directory that is about to go or to be replaced; `ENOTEMPTY` if there is still
    /// something absent in it.
    pub(super) fn emptied_directory(&self, parent: &Inode, name: &CStr) -> io::Result<Option<Node>> {
        let Some((absent, node)) = self.directory_node(parent, name) else { return Ok(None) };
        match absent.absent_children(node).next() {
            Some(_) => Err(Errno::NOTEMPTY.into()),
            None => Ok(Some(node)),
        }
    }

    /// The node of a directory that is about to move; with its descriptor if it takes something absent with
    /// it.
    pub(super) fn moving_directory(&self, parent: &Inode, name: &CStr) -> io::Result<Moving> {
        let Some((absent, node)) = self.directory_node(parent, name) else { return Ok(Moving::default()) };
        if !absent.has_absent_within(node) {
            return Ok(Moving { left: Some(node), taken: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent.dir()?, name, flags, Mode::empty())?;
        Ok(Moving { left: None, taken: Some((node, fd)) })
    }

    /// Renames by `rename`, in which these directories move.
    pub(super) fn taking(
        &self,
        moving: [&mut Moving; 2],
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let taken: Vec<(Node, OwnedFd)> =
            moving.into_iter().filter_map(|moving| moving.taken.take()).collect();
        match &self.absent {
            Some(absent) if !taken.is_empty() => absent.move_directories(&taken, rename),
            _ => rename(),
        }
    }

    /// A directory has left its place in the tree: what stands there later has nothing to do with it.
    pub(super) fn left_tree(&self, node: Option<Node>, inode: Option<&Inode>) -> io::Result<()> {
        if let (Some(inode), Some(_)) = (inode, node) {
            inode.set_node(None);
        }
        match (&self.absent, node) {
            (Some(absent), Some(node)) => absent.remove_directory(node),
            _ => Ok(()),
        }
    }
}

impl Shown for Volume {
    fn came_below(&self, path: &RelPath) {
        self.dirty.mark(path.clone(), Extent::Subtree);
    }

    fn differs(&self, path: &RelPath) {
        self.dirty.mark(path.clone(), Extent::Entry);
    }

    fn arrived(&self, file: u32, stat: &Stat) {
        // Its birth time, which tells it from later files of that number, is not in a stat.
        let Some(inode) = self.still_absent(file) else { return };
        let is_it = |attr: &Attr| attr.key.ino == stat.st_ino;
        let known = inode.at(|dir, name| Attr::at(dir, name)).ok().filter(is_it).map(|attr| (attr, None));
        let seen = known.or_else(|| self.seen_elsewhere(file).filter(|(attr, _)| is_it(attr)));
        if let Some((attr, unasked)) = seen {
            self.inodes.arrive(file, &attr, unasked);
            // What it takes on the disk was a guess, and so may have been whose it is.
            let (Some(absent), Some(kernel)) = (&self.absent, self.kernel.get()) else { return };
            let guess = self.shown(absent, file, absent.tree().file(file));
            let guessed = |attr: &Attr| (attr.blocks, attr.uid, attr.gid, attr.mode);
            if guessed(&guess) != guessed(&attr) {
                kernel.forget_attr(inode.id);
            }
        }
    }

    fn nameless(&self, file: u32, came: &File) {
        let Some(inode) = self.still_absent(file) else { return };
        let mut state = inode.open.lock();
        if state.handles > 0 && state.orphan.is_none() {
            state.orphan = came.try_clone().ok().map(|own| Arc::new(own.into()));
        }
    }
}

impl Volume {
    /// The inode of a file that comes under several names comes once.
    fn still_absent(&self, file: u32) -> Option<Arc<Inode>> {
        self.inodes.find_absent(file).filter(|inode| inode.absent_file().is_some())
    }

    /// What programs see of an absent file.
    fn shown(&self, absent: &Absent, file: u32, row: FileRow) -> Attr {
        // Its file will be whose the disk makes it; what the version says of that stays in the tree.
        let (uid, gid) = self.owners.of_made((row.uid, row.gid));
        // Most have none of their own.
        let times = absent.tree().look(file).map_or((row.mtime, row.mtime), |look| (look.atime, look.ctime));
        Attr {
            key: absent_key(file),
            mount: 0,
            generation: 0,
            mode: FileType::RegularFile.as_raw_mode() | row.mode,
            nlink: absent.standing_names(file),
            uid,
            gid,
            rdev: 0,
            size: row.size,
            blocks: blocks_of(absent, file, row),
            blksize: 4096,
            atime: times.0,
            mtime: row.mtime,
            ctime: times.1,
        }
    }

    /// A file that has lost the names that were asked for, by another that it has.
    fn seen_elsewhere(&self, file: u32) -> Option<(Attr, Option<RelPath>)> {
        let path = self.absent.as_ref()?.path_of_file(file)?;
        let attr = reach(Live::root(self), &path, |dir, name| Ok(Attr::at(dir, name))).ok()?.ok()?;
        Some((attr, Some(path)))
    }
}

/// The blocks of 512 bytes that it will probably take: those of its data.
fn blocks_of(absent: &Absent, file: u32, row: FileRow) -> u64 {
    let elsewhere = absent.tree().references(file).map_or(0, References::bytes);
    row.size.min(row.place.length + elsewhere).div_ceil(4096) * 8
}
