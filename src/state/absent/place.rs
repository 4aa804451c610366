//! Absent entries become real ones.
use super::Absent;
use super::log::{Fate, Log};
use super::tree::{Node, ROOT, What};
use super::witness::Witness;
use crate::layer::extract::{Dirs, Placer};
use crate::layer::{Kind, LayerError, Metadata};
use crate::path::RelPath;
use crate::state::identity::Identity;
use crate::state::restore::RestoreError;
use crate::sync::{Mutex, MutexGuard};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The disk that they come to. Where directories that hold absent entries were not moved, paths lead to
/// them.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) dirs: Mutex<Dirs>,
    pub(super) placer: Placer,
    /// How many files have come and have no names yet. Each holds two descriptors, of itself and of its directory.
    pub(super) nameless: AtomicUsize,
    nameless_max: usize,
}

impl Ground {
    pub(super) fn new(root: OwnedFd) -> Self {
        let (dirs, placer, nameless) = (Mutex::new(Dirs::new(root)), Placer::default(), AtomicUsize::new(0));
        Self { dirs, placer, nameless, nameless_max: crate::descriptors::limit() / 16 }
    }

    /// Whether so many files have no names yet that they should have them soon.
    pub(super) fn is_crowded(&self) -> bool {
        self.nameless.load(Ordering::Relaxed) > self.nameless_max
    }
}

/// What making one entry says in the log: that it comes, what its directory was and is, and that it came.
const MAKE_RECORDS: usize = 7;

/// Keeps the first failure, but not that a directory was taken away beneath: nothing belongs there any more.
fn keep_first(first: &mut Option<io::Error>, e: Option<io::Error>) {
    let gone = |e: &io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    if first.is_none() {
        *first = e.filter(|e| !gone(e));
    }
}

/// Attributes of a directory that no layer has an entry of, as tar gives them.
fn implied() -> Metadata {
    Metadata { mode: 0o755, mtime: crate::clock::Timestamp::now(), ..Metadata::default() }
}

impl Absent {
    /// Makes a directory, link or node in the directory that holds it.
    pub(super) fn make(
        &self,
        turn: &mut MutexGuard<'_, Log>,
        dir: BorrowedFd<'_>,
        node: Node,
    ) -> io::Result<()> {
        let (name, placer) = (self.tree.name(node), &self.ground.placer);
        turn.reserve(MAKE_RECORDS)?;
        turn.append_coming([(node, Witness::UNKNOWN)])?;
        self.in_directory(self.tree.parent(node), dir, Some(&mut *turn), || match self.tree.what(node) {
            What::Directory => {
                placer.directory(dir, name)?;
                placer.finish_directory(dir, name, &self.attributes(node)).map(drop)
            }
            What::Special(special) => {
                let (kind, meta) = self.tree.special(special);
                placer.special(dir, name, kind, meta)
            }
            What::File(_) => Err(Errno::INVAL),
        })?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let ident = Identity::from(&stat);
        self.record([(node, ident)])?;
        turn.append_here([(node, Some(Witness::of(&ident)))])?;
        self.set_all(Fate::Here, &[node]);
        Ok(())
    }

    /// Attributes of a directory.
    pub(super) fn attributes(&self, node: Node) -> Metadata {
        self.tree.directory_meta(node).cloned().unwrap_or_else(implied)
    }

