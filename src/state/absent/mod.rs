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
mod beneath;
pub mod content;
mod digested;
pub mod gather;
mod homes;
pub mod hydrate;
pub mod learned;
mod lent;
pub mod log;
pub mod lost;
mod moved;
mod other;
mod outcome;
mod overlay;
pub mod pace;
mod place;
pub mod ranges;
pub mod recorder;
mod referred;
mod removal;
mod standing;
mod store;
mod strayed;
pub mod trace;
pub mod tree;
mod witness;

pub use gather::Gathering;
pub use hydrate::{Failure, Hydrator};
pub use learned::Learned;
pub use log::Fate;
pub use lost::LostFiles;
pub use overlay::Restated;
pub use pace::Pace;
pub use referred::Referred;
pub use removal::Held;
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
use ranges::Partials;
use recorder::Recorder;
use rustix::fs::{AtFlags, Stat};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tree::{FileRow, Node, ROOT, Tree, What};
use uuid::Uuid;

/// No node.
const NOWHERE: Node = u32::MAX;

/// Who shows the tree to programs and has numbers of its own for absent files.
pub trait Shown: Send + Sync {
    /// An absent file is on the disk now; `stat` is of it. Called in the turn.
    fn arrived(&self, file: u32, stat: &Stat);
    /// A file that came has no name any more: who has it open reaches it by this.
    fn nameless(&self, file: u32, came: &File);
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
    partials: Partials,
    recorder: Recorder,
    /// Held shared by whoever adds or removes a name in a directory or changes its attributes, alone by
    /// whoever makes an absent entry there and sets the directory's times back: those belong to what programs
    /// do.
    moves: RwLock<()>,
    /// Nothing comes any more; see [`close`](Self::close).
    closed: AtomicBool,
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
            partials: Partials::default(),
            // Who resumes does not start cold.
            recorder: Recorder::new(!trusted),
            moves: RwLock::new(()),
            closed: AtomicBool::new(false),
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
                self.partials.let_go(file);
            }
        }
    }

    /// Of a version without entries, with a log at `log`.
    #[cfg(test)]
    pub fn of_nothing(root: OwnedFd, log: &std::path::Path) -> io::Result<Self> {
        let log = Log::create(log, &[0; 32])?;
        let parts = (Tree::default(), Vec::new(), Lenders::default());
        Ok(Self::new(parts, (log, Vec::new()), true, root, None))
    }

    /// Whether the disk may not have all of the log.
    #[cfg(test)]
    pub fn is_unsynced(&self) -> io::Result<bool> {
        self.turn.lock().unsynced().map(|unsynced| unsynced.is_some())
    }

    /// From now on nothing comes to the disk, whatever is still under way: what comes after the records were closed has
    /// none, and counts as changed here. What was coming is there when this returns.
    pub fn close(&self) {
        let _turn = self.turn.lock();
        let _alone = self.moves.write();
        self.closed.store(true, Ordering::Release);
    }

    /// Fails once it is [closed](Self::close). Called in the turn, or by who holds `moves` alone.
    fn unless_closed(&self) -> io::Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(io::Error::other("nothing comes any more: the mount has ended")),
            false => Ok(()),
        }
    }

    /// Waits until the disk has the log.
    pub fn sync(&self) -> io::Result<()> {
        // Meanwhile others have their turns.
        let unsynced = self.turn.lock().unsynced()?;
        if let Some(unsynced) = unsynced {
            let changes = unsynced.sync()?;
            self.turn.lock().synced_to(changes);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// The records are closed by then: what came would count as changed here.
    #[test]
    fn nothing_comes_once_it_is_closed() {
        let place = tempfile::tempdir().expect("directory");
        let open = || OwnedFd::from(File::open(place.path()).expect("opens"));
        let log = tempfile::NamedTempFile::new().expect("a name").into_temp_path();
        std::fs::remove_file(&log).expect("no log");
        let (absent, root) = (Absent::of_nothing(open(), &log).expect("a log"), open());
        let name = |name| {
            let made = || rustix::fs::symlinkat("anywhere", root.as_fd(), name);
            absent.in_directory(ROOT, root.as_fd(), None, made)
        };
        name("before").expect("comes");
        absent.unless_closed().expect("is open");
        absent.close();
        name("after").expect_err("nothing comes");
        absent.unless_closed().expect_err("is closed");
        let names = std::fs::read_dir(place.path()).expect("lists").count();
        assert_eq!(names, 1, "only what came before");
    }
}
