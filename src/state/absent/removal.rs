//! What programs remove of what is not here, and what a version says of it since.
use super::log::Log;
use super::tree::{Node, ROOT, What};
use super::{Absent, Fate};
use crate::layer::{Entry, Kind};
use crate::path::RelPath;
use crate::sync::MutexGuard;
use std::io;
use std::os::fd::AsFd;

/// An absent entry that cannot come as long as this lives.
#[derive(Debug)]
pub struct Held<'a> {
    absent: &'a Absent,
    turn: MutexGuard<'a, Log>,
    node: Node,
}

impl Held<'_> {
    /// A program removed it, or put another in its place.
    pub fn removed(mut self) -> io::Result<()> {
        self.absent.note(&mut self.turn, Fate::Removed, &[self.node])
    }
}

impl Absent {
    /// Holds an entry that is about to be removed, or replaced; the log has room to say so then. `None`: it is not
    /// absent.
    pub fn hold(&self, node: Node) -> io::Result<Option<Held<'_>>> {
        let mut turn = self.turn.lock();
        if !self.is_absent(node) {
            return Ok(None);
        }
        turn.reserve(1)?;
        Ok(Some(Held { absent: self, turn, node }))
    }

    /// A program removed a directory of the tree, which was empty.
    pub fn remove_directory(&self, node: Node) -> io::Result<()> {
        let mut turn = self.turn.lock();
        if !self.stands(node) {
            return Ok(()); // it was moved before
        }
        self.note(&mut turn, Fate::Removed, &[node])
    }

    /// A version was committed that says that nothing stands at this path any more.
    pub fn saved_removal(&self, path: &RelPath) -> io::Result<()> {
        let Some((parent, name)) = path.parent().zip(path.name()) else { return Ok(()) };
        let nodes = self.tree.find(&parent).map(|dir| self.tree.namesakes(dir, name)).unwrap_or_default();
        for node in nodes {
            if self.is_moved(node) && !self.moved.is_home(node) {
                self.moved.vacate(node); // it stands elsewhere
            } else if matches!(self.fate(node), Some(Fate::Here | Fate::Removed)) {
                let mut turn = self.turn.lock();
                self.note(&mut turn, Fate::Saved, &[node])?;
                self.bury(node);
            }
        }
        Ok(())
    }

    /// No version has anything below an entry that is gone, but for what was moved away from there. The log
    /// need not say so.
    fn bury(&self, top: Node) {
        let mut stack = vec![top];
        while let Some(node) = stack.pop() {
            if self.moved.is_home(node) {
                continue;
            }
            if self.is_absent(node) {
                self.set_all(Fate::Saved, &[node]);
            }
            stack.extend(self.tree.children(node));
        }
    }

    /// The same for all that an earlier daemon has left.
    pub(super) fn bury_saved(&self) {
        let saved: Vec<Node> =
            self.tree.walk().filter(|node| self.fate(*node) == Some(Fate::Saved)).collect();
        saved.into_iter().for_each(|node| self.bury(node));
    }

    /// Paths of what was removed and may still be in the newest version.
    ///
    /// Of what an earlier daemon has left that is also what came and is gone again: the journal writes
    /// behind, so the record by which a scan would miss it may never have reached the disk.
    pub fn unsaved_removals(&self) -> Vec<RelPath> {
        let (mut gone, mut stack) = (Vec::new(), vec![ROOT]);
        while let Some(node) = stack.pop() {
            let removed = match self.fate(node) {
                Some(Fate::Removed) => true,
                Some(Fate::Here) => !self.trusted && node != ROOT && self.is_gone(node),
                // Below what is absent nothing was touched; what is saved is saved with all below it.
                None | Some(Fate::Saved) => continue,
            };
            if removed {
                self.places_left(node, &mut gone);
            } else {
                stack.extend(self.tree.children(node));
            }
        }
        gone
    }

    /// What the layers have at a path and below it, but for what a newer version says is gone or elsewhere; each directory before its
    /// content.
    pub fn laid_within(&self, top: &RelPath) -> Vec<Entry> {
        let is_laid = |node: &Node| (*node as usize) < self.tree.laid_nodes();
        let laid = |dir: Node, name: &[u8]| self.tree.namesakes(dir, name).into_iter().find(is_laid);
        let mut found = Vec::new();
        let mut stack: Vec<Node> = top.components().try_fold(ROOT, laid).into_iter().collect();
        while let Some(node) = stack.pop() {
            if self.fate(node) == Some(Fate::Saved) || self.moved.is_vacated(node) {
                continue;
            }
            stack.extend(self.tree.children(node).filter(is_laid));
            let path = self.tree.path(node);
            let (kind, meta) = match self.tree.what(node) {
                What::File(file) => {
                    found.push(self.tree.row_at(node, file).entry);
                    continue;
                }
                What::Special(special) => {
                    let (kind, meta) = self.tree.special(special);
                    (kind.clone(), meta.clone())
                }
                What::Directory => {
                    (Kind::Directory, self.tree.directory_meta(node).cloned().unwrap_or_default())
                }
            };
            found.push(Entry { path, kind, meta });
        }
        found
    }

    fn is_gone(&self, node: Node) -> bool {
        let dir = self.dir_of(self.tree.parent(node));
        dir.is_err() || dir.is_ok_and(|dir| self.is_there(dir.as_fd(), node).is_ok_and(|there| !there))
    }
}
