//! What programs do to absent files without their content: names and attributes.
//!
//! Only the log learns of it. The next version has such a file as it is then, by reference to where its content
//! stands ([`referred`](super::referred)), and when it comes, it comes under the names and with the attributes
//! that it has by then.
use super::log::{Edit, Event, Log};
use super::tree::{Look, Node, What};
use super::{Absent, Fate};
use crate::path::RelPath;
use crate::sync::MutexGuard;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU8;

/// Each directory that no layer has and that an absent file is renamed into keeps a descriptor.
const ADOPTED_MAX: usize = 1024;

/// What a change of an absent file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restated {
    /// It is done. If an absent file lost a name by it, that file.
    Done(Option<u32>),
    /// Nothing is done: it must be here for that.
    Impossible,
}

impl Absent {
    /// Whether an absent file may get other names and attributes without its content: the next version must be
    /// able to refer to that.
    pub fn can_restate(&self, file: u32) -> bool {
        self.records.is_some() && self.wants(file) && self.referred(file).is_some()
    }

    /// Whether an absent entry is not as the restored version has it, or not there.
    pub(super) fn is_restated(&self, node: Node) -> bool {
        if self.moved.is_empty() && self.tree.is_as_laid() {
            return false;
        }
        let elsewhere = |node: Node| (node as usize) >= self.tree.laid_nodes() || self.is_moved(node);
        elsewhere(node)
            || match self.tree.what(node) {
                // What one name of several says, all say.
                What::File(file) => {
                    self.tree.look(file).is_some()
                        || !self.tree.given_to(file).is_empty()
                        || self.names.get(&file).is_some_and(|all| all.iter().any(|node| elsewhere(*node)))
                }
                What::Directory | What::Special(_) => false,
            }
    }

    /// Paths of absent files that the newest version does not have as they are.
    pub fn unsaved_edits(&self) -> Vec<RelPath> {
        if self.tree.is_as_laid() {
            return Vec::new();
        }
        let files = (0..self.tree.files() as u32)
            .filter(|file| self.tree.look(*file).is_some() || !self.tree.given_to(*file).is_empty());
        let names = files.flat_map(|file| self.absent_names(file));
        let known = names.filter_map(|node| Some((node, self.path_of(node)?)));
        known.filter(|(node, path)| !self.is_referred(*node, path)).map(|(_, path)| path).collect()
    }

    /// Where a file is now, under the first of its names.
    pub fn path_of_file(&self, file: u32) -> Option<RelPath> {
        let names = self.names_of(file);
        let standing = names.iter().find(|node| self.stands(**node)).or(names.first());
        standing.and_then(|node| self.path_of(*node))
    }

    /// The node of a directory that no version has, from now on.
    pub fn adopt_directory(&self, dir: BorrowedFd<'_>) -> io::Result<Option<Node>> {
        let ino = rustix::fs::fstat(dir)?.st_ino;
        let mut turn = self.turn.lock();
        if let Some(node) = self.moved_at(ino) {
            return Ok(Some(node));
        }
        if self.homes() >= ADOPTED_MAX {
            return Ok(None);
        }
        let own: OwnedFd = dir.try_clone_to_owned()?;
        turn.append_edit(&Edit::Directory)?;
        let Some(node) = self.apply(&Edit::Directory) else { return Ok(None) };
        self.log_births(&mut turn, [(node, &own)])?;
        turn.append_moves([(node, ino)])?;
        self.settle(node, ino, own);
        self.set(node, Fate::Removed);
        Ok(Some(node))
    }

    /// Renames an absent name of a file to `name` in `dir`, in place of what is absent there.
    pub fn rename_file(&self, node: Node, dir: Node, name: &[u8]) -> io::Result<Restated> {
        let What::File(file) = self.tree.what(node) else { return Ok(Restated::Impossible) };
        let mut turn = self.turn.lock();
        if !self.is_absent(node) || !self.can_restate(file) || self.is_taken(dir, name)? {
            return Ok(Restated::Impossible);
        }
        let over = self.tree.child(dir, name).filter(|over| self.is_absent(*over));
        let over = match over.map(|over| self.tree.what(over)) {
            Some(What::File(over)) if over == file => return Ok(Restated::Impossible), // two names of one file
            Some(What::File(over)) => Some(over),
            Some(What::Directory | What::Special(_)) => return Ok(Restated::Impossible),
            None => None,
        };
        self.edit(&mut turn, &Edit::Name { file, from: Some(node), dir, name: name.to_vec() })?;
        // The disk may keep what takes the old place later, and lose what was written before it.
        turn.sync()?;
        Ok(Restated::Done(over))
    }

