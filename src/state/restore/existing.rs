//! [`Ground`]: what the disk held before, and how it makes room.
//!
//! Equal size and time prove nothing: a file that may be the entry is compared with it byte by byte.
use super::arrival::{Arrival, Arrived, copy_of, is_same_content, read_full};
use super::seen::Seen;
use super::{Policy, Standing};
use crate::layer::extract::attributes::metadata;
use crate::layer::extract::copy::copy_to_free_name;
use crate::layer::extract::{Dirs, Extractor, Note, Placer, move_to_free_name, remove_all};
use crate::layer::{Entry, Kind, LayerError, LayerReader};
use crate::path::RelPath;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Up to so many bytes a file is compared in memory; a longer one while it comes.
const IN_MEMORY_MAX: u64 = 128 << 10;
/// Takes a part of a file: where it belongs, and its bytes.
pub(super) type Put<'a> = dyn FnMut(u64, &[u8]) -> Result<(), LayerError> + 'a;

/// What became of a local file that was compared with an entry.
#[derive(Debug)]
pub(super) enum Weighed {
    /// It is the entry, attributes included.
    Kept,
    /// It was the entry in all but attributes, which it has now.
    Mended(Stat),
    /// The entry stands in its place.
    Replaced(Stat),
    /// It is something else and wins.
    Stays,
}

/// What stands where an entry is to come.
#[derive(Debug)]
pub(super) enum There {
    Nothing,
    Something(Stat),
    /// Something above it is no directory, and stays so.
    Hidden,
}

/// The content of an entry before it has a name.
enum Content {
    Bytes(Vec<u8>),
    Arrived(Arrived),
}

/// The tree restored into.
#[derive(Debug)]
pub(super) struct Ground {
    aside: Option<Dirs>,
    placer: Placer,
    /// It was empty at the start, so nothing can stand in the way.
    empty: bool,
    moved: Vec<RelPath>,
    /// What stays as it was and is no directory.
    stayed: HashSet<RelPath>,
    /// Files of the version that do not stand by their name, because something else does or is above it; and whether that
    /// is what they were, changed since.
    overruled: HashMap<RelPath, bool>,
}

impl Ground {
    pub(super) fn new(root: &OwnedFd, aside: Option<OwnedFd>) -> Self {
        Self {
            aside: aside.map(Dirs::new),
            placer: Placer::default(),
            empty: is_empty(root).unwrap_or(false),
            moved: Vec::new(),
            stayed: HashSet::new(),
            overruled: HashMap::new(),
        }
    }

    /// Whether nothing was there at the start.
    pub(super) fn was_empty(&self) -> bool {
        self.empty
    }

    pub(super) fn take_moved(&mut self) -> Vec<RelPath> {
        std::mem::take(&mut self.moved)
    }

