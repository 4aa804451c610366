//! [`Tree`]: what a version holds, laid out from the tables of its layers.
//!
//! Layers are laid oldest first: each row replaces what stood at its path, a whiteout takes away what
//! older layers had there. Rows come in path order, so that laying them is mostly appending. What a
//! row says is kept in arenas and referred to by number; numbers depend on the layers alone.
mod overlay;
mod rows;

pub use overlay::Look;

use crate::layer::contents::Row;
use crate::layer::{Entry, Kind, LayerError, Metadata, References};
use crate::path::RelPath;
use overlay::{Given, Overlay};
use rows::Rows;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The number of a node; 0 is the root.
pub type Node = u32;

/// The root of the tree.
pub const ROOT: Node = 0;

/// Where the rows of a file stand: one of the layers, and a span of its tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The index of the layer, oldest first.
    pub layer: u32,
    /// The first byte of the entry.
    pub offset: u64,
    /// Bytes of the entry, headers included.
    pub length: u64,
}

/// A file of the version: all its names lead here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRow {
    /// Where its entry is.
    pub place: Place,
    /// Its length in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: crate::clock::Timestamp,
}

/// What stands at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A name of the file of this number.
    File(u32),
    /// A symbolic link, fifo or device: of this number.
    Special(u32),
}

/// Extended attributes: names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The same of one file.
pub type XattrsOf<'a> = Cow<'a, [(Vec<u8>, Vec<u8>)]>;

/// A node: a million of them take 20 MB.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Where its name begins, and the length of it.
    name: u32,
    length: u8,
    kind: SlotKind,
    /// The number of its file, link or node.
    number: u32,
    parent: Node,
    /// Which layer said so.
    layer: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotKind {
    Directory,
    File,
    Special,
}

impl Slot {
    fn what(&self) -> What {
        match self.kind {
            SlotKind::Directory => What::Directory,
            SlotKind::File => What::File(self.number),
            SlotKind::Special => What::Special(self.number),
        }
    }

    fn set(&mut self, what: What) {
        (self.kind, self.number) = match what {
            What::Directory => (SlotKind::Directory, 0),
            What::File(number) => (SlotKind::File, number),
            What::Special(number) => (SlotKind::Special, number),
        };
    }
}

/// The tree of one version.
#[derive(Debug)]
pub struct Tree {
    slots: Vec<Slot>,
    names: Vec<u8>,
    /// The children of directories, by name.
    children: HashMap<Node, Vec<Node>>,
    directories: HashMap<Node, Metadata>,
    files: Rows,
    specials: Vec<(Kind, Metadata)>,
    /// Extended attributes of files that have some.
    xattrs: HashMap<u32, Xattrs>,
    /// What other layers have of files of which they have some.
    refs: HashMap<u32, References>,
    /// What programs say otherwise of files that are not on the disk.
    overlay: Overlay,
    /// The directories on the way to the row laid last.
    trail: Vec<(Vec<u8>, Node)>,
    layers: u32,
}

impl Default for Tree {
    fn default() -> Self {
        let kind = SlotKind::Directory;
        let root = Slot { name: 0, length: 0, kind, number: 0, parent: ROOT, layer: 0 };
        Self {
            slots: vec![root],
            names: Vec::new(),
            children: HashMap::new(),
            directories: HashMap::new(),
            files: Rows::default(),
            specials: Vec::new(),
            xattrs: HashMap::new(),
            refs: HashMap::new(),
            overlay: Overlay::default(),
            trail: Vec::new(),
            layers: 0,
        }
    }
}

impl Tree {
    /// Lays one more layer over those laid before.
    pub fn lay(&mut self, rows: impl Iterator<Item = Result<Row, LayerError>>) -> Result<(), LayerError> {
        self.trail.clear();
        for row in rows {
            self.row(row?)?;
        }
        self.layers += 1;
        Ok(())
    }

    /// All layers were laid: gives back what growing took.
    pub fn settle(&mut self) {
        self.trail = Vec::new();
        self.slots.shrink_to_fit();
        self.names.shrink_to_fit();
        self.files.settle();
        self.children.values_mut().for_each(Vec::shrink_to_fit);
    }

