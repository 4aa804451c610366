//! [`Arrivals`]: files that were brought, and get their names together.
//!
//! What is done once for a directory, the log and the journal is so done once for many files.
use super::other::Other;
use super::ranges::{Ending, Partial};
use super::tree::{Look, Node, ROOT};
use super::witness::Witness;
use super::{Absent, Fate};
use crate::layer::extract::NewFile;
use crate::layer::{LayerError, Metadata};
use crate::path::RelPath;
use crate::state::identity::Identity;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// The most files that wait for their names.
const FILES_MAX: usize = 64;
/// The most bytes of such files: who waits for a large one gets it at once.
const BYTES_MAX: u64 = 4 << 20;

/// The directory where the first name of a file will stand.
type Home = (Node, Arc<OwnedFd>);

/// A complete file without a name.
#[derive(Debug)]
struct Arrival<'a> {
    number: u32,
    new: NewFile,
    home: Home,
    /// The attributes that it was made with, if not those of the version.
    look: Option<Arc<Look>>,
    _counted: Counted<'a>,
}

/// One more, as long as it lives.
#[derive(Debug)]
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Brought files without names yet. What is dropped before it was [`place`](Self::place)d leaves no trace.
#[derive(Debug)]
pub(super) struct Arrivals<'a> {
    absent: &'a Absent,
    waiting: Vec<Arrival<'a>>,
    bytes: u64,
    /// They come without some or all of their content, or may have been written: the version has them otherwise.
    changed: bool,
    /// Somebody waits for these; others only come along.
    wanted: Range<u32>,
    /// Told as soon as the only wanted one is here, whatever comes along after it.
    here: Option<oneshot::Sender<()>>,
    /// Why the first of the wanted did not come. It keeps no other from coming.
    failed: Option<LayerError>,
}

impl<'a> Arrivals<'a> {
    pub(super) fn new(absent: &'a Absent, wanted: Range<u32>) -> Self {
        Self { absent, waiting: Vec::new(), bytes: 0, changed: false, wanted, here: None, failed: None }
    }

    /// Tells `here` when the only wanted one is in its place; it is dropped if that fails.
    pub(super) fn telling(mut self, here: Option<oneshot::Sender<()>>) -> Self {
        self.here = here.filter(|_| self.wanted.len() == 1);
        self
    }

    /// Takes a file that is still absent; `fill` writes its content into an empty one that nobody sees.
    pub(super) fn add(
        &mut self,
        number: u32,
        meta: &Metadata,
        fill: impl FnOnce(&File) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let absent = self.absent;
        let (new, home) = match absent.begin(number) {
            Ok(Some(begun)) => begun,
            Ok(None) => return Ok(()),
            Err(e) => {
                self.fail(number, absent.cannot_make(number, e));
                return Ok(());
            }
        };
        let look = absent.tree.look(number);
        let given = look.as_ref().map(|look| look.metadata());
        let meta = given.as_ref().unwrap_or(meta);
        let _counted = Counted::new(&absent.ground.nameless);
        self.waiting.push(Arrival { number, new, home, look, _counted });
        self.bytes += absent.tree.file(number).size;
        if let Some(Arrival { new, .. }) = self.waiting.last() {
            let apply = || absent.ground.placer.apply_all(&new.file, meta);
            let filled = fill(&new.file).and_then(|()| apply().map_err(|e| absent.cannot_give(number, e)));
            if let Err(e) = filled {
                if let Some(Arrival { new, home, .. }) = self.waiting.pop() {
                    self.bytes -= absent.tree.file(number).size;
                    absent.end(&new, &home);
                }
                // Only of this one.
                if matches!(e, LayerError::Attributes { .. }) {
                    self.fail(number, e);
                    return Ok(());
                }
                return Err(e);
            }
        }
        let awaited = self.here.is_some() && self.wanted.contains(&number);
        let many = self.waiting.len() >= FILES_MAX || absent.ground.is_crowded();
        if awaited || many || self.bytes >= BYTES_MAX {
            self.place()?;
        }
        if awaited
            && self.failed.is_none()
            && let Some(here) = self.here.take()
        {
            let _nobody_waits = here.send(());
        }
        Ok(())
    }

