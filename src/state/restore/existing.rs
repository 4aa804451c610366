//! [`Ground`]: what the disk held before, and how it makes room.
//!
//! Equal size and time prove nothing: a file that may be the entry is compared with it byte by byte.
use super::seen::Seen;
use super::{Policy, Standing};
use crate::layer::content::Content;
use crate::layer::extract::attributes::metadata;
use crate::layer::extract::copy::copy_to_free_name;
use crate::layer::extract::{Dirs, Extractor, NewFile, Note, Placer, move_to_free_name, remove_all};
use crate::layer::{Entry, Kind, LayerError, LayerReader};
use crate::path::RelPath;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Up to so many bytes a file is compared in memory; of a longer one the layer's goes to the disk first.
const IN_MEMORY_MAX: u64 = 128 << 10;
/// Bytes compared at once.
const COMPARED: usize = 256 << 10;

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
enum Arrived {
    Bytes(Vec<u8>),
    File(NewFile),
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
    /// The content must have arrived whole before the local file is touched; `fill` adds what other layers
    /// have of it.
    pub(super) fn weigh<R: Read + Send>(
        &mut self,
        extractor: &mut Extractor,
        entry: &Entry,
        reader: &mut LayerReader<R>,
        (there, standing): (&Stat, Standing),
        fill: impl FnOnce(&File) -> Result<(), LayerError>,
    ) -> Result<Weighed, LayerError> {
        let path = &entry.path;
        let size = there.st_size as u64;
        if !matches!(entry.kind, Kind::File { size: arriving, .. } if arriving == size) {
            return Ok(Weighed::Stays); // only what wins gets here
        }
        let parent = extractor.parent(path)?;
        let name = path.name().unwrap_or_default();
        let arrived = self.receive(parent.as_fd(), reader, size, fill).map_err(|e| e.in_entry(path))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // One that cannot be read is not known to be the same.
        let same = match rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty()).map(File::from) {
            Ok(local) => arrived.is_in(&local, size).unwrap_or(false),
            Err(_) => false,
        };
        let same_attributes =
            same && metadata(parent.as_fd(), name, there).is_ok_and(|found| found == entry.meta);
        if same_attributes || matches!(standing, Standing::Wins { .. }) {
            self.discard(arrived, parent.as_fd());
            return Ok(if same_attributes { Weighed::Kept } else { Weighed::Stays });
        }
        if !same && standing == Standing::Unknown {
            self.move_aside(extractor, path)?;
        }
        let placed = self.settle(arrived, parent.as_fd(), name, entry);
        placed
            .map(if same { Weighed::Mended } else { Weighed::Replaced })
            .map_err(|e| LayerError::io(format!("cannot make: {path}"), e))
    }

    fn receive<R: Read + Send>(
        &self,
        parent: BorrowedFd<'_>,
        reader: &mut LayerReader<R>,
        size: u64,
        fill: impl FnOnce(&File) -> Result<(), LayerError>,
    ) -> Result<Arrived, LayerError> {
        if size <= IN_MEMORY_MAX && !reader.has_holes() {
            let mut bytes = Vec::new();
            reader.read_content(&mut bytes, IN_MEMORY_MAX)?;
            return Ok(Arrived::Bytes(bytes));
        }
        let new = self.placer.begin(parent).map_err(|e| LayerError::io("cannot make a file", e))?;
        match reader.content_to_file(&new.file).and_then(|()| fill(&new.file)) {
            Ok(()) => Ok(Arrived::File(new)),
            Err(e) => {
                self.placer.end(&new, parent);
                Err(e)
            }
        }
    }

    fn discard(&self, arrived: Arrived, parent: BorrowedFd<'_>) {
        if let Arrived::File(new) = arrived {
            self.placer.end(&new, parent);
        }
    }

    /// Gives what arrived the entry's attributes and name, in the place of what may still stand there.
    fn settle(
        &self,
        arrived: Arrived,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Stat, Errno> {
        match arrived {
            Arrived::Bytes(bytes) => self.placer.file((parent, name), &entry.meta, true, |mut file| {
                file.write_all(&bytes).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            }),
            Arrived::File(new) => self.placer.finish(&new, parent, name, &entry.meta),
        }
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

impl Arrived {
    fn is_in(&self, local: &File, size: u64) -> io::Result<bool> {
        match self {
            Self::Bytes(bytes) => {
                let mut found = vec![0; size as usize];
                let length = read_full(local, &mut found, 0)?;
                Ok(length == bytes.len() && found == *bytes && local.metadata()?.len() == size)
            }
            Self::File(new) => is_same_content(&new.file, local),
        }
    }
}

/// Compares two files, passing over what is a hole in both.
fn is_same_content(one: &File, other: &File) -> io::Result<bool> {
    let size = one.metadata()?.len();
    if other.metadata()?.len() != size {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; COMPARED], vec![0; COMPARED]);
    let mut at = 0;
    while at < size {
        let next = [one.data_after(at)?, other.data_after(at)?];
        let Some(start) = next.iter().flatten().map(|range| range.start).min() else { break };
        at = start.max(at);
        let length = read_full(one, &mut ours, at)?;
        if length != read_full(other, &mut theirs, at)? || ours[..length] != theirs[..length] {
            return Ok(false);
        }
        if length == 0 {
            break;
        }
        at += length as u64;
    }
    Ok(true)
}

/// Reads until the buffer is full or the file at its end.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match Content::read_at(file, &mut buffer[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn is_empty(root: &OwnedFd) -> Result<bool, Errno> {
    for child in rustix::fs::Dir::read_from(root)? {
        if !matches!(child?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