    fn row(&mut self, row: Row) -> Result<(), LayerError> {
        let Row { entry, offset, length } = row;
        let path = &entry.path;
        let Some(name) = path.name() else {
            self.directories.insert(ROOT, entry.meta);
            return Ok(());
        };
        if matches!(entry.kind, Kind::Whiteout) {
            if let Some(node) = self.find(path) {
                self.cut(node);
            }
            return Ok(());
        }
        let parent = self.directory(path)?;
        let place = Place { layer: self.layers, offset, length };
        let what = match entry.kind {
            Kind::Directory => What::Directory,
            Kind::File { size, refs, .. } => {
                let Metadata { mode, uid, gid, mtime, xattrs } = entry.meta.clone();
                let file = number(self.files.len())?;
                self.files.push(&FileRow { place, size, mode, uid, gid, mtime });
                if !xattrs.is_empty() {
                    self.xattrs.insert(file, xattrs);
                }
                if !refs.is_empty() {
                    self.refs.insert(file, refs);
                }
                What::File(file)
            }
            Kind::HardLink { ref target } => {
                let found = self.find(target).and_then(|node| self.slots.get(node as usize));
                match found {
                    // Only a name of the same layer says which content is meant.
                    Some(slot) if slot.layer == self.layers && slot.kind != SlotKind::Directory => {
                        slot.what()
                    }
                    _ => {
                        let what = format!("hard link to a file that is not there: {target}: {path}");
                        return Err(LayerError::corrupt(what));
                    }
                }
            }
            kind => {
                let special = number(self.specials.len())?;
                self.specials.push((kind, entry.meta.clone()));
                What::Special(special)
            }
        };
        let node = self.put(parent, name, what)?;
        if what == What::Directory {
            self.directories.insert(node, entry.meta);
        }
        Ok(())
    }

    /// The directory that holds `path`; one that no layer has an entry of is made, as tar does.
    fn directory(&mut self, path: &RelPath) -> Result<Node, LayerError> {
        let mut at = ROOT;
        let count = path.components().count() - 1;
        for (depth, name) in path.components().take(count).enumerate() {
            if let Some((known, node)) = self.trail.get(depth)
                && known == name
            {
                at = *node;
                continue;
            }
            self.trail.truncate(depth);
            let node = match self.child(at, name) {
                Some(node) if self.what(node) == What::Directory => node,
                Some(_) => {
                    return Err(LayerError::corrupt(format!("no directory stands above it: {path}")));
                }
                None => self.put(at, name, What::Directory)?,
            };
            self.trail.push((name.to_vec(), node));
            at = node;
        }
        Ok(at)
    }

    /// Sets what stands at a name, in place of what stood there.
    fn put(&mut self, parent: Node, name: &[u8], what: What) -> Result<Node, LayerError> {
        let layer = self.layers;
        if let Some(node) = self.child(parent, name) {
            let before = self.slots[node as usize].kind;
            if before == SlotKind::Directory && what != What::Directory {
                self.cut_below(node);
                self.directories.remove(&node);
                self.trail.clear();
            }
            let slot = &mut self.slots[node as usize];
            slot.set(what);
            slot.layer = layer;
            return Ok(node);
        }
        let node = number(self.slots.len())?;
        let at = number(self.names.len())?;
        let length = u8::try_from(name.len()).map_err(|_| LayerError::corrupt("name is too long"))?;
        self.names.extend_from_slice(name);
        let mut slot = Slot { name: at, length, kind: SlotKind::Directory, number: 0, parent, layer };
        slot.set(what);
        self.slots.push(slot);
        let (slots, names) = (&self.slots, &self.names);
        let siblings = self.children.entry(parent).or_default();
        match siblings.last() {
            Some(last) if name_in(slots, names, *last) >= name => {
                let place = siblings.partition_point(|n| name_in(slots, names, *n) < name);
                siblings.insert(place, node);
            }
            _ => siblings.push(node),
        }
        Ok(node)
    }

    /// Takes away a node and all below it, but for what the layer being laid put there.
    fn cut(&mut self, node: Node) {
        self.cut_below(node);
        let slot = self.slots[node as usize];
        let holds = self.children.get(&node).is_some_and(|c| !c.is_empty());
        if slot.layer == self.layers || holds || node == ROOT {
            return;
        }
        self.directories.remove(&node);
        if let Some(siblings) = self.children.get_mut(&slot.parent) {
            siblings.retain(|n| *n != node);
        }
        self.trail.clear();
    }

    fn cut_below(&mut self, node: Node) {
        for child in self.children.get(&node).cloned().unwrap_or_default() {
            self.cut(child);
        }
    }

    /// The name of a node.
    pub fn name(&self, node: Node) -> &[u8] {
        match self.given(node) {
            Some(given) => &given.name,
            None => name_in(&self.slots, &self.names, node),
        }
    }

    /// The directory that holds it.
    pub fn parent(&self, node: Node) -> Node {
        self.given(node).map_or_else(|| self.slots[node as usize].parent, |given| given.parent)
    }

    /// What stands at a node.
    pub fn what(&self, node: Node) -> What {
        self.given(node).map_or_else(|| self.slots[node as usize].what(), |given| given.what)
    }

    /// A node that no layer has.
    fn given(&self, node: Node) -> Option<&Given> {
        (node as usize).checked_sub(self.slots.len()).map(|index| self.overlay.get(index))
    }

    /// The child of a directory with this name.
    pub fn child(&self, dir: Node, name: &[u8]) -> Option<Node> {
        self.overlay.newest(dir, name).or_else(|| self.laid(dir, name))
    }

    /// All nodes that have or had this name in a directory.
    pub fn namesakes(&self, dir: Node, name: &[u8]) -> Vec<Node> {
        self.laid(dir, name).into_iter().chain(self.overlay.named(dir, name)).collect()
    }