    fn fail(&mut self, number: u32, error: LayerError) {
        tracing::debug!(%error, "a file cannot come");
        let more = self.failed.as_ref().is_none_or(is_gone);
        if self.wanted.contains(&number) && more {
            self.failed = Some(error);
        }
    }

    /// Gives all of them their names.
    fn place(&mut self) -> Result<(), LayerError> {
        let placed = self.publish().map_err(|e| LayerError::io("cannot name what was brought", e));
        self.clear();
        for (number, e) in placed? {
            self.fail(number, self.absent.cannot_make(number, e));
        }
        Ok(())
    }

    /// The same, and says why one of the wanted did not come.
    pub(super) fn finish(mut self) -> Result<(), LayerError> {
        self.place()?;
        self.failed.take().map_or(Ok(()), Err)
    }

    fn clear(&mut self) {
        for arrival in self.waiting.drain(..) {
            self.absent.end(&arrival.new, &arrival.home);
        }
        self.bytes = 0;
    }

    /// Files that could not get a name, and why.
    fn publish(&self) -> io::Result<Vec<(u32, io::Error)>> {
        let absent = self.absent;
        let mut turn = absent.turn.lock();
        absent.unless_closed()?;
        let (mut here, mut failed, mut came) = (Vec::new(), Vec::new(), HashSet::new());
        for arrival in &self.waiting {
            arrival.keep_up(absent)?;
        }
        // Those that nobody removed meanwhile, by the directory of each name.
        let mut names: BTreeMap<Node, Vec<(&Arrival<'_>, Node)>> = BTreeMap::new();
        let mut others: HashMap<u32, Other> = HashMap::new();
        for arrival in &self.waiting {
            for node in absent.absent_names(arrival.number) {
                names.entry(absent.tree.parent(node)).or_default().push((arrival, node));
            }
            others.extend(absent.other_name(arrival.number).map(|other| (arrival.number, other)));
        }
        // Each of them comes and came, with a witness; each directory is touched.
        let all: usize = names.values().map(Vec::len).sum();
        turn.reserve(4 * all + 3 * names.len())?;
        if !self.changed && absent.records.is_some() {
            let mut coming = Vec::new();
            for (arrival, node) in names.values().flatten() {
                let ident = Identity::from(&rustix::fs::fstat(&arrival.new.file)?);
                coming.push((*node, Witness::coming(&ident)));
            }
            turn.append_coming(coming)?;
        }
        for (parent, names) in &names {
            let (mut named, mut unnamed) = (Vec::new(), Vec::new());
            let name_all = absent.dir_of(*parent).map_err(io::Error::from).and_then(|dir| {
                absent.in_directory(*parent, dir.as_fd(), Some(&mut *turn), || {
                    (named, unnamed) = (Vec::new(), Vec::new());
                    for (arrival, node) in names {
                        match arrival.name(absent, others.get(&arrival.number), dir.as_fd(), *node) {
                            Err(Errno::ACCESS) => return Err(Errno::ACCESS),
                            Err(e) => unnamed.push((arrival.number, e.into())),
                            Ok(()) => named.push(*node),
                        }
                    }
                    Ok(())
                })
            });
            if let Err(e) = name_all {
                let rest = names.iter().filter(|(_, node)| !named.contains(node));
                let again = |(arrival, _): &(&Arrival<'_>, Node)| (arrival.number, copy_of(&e));
                unnamed = rest.map(again).collect();
            }
            came.extend(names.iter().filter(|(_, node)| named.contains(node)).map(|(a, _)| a.number));
            here.extend(named);
            failed.append(&mut unnamed);
        }
        let (mut stats, mut records) = (Vec::new(), Vec::new());
        // One that came another way meanwhile may be written by now: its record stays.
        for arrival in self.waiting.iter().filter(|arrival| came.contains(&arrival.number)) {
            let ino = match others.get(&arrival.number) {
                Some(other) => other.ino,
                None => rustix::fs::fstat(&arrival.new.file)?.st_ino,
            };
            for node in absent.names_of(arrival.number) {
                let Ok(dir) = absent.dir_of(absent.tree.parent(node)) else { continue };
                let name = absent.tree.name(node);
                let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                // One that another put there is not as the version has it, and not this file: it has no
                // record, and is saved.
                if stat.st_ino == ino {
                    records.push((node, Identity::from(&stat)));
                    stats.push((arrival.number, stat));
                }
            }
        }
        let mut witnesses: HashMap<Node, Witness> = HashMap::new();
        if self.changed {
            absent.differ(&here);
        } else {
            witnesses.extend(records.iter().map(|(node, ident)| (*node, Witness::of(ident))));
            absent.record(records)?;
        }
        turn.append_here(here.iter().map(|node| (*node, witnesses.get(node).copied())))?;
        // Before anybody can look for them on the disk: there they would be other files.
        if let Some(shown) = absent.shown() {
            for (number, stat) in &stats {
                shown.arrived(*number, stat);
            }
        }
        absent.set_all(Fate::Here, &here);
        Ok(failed)
    }
}

impl Arrival<'_> {
    /// Gives it the attributes that programs gave it while it came. Called in the turn.
    fn keep_up(&self, absent: &Absent) -> io::Result<()> {
        let now = absent.tree.look(self.number);
        match &now {
            Some(look) if !self.look.as_ref().is_some_and(|made| Arc::ptr_eq(made, look)) => {
                Ok(absent.ground.placer.apply(&self.new.file, &look.metadata())?)
            }
            _ => Ok(()),
        }
    }

    /// Gives it the name of a node. What stands there came by a daemon that was killed before it could say
    /// so, or was put there by somebody: either stays.
    fn name(
        &self,
        absent: &Absent,
        other: Option<&Other>,
        dir: BorrowedFd<'_>,
        node: Node,
    ) -> Result<(), Errno> {
        let name = absent.tree.name(node);
        let named = match other {
            Some(Other { dir: from, node, .. }) => {
                rustix::fs::linkat(from, absent.tree.name(*node), dir, name, AtFlags::empty())
            }
            None => absent.ground.placer.name(&self.new, self.home.1.as_fd(), dir, name),
        };
        match named {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }
}

/// Whether the directory that an entry belongs to is not there any more: somebody took it away beneath.
pub(super) fn is_gone(error: &LayerError) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error, LayerError::Io { source, .. } if matches!(source.kind(), NotFound | NotADirectory))
}