    /// Something stays as it is.
    pub(super) fn stays(&mut self, path: &RelPath, there: &Stat) {
        if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
            self.stayed.insert(path.clone());
        }
    }

    /// An entry has no place. `changed`: what stands there is the file that had its name before.
    pub(super) fn overrules(&mut self, path: &RelPath, changed: bool) {
        self.overruled.insert(path.clone(), changed);
    }

    /// Whether a file does not stand by this name, and nothing that was made of it does.
    pub(super) fn lacks(&self, target: &RelPath) -> bool {
        self.overruled.get(target) == Some(&false)
    }

    /// Whether a file stands by this name as it was changed since.
    pub(super) fn has_changed(&self, target: &RelPath) -> bool {
        self.overruled.get(target) == Some(&true)
    }

    /// What stands at `path`; a local file where a directory above it must be is moved away first, unless it stays. `layer`
    /// is the one that has the entry.
    pub(super) fn look(
        &mut self,
        (extractor, policy): (&mut Extractor, &mut Policy),
        seen: &Seen,
        (path, layer): (&RelPath, usize),
    ) -> Result<There, LayerError> {
        if self.empty {
            return Ok(There::Nothing);
        }
        let there = |found: Option<Stat>| found.map_or(There::Nothing, There::Something);
        let refused = match extractor.lstat(path) {
            Err(e @ LayerError::Refused { .. }) => e,
            other => return other.map(there),
        };
        let mut above: Vec<RelPath> = path.ancestors().collect();
        above.reverse();
        for dir in above {
            let Some(stat) = extractor.lstat(&dir)? else { break };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if self.stayed.contains(&dir) {
                    return Ok(There::Hidden);
                }
                // What a layer put there is never led through.
                if seen.layer_of(&dir).is_some() {
                    return Err(refused);
                }
                if policy.keeps_instead_of_directory(&dir, &stat, layer) {
                    self.stays(&dir, &stat);
                    return Ok(There::Hidden);
                }
                policy.begin()?;
                self.move_aside(extractor, &dir)?;
                break;
            }
        }
        extractor.lstat(path).map(there)
    }

    /// What could not be kept of what was placed here.
    pub(super) fn notes(&self) -> Vec<Note> {
        self.placer.notes()
    }

    /// Whether only the content can tell if the local file is the entry.
    pub(super) fn must_weigh(&self, entry: &Entry, there: &Stat, standing: Standing) -> bool {
        let is_file = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        let same_size = matches!(entry.kind, Kind::File { size, .. } if size == there.st_size as u64);
        // Where nothing is kept it is simply replaced.
        let matters = self.aside.is_some() || standing != Standing::Unknown;
        is_file
            && matches!(entry.kind, Kind::File { .. })
            && (matches!(standing, Standing::Wins { .. }) || same_size && matters)
    }

    /// Compares a local file with an entry as it arrives, and puts the entry in its place if it differs.
    /// The content must have arrived whole before the local file is touched; `lend` hands over what other layers
    /// have of it, and where that belongs.
    pub(super) fn weigh<R: Read + Send>(
        &mut self,
        extractor: &mut Extractor,
        entry: &Entry,
        reader: &mut LayerReader<R>,
        (there, standing): (&Stat, Standing),
        lend: impl FnOnce(&mut Put<'_>) -> Result<(), LayerError>,
    ) -> Result<Weighed, LayerError> {
        let path = &entry.path;
        let size = there.st_size as u64;
        if !matches!(entry.kind, Kind::File { size: arriving, .. } if arriving == size) {
            return Ok(Weighed::Stays); // only what wins gets here
        }
        let parent = extractor.parent(path)?;
        let name = path.name().unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // One that cannot be read is not known to be the same.
        let local = rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty()).map(File::from).ok();
        let wins = matches!(standing, Standing::Wins { .. });
        let content = self.receive(parent.as_fd(), reader, (local.as_ref(), size, wins), lend);
        let content = content.map_err(|e| e.in_entry(path))?;
        let same = match (&content, &local) {
            (Content::Arrived(arrived), _) => matches!(arrived, Arrived::Same),
            (Content::Bytes(bytes), Some(local)) => is_in(bytes, local).unwrap_or(false),
            (Content::Bytes(_), None) => false,
        };
        let same_attributes =
            same && metadata(parent.as_fd(), name, there).is_ok_and(|found| found == entry.meta);
        if same_attributes || wins {
            return Ok(if same_attributes { Weighed::Kept } else { Weighed::Stays });
        }
        if !same && standing == Standing::Unknown {
            self.move_aside(extractor, path)?;
        }
        let placed = self.settle(content, local.as_ref(), (parent.as_fd(), name), entry);
        placed.map(if same { Weighed::Mended } else { Weighed::Replaced })
    }

    fn receive<R: Read + Send>(
        &self,
        parent: BorrowedFd<'_>,
        reader: &mut LayerReader<R>,
        (local, size, wins): (Option<&File>, u64, bool),
        lend: impl FnOnce(&mut Put<'_>) -> Result<(), LayerError>,
    ) -> Result<Content, LayerError> {
        if size <= IN_MEMORY_MAX && !reader.has_holes() {
            let mut bytes = Vec::new();
            reader.read_content(&mut bytes, IN_MEMORY_MAX)?;
            return Ok(Content::Bytes(bytes));
        }
        let mut arrival = match wins {
            true => Arrival::to_compare((&self.placer, parent), local, size),
            false => Arrival::new((&self.placer, parent), local, size),
        };
        reader.each_data(|at, bytes| arrival.take(at, bytes))?;
        lend(&mut |at, bytes| arrival.take(at, bytes))?;
        arrival.end().map(Content::Arrived)
    }

    /// Gives what arrived the entry's attributes and name, in the place of what may still stand there.
    fn settle(
        &self,
        content: Content,
        local: Option<&File>,
        (parent, name): (BorrowedFd<'_>, &[u8]),
        entry: &Entry,
    ) -> Result<Stat, LayerError> {
        let failed = |e: Errno| LayerError::io(format!("cannot make: {}", entry.path), e);
        let new = match (content, local) {
            (Content::Bytes(bytes), _) => {
                let placed = self.placer.file((parent, name), &entry.meta, true, |mut file| {
                    file.write_all(&bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
                });
                return placed.map_err(failed);
            }
            (Content::Arrived(Arrived::Other(new)), _) => new,
            // Another file, since this one may have other names.
            (Content::Arrived(Arrived::Same), Some(local)) => copy_of(&self.placer, parent, local)?,
            (Content::Arrived(_), _) => return Err(failed(Errno::NOENT)), // cannot be: it stays as it is
        };
        self.placer.finish(&new, parent, name, &entry.meta).map_err(failed)
    }

    /// Makes room for an entry whose path exists.
    pub(super) fn clear(
        &mut self,
        extractor: &mut Extractor,
        entry: &Entry,
        there: &Stat,
        standing: Standing,
    ) -> Result<(), LayerError> {
        let local = FileType::from_raw_mode(there.st_mode);
        if local == FileType::Directory && matches!(entry.kind, Kind::Directory) {
            return Ok(());
        }
        if standing == Standing::Saved {
            if local == FileType::Directory {
                extractor.forget(&entry.path);
            }
            return Ok(()); // replaced by the entry
        }
        if self.is_same(extractor, entry, there, local)? {
            return Ok(()); // replaced by the entry
        }
        self.move_aside(extractor, &entry.path)
    }

    /// Whether the local entry is the layer's in all but attributes. Files are weighed.
    fn is_same(
        &self,
        extractor: &mut Extractor,
        entry: &Entry,
        there: &Stat,
        local: FileType,
    ) -> Result<bool, LayerError> {
        let rdev = (rustix::fs::major(there.st_rdev), rustix::fs::minor(there.st_rdev));
        Ok(match &entry.kind {
            Kind::Symlink { target } => {
                local == FileType::Symlink && {
                    let parent = extractor.parent(&entry.path)?;
                    let name = entry.path.name().unwrap_or_default();
                    rustix::fs::readlinkat(&parent, name, Vec::new())
                        .is_ok_and(|found| found.as_bytes() == target.as_slice())
                }
            }
            // It stands for its target, which stands by now.
            Kind::HardLink { target } => {
                extractor.settle()?;
                extractor.lstat(target)?.is_some_and(|t| {
                    FileType::from_raw_mode(t.st_mode) == local && t.st_size == there.st_size
                }) && (local != FileType::RegularFile
                    || self.have_same_content(extractor, &entry.path, target))
            }
            Kind::Fifo => local == FileType::Fifo,
            Kind::CharDevice { rdev: r } => local == FileType::CharacterDevice && rdev == *r,
            Kind::BlockDevice { rdev: r } => local == FileType::BlockDevice && rdev == *r,
            Kind::File { .. } | Kind::Directory | Kind::Whiteout => false,
        })
    }

    /// Whether two files on the disk have the same bytes; not if that cannot be found out.
    fn have_same_content(&self, extractor: &mut Extractor, one: &RelPath, other: &RelPath) -> bool {
        let mut open = |path: &RelPath| -> Option<File> {
            let parent = extractor.parent(path).ok()?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Some(rustix::fs::openat(&parent, path.name()?, flags, Mode::empty()).ok()?.into())
        };
        let (Some(one), Some(other)) = (open(one), open(other)) else { return false };
        is_same_content(&one, &other).unwrap_or(false)
    }

    /// Moves what stands at `path` to where local files go, or removes it where none are kept.
    pub(super) fn move_aside(&mut self, extractor: &mut Extractor, path: &RelPath) -> Result<(), LayerError> {
        let failed = |e: io::Error| LayerError::io(format!("cannot move aside: {path}"), e);
        let parent = extractor.parent(path)?;
        let name = path.name().unwrap_or_default();
        extractor.forget(path);
        let Some(aside) = &mut self.aside else {
            return remove_all(parent.as_fd(), name).map_err(|e| failed(e.into()));
        };
        let to = aside.parent(path)?;
        match move_to_free_name(parent.as_fd(), name, to.as_fd()) {
            // Another file system: copy, and remove only when the copy is whole.
            Err(Errno::XDEV) => {
                copy_to_free_name(&self.placer, parent.as_fd(), name, to.as_fd()).map_err(failed)?;
                remove_all(parent.as_fd(), name).map_err(|e| failed(e.into()))?;
            }
            other => drop(other.map_err(|e| failed(e.into()))?),
        }
        self.moved.push(path.clone());
        Ok(())
    }
}

/// Whether a file has these bytes, and no more.
fn is_in(bytes: &[u8], local: &File) -> io::Result<bool> {
    let mut found = vec![0; bytes.len()];
    let length = read_full(local, &mut found, 0)?;
    Ok(length == bytes.len() && found == *bytes && local.metadata()?.len() == length as u64)
}

fn is_empty(root: &OwnedFd) -> Result<bool, Errno> {
    for child in rustix::fs::Dir::read_from(root)? {
        if !matches!(child?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
