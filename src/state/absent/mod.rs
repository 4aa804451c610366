//! [`Absent`]: entries of the restored version that are not on the disk yet.
//!
//! A lazy restore lays out the [`tree`] of a version from the tables of its layers and writes
//! nothing. Directories, links and nodes are made when somebody looks at them; files stay absent until
//! somebody needs their content ([`hydrate`]) or removes them. The backing so holds complete, true
//! entries only. What became of an entry is in the [`log`], and nothing ever comes back: the absent
//! ones only grow fewer, at the places where the version has them or in the directories that were
//! `moved` with them.
//!
//! One lock, the *turn*, orders what appears and disappears against who looks at it.
mod arrival;
pub mod content;
mod digested;
pub mod gather;
pub mod hydrate;
pub mod learned;
mod lent;
pub mod log;
pub mod lost;
mod moved;
mod outcome;
mod overlay;
pub mod pace;
mod place;
pub mod ranges;
pub mod recorder;
mod referred;
mod store;
mod strayed;
pub mod trace;
pub mod tree;
mod witness;

pub use gather::Gathering;
pub use hydrate::{Failure, Hydrator};
pub use learned::Learned;
pub use log::Fate;
pub use overlay::Restated;
pub use pace::Pace;
pub use referred::Referred;
pub use store::Source;
pub use strayed::Strayed;

use crate::layer::index::LayerIndex;
use crate::path::RelPath;
use crate::state::head::layer_id;
use crate::state::record::Records;
use crate::state::restore::{LayerSource, Lenders};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use log::{Event, Log};
use moved::Moved;
use place::Ground;
use recorder::Recorder;
use rustix::fs::{AtFlags, Stat};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tree::{FileRow, Node, ROOT, Tree, What};
use uuid::Uuid;

/// No node.
const NOWHERE: Node = u32::MAX;

/// Who shows the tree to programs and has numbers of its own for absent files.
pub trait Shown: Send + Sync {
    /// An absent file is on the disk now; `stat` is of it. Called in the turn.
    fn arrived(&self, file: u32, stat: &Stat);
    /// Something came to the disk below a directory that was moved: no version has it there.
    fn came_below(&self, path: &RelPath);
    /// Something came to the disk that is not as the version has it.
    fn differs(&self, path: &RelPath);
}

/// A layer of the version, and how to read parts of it.
#[derive(Debug)]
pub struct Layer {
    /// Where it is.
    pub source: LayerSource,
    /// Where its frames are.
    pub index: Arc<LayerIndex>,
}

/// How much is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// See the module.
pub struct Absent {
    tree: Tree,
    layers: Vec<Layer>,
    lenders: Lenders,
    /// By node: 0, or a [`Fate`].
    fates: Vec<AtomicU8>,
    /// The same of nodes that no layer has, in their order.
    given_fates: boxcar::Vec<AtomicU8>,
    /// By file: the node of its first name, or [`NOWHERE`].
    first: Vec<Node>,
    /// All nodes of files with several names.
    names: HashMap<u32, Vec<Node>>,
    /// All nodes of links and nodes with several names.
    twins: HashMap<u32, Vec<Node>>,
    /// How many directories stand in each directory that has some.
    subdirs: HashMap<Node, u32>,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Nothing can be on the disk that the log does not know of: the directory was empty, and since then
    /// only this daemon's programs wrote to it.
    trusted: bool,
    turn: Mutex<Log>,
    moved: Moved,
    recorder: Recorder,
    /// Held shared by whoever adds or removes a name in a directory or changes its attributes, alone by
    /// whoever makes an absent entry there and sets the directory's times back: those belong to what programs
    /// do.
    moves: RwLock<()>,
    ground: Ground,
    /// Learn what came; none where nothing is ever saved.
    records: Option<Arc<Records>>,
    shown: OnceLock<Weak<dyn Shown>>,
}

impl std::fmt::Debug for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Absent")
            .field("nodes", &self.fates.len())
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