    /// Gives an absent file one more name.
    pub fn link_file(&self, file: u32, dir: Node, name: &[u8]) -> io::Result<Restated> {
        let mut turn = self.turn.lock();
        if !self.can_restate(file) || self.is_taken(dir, name)? {
            return Ok(Restated::Impossible);
        }
        if self.tree.child(dir, name).is_some_and(|node| self.is_absent(node)) {
            return Err(Errno::EXIST.into());
        }
        self.edit(&mut turn, &Edit::Name { file, from: None, dir, name: name.to_vec() })?;
        Ok(Restated::Done(None))
    }

    /// Changes the attributes of an absent file.
    pub fn change_look(
        &self,
        file: u32,
        change: impl FnOnce(&mut Look) -> io::Result<()>,
    ) -> io::Result<Restated> {
        let mut turn = self.turn.lock();
        if !self.can_restate(file) {
            return Ok(Restated::Impossible);
        }
        let mut look = self.look(file);
        change(&mut look)?;
        self.edit(&mut turn, &Edit::Look { file, look })?;
        Ok(Restated::Done(None))
    }

    /// The attributes of an absent file now. What no version keeps is guessed.
    pub fn look(&self, file: u32) -> Look {
        if let Some(look) = self.tree.look(file) {
            return (*look).clone();
        }
        let row = self.tree.file(file);
        Look {
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            atime: row.mtime,
            mtime: row.mtime,
            ctime: row.mtime,
            xattrs: self.tree.xattrs(file).into_owned(),
        }
    }

    /// Whether something stands on the disk at a name. Called in the turn.
    fn is_taken(&self, dir: Node, name: &[u8]) -> io::Result<bool> {
        let dir = self.dir_of(dir)?;
        match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn edit(&self, turn: &mut MutexGuard<'_, Log>, edit: &Edit) -> io::Result<()> {
        turn.append_edit(edit)?;
        self.apply(edit);
        Ok(())
    }

    /// What the log says, to everybody. The node that it made; `None` too if it makes no sense here. Called in
    /// the turn, or before there is any.
    fn apply(&self, edit: &Edit) -> Option<Node> {
        match edit {
            Edit::Directory => {
                let node = self.tree.adopt().ok()?;
                self.given_fates.push(AtomicU8::new(Fate::Removed as u8));
                Some(node)
            }
            Edit::Name { file, from, dir, name } => {
                let is_node = |node: Node| (node as usize) < self.tree.nodes();
                let known = (*file as usize) < self.tree.files()
                    && is_node(*dir)
                    && self.tree.what(*dir) == What::Directory
                    && from.is_none_or(|from| is_node(from) && self.tree.what(from) == What::File(*file));
                if !known {
                    return None;
                }
                let before = self.tree.namesakes(*dir, name);
                let before: Vec<Node> = before.into_iter().filter(|node| self.stands(*node)).collect();
                // Its fate first: whoever finds the node asks for it.
                self.given_fates.push(AtomicU8::new(0));
                let node = self.tree.give(*file, *dir, name).ok()?;
                self.set_all(Fate::Removed, &before);
                self.set_all(Fate::Removed, from.as_slice());
                self.moved.reopen();
                Some(node)
            }
            Edit::Born { node, time } => {
                self.moved.born(*node, *time);
                None
            }
            Edit::Look { file, look } => {
                if (*file as usize) < self.tree.files() {
                    self.tree.set_look(*file, look.clone());
                }
                None
            }
        }
    }

    /// What an earlier daemon has logged.
    pub(super) fn replay(&self, event: Event) {
        match event {
            Event::Became(fate, node) if node != super::ROOT => self.set(node, fate),
            Event::Became(..) => {}
            Event::Edited(edit) => drop(self.apply(&edit)),
        }
    }
}
