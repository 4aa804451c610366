//! Which names stand, absent or not, and where.
use super::tree::{Node, ROOT, What};
use super::{Absent, Fate, NOWHERE};
use crate::layer::References;
use crate::path::RelPath;
use crate::state::head::layer_key;
use crate::state::reach;
use rustix::fs::AtFlags;
use std::collections::HashSet;
use std::os::fd::AsFd;

impl Absent {
    /// All names of a file: in the version, then those that programs gave it.
    pub(super) fn names_of(&self, file: u32) -> Vec<Node> {
        let mut names = match self.names.get(&file) {
            Some(all) => all.clone(),
            None => self.first_name(file).into_iter().collect(),
        };
        names.extend(self.tree.given_to(file));
        names
    }

    /// The names of a file that are absent.
    pub fn absent_names(&self, file: u32) -> Vec<Node> {
        self.names_of(file).into_iter().filter(|node| self.is_absent(*node)).collect()
    }

    /// How many names of a file stand, absent or not.
    pub fn standing_names(&self, file: u32) -> u32 {
        self.names_of(file).into_iter().filter(|node| self.stands(*node)).count() as u32
    }

    /// Whether a file has an absent name.
    pub fn wants(&self, file: u32) -> bool {
        let laid = match self.names.get(&file) {
            Some(all) => all.iter().any(|node| self.is_absent(*node)),
            None => self.first_name(file).is_some_and(|node| self.is_absent(node)),
        };
        laid || self.tree.given_to(file).into_iter().any(|node| self.is_absent(node))
    }

    /// The keys of the layers that have content of what is absent.
    pub fn needed_layers(&self) -> HashSet<String> {
        let mut needed = HashSet::new();
        let wanted = (0..self.tree.files() as u32).filter(|file| self.wants(*file));
        for file in wanted {
            let row = self.tree.file(file);
            if row.place.length > 0
                && let Some(layer) = self.layers.get(row.place.layer as usize)
                && !needed.contains(&layer.source.key)
            {
                needed.insert(layer.source.key.clone());
            }
            needed.extend(
                self.tree.references(file).into_iter().flat_map(References::iter).map(|r| layer_key(r.layer)),
            );
        }
        needed
    }

    /// The first name of a file in the version.
    pub(super) fn first_name(&self, file: u32) -> Option<Node> {
        self.first.get(file as usize).copied().filter(|node| *node != NOWHERE)
    }

    /// The node of a name in the directory of another one, if it can be told from there: it is absent,
    /// or a directory that may hold absent entries.
    pub fn child(&self, dir: Node, name: &[u8]) -> Option<Node> {
        self.tree.child(dir, name).filter(|node| match self.fate(*node) {
            None => true,
            Some(fate) => fate == Fate::Here && self.tree.what(*node) == What::Directory,
        })
    }

    /// The node of a path under the same conditions.
    pub(super) fn find(&self, path: &RelPath) -> Option<Node> {
        path.components().try_fold(ROOT, |at, name| self.child(at, name))
    }

    /// The node of what stands at a path now, below directories that were moved as well.
    pub fn node_at(&self, path: &RelPath) -> Option<Node> {
        let (mut at, mut node) = (RelPath::root(), Some(ROOT));
        for name in path.components() {
            at = at.join(name);
            let here = node;
            let child = here.and_then(|dir| self.child(dir, name));
            if child.is_some_and(|child| self.is_absent(child) || self.moved.is_empty()) {
                node = child;
                continue;
            }
            // What was moved there is that, whatever stood there before.
            let stands = || {
                let root = self.ground.dirs.lock().get(&RelPath::root(), false).ok()?;
                let stat = reach(root.as_fd(), &at, |dir, name| {
                    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                });
                let stat = stat.ok()?;
                // Of a file that is here nobody knows whether it is that of its name.
                let same =
                    || here.and_then(|dir| self.tree.child(dir, name)).filter(|node| self.stands(*node));
                self.moved_at(stat.st_ino).or(child).or_else(same)
            };
            node = stands().or(child);
        }
        node
    }

    /// Whether the entry of a path is absent and as the version has it, so that nobody has anything to say of
    /// it.
    pub fn is_virtual(&self, path: &RelPath) -> bool {
        self.find(path).is_some_and(|node| self.is_absent(node) && !self.is_restated(node))
    }

    /// Whether the newest version has something at a path that may never have been on the disk.
    pub fn knows(&self, path: &RelPath) -> bool {
        let mut at = ROOT;
        for name in path.components() {
            match self.tree.child(at, name) {
                Some(node) if self.fate(node) != Some(Fate::Saved) && !self.moved.is_vacated(node) => {
                    at = node;
                }
                _ => return false,
            }
        }
        true
    }

    /// Whether a node still is what stands at its name, absent or not.
    pub fn stands(&self, node: Node) -> bool {
        matches!(self.fate(node), None | Some(Fate::Here))
    }

    /// The same of a name in a directory of the tree.
    pub fn stands_at(&self, dir: Node, name: &[u8]) -> bool {
        self.tree.child(dir, name).is_some_and(|node| self.stands(node))
    }

    /// Absent children of a directory, by name.
    pub fn absent_children(&self, dir: Node) -> impl Iterator<Item = Node> + '_ {
        self.tree.children(dir).filter(|node| self.is_absent(*node))
    }

    /// How many directories a directory holds that are not made yet.
    pub fn absent_directories(&self, dir: Node) -> u32 {
        if !self.subdirs.contains_key(&dir) {
            return 0;
        }
        self.absent_children(dir).filter(|node| self.tree.what(*node) == What::Directory).count() as u32
    }

    /// Absent files at a node and below it.
    pub fn files_within(&self, top: Node) -> Vec<u32> {
        let (mut files, mut stack) = (Vec::new(), vec![top]);
        while let Some(node) = stack.pop() {
            match self.tree.what(node) {
                What::File(file) if self.is_absent(node) => files.push(file),
                What::Directory if node == top || self.stands(node) => {
                    stack.extend(self.tree.children(node));
                }
                What::Directory => {} // it is elsewhere
                What::File(_) | What::Special(_) => {}
            }
        }
        files.sort_unstable();
        files.dedup();
        files
    }
}