impl Absent {
    fn new(
        (tree, layers, lenders): (Tree, Vec<Layer>, Lenders),
        (log, events): (Log, Vec<Event>),
        trusted: bool,
        root: OwnedFd,
        records: Option<Arc<Records>>,
    ) -> Self {
        let fates: Vec<AtomicU8> = (0..tree.nodes()).map(|_| AtomicU8::new(0)).collect();
        let (mut first, mut names) = (vec![NOWHERE; tree.files()], HashMap::<u32, Vec<Node>>::new());
        let (mut subdirs, mut twins) = (HashMap::new(), HashMap::<u32, Vec<Node>>::new());
        for node in tree.walk() {
            match tree.what(node) {
                What::Directory if node != ROOT => *subdirs.entry(tree.parent(node)).or_insert(0) += 1,
                What::File(file) => match &mut first[file as usize] {
                    first if *first == NOWHERE => *first = node,
                    first => names.entry(file).or_insert_with(|| vec![*first]).push(node),
                },
                What::Special(special) => twins.entry(special).or_default().push(node),
                What::Directory => {}
            }
        }
        twins.retain(|_, nodes| nodes.len() > 1);
        // Nodes that layers replaced are in no directory: nobody ever asks for them.
        let absent = Self {
            fates,
            given_fates: boxcar::Vec::new(),
            first,
            names,
            twins,
            subdirs,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            trusted,
            turn: Mutex::new(log),
            moved: Moved::default(),
            // Who resumes does not start cold.
            recorder: Recorder::new(!trusted),
            moves: RwLock::new(()),
            ground: Ground::new(root),
            records,
            shown: OnceLock::new(),
            tree,
            layers,
            lenders,
        };
        absent.set(ROOT, Fate::Here);
        for event in events {
            absent.replay(event);
        }
        absent.count();
        absent
    }