    /// Makes a link or node under all its names.
    pub(super) fn make_twins(&self, all: &[Node]) -> io::Result<()> {
        // The directories first: they are made in turns of their own.
        let dirs: Vec<_> =
            all.iter().map(|node| self.directory(self.tree.parent(*node))).collect::<io::Result<_>>()?;
        let mut turn = self.turn.lock();
        let mut first: Option<(BorrowedFd<'_>, Node)> = None;
        for (node, dir) in all.iter().zip(&dirs).filter(|(node, _)| self.is_absent(**node)) {
            let dir = dir.as_fd();
            match first {
                None => {
                    self.make(&mut turn, dir, *node)?;
                    first = Some((dir, *node));
                }
                Some((home, made)) => {
                    let (from, name) = (self.tree.name(made), self.tree.name(*node));
                    let link = || self.ground.placer.hard_link(home, from, dir, name);
                    self.in_directory(self.tree.parent(*node), dir, Some(&mut *turn), link)?;
                    self.note(&mut turn, Fate::Here, &[*node])?;
                }
            }
        }
        // Now that its number of names is known.
        let Some((home, made)) = first else { return Ok(()) };
        let stat = rustix::fs::statat(home, self.tree.name(made), AtFlags::SYMLINK_NOFOLLOW)?;
        self.record(all.iter().map(|node| (*node, Identity::from(&stat))))
    }

    /// The directory of a node; those on the way to it are made.
    pub(super) fn directory(&self, node: Node) -> io::Result<Arc<OwnedFd>> {
        if self.is_absent(node) && node != ROOT {
            let parent = self.directory(self.tree.parent(node))?;
            self.resolve(parent.as_fd(), node, |_, _| ())?;
        }
        Ok(self.dir_of(node)?)
    }

    /// Makes the directories, links and nodes at a node and below it. One that cannot be made keeps no other
    /// from it; the first failure is told at the end.
    pub fn make_within(&self, top: Node) -> io::Result<()> {
        let (mut stack, mut failed) = (vec![top], None);
        while let Some(node) = stack.pop() {
            match self.tree.what(node) {
                What::File(_) => {}
                What::Special(_) => {
                    if self.is_absent(node) {
                        let made = self
                            .directory(self.tree.parent(node))
                            .and_then(|dir| self.resolve(dir.as_fd(), node, |_, _| ()));
                        keep_first(&mut failed, made.err());
                    }
                }
                What::Directory => {
                    if self.is_absent(node)
                        && let Err(e) = self.directory(node)
                    {
                        keep_first(&mut failed, Some(e));
                        continue;
                    }
                    stack.extend(
                        self.tree.children(node).filter(|child| {
                            self.is_absent(*child) || self.tree.what(*child) == What::Directory
                        }),
                    );
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The root gets its attributes; it is the one entry that always was there.
    pub fn finish_root(&self) -> crate::Result<()> {
        let failed = |e: Errno| crate::Error::io("cannot finish restore", e.into());
        let Some(meta) = self.tree.directory_meta(ROOT) else { return Ok(()) };
        let root = self.ground.dirs.lock().get(&RelPath::root(), false).map_err(failed)?;
        let stat = self.ground.placer.finish_directory(root.as_fd(), b".", meta).map_err(failed)?;
        let ident = Identity::from(&stat);
        let logged = self.turn.lock().append_here([(ROOT, Some(Witness::of(&ident)))]);
        logged
            .and_then(|()| self.record([(ROOT, ident)]))
            .map_err(|e| crate::Error::io("cannot finish restore", e))
    }

    /// Tries whether we may make the devices of the version; tells of the first that we may not.
    pub fn try_devices(&self) -> crate::Result<()> {
        let root = self.ground.dirs.lock().get(&RelPath::root(), false).map_err(io::Error::from);
        let root = root.map_err(|e| crate::Error::io("cannot open the directory", e))?;
        for node in self.tree.walk() {
            let What::Special(special) = self.tree.what(node) else { continue };
            let (kind @ (Kind::CharDevice { .. } | Kind::BlockDevice { .. }), meta) =
                self.tree.special(special)
            else {
                continue;
            };
            let (name, placer) = (b".icecache-device~", &self.ground.placer);
            let tried = self.in_directory(ROOT, root.as_fd(), None, || {
                placer.special(root.as_fd(), name, kind, meta)?;
                rustix::fs::unlinkat(&root, name.as_slice(), AtFlags::empty())
            });
            tried.map_err(|e| {
                let source = LayerError::io(format!("cannot make: {}", self.tree.path(node)), e);
                crate::Error::from(RestoreError::Finish { source })
            })?;
        }
        Ok(())
    }

    /// Records entries as the version has them; those that stand elsewhere get no record.
    pub(super) fn record(&self, entries: impl IntoIterator<Item = (Node, Identity)>) -> io::Result<()> {
        let Some(records) = &self.records else { return Ok(()) };
        let entries = entries.into_iter();
        let known = entries.filter_map(|(node, ident)| Some((self.path_to_record(node)?, ident)));
        let known: Vec<_> = known.collect();
        let Err(error) = records.arrived(known.iter().cloned()) else { return Ok(()) };
        // They are there all the same, and whole: the next version has them once more, and with that their records.
        let Some(shown) = self.shown() else { return Err(io::Error::other(error)) };
        tracing::debug!(%error, "what came is saved once more");
        known.iter().for_each(|(path, _)| shown.differs(path));
        Ok(())
    }

    /// Changes the names in a directory of the tree behind the back of programs: its times stay, and it is as
    /// much as before what the version has, though its change time moves. With the `turn` the log says so.
    pub(super) fn in_directory<T>(
        &self,
        node: Node,
        dir: BorrowedFd<'_>,
        turn: Option<&mut Log>,
        make: impl FnMut() -> Result<T, Errno>,
    ) -> io::Result<T> {
        let _alone = self.moves.write();
        self.unless_closed()?;
        let before = rustix::fs::statat(dir, c"", AtFlags::EMPTY_PATH)?;
        let mut turn = turn.filter(|_| self.records.is_some());
        if let Some(turn) = &mut turn {
            turn.append_touching(node, Witness::of(&Identity::from(&before)))?;
        }
        let made = self.writable(dir, make);
        let times = Timestamps {
            last_access: Timespec { tv_sec: before.st_atime, tv_nsec: before.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as _ },
        };
        rustix::fs::utimensat(dir, c".", &times, AtFlags::empty())?;
        if let Some((records, path)) = self.records.as_ref().zip(self.path_of(node)) {
            let after = rustix::fs::statat(dir, c"", AtFlags::EMPTY_PATH)?;
            let (before, after) = (Identity::from(&before), Identity::from(&after));
            // The names are there. Without these two the directory looks as if it was changed here, and no more.
            if let Err(error) = records.touched(&path, &before, &after) {
                tracing::debug!(%error, "a directory will look as if it was changed here");
            }
            if let Some(turn) = turn {
                turn.append_touched(Witness::of(&after));
            }
        }
        Ok(made?)
    }

    /// An ordinary user's directory may be closed to its owner; the version's content goes there all
    /// the same.
    fn writable<T>(
        &self,
        dir: BorrowedFd<'_>,
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::ACCESS) => {
                let mode = rustix::fs::statat(dir, c"", AtFlags::EMPTY_PATH)?.st_mode & 0o7777;
                let chmod =
                    |mode| rustix::fs::chmodat(dir, c".", Mode::from_raw_mode(mode), AtFlags::empty());
                chmod(mode | 0o300)?;
                let made = make();
                chmod(mode)?;
                made
            }
            other => other,
        }
    }
}
