//! [`Arrivals`]: files that were brought, and get their names together.
//!
//! What is done once for a directory, the log and the journal is so done once for many files.
use super::ranges::Partial;
use super::tree::{FileRow, Node, ROOT};
use super::{Absent, Fate};
use crate::layer::extract::NewFile;
use crate::layer::{LayerError, Metadata};
use crate::path::RelPath;
use crate::state::identity::Identity;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The most files that wait for their names. Each holds a descriptor.
const FILES_MAX: usize = 64;
/// The most bytes of such files: who waits for a large one gets it at once.
const BYTES_MAX: u64 = 4 << 20;

/// The directory where the first name of a file will stand.
type Home = (Node, Arc<OwnedFd>);

/// A complete file without a name.
#[derive(Debug)]
struct Arrival {
    number: u32,
    new: NewFile,
    home: Home,
}

/// Brought files without names yet. What is dropped before it was [`place`](Self::place)d leaves no trace.
#[derive(Debug)]
pub(super) struct Arrivals<'a> {
    absent: &'a Absent,
    waiting: Vec<Arrival>,
    bytes: u64,
}

impl<'a> Arrivals<'a> {
    pub(super) fn new(absent: &'a Absent) -> Self {
        Self { absent, waiting: Vec::new(), bytes: 0 }
    }

    /// Takes a file that is still absent; `fill` writes its content into an empty one that nobody sees.
    pub(super) fn add(
        &mut self,
        number: u32,
        meta: &Metadata,
        fill: impl FnOnce(&File) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let absent = self.absent;
        let Some(home) = absent.directories(number)? else { return Ok(()) };
        let failed = |e| absent.cannot_make(number, e);
        let placer = &absent.ground.placer;
        let new = absent.unnamed(&home).map_err(failed)?;
        let FileRow { size, .. } = *absent.tree.file(number);
        self.waiting.push(Arrival { number, new, home });
        self.bytes += size;
        if let Some(Arrival { new, .. }) = self.waiting.last() {
            fill(&new.file)?;
            placer.apply(&new.file, meta).map_err(|e| failed(e.into()))?;
        }
        if self.waiting.len() >= FILES_MAX || self.bytes >= BYTES_MAX {
            self.place()?;
        }
        Ok(())
    }

    /// Gives all of them their names.
    pub(super) fn place(&mut self) -> Result<(), LayerError> {
        let placed = self.publish().map_err(|e| LayerError::io("cannot name what was brought", e));
        self.clear();
        placed
    }

    fn clear(&mut self) {
        for arrival in self.waiting.drain(..) {
            self.absent.end(&arrival.new, &arrival.home);
        }
        self.bytes = 0;
    }