    /// Counts anew what is left.
    fn count(&self) {
        let (mut files, mut bytes) = (0, 0);
        for file in 0..self.tree.files() as u32 {
            if self.wants(file) {
                files += 1;
                bytes += self.tree.file(file).size;
            }
        }
        self.files.store(files, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Connects who shows the tree; once.
    pub fn show(&self, shown: Weak<dyn Shown>) {
        let _already = self.shown.set(shown);
    }

    fn shown(&self) -> Option<Arc<dyn Shown>> {
        self.shown.get().and_then(Weak::upgrade)
    }

    /// The tree of the version.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The layers of the version, oldest first, then those they refer to.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The number of a layer.
    fn layer_of(&self, id: &Uuid) -> Option<u32> {
        let number = self.layers.iter().position(|layer| layer_id(&layer.source.key).as_ref() == Some(id));
        number.map(|number| number as u32)
    }

    /// What its files refer to.
    pub fn lenders(&self) -> &Lenders {
        &self.lenders
    }

    /// Records what is read first.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// How much is absent.
    pub fn left(&self) -> Left {
        Left { files: self.files.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// Whether nothing is absent any more, and nothing that was removed is in the newest version.
    pub fn is_complete(&self) -> bool {
        // What a moved directory took with it is not looked at from its first place.
        if !self.moved_incomplete().is_empty() {
            return false;
        }
        let mut stack = vec![ROOT];
        while let Some(node) = stack.pop() {
            match self.fate(node) {
                Some(Fate::Here) => stack.extend(self.tree.children(node)),
                Some(Fate::Saved) => {} // with all below it
                None | Some(Fate::Removed) => return false,
            }
        }
        true
    }

    /// Whether a node is absent.
    pub fn is_absent(&self, node: Node) -> bool {
        self.slot(node).is_some_and(|fate| fate.load(Ordering::Acquire) == 0)
    }

    fn slot(&self, node: Node) -> Option<&AtomicU8> {
        let node = node as usize;
        self.fates.get(node).or_else(|| self.given_fates.get(node.checked_sub(self.fates.len())?))
    }

    /// What became of a node.
    fn fate(&self, node: Node) -> Option<Fate> {
        self.slot(node).and_then(|fate| Fate::from_byte(fate.load(Ordering::Acquire)))
    }

    fn set(&self, node: Node, fate: Fate) {
        if let Some(slot) = self.slot(node) {
            slot.store(fate as u8, Ordering::Release);
        }
    }

    /// All names of a file: in the version, then those that programs gave it.
    fn names_of(&self, file: u32) -> Vec<Node> {
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

    /// The first name of a file in the version.
    fn first_name(&self, file: u32) -> Option<Node> {
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
    fn find(&self, path: &RelPath) -> Option<Node> {
        path.components().try_fold(ROOT, |at, name| self.child(at, name))
    }

    /// The node of what stands at a path now, below directories that were moved as well.
    pub fn node_at(&self, path: &RelPath) -> Option<Node> {
        let (mut at, mut node) = (RelPath::root(), Some(ROOT));
        for name in path.components() {
            at = at.join(name);
            let here = node;
            node = here.and_then(|dir| self.child(dir, name)).or_else(|| {
                let root = self.ground.dirs.lock().get(&RelPath::root(), false).ok()?;
                let stat = rustix::fs::statat(root, at.to_cstring(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
                // Of a file that is here nobody knows whether it is that of its name.
                let same =
                    || here.and_then(|dir| self.tree.child(dir, name)).filter(|node| self.stands(*node));
                self.moved_at(stat.st_ino).or_else(same)
            });
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

    /// Whoever adds or removes a name, changes attributes of a directory, or looks at its times, holds this
    /// meanwhile.
    pub fn naming(&self) -> RwLockReadGuard<'_, ()> {
        self.moves.read()
    }

    /// Looks at a node from the directory that holds it: a directory, link or node is made; of a file
    /// `file` is called, in the turn. `None`: the backing knows.
    pub fn resolve<T>(
        &self,
        dir: BorrowedFd<'_>,
        node: Node,
        file: impl FnOnce(u32, FileRow) -> T,
    ) -> io::Result<Option<T>> {
        if !self.is_absent(node) {
            return Ok(None);
        }
        if let What::Special(special) = self.tree.what(node)
            && let Some(all) = self.twins.get(&special)
        {
            self.make_twins(all)?;
            return Ok(None);
        }
        let mut turn = self.turn.lock();
        if !self.is_absent(node) {
            return Ok(None);
        }
        if !self.trusted && self.is_there(dir, node)? {
            self.note(&mut turn, Fate::Here, &[node])?;
            return Ok(None);
        }
        if let What::File(number) = self.tree.what(node) {
            return Ok(Some(file(number, self.tree.file(number))));
        }
        self.make(&mut turn, dir, node)?;
        Ok(None)
    }

    /// Whether something stands there that the log knows nothing of: somebody wrote beneath, or a failure of
    /// the machine took the end of the log.
    fn is_there(&self, dir: BorrowedFd<'_>, node: Node) -> io::Result<bool> {
        match rustix::fs::statat(dir, self.tree.name(node), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Says what became of nodes: first in the log, then to everybody.
    fn note(&self, turn: &mut MutexGuard<'_, Log>, fate: Fate, nodes: &[Node]) -> io::Result<()> {
        turn.append(nodes.iter().map(|node| (fate, *node)))?;
        self.set_all(fate, nodes);
        Ok(())
    }

    /// What the log says, to everybody. Called in the turn.
    fn set_all(&self, fate: Fate, nodes: &[Node]) {
        for node in nodes {
            let file = match self.tree.what(*node) {
                What::File(file) if self.wants(file) => Some(file),
                _ => None,
            };
            self.set(*node, fate);
            if let Some(file) = file.filter(|file| !self.wants(*file)) {
                self.files.fetch_sub(1, Ordering::Relaxed);
                self.bytes.fetch_sub(self.tree.file(file).size, Ordering::Relaxed);
            }
        }
    }

    /// A program removed an absent entry, or put another in its place. Whether it was absent.
    pub fn remove(&self, node: Node) -> io::Result<bool> {
        let mut turn = self.turn.lock();
        let absent = self.is_absent(node);
        if absent {
            self.note(&mut turn, Fate::Removed, &[node])?;
        }
        Ok(absent)
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
    fn bury_saved(&self) {
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

    fn is_gone(&self, node: Node) -> bool {
        let dir = self.dir_of(self.tree.parent(node));
        dir.is_err() || dir.is_ok_and(|dir| self.is_there(dir.as_fd(), node).is_ok_and(|there| !there))
    }

    /// Waits until the disk has the log.
    pub fn sync(&self) -> io::Result<()> {
        self.turn.lock().sync()
    }
}
