//! [`Moved`]: directories that have left their places with absent entries in them.
//!
//! What is absent below such a directory comes to where it is now: a descriptor leads there, whatever
//! is renamed above it. The log knows it by its inode number, so that a later daemon finds it again.
//! No version has its entries at their new paths, so they have no records; the next one refers to their
//! content where it stands (`referred`), and what it cannot refer to is brought first.
use super::beneath::path_beneath;
use super::homes::{Home, Homes};
use super::log::{Edit, Log};
use super::tree::{Node, ROOT, What};
use super::{Absent, Fate};
use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::reach;
use crate::sync::{Mutex, RwLock};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How directories are opened that are only led through.
pub(super) const LEAD: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub(super) struct Moved {
    homes: RwLock<Homes>,
    /// Entries of theirs of which the newest version has said that they left their first places, with all
    /// below them. What an earlier daemon knew of it is said once more.
    vacated: Mutex<HashSet<Node>>,
    /// When they were made, where the disk tells.
    births: Mutex<HashMap<Node, Timestamp>>,
}

impl Moved {
    /// Whether this directory was moved and may have something absent in it.
    pub(super) fn is_home(&self, node: Node) -> bool {
        self.homes.read().get(node).is_some()
    }

    /// The newest version says that an entry has left the place where the restored one has it.
    pub(super) fn vacate(&self, node: Node) {
        self.vacated.lock().insert(node);
    }

    pub(super) fn is_vacated(&self, node: Node) -> bool {
        self.vacated.lock().contains(&node)
    }

    /// Whether none was.
    pub(super) fn is_empty(&self) -> bool {
        self.homes.read().len() == 0
    }

    /// When one was made.
    pub(super) fn born(&self, node: Node, time: Timestamp) {
        self.births.lock().insert(node, time);
    }

    /// Something absent came to one of them.
    pub(super) fn reopen(&self) {
        self.homes.read().iter().for_each(|(_, home)| home.complete.store(false, Ordering::Relaxed));
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(Node, Arc<Home>)> {
        self.homes.read().iter().map(|(node, home)| (node, home.clone())).collect()
    }
}

impl Absent {
    /// Moves directories of the tree by `rename`, with what is absent in them. Each comes with a descriptor
    /// of it. If `rename` fails, nothing has happened.
    pub fn move_directories(
        &self,
        directories: &[(Node, OwnedFd)],
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut turn = self.turn.lock();
        let mut new = Vec::new();
        for (node, fd) in directories {
            if !self.moved.is_home(*node) {
                new.push((*node, rustix::fs::fstat(fd)?.st_ino, fd.try_clone()?));
            }
        }
        // First, since a rename that no log knows of would lose what is absent. One that never came to
        // pass is found where it was.
        if !new.is_empty() {
            self.log_births(&mut turn, new.iter().map(|(node, _, fd)| (*node, fd)))?;
            turn.append_moves(new.iter().map(|(node, ino, _)| (*node, *ino)))?;
            // The disk may keep a rename and lose what was written before it.
            turn.sync()?;
        }
        let nodes: Vec<Node> = new.iter().map(|(node, ..)| *node).collect();
        for (node, ino, fd) in new {
            self.settle(node, ino, fd);
            self.set(node, Fate::Removed);
        }
        rename().inspect_err(|_| {
            // If this fails as well the log says too much, which does no harm.
            if self.note(&mut turn, Fate::Here, &nodes).is_ok() {
                let mut homes = self.moved.homes.write();
                nodes.iter().for_each(|node| homes.remove(*node));
            }
        })
    }

    /// Says of directories that are about to get homes when they were made.
    pub(super) fn log_births<'a>(
        &self,
        turn: &mut Log,
        directories: impl IntoIterator<Item = (Node, &'a OwnedFd)>,
    ) -> io::Result<()> {
        for (node, fd) in directories {
            if let Some(time) = birth(fd)? {
                turn.append_edit(&Edit::Born { node, time })?;
                self.moved.born(node, time);
            }
        }
        Ok(())
    }

    /// Whether what is below a node is where that is: no directory on the way to it was moved away without it.
    pub fn leads_to(&self, node: Node) -> bool {
        let mut at = node;
        loop {
            if at == ROOT || self.moved.is_home(at) {
                return true;
            }
            if self.fate(at) != Some(Fate::Here) {
                return false;
            }
            at = self.tree.parent(at);
        }
    }

    /// From now on what is below a node is in this directory.
    pub(super) fn settle(&self, node: Node, ino: u64, fd: OwnedFd) {
        self.moved.homes.write().put(node, ino, fd);
    }