    fn publish(&self) -> io::Result<()> {
        let absent = self.absent;
        let mut turn = absent.turn.lock();
        // Those that nobody removed meanwhile, by the directory of each name.
        let mut names: BTreeMap<Node, Vec<(&Arrival, Node)>> = BTreeMap::new();
        for arrival in &self.waiting {
            for node in absent.absent_names(arrival.number) {
                names.entry(absent.tree.parent(node)).or_default().push((arrival, node));
            }
        }
        let (mut here, mut records) = (Vec::new(), Vec::new());
        for (parent, names) in &names {
            let dir = absent.dir_of(*parent)?;
            let name = |(arrival, node): &(&Arrival, Node)| {
                let name = absent.tree.name(*node);
                match absent.ground.placer.name(&arrival.new, arrival.home.1.as_fd(), dir.as_fd(), name) {
                    // By a daemon that was killed before it could say so, and changed since then.
                    Err(Errno::EXIST) => Ok(()),
                    other => other,
                }
            };
            absent.in_directory(*parent, dir.as_fd(), || names.iter().try_for_each(name))?;
            here.extend(names.iter().map(|(_, node)| *node));
        }
        let mut stats = Vec::new();
        for (parent, names) in &names {
            let dir = absent.dir_of(*parent)?;
            for (arrival, node) in names {
                let name = absent.tree.name(*node);
                let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                // One that another put there is not as the version has it: it has no record, and is saved.
                if stat.st_ino == rustix::fs::fstat(&arrival.new.file)?.st_ino {
                    records.push((*node, Identity::from(&stat)));
                }
                stats.push((arrival.number, stat));
            }
        }
        absent.record(records)?;
        absent.note(&mut turn, Fate::Here, &here)?;
        if let Some(shown) = absent.shown() {
            for (number, stat) in &stats {
                shown.arrived(*number, stat);
            }
        }
        Ok(())
    }
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Absent {
    fn cannot_make(&self, number: u32, e: io::Error) -> LayerError {
        let path = self.absent_names(number).first().map(|name| self.tree.path(*name)).unwrap_or_default();
        LayerError::io(format!("cannot make: {path}"), e)
    }

    /// The directory of the first absent name of a file; those of the others are made as well, for the turn,
    /// in which none can be made any more. `None` if it has no such name.
    fn directories(&self, number: u32) -> Result<Option<Home>, LayerError> {
        let names = self.absent_names(number);
        let parents = names.iter().map(|name| self.tree.parent(*name));
        let made = parents.map(|parent| Ok((parent, self.directory(parent)?)));
        let made = made.collect::<io::Result<Vec<_>>>().map_err(|e| self.cannot_make(number, e))?;
        Ok(made.into_iter().next())
    }

    /// Whether the disk keeps files without names, as the parts of a large one are.
    pub(super) fn keeps_nameless(&self) -> bool {
        let root = self.ground.dirs.lock().get(&RelPath::root(), false);
        root.is_ok_and(|root| self.nameless(&(ROOT, root)).is_ok())
    }

    /// A new file without a name; only where the file system knows none such, with one of its own.
    fn unnamed(&self, (node, dir): &Home) -> io::Result<NewFile> {
        let (dir, placer) = (dir.as_fd(), &self.ground.placer);
        placer.begin_nameless(dir).or_else(|_| self.in_directory(*node, dir, || placer.begin(dir)))
    }

    fn end(&self, new: &NewFile, (node, dir): &Home) {
        if self.ground.placer.is_named(new) {
            let end = || {
                self.ground.placer.end(new, dir.as_fd());
                Ok(())
            };
            let _at_the_next_look = self.in_directory(*node, dir.as_fd(), end);
        }
    }

    fn nameless(&self, home: &Home) -> io::Result<File> {
        let new = self.unnamed(home)?;
        self.end(&new, home);
        new.into_nameless().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// An empty file without a name for an absent one.
    pub(super) fn begin(&self, number: u32) -> io::Result<File> {
        let home = self.directories(number).map_err(io::Error::other)?;
        self.nameless(&home.ok_or(io::ErrorKind::NotFound)?)
    }

    /// A large file is whole, or with `emptied` about to be emptied: it gets its attributes and names.
    pub(super) fn adopt(&self, partial: &Partial, emptied: bool) -> Result<(), LayerError> {
        let number = partial.number();
        let Some(home) = self.directories(number)? else { return Ok(()) };
        if let Some(content) = partial.content().filter(|_| !emptied) {
            self.saw_whole(partial.file(), content).map_err(|e| self.cannot_make(number, e))?;
        }
        partial.end(&self.ground.placer, &self.metadata(number), emptied)?;
        let file = partial.file().try_clone().map_err(|e| self.cannot_make(number, e))?;
        let mut arrivals = Arrivals::new(self);
        arrivals.waiting.push(Arrival { number, new: NewFile::nameless(file), home });
        arrivals.place()
    }

    /// One file at once.
    pub(super) fn arrive(
        &self,
        number: u32,
        meta: &Metadata,
        fill: impl FnOnce(&File) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let mut arrivals = Arrivals::new(self);
        arrivals.add(number, meta, fill)?;
        arrivals.place()
    }
}
