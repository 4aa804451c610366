//! [`Plan`]: what the next layer has to say, found by looking at the marked paths.
//!
//! Three rules keep a plan true: what stands at a marked path now is compared with its clean
//! record; what is gone is removed at its topmost gone ancestor, and only if the last version had
//! something there; all names of a file with several names travel together. A second name is known
//! from the records or from a mark, so whoever links a file marks both its names.
use crate::clock::Timestamp;
use crate::journal::JournalError;
use crate::layer::entry::{Entry, Kind, Metadata};
use crate::path::RelPath;
use crate::state::backing::Exclude;
use crate::state::dirty::{Extent, Marks};
use crate::state::identity::Identity;
use crate::state::record::{Delta, Records};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

mod look;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
mod tick;

pub use tick::change_tick;

/// How a tree is looked at.
#[derive(Clone, Default)]
pub struct LookOptions {
    /// Paths that are no part of the tree.
    pub exclude: Option<Exclude>,
    /// The coarseness of change times: zero where every change moves them ([`change_tick`]).
    pub tick: Duration,
    /// Put every path into the plan, changed or not (layout single: the archive is whole). Needs
    /// the mark of the whole tree; what is [unreadable](Plan::unreadable) is missing in the archive.
    pub whole: bool,
}

impl std::fmt::Debug for LookOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookOptions")
            .field("exclude", &self.exclude.is_some())
            .field("tick", &self.tick)
            .field("whole", &self.whole)
            .finish()
    }
}

/// What is at a path that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its lstat.
    pub ident: Identity,
    /// What it is by itself (never a hard link or a whiteout).
    pub kind: Kind,
    /// Its attributes.
    pub meta: Metadata,
    /// Set if an earlier path of this plan is the same file: that path.
    pub link: Option<RelPath>,
    /// Whether it differs from the last version (always, unless the plan is whole).
    pub changed: bool,
    /// It changed within a tick of being looked at, so its times prove nothing later.
    racy: bool,
    /// The last version had a directory here, whose content it hides.
    hides: bool,
}

impl Captured {
    /// Whether its content has to be packed: a regular file under its first name.
    pub fn has_content(&self) -> bool {
        self.link.is_none() && matches!(self.kind, Kind::File { .. }) && !self.is_referred()
    }

    /// Whether all of its content stands in layers that are there. It is not on the disk.
    pub fn is_referred(&self) -> bool {
        matches!(&self.kind, Kind::File { size, refs, .. } if *size > 0 && refs.bytes() == *size)
    }

    /// The entry of the layer.
    pub fn entry(&self, path: &RelPath) -> Entry {
        let kind = match &self.link {
            Some(target) => Kind::HardLink { target: target.clone() },
            None => self.kind.clone(),
        };
        Entry { path: path.clone(), kind, meta: self.meta.clone() }
    }

    /// What the record will say. A racy one gets a change time that no file has, so that the next
    /// comparison finds it changed.
    pub fn record(&self) -> Identity {
        let ctime = if self.racy { Timestamp::default() } else { self.ident.ctime };
        Identity { ctime, ..self.ident }
    }
}

/// One change from the last version to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This stands here now.
    Put(Captured),
    /// Nothing stands here any more, nor below.
    Remove,
}

/// Why no plan could be made. A path that alone cannot be read is no such reason, see
/// [`Plan::unreadable`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The records could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The backing directory itself cannot be looked at.
    #[error("cannot read the backing directory: {0}")]
    Backing(#[source] io::Error),
}

impl From<PlanError> for crate::Error {
    fn from(e: PlanError) -> Self {
        match e {
            PlanError::Journal(e) => e.into(),
            PlanError::Backing(e) => Self::io("cannot read the backing directory", e),
        }
    }
}

/// The changes of one flush, in path order.
#[derive(Debug, Default)]
pub struct Plan {
    changes: BTreeMap<RelPath, Change>,
    /// Names in the plan of files with several, by (device, inode).
    linked: HashMap<(u64, u64), BTreeSet<RelPath>>,
    removes: usize,
    /// The plan holds the whole tree.
    whole: bool,
    unreadable: BTreeMap<RelPath, io::Error>,
    /// Files that go in although they did not change.
    carried: BTreeSet<RelPath>,
}

impl Plan {
    /// Looks at the marked paths beneath `root`. Blocks on the file system.
    pub fn capture(
        root: BorrowedFd<'_>,
        records: &Records,
        marks: &Marks,
        options: &LookOptions,
    ) -> Result<Self, PlanError> {
        let mut plan = Self { whole: options.whole, ..Self::default() };
        plan.refresh(root, records, marks, options)?;
        Ok(plan)
    }

    /// Looks again at these paths only; what the plan says elsewhere stays.
    ///
    /// After an error the plan must not be used: some of the paths were not looked at.
    pub fn refresh(
        &mut self,
        root: BorrowedFd<'_>,
        records: &Records,
        marks: &Marks,
        options: &LookOptions,
    ) -> Result<(), PlanError> {
        look::Look::new(self, root, records, options).run(marks)
    }

