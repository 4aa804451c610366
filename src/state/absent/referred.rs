//! Files of directories that were moved, as the next version has them: where they are now, by reference to
//! where they stand in the layers. Nothing is brought for it.
//!
//! The record of such a file is what no file on a disk has, so that it tells from then on that the newest
//! version has the file there, though it is not here.
use super::tree::{Node, What};
use super::{Absent, layer_id};
use crate::clock::Timestamp;
use crate::layer::{Entry, Kind, Metadata, Reference, References, Row};
use crate::path::RelPath;
use crate::state::identity::Identity;
use rustix::fs::FileType;
use std::sync::atomic::Ordering;

/// Nanoseconds that no clock gives.
const NEVER: u32 = u32::MAX;

/// A file that is not here, and all that a version says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referred {
    /// What its record will be.
    pub ident: Identity,
    /// A file whose content stands elsewhere.
    pub kind: Kind,
    /// Its attributes.
    pub meta: Metadata,
}

impl Referred {
    /// Whether a record is that of a file that was not here.
    pub fn is_record(record: &Identity) -> bool {
        record.ctime.nsec == NEVER
    }
}

impl Absent {
    /// How a version can have an absent file at another place without its content. `None` for one that has
    /// other names, or whose content is more than one range of a layer or what it refers to: that is to be
    /// brought.
    pub fn referred(&self, file: u32) -> Option<Referred> {
        let [node] = self.names_of(file)[..] else { return None };
        let row = self.tree.file(file);
        let (mode, size) = (row.mode & 0o7777, row.size);
        let xattrs = self.tree.xattrs(file).to_vec();
        let meta = Metadata { mode, uid: row.uid, gid: row.gid, mtime: row.mtime, xattrs };
        let refs = match self.tree.references(file) {
            Some(refs) if refs.bytes() == size => refs.clone(),
            Some(_) => return None,
            None if size == 0 => References::none(),
            None => {
                let layer = layer_id(&self.layers.get(row.place.layer as usize)?.source.key)?;
                let kind = Kind::File { size, fuzzy: false, refs: References::none() };
                let entry = Entry { path: self.tree.path(node), kind, meta: meta.clone() };
                let (offset, length) = (row.place.offset, row.place.length);
                let from = Row { entry, offset, length }.dense_data()?;
                References::new([Reference { at: 0, length: size, layer, from }], size)?
            }
        };
        let ident = Identity {
            dev: 0,
            ino: 0,
            mode: FileType::RegularFile.as_raw_mode() | mode,
            nlink: 1,
            uid: row.uid,
            gid: row.gid,
            rdev: 0,
            size,
            mtime: row.mtime,
            ctime: Timestamp { sec: i64::from(file), nsec: NEVER },
        };
        Some(Referred { ident, kind: Kind::File { size, fuzzy: false, refs }, meta })
    }

    /// The absent files of a directory that stands where no version has it, by name; none of any other.
    pub fn moved_files(&self, dir: &RelPath) -> Vec<(&[u8], u32)> {
        if self.moved.is_empty() {
            return Vec::new();
        }
        let Some(node) = self.node_at(dir).filter(|node| self.is_moved(*node)) else { return Vec::new() };
        let files = self.absent_children(node).filter_map(|child| match self.tree.what(child) {
            What::File(file) => Some((self.tree.name(child), file)),
            What::Directory | What::Special(_) => None,
        });
        files.collect()
    }

    /// The absent file at a path where no version has it.
    pub fn moved_file(&self, path: &RelPath) -> Option<u32> {
        if self.moved.is_empty() {
            return None;
        }
        let node = self.node_at(path).filter(|node| self.is_absent(*node) && self.is_moved(*node))?;
        match self.tree.what(node) {
            What::File(file) => Some(file),
            What::Directory | What::Special(_) => None,
        }
    }

    /// Directories that were moved and hold something that must be here before a version has it there: absent
    /// directories, links and nodes, and files that cannot be referred to.
    pub fn moved_unmade(&self) -> Vec<Node> {
        let mut unmade = Vec::new();
        for (node, home) in self.moved.all() {
            if home.made.load(Ordering::Relaxed) {
                continue;
            }
            if self.unmade_within(node).next().is_some() {
                unmade.push(node);
            } else {
                home.made.store(true, Ordering::Relaxed);
            }
        }
        unmade
    }

    /// Absent files at a node and below it that cannot be referred to.
    pub fn unreferred_within(&self, top: Node) -> Vec<u32> {
        let file = |node| match self.tree.what(node) {
            What::File(file) => Some(file),
            What::Directory | What::Special(_) => None,
        };
        self.unmade_within(top).filter_map(file).collect()
    }

    fn unmade_within(&self, top: Node) -> impl Iterator<Item = Node> + '_ {
        let mut stack = self.tree.children(top).to_vec();
        std::iter::from_fn(move || {
            while let Some(node) = stack.pop() {
                let (what, absent) = (self.tree.what(node), self.is_absent(node));
                if what == What::Directory && self.stands(node) {
                    stack.extend(self.tree.children(node));
                }
                let unmade = match what {
                    What::File(file) => absent && self.referred(file).is_none(),
                    What::Directory | What::Special(_) => absent,
                };
                if unmade {
                    return Some(node);
                }
            }
            None
        })
    }

    /// Whether the newest version has an entry where it is now, by reference; `path` is that place.
    pub(super) fn is_referred(&self, node: Node, path: &RelPath) -> bool {
        let (What::File(file), Some(records)) = (self.tree.what(node), &self.records) else { return false };
        let record = records.get(path).ok().flatten();
        record.is_some_and(|record| self.referred(file).is_some_and(|referred| referred.ident == record))
    }
}
