//! Absent files that were moved or changed, as the next version has them: where and what they are now, by
//! reference to where their content stands in the layers. Nothing is brought for it.
//!
//! The record of such a file is what no file on a disk has, so that it tells from then on that the newest
//! version has the file there, though it is not here.
use super::tree::{Look, Node, What};
use super::{Absent, layer_id};
use crate::clock::Timestamp;
use crate::layer::{Kind, Metadata, Reference, References};
use crate::path::RelPath;
use crate::state::identity::Identity;
use rustix::fs::FileType;
use std::sync::atomic::Ordering;

/// Nanoseconds that no clock gives.
const NEVER: u32 = u32::MAX;

/// Inode numbers that no file system gives, for files with several names.
const NUMBERS: u64 = 1 << 61;

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

/// Another number for each look of each file.
fn seal(file: u32, look: &Look) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file.to_le_bytes());
    for (name, value) in &look.xattrs {
        for bytes in [name, value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(bytes)
}

impl Absent {
    /// How a version can have an absent file as it is now without its content. `None` for one whose content is
    /// more than one range of a layer or what it refers to: that is to be brought.
    pub fn referred(&self, file: u32) -> Option<Referred> {
        let row = self.tree.file(file);
        let (mode, size) = (row.mode & 0o7777, row.size);
        let refs = match self.tree.references(file) {
            Some(refs) if refs.bytes() == size => refs.clone(),
            Some(_) => return None,
            None if size == 0 => References::none(),
            None => {
                let layer = layer_id(&self.layers.get(row.place.layer as usize)?.source.key)?;
                let from = self.tree.row_at(self.first_name(file)?, file).dense_data()?;
                References::new([Reference { at: 0, length: size, layer, from }], size)?
            }
        };
        let nlink = self.standing_names(file).max(1);
        let ident = Identity {
            dev: 0,
            ino: if nlink > 1 { NUMBERS + u64::from(file) } else { 0 },
            mode: FileType::RegularFile.as_raw_mode() | mode,
            nlink,
            uid: row.uid,
            gid: row.gid,
            rdev: 0,
            size,
            mtime: row.mtime,
            // It tells which look of its attributes this is.
            ctime: Timestamp {
                sec: self.tree.look(file).map_or(i64::from(file), |look| seal(file, &look)),
                nsec: NEVER,
            },
        };
        Some(Referred { ident, kind: Kind::File { size, fuzzy: false, refs }, meta: self.metadata(file) })
    }

    /// The absent files of a directory that are not as the restored version has them, by name.
    pub fn restated_files(&self, dir: &RelPath) -> Vec<(&[u8], u32)> {
        if self.moved.is_empty() && self.tree.is_as_laid() {
            return Vec::new();
        }
        let Some(node) = self.node_at(dir) else { return Vec::new() };
        let restated = self.absent_children(node).filter(|child| self.is_restated(*child));
        let files = restated.filter_map(|child| match self.tree.what(child) {
            What::File(file) => Some((self.tree.name(child), file)),
            What::Directory | What::Special(_) => None,
        });
        files.collect()
    }

    /// The absent file at a path, if it is not as the restored version has it.
    pub fn restated_file(&self, path: &RelPath) -> Option<u32> {
        if self.moved.is_empty() && self.tree.is_as_laid() {
            return None;
        }
        let node = self.node_at(path).filter(|node| self.is_absent(*node) && self.is_restated(*node))?;
        match self.tree.what(node) {
            What::File(file) => Some(file),
            What::Directory | What::Special(_) => None,
        }
    }

    /// Where else such a file stands.
    pub fn other_paths(&self, file: u32, path: &RelPath) -> Vec<RelPath> {
        let paths = self.absent_names(file).into_iter().filter_map(|node| self.path_of(node));
        paths.filter(|other| other != path).collect()
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
        let mut stack: Vec<Node> = self.tree.children(top).collect();
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