    /// Takes in these files as well, although they are as the last version has them.
    pub fn carry(
        &mut self,
        root: BorrowedFd<'_>,
        records: &Records,
        files: &[RelPath],
        options: &LookOptions,
    ) -> Result<(), PlanError> {
        let new = files.iter().filter(|path| self.get(path).is_none());
        let marks: Marks = new.map(|path| (path.clone(), Extent::Entry)).collect();
        self.refresh(root, records, &marks, &LookOptions { whole: true, ..options.clone() })?;
        self.carried = marks.into_keys().collect();
        Ok(())
    }

    /// Whether a file goes in although it did not change: it is meant to stand in this very layer.
    pub fn is_carried(&self, path: &RelPath, captured: &Captured) -> bool {
        !captured.changed && self.carried.contains(path)
    }

    /// Whether any file does.
    pub fn carries(&self) -> bool {
        !self.carried.is_empty()
    }

    /// The changes, in path order.
    pub fn changes(&self) -> impl Iterator<Item = (&RelPath, &Change)> {
        self.changes.iter()
    }

    /// What the plan says of one path.
    pub fn get(&self, path: &RelPath) -> Option<&Change> {
        self.changes.get(path)
    }

    /// The paths it sets, with what stands there, in path order.
    pub fn puts(&self) -> impl Iterator<Item = (&RelPath, &Captured)> {
        self.changes.iter().filter_map(|(path, change)| match change {
            Change::Put(captured) => Some((path, captured)),
            Change::Remove => None,
        })
    }

    /// The paths it removes, in path order.
    pub fn removals(&self) -> impl Iterator<Item = &RelPath> {
        self.changes.iter().filter(|(_, change)| matches!(change, Change::Remove)).map(|(path, _)| path)
    }

    /// Whether the next version would be as the last.
    pub fn is_empty(&self) -> bool {
        if self.whole {
            return self.removes == 0 && !self.puts().any(|(_, captured)| captured.changed);
        }
        self.changes.is_empty()
    }

    /// How many paths it sets or removes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Bytes of file content it carries.
    pub fn bytes(&self) -> u64 {
        self.puts().filter(|(_, c)| c.has_content()).map(|(_, c)| c.ident.size).sum()
    }

    /// Whether it holds the whole tree, not only what changed.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Paths that could not be looked at, and why. The plan leaves them as the last version has
    /// them; they must be marked again.
    pub fn unreadable(&self) -> &BTreeMap<RelPath, io::Error> {
        &self.unreadable
    }

    /// Notes that a file could be written while it was copied, so that its bytes may not be of one
    /// instant, and its times prove nothing later. All its names are noted.
    pub fn set_fuzzy(&mut self, path: &RelPath) {
        let Some(Change::Put(captured)) = self.changes.get(path) else { return };
        let key = (captured.ident.dev, captured.ident.ino);
        let names = self.linked.get(&key).map_or_else(|| vec![path.clone()], |n| n.iter().cloned().collect());
        for name in names {
            if let Some(Change::Put(Captured { kind: Kind::File { fuzzy, .. }, racy, .. })) =
                self.changes.get_mut(&name)
            {
                (*fuzzy, *racy) = (true, true);
            }
        }
    }

    /// What becomes of the records when this is committed; `skipped` paths keep theirs.
    pub fn deltas<'a>(&'a self, skipped: &'a BTreeSet<RelPath>) -> impl Iterator<Item = Delta> + 'a {
        let removes = self.removals().map(|path| Delta::Remove(path.as_bytes().to_vec()));
        let puts = self.puts().filter(|(path, _)| !skipped.contains(*path)).flat_map(|(path, captured)| {
            let bytes = path.as_bytes().to_vec();
            let hides = captured.hides.then(|| Delta::RemoveBelow(bytes.clone()));
            hides.into_iter().chain([Delta::Put(bytes, captured.record())])
        });
        removes.chain(puts)
    }

    fn insert(&mut self, path: RelPath, change: Change) -> Option<(u64, u64)> {
        let touched = self.take(&path);
        match &change {
            Change::Remove => self.removes += 1,
            Change::Put(captured) if crate::state::record::is_linked(&captured.ident) => {
                let key = (captured.ident.dev, captured.ident.ino);
                self.linked.entry(key).or_default().insert(path.clone());
            }
            Change::Put(_) => {}
        }
        self.changes.insert(path, change);
        touched
    }

    /// Takes one path out; returns its inode if it has other names.
    fn take(&mut self, path: &RelPath) -> Option<(u64, u64)> {
        match self.changes.remove(path)? {
            Change::Remove => {
                self.removes -= 1;
                None
            }
            Change::Put(captured) => {
                let key = (captured.ident.dev, captured.ident.ino);
                let names = self.linked.get_mut(&key)?;
                if !names.remove(path) {
                    return None;
                }
                if names.is_empty() {
                    self.linked.remove(&key);
                }
                Some(key)
            }
        }
    }
}