/// How many names a file has.
fn nlink(file: &File) -> io::Result<u32> {
    Ok(Identity::from(&rustix::fs::fstat(file)?).nlink)
}

fn copy_of(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(|| io::Error::other(e.to_string()), io::Error::from_raw_os_error)
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Absent {
    fn cannot_make(&self, number: u32, e: io::Error) -> LayerError {
        LayerError::io(format!("cannot make: {}", self.laid_path(number)), e)
    }

    /// Why a file does not get its attributes.
    fn cannot_give(&self, number: u32, e: Errno) -> LayerError {
        match e {
            Errno::TOOBIG => LayerError::Attributes { path: self.laid_path(number) },
            e => self.cannot_make(number, e.into()),
        }
    }

    fn laid_path(&self, number: u32) -> RelPath {
        self.absent_names(number).first().map(|name| self.tree.path(*name)).unwrap_or_default()
    }

    /// The directory of the first absent name of a file; those of the others are made as well, for the turn,
    /// in which none can be made any more. `None` if it has no such name.
    fn directories(&self, number: u32) -> io::Result<Option<Home>> {
        let names = self.absent_names(number);
        let parents = names.iter().map(|name| self.tree.parent(*name));
        let made = parents.map(|parent| Ok((parent, self.directory(parent)?)));
        Ok(made.collect::<io::Result<Vec<_>>>()?.into_iter().next())
    }

    /// These are not as the version has them.
    fn differ(&self, nodes: &[Node]) {
        for path in nodes.iter().filter_map(|node| self.path_to_record(*node)) {
            if let Some(shown) = self.shown() {
                shown.differs(&path);
            }
        }
    }

    /// Whether the disk keeps files without names, as the parts of a large one are.
    pub(super) fn keeps_nameless(&self) -> bool {
        let root = self.ground.dirs.lock().get(&RelPath::root(), false);
        root.is_ok_and(|root| self.nameless(&(ROOT, root)).is_ok())
    }

    /// A new file without a name; only where the file system knows none such, with one of its own.
    fn unnamed(&self, (node, dir): &Home) -> io::Result<NewFile> {
        let (dir, placer) = (dir.as_fd(), &self.ground.placer);
        placer.begin_nameless(dir).or_else(|_| self.in_directory(*node, dir, None, || placer.begin(dir)))
    }

    fn end(&self, new: &NewFile, (node, dir): &Home) {
        if self.ground.placer.is_named(new) {
            let end = || {
                self.ground.placer.end(new, dir.as_fd());
                Ok(())
            };
            let _at_the_next_look = self.in_directory(*node, dir.as_fd(), None, end);
        }
    }

    fn nameless(&self, home: &Home) -> io::Result<File> {
        let new = self.unnamed(home)?;
        self.end(&new, home);
        new.into_nameless().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// An empty file for an absent one, and where its first name will stand. `None` if it is not absent.
    fn begin(&self, number: u32) -> io::Result<Option<(NewFile, Home)>> {
        let Some(home) = self.directories(number)? else { return Ok(None) };
        Ok(Some((self.unnamed(&home)?, home)))
    }

    /// The same without any name.
    pub(super) fn begin_nameless(&self, number: u32) -> io::Result<File> {
        self.nameless(&self.directories(number)?.ok_or(io::ErrorKind::NotFound)?)
    }

    /// Whether we may write to a file once it is here, as a program that is about to empty it wants us to. What
    /// it is told otherwise.
    pub(super) fn may_be_written(&self, number: u32) -> io::Result<()> {
        let Some((new, home)) = self.begin(number)? else { return Ok(()) };
        let applied = self.ground.placer.apply(&new.file, &self.metadata(number));
        let path = format!("/proc/self/fd/{}", new.file.as_raw_fd());
        let opened = applied
            .and_then(|()| rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map(drop));
        self.end(&new, &home);
        Ok(opened?)
    }

    /// Ends a large file that is all there or, with a `cut`, as much of it as that leaves: it gets its attributes
    /// and names. One that has lost those is reached by who has it open alone.
    pub(super) fn adopt(&self, partial: &Partial, cut: Option<u64>) -> Result<(), LayerError> {
        let number = partial.number();
        let failed = |e| self.cannot_make(number, e);
        if cut.is_none()
            && let Some(content) = partial.content().filter(|_| self.wants(number))
        {
            self.saw_whole(partial, content).map_err(failed)?;
        }
        // It had its length from the first: where the disk loses some of it nothing tells. Of what was cut no version has
        // the like, so nothing would bring it again.
        if cut != Some(0) {
            partial.file().sync_data().map_err(failed)?;
        }
        let home = self.directories(number).map_err(failed)?;
        if let Some(other) = self.other_name(number) {
            partial.is_instead(self.open_other(&other).map_err(failed)?);
        }
        partial.end(cut, |ending| {
            let look = self.tree.look(number);
            if ending != Ending::Again {
                let applied = self.ground.placer.apply_all(partial.file(), &self.metadata(number));
                applied.map_err(|e| self.cannot_give(number, e))?;
            }
            if let Some(home) = home {
                let file = partial.file().try_clone().map_err(failed)?;
                let mut arrivals = Arrivals::new(self, number..number + 1);
                arrivals.changed = ending != Ending::Whole;
                let (new, _counted) = (NewFile::nameless(file), Counted::new(&self.ground.nameless));
                arrivals.waiting.push(Arrival { number, new, home, look, _counted });
                arrivals.finish()?;
            }
            let mut names = nlink(partial.file()).map_err(failed)?;
            if names == 0
                && ending != Ending::Again
                && let Some(named) = self.in_its_place(number).map_err(failed)?
            {
                partial.is_instead(named);
                names = nlink(partial.file()).map_err(failed)?;
            }
            if let Some(shown) = self.shown().filter(|_| names == 0) {
                shown.nameless(number, partial.file());
            }
            Ok(())
        })
    }

    /// A file that has no content, or with `emptied` is about to have none.
    pub(super) fn arrive_empty(&self, number: u32, emptied: bool) -> Result<(), LayerError> {
        let mut arrivals = Arrivals::new(self, number..number + 1);
        arrivals.changed = emptied;
        arrivals.add(number, &self.metadata(number), |_| Ok(()))?;
        arrivals.finish()
    }
}
