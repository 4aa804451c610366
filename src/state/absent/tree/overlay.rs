//! [`Overlay`]: names and attributes that programs gave to files which are not on the disk.
//!
//! It only grows, as the log does that it is read from: a name that is given once more is another node, and of
//! nodes with the same name in one directory the newest one counts.
use super::{Node, What};
use crate::clock::Timestamp;
use crate::layer::Metadata;
use crate::sync::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The attributes that a file has now, in place of those that the version says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of any of these.
    pub ctime: Timestamp,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Look {
    /// The attributes that a layer keeps.
    pub fn metadata(&self) -> Metadata {
        let Self { mode, uid, gid, mtime, ref xattrs, .. } = *self;
        Metadata { mode, uid, gid, mtime, xattrs: xattrs.clone() }
    }
}

/// A node that no layer has.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) parent: Node,
    pub(super) name: Box<[u8]>,
    pub(super) what: What,
}

/// What was given in one directory, oldest first.
#[derive(Debug, Default)]
struct Within {
    all: Vec<Node>,
    named: HashMap<Box<[u8]>, Vec<Node>>,
}

/// See the module. Owner of its locks; whoever writes does so in the turn.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    given: boxcar::Vec<Given>,
    within: RwLock<HashMap<Node, Within>>,
    /// By file, oldest first.
    names: RwLock<HashMap<u32, Vec<Node>>>,
    looks: RwLock<HashMap<u32, Arc<Look>>>,
    /// Whether there are any: nearly always there are none.
    has_names: AtomicBool,
    has_looks: AtomicBool,
}

impl Overlay {
    pub(super) fn len(&self) -> usize {
        self.given.count()
    }

    pub(super) fn get(&self, index: usize) -> &Given {
        &self.given[index]
    }

    /// A new node, whose number must be `node`; one that nobody finds by name if it is not `listed`.
    pub(super) fn give(&self, node: Node, given: Given, listed: bool) {
        let (parent, what) = (given.parent, given.what);
        let name = listed.then(|| given.name.clone());
        self.given.push(given);
        if let Some(name) = name {
            let mut within = self.within.write();
            let within = within.entry(parent).or_default();
            within.all.push(node);
            within.named.entry(name).or_default().push(node);
        }
        if let What::File(file) = what {
            self.names.write().entry(file).or_default().push(node);
        }
        self.has_names.store(true, Ordering::Release);
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_names.load(Ordering::Acquire) && !self.has_looks.load(Ordering::Acquire)
    }

    /// The nodes given in a directory, oldest first.
    pub(super) fn within(&self, dir: Node) -> Vec<Node> {
        if !self.has_names.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.within.read().get(&dir).map(|within| within.all.clone()).unwrap_or_default()
    }

    /// Those of them with this name, oldest first.
    pub(super) fn named(&self, dir: Node, name: &[u8]) -> Vec<Node> {
        if !self.has_names.load(Ordering::Acquire) {
            return Vec::new();
        }
        let within = self.within.read();
        within.get(&dir).and_then(|within| within.named.get(name)).cloned().unwrap_or_default()
    }

    /// The newest of them.
    pub(super) fn newest(&self, dir: Node, name: &[u8]) -> Option<Node> {
        if !self.has_names.load(Ordering::Acquire) {
            return None;
        }
        self.within.read().get(&dir)?.named.get(name)?.last().copied()
    }

    /// The names given to a file, oldest first.
    pub(super) fn names_of(&self, file: u32) -> Vec<Node> {
        if !self.has_names.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.names.read().get(&file).cloned().unwrap_or_default()
    }

    pub(super) fn look(&self, file: u32) -> Option<Arc<Look>> {
        if !self.has_looks.load(Ordering::Acquire) {
            return None;
        }
        self.looks.read().get(&file).cloned()
    }

    pub(super) fn set_look(&self, file: u32, look: Look) {
        self.looks.write().insert(file, Arc::new(look));
        self.has_looks.store(true, Ordering::Release);
    }
}