    /// The child that the layers have.
    fn laid(&self, dir: Node, name: &[u8]) -> Option<Node> {
        let children = self.children.get(&dir)?;
        let found = children.binary_search_by(|n| self.name(*n).cmp(name));
        found.ok().and_then(|i| children.get(i).copied())
    }

    /// The children of a directory: those that the layers have by name, then those that were given, oldest
    /// first. None of them ever changes its place.
    pub fn children(&self, dir: Node) -> impl DoubleEndedIterator<Item = Node> + use<'_> {
        let laid = self.children.get(&dir).map_or(&[][..], Vec::as_slice);
        laid.iter().copied().chain(self.overlay.within(dir))
    }

    /// The node at a path.
    pub fn find(&self, path: &RelPath) -> Option<Node> {
        path.components().try_fold(ROOT, |at, name| self.child(at, name))
    }

    /// The path of a node.
    pub fn path(&self, node: Node) -> RelPath {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.iter().rev().fold(RelPath::root(), |path, name| path.join(name))
    }

    /// A file.
    pub fn file(&self, file: u32) -> FileRow {
        let row = self.files.get(file);
        match self.overlay.look(file) {
            None => row,
            Some(look) => FileRow { mode: look.mode, uid: look.uid, gid: look.gid, mtime: look.mtime, ..row },
        }
    }

    /// Extended attributes of a file.
    pub fn xattrs(&self, file: u32) -> XattrsOf<'_> {
        match self.overlay.look(file) {
            None => Cow::Borrowed(self.xattrs.get(&file).map_or(&[][..], Vec::as_slice)),
            Some(look) => Cow::Owned(look.xattrs.clone()),
        }
    }

    /// The attributes that programs gave a file, if they did.
    pub fn look(&self, file: u32) -> Option<Arc<Look>> {
        self.overlay.look(file)
    }

    /// From now on a file has these attributes.
    pub fn set_look(&self, file: u32, look: Look) {
        self.overlay.set_look(file, look);
    }

    /// Another name for a file.
    pub fn give(&self, file: u32, dir: Node, name: &[u8]) -> Result<Node, LayerError> {
        self.grow(Given { parent: dir, name: name.into(), what: What::File(file) }, true)
    }

    /// A node for a directory that no layer has: nothing leads to it but what knows its number.
    pub fn adopt(&self) -> Result<Node, LayerError> {
        self.grow(Given { parent: ROOT, name: Box::default(), what: What::Directory }, false)
    }

    fn grow(&self, given: Given, listed: bool) -> Result<Node, LayerError> {
        let node = number(self.nodes())?;
        self.overlay.give(node, given, listed);
        Ok(node)
    }

    /// The names that programs gave a file, oldest first.
    pub fn given_to(&self, file: u32) -> Vec<Node> {
        self.overlay.names_of(file)
    }

    /// Whether all is as the layers have it.
    pub fn is_as_laid(&self) -> bool {
        self.overlay.is_empty()
    }

    /// The row of a file that stands at a node, as its layer has it.
    pub fn row_at(&self, node: Node, file: u32) -> Row {
        let FileRow { place, size, mode, uid, gid, mtime } = self.files.get(file);
        let xattrs = self.xattrs.get(&file).cloned().unwrap_or_default();
        let kind = Kind::File { size, fuzzy: false, refs: self.refs.get(&file).cloned().unwrap_or_default() };
        let meta = Metadata { mode, uid, gid, mtime, xattrs };
        Row { entry: Entry { path: self.path(node), kind, meta }, offset: place.offset, length: place.length }
    }

    /// The parts of a file that stand in other layers.
    pub fn references(&self, file: u32) -> Option<&References> {
        self.refs.get(&file)
    }

    /// A symbolic link, fifo or device.
    pub fn special(&self, special: u32) -> (&Kind, &Metadata) {
        let (kind, meta) = &self.specials[special as usize];
        (kind, meta)
    }

    /// The attributes of a directory; `None` for one of which there was never an entry.
    pub fn directory_meta(&self, node: Node) -> Option<&Metadata> {
        self.directories.get(&node)
    }

    /// How many numbers were given to nodes.
    pub fn nodes(&self) -> usize {
        self.slots.len() + self.overlay.len()
    }

    /// How many of them the layers have.
    pub fn laid_nodes(&self) -> usize {
        self.slots.len()
    }

    /// How many numbers were given to files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Every node that stands, directories before their content.
    pub fn walk(&self) -> impl Iterator<Item = Node> + '_ {
        let mut stack = vec![ROOT];
        std::iter::from_fn(move || {
            let node = stack.pop()?;
            stack.extend(self.children(node).rev());
            Some(node)
        })
    }
}

fn name_in<'a>(slots: &[Slot], names: &'a [u8], node: Node) -> &'a [u8] {
    let slot = &slots[node as usize];
    &names[slot.name as usize..slot.name as usize + usize::from(slot.length)]
}

fn number(n: usize) -> Result<u32, LayerError> {
    // The highest is no number: callers use it for "none".
    u32::try_from(n).ok().filter(|n| *n != u32::MAX).ok_or_else(|| LayerError::corrupt("too many entries"))
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