    /// Directories that an earlier daemon has made and could not say so: they are counted where they stand.
    pub(super) fn find_made(&self) -> io::Result<()> {
        let mut turn = self.turn.lock();
        let mut stack = vec![ROOT];
        while let Some(node) = stack.pop() {
            let is_directory = |child: &Node| self.tree.what(*child) == What::Directory;
            let subdirs = self.tree.children(node).filter(is_directory);
            let (absent, here): (Vec<Node>, Vec<Node>) = subdirs.partition(|child| self.is_absent(*child));
            stack.extend(here.into_iter().filter(|child| self.stands(*child)));
            if absent.is_empty() {
                continue;
            }
            let Ok(dir) = self.dir_of(node) else { continue };
            for child in absent {
                // Into a directory that is closed to its owner nobody looks who might want it.
                if unless_closed(self.is_there(dir.as_fd(), child))? == Some(true) {
                    self.note(&mut turn, Fate::Here, &[child])?;
                    stack.push(child);
                }
            }
        }
        Ok(())
    }

    /// The node of a directory that was moved, by its inode number.
    pub fn moved_at(&self, ino: u64) -> Option<Node> {
        self.moved.homes.read().at(ino)
    }

    /// The place of an entry that was removed or has moved away. If a directory stands there now, another one
    /// or the same that is back, the places below it as well: its own removal does not hide them.
    pub(super) fn places_left(&self, top: Node, gone: &mut Vec<RelPath>) {
        let Ok(root) = self.ground.dirs.lock().get(&RelPath::root(), false) else { return };
        let is_directory = |path: &RelPath| {
            let stat = reach(root.as_fd(), path, |dir, name| {
                rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            });
            stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        let mut stack = vec![top];
        while let Some(node) = stack.pop() {
            if self.fate(node) == Some(Fate::Saved) || self.moved.is_vacated(node) {
                continue;
            }
            let path = self.tree.path(node);
            if self.tree.what(node) == What::Directory && is_directory(&path) {
                stack.extend(self.tree.children(node));
            }
            gone.push(path);
        }
    }

    /// Whether something is absent below a node, where that is now.
    pub fn has_absent_within(&self, top: Node) -> bool {
        let mut stack = vec![top];
        while let Some(node) = stack.pop() {
            for child in self.tree.children(node) {
                match self.fate(child) {
                    None => return true,
                    Some(Fate::Here) if self.tree.what(child) == What::Directory => stack.push(child),
                    Some(_) => {}
                }
            }
        }
        false
    }

    /// Directories that were moved and have something absent in them.
    pub fn moved_incomplete(&self) -> Vec<Node> {
        let mut incomplete = Vec::new();
        for (node, home) in self.moved.all() {
            if home.complete.load(Ordering::Relaxed) {
                continue;
            }
            if self.has_absent_within(node) {
                incomplete.push(node);
            } else {
                home.complete.store(true, Ordering::Relaxed);
            }
        }
        incomplete
    }

    /// Where a node stands: below the root, or below a directory that was moved.
    fn anchor(&self, node: Node) -> (Option<Arc<Home>>, RelPath) {
        let homes = self.moved.homes.read();
        let (mut names, mut at, mut home) = (Vec::new(), node, None);
        while at != ROOT {
            if let Some(found) = homes.get(at) {
                home = Some(found.clone());
                break;
            }
            names.push(self.tree.name(at));
            at = self.tree.parent(at);
        }
        (home, names.iter().rev().fold(RelPath::root(), |path, name| path.join(name)))
    }

    /// The open directory of a node that is on the disk.
    pub(super) fn dir_of(&self, node: Node) -> Result<Arc<OwnedFd>, Errno> {
        match self.anchor(node) {
            (None, path) => self.ground.dirs.lock().get(&path, false),
            (Some(home), path) => home.dirs.lock().get(&path, false),
        }
    }

    /// Whether an entry stands where the restored version does not have it.
    pub(super) fn is_moved(&self, node: Node) -> bool {
        self.anchor(node).0.is_some()
    }

    /// The inode numbers of the directories that are followed.
    pub(super) fn home_inodes(&self) -> HashMap<u64, Node> {
        self.moved.homes.read().iter().map(|(node, home)| (home.ino, node)).collect()
    }

    /// How many directories are followed.
    pub(super) fn homes(&self) -> usize {
        self.moved.homes.read().len()
    }

    /// Where an entry is now.
    pub(super) fn path_of(&self, node: Node) -> Option<RelPath> {
        let (home, path) = self.anchor(node);
        match home {
            None => Some(path),
            Some(home) => {
                let dir = self.path_now(&home)?;
                Some(path.components().fold(dir, |path, name| path.join(name)))
            }
        }
    }

    /// The path of an entry if the newest version has it there as it is; else whoever saves the tree was told that
    /// something came to where it is.
    pub(super) fn path_to_record(&self, node: Node) -> Option<RelPath> {
        let path = self.path_of(node)?;
        if !self.is_restated(node) || self.is_referred(node, &path) {
            return Some(path);
        }
        if let Some(shown) = self.shown() {
            shown.came_below(&path);
        }
        None
    }

    /// Where a moved directory is now, as the kernel says of its descriptor.
    fn path_now(&self, home: &Home) -> Option<RelPath> {
        let root = self.ground.dirs.lock().get(&RelPath::root(), false).ok()?;
        let dir = home.dirs.lock().get(&RelPath::root(), false).ok()?;
        path_beneath(&root, &dir)
    }

    /// Where the directories are that were moved and have something absent in them.
    pub fn moved_paths(&self) -> Vec<RelPath> {
        let nodes = self.moved_incomplete();
        let homes: Vec<Arc<Home>> =
            nodes.iter().filter_map(|node| self.moved.homes.read().get(*node).cloned()).collect();
        homes.iter().filter_map(|home| self.path_now(home)).collect()
    }

    /// Finds the directories that an earlier daemon has moved. What is absent in one that is not there any
    /// more cannot come to anywhere: returns these, each with the number of its files.
    pub(super) fn find_moved(&self, moves: Vec<(Node, u64)>) -> io::Result<Vec<(Node, usize)>> {
        for (node, _) in &moves {
            if self.stands(*node) {
                self.set(*node, Fate::Removed); // the end of what was logged together is lost
            }
        }
        let incomplete = moves.into_iter().filter(|(node, _)| self.has_absent_within(*node));
        let mut wanted: HashMap<u64, Node> = incomplete.map(|(node, ino)| (ino, node)).collect();
        let mut lost = Vec::new();
        self.search(&mut wanted, |node, ino, child| {
            let known = self.moved.births.lock().get(&node).copied();
            let same = known.is_none() || birth(&child)?.is_none_or(|birth| Some(birth) == known);
            if same {
                self.settle(node, ino, child);
            }
            Ok(same)
        })?;
        for node in wanted.into_values() {
            lost.push((node, self.files_within(node).len()));
            let mut stack = vec![node];
            while let Some(node) = stack.pop() {
                for child in self.tree.children(node) {
                    // Not those that were moved out of it.
                    if self.stands(child) {
                        stack.push(child);
                        self.set(child, Fate::Removed);
                    }
                }
            }
        }
        self.count();
        Ok(lost)
    }
}

impl Absent {
    /// Looks on the disk for the directories with these inode numbers and takes away those that `found` takes.
    pub(super) fn search(
        &self,
        wanted: &mut HashMap<u64, Node>,
        mut found: impl FnMut(Node, u64, OwnedFd) -> io::Result<bool>,
    ) -> io::Result<()> {
        let root = self.ground.dirs.lock().get(&RelPath::root(), false)?;
        let device = rustix::fs::fstat(&root)?.st_dev;
        let (mut stack, mut closed) = (vec![RelPath::root()], None);
        while !wanted.is_empty()
            && let Some(path) = stack.pop()
        {
            let dir = self.ground.dirs.lock().get(&path, false).map_err(io::Error::from);
            let (dir, names) = match dir.and_then(|dir| Ok((dir.clone(), directories_in(dir.as_fd())?))) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    let why = || {
                        format!(
                            "they may be in {path}, which is closed to its owner (chmod u+rx opens it): {e}"
                        )
                    };
                    closed.get_or_insert_with(|| io::Error::new(e.kind(), why()));
                    continue;
                }
                other => other?,
            };
            for (name, ino) in names {
                if let Some(node) = wanted.get(&ino).copied() {
                    let child = rustix::fs::openat(&dir, name.as_c_str(), LEAD, Mode::empty())?;
                    let stat = rustix::fs::fstat(&child)?;
                    if (stat.st_dev, stat.st_ino) == (device, ino) && found(node, ino, child)? {
                        wanted.remove(&ino);
                    }
                }
                stack.push(path.join(name.to_bytes()));
            }
        }
        // What is not found may be where we cannot look: it is not lost.
        closed.filter(|_| !wanted.is_empty()).map_or(Ok(()), Err)
    }
}

/// `None` if we have no right to know.
fn unless_closed<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        other => other.map(Some),
    }
}

/// When a directory was made, where the disk tells.
pub(super) fn birth(dir: &OwnedFd) -> io::Result<Option<Timestamp>> {
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(told.then_some(Timestamp { sec: stat.stx_btime.tv_sec, nsec: stat.stx_btime.tv_nsec }))
}

/// Names and inode numbers of the directories in a directory.
pub(super) fn directories_in(dir: BorrowedFd<'_>) -> io::Result<Vec<(std::ffi::CString, u64)>> {
    let mut found = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(rustix::fs::openat(dir, c".", flags, Mode::empty())?)? {
        let entry = entry?;
        let (name, mut kind) = (entry.file_name(), entry.file_type());
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            kind = stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        }
        if kind == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..") {
            found.push((name.to_owned(), entry.ino()));
        }
    }
    Ok(found)
}
