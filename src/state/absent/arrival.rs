//! [`Arrivals`]: files that were brought, and get their names together.
//!
//! What is done once for a directory, the log and the journal is so done once for many files.
use super::tree::{FileRow, Node};
use super::{Absent, Fate};
use crate::layer::extract::NewFile;
use crate::layer::{LayerError, Metadata};
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

/// A complete file without a name.
#[derive(Debug)]
struct Arrival {
    number: u32,
    new: NewFile,
    home: Arc<OwnedFd>,
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
        let names = absent.absent_names(number);
        let Some(first) = names.first() else { return Ok(()) };
        let failed = |e: io::Error| LayerError::io(format!("cannot make: {}", absent.tree.path(*first)), e);
        let home = absent.directory(absent.tree.parent(*first)).map_err(failed)?;
        // For the turn, in which none can be made any more.
        for other in names.iter().skip(1) {
            absent.directory(absent.tree.parent(*other)).map_err(failed)?;
        }
        let placer = &absent.ground.placer;
        let new =
            absent.writable(home.as_fd(), || placer.begin(home.as_fd())).map_err(|e| failed(e.into()))?;
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
            self.absent.ground.placer.end(&arrival.new, arrival.home.as_fd());
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
            let path = absent.tree.path(*parent);
            let dir = absent.ground.dirs.lock().get(&path, false)?;
            let name = |(arrival, node): &(&Arrival, Node)| {
                let name = absent.tree.name(*node);
                match absent.ground.placer.name(&arrival.new, arrival.home.as_fd(), dir.as_fd(), name) {
                    // By a daemon that was killed before it could say so, and changed since then.
                    Err(Errno::EXIST) => Ok(()),
                    other => other,
                }
            };
            absent.in_directory(dir.as_fd(), || names.iter().try_for_each(name))?;
            here.extend(names.iter().map(|(_, node)| *node));
        }
        let mut stats = Vec::new();
        for (parent, names) in &names {
            let path = absent.tree.path(*parent);
            let dir = absent.ground.dirs.lock().get(&path, false)?;
            for (arrival, node) in names {
                let name = absent.tree.name(*node);
                let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                // One that another put there is not as the version has it: it has no record, and is saved.
                if stat.st_ino == rustix::fs::fstat(&arrival.new.file)?.st_ino {
                    records.push((path.join(name), Identity::from(&stat)));
                }
                stats.push((arrival.number, stat));
            }
        }
        absent.record(records)?;
        absent.note(&mut turn, Fate::Here, &here)?;
        if let Some(shown) = absent.shown.get().and_then(std::sync::Weak::upgrade) {
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
