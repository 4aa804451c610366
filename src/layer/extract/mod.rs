//! [`Extractor`]: puts the entries of layers on a disk, beneath one directory and nowhere else.
pub(crate) mod attributes;
pub(crate) mod copy;
mod dirs;
mod place;
mod pool;
#[cfg(test)]
mod tests;

use super::entry::{Entry, Kind, Metadata};
use super::{LayerError, LayerReader};
use crate::path::RelPath;
use pool::{Job, Pool, SMALL_MAX};
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

pub use attributes::Note;
pub(crate) use dirs::Dirs;
pub(crate) use place::{NewFile, Placer, is_left_over, move_to_free_name, remove_all};
pub use pool::Placed;

/// Threads that write small files.
const WRITERS: usize = 3;

/// Makes entries beneath a root descriptor. Nothing is ever written through a symbolic link, and
/// what stands in the way of an entry is replaced by it.
///
/// Small files are written in parallel: an error may be reported by a later call. Hard links are
/// made at the end of their layer, attributes of directories by [`finish`](Self::finish).
#[derive(Debug)]
pub struct Extractor {
    dirs: Dirs,
    placer: Arc<Placer>,
    pool: Pool,
    links: Vec<(RelPath, RelPath)>,
    directories: BTreeMap<RelPath, Metadata>,
    /// Those of them that were placed and not told of.
    untold: Vec<RelPath>,
    root: bool,
}

/// What finished extraction has to say.
#[derive(Debug)]
pub struct Extracted {
    /// What was placed since the last [`take_placed`](Extractor::take_placed).
    pub placed: Vec<Placed>,
    /// What could not be kept.
    pub notes: Vec<Note>,
}

impl Extractor {
    /// Extracts beneath `root`.
    pub fn new(root: OwnedFd) -> Self {
        let placer = Arc::new(Placer::default());
        Self {
            dirs: Dirs::new(root),
            pool: Pool::new(Arc::clone(&placer), WRITERS),
            placer,
            links: Vec::new(),
            directories: BTreeMap::new(),
            untold: Vec::new(),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// See [`Placer::be_careful`].
    pub(crate) fn be_careful(&self) {
        self.placer.be_careful();
    }

    /// Makes one entry; the content of a file is taken from `reader`, which has just returned it.
    /// A whiteout removes what is there.
    ///
    /// # Errors
    /// [`LayerError::Refused`] if the path leads through something that is not a directory, or if
    /// it is a device and we are not root.
    pub fn place<R: Read + Send>(
        &mut self,
        entry: &Entry,
        reader: &mut LayerReader<R>,
    ) -> Result<(), LayerError> {
        let path = &entry.path;
        let Some(name) = path.name() else {
            self.directories.insert(RelPath::root(), entry.meta.clone());
            return Ok(());
        };
        let failed = |e: Errno| LayerError::io(format!("cannot make: {path}"), e);
        if matches!(entry.kind, Kind::Whiteout) {
            if let Some(parent) = self.dirs.existing_parent(path)? {
                self.pool.wait()?;
                self.forget(path);
                match remove_all(parent.as_fd(), name) {
                    Err(Errno::NOENT) => {}
                    other => other.map_err(|e| LayerError::io(format!("cannot remove: {path}"), e))?,
                }
            }
            return Ok(());
        }
        let parent = self.home(path)?;
        if !matches!(entry.kind, Kind::Directory) && self.directories.contains_key(path) {
            // Only an archive that has one path twice gets here.
            self.pool.wait()?;
            self.forget(path);
        }
        match &entry.kind {
            Kind::Directory => {
                self.placer.directory(parent.as_fd(), name).map_err(failed)?;
                self.directories.insert(path.clone(), entry.meta.clone());
                self.untold.push(path.clone());
                return Ok(());
            }
            Kind::HardLink { target } => {
                self.links.push((path.clone(), target.clone()));
                return Ok(());
            }
            Kind::File { size, .. } if *size <= SMALL_MAX && !reader.has_holes() => {
                let mut data = Vec::new();
                reader.read_content(&mut data, SMALL_MAX).map_err(|e| e.in_entry(path))?;
                return self.pool.submit(Job { parent, path: path.clone(), meta: entry.meta.clone(), data });
            }
            Kind::File { .. } => {
                let stat = self
                    .placer
                    .file((parent.as_fd(), name), &entry.meta, true, |file| reader.content_to_file(file))
                    .map_err(|e: LayerError| e.in_entry(path))?;
                self.pool.add_placed(Placed { path: path.clone(), stat });
                return Ok(());
            }
            // The whiteout of overlay file systems is no device that does anything: who makes one needs no privileges.
            Kind::CharDevice { rdev } | Kind::BlockDevice { rdev }
                if !(self.root || *rdev == (0, 0) && matches!(entry.kind, Kind::CharDevice { .. })) =>
            {
                return Err(LayerError::refused("a device needs root", path));
            }
            kind => self.placer.special(parent.as_fd(), name, kind, &entry.meta).map_err(|e| match e {
                Errno::PERM => LayerError::refused("making it needs privileges", path),
                e => failed(e),
            })?,
        }
        self.add_stat(path)
    }

    /// The open directory that is to hold `path`; what is missing of it is made.
    fn home(&mut self, path: &RelPath) -> Result<Arc<OwnedFd>, LayerError> {
        if let Some(parent) = self.dirs.existing_parent(path)? {
            return Ok(parent);
        }
        // A file under way may be about to stand where a directory is missing.
        self.pool.wait_above(path)?;
        self.dirs.parent(path)
    }

    fn add_stat(&mut self, path: &RelPath) -> Result<(), LayerError> {
        if let Some(stat) = self.lstat(path)? {
            self.pool.add_placed(Placed { path: path.clone(), stat });
        }
        Ok(())
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// [`LayerError::Refused`] if its path leads through something that is not a directory.
    pub fn lstat(&mut self, path: &RelPath) -> Result<Option<Stat>, LayerError> {
        let Some(parent) = self.dirs.existing_parent(path)? else { return Ok(None) };
        let name = path.name().unwrap_or(b".");
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            // Nothing stands by a name that is longer than any.
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(e) => Err(LayerError::io(format!("cannot stat: {path}"), e)),
        }
    }

    /// Gives a directory that already stands its time back at the end, or that of its entry if it has the attributes of
    /// that; until then we can write into it.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn keep_directory(&mut self, entry: &Entry, there: &Stat) -> Result<(), LayerError> {
        let path = &entry.path;
        let has = (there.st_mode & 0o7777, there.st_uid, there.st_gid);
        let meta = if has == (entry.meta.mode, entry.meta.uid, entry.meta.gid) {
            entry.meta.clone()
        } else {
            let parent = self.home(path)?;
            attributes::metadata(parent.as_fd(), path.name().unwrap_or(b"."), there)
                .map_err(|e| LayerError::io(format!("cannot read attributes: {path}"), e))?
        };
        self.directories.insert(path.clone(), meta);
        if let Some(name) = path.name().filter(|_| !self.root) {
            let parent = self.home(path)?;
            let failed = |e| LayerError::io(format!("cannot make: {path}"), e);
            self.placer.directory(parent.as_fd(), name).map_err(failed)?;
        }
        Ok(())
    }

    /// The open directory that holds `path`, which must exist.
    pub(crate) fn parent(&mut self, path: &RelPath) -> Result<Arc<OwnedFd>, LayerError> {
        self.dirs.parent(path)
    }

    /// Waits for the files under way.
    pub(crate) fn settle(&self) -> Result<(), LayerError> {
        self.pool.wait()
    }

    /// To be called when something is moved or removed behind our back.
    pub(crate) fn forget(&mut self, path: &RelPath) {
        self.dirs.forget(path);
        self.directories.retain(|dir, _| !dir.starts_with(path));
    }

    /// Waits for the files under way, then makes the layer's hard links.
    pub fn end_layer(&mut self) -> Result<(), LayerError> {
        self.pool.wait()?;
        let links = std::mem::take(&mut self.links);
        let mut targets = std::collections::BTreeSet::new();
        for (path, target) in &links {
            self.link(path, target)?;
            targets.insert(target);
        }
        // Each link moved the ctime of all names, so they are looked at when all are made.
        for path in links.iter().map(|(path, _)| path).chain(targets) {
            self.add_stat(path)?;
        }
        Ok(())
    }

    fn link(&mut self, path: &RelPath, target: &RelPath) -> Result<(), LayerError> {
        let missing =
            || LayerError::corrupt(format!("hard link to a file that is not there: {target}: {path}"));
        let from = match self.dirs.existing_parent(target) {
            Err(LayerError::Refused { .. }) => {
                let what =
                    format!("its target's path leads through something else than directories: {target}");
                return Err(LayerError::refused(what, path));
            }
            other => other?.ok_or_else(missing)?,
        };
        let from_name = target.name().ok_or_else(missing)?;
        let to = self.dirs.parent(path)?;
        let name = path.name().unwrap_or_default();
        let stat = match rustix::fs::statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(missing()),
            other => other.map_err(|e| LayerError::io(format!("cannot stat: {target}"), e))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(LayerError::refused("hard link to a directory", path));
        }
        self.placer
            .hard_link(from.as_fd(), from_name, to.as_fd(), name)
            .map_err(|e| LayerError::io(format!("cannot link: {path}"), e))
    }

    /// Begins a file of which other layers have parts; its content is taken from `reader`. Nobody takes it for what
    /// it is to become before it is [`named`](Self::name_file).
    pub(crate) fn begin_file<R: Read + Send>(
        &mut self,
        path: &RelPath,
        reader: &mut LayerReader<R>,
    ) -> Result<NewFile, LayerError> {
        let parent = self.home(path)?;
        let new = self.placer.begin(parent.as_fd());
        let new = new.map_err(|e| LayerError::io(format!("cannot make: {path}"), e))?;
        match reader.content_to_file(&new.file) {
            Ok(()) => Ok(new),
            Err(e) => {
                self.placer.end(&new, parent.as_fd());
                Err(e.in_entry(path))
            }
        }
    }

    /// A file that was begun has the rest of its content, and now gets its attributes and its name.
    pub(crate) fn name_file(
        &mut self,
        path: &RelPath,
        new: &NewFile,
        meta: &Metadata,
    ) -> Result<(), LayerError> {
        let parent = self.dirs.parent(path)?;
        let named = self.placer.finish(new, parent.as_fd(), path.name().unwrap_or_default(), meta);
        let stat = named.map_err(|e| LayerError::io(format!("cannot make: {path}"), e))?;
        self.pool.add_placed(Placed { path: path.clone(), stat });
        Ok(())
    }

    /// Nothing stays of a file that was begun, if it has no name yet.
    pub(crate) fn abandon_file(&mut self, path: &RelPath, new: &NewFile) {
        if let Ok(parent) = self.dirs.parent(path) {
            self.placer.end(new, parent.as_fd());
        }
    }

    /// Tells of the directories as well, though they do not have their attributes yet.
    pub(crate) fn tell_directories(&mut self) {
        for path in std::mem::take(&mut self.untold) {
            if let Ok(Some(stat)) = self.lstat(&path) {
                self.pool.add_placed(Placed { path, stat });
            }
        }
    }

    /// What was placed since the last call. A path may come again with a newer stat.
    pub fn take_placed(&mut self) -> Vec<Placed> {
        self.pool.take_placed()
    }

    /// What could not be kept so far.
    pub fn notes(&self) -> Vec<Note> {
        self.placer.notes()
    }

    /// To be called last: ends the last layer and gives all directories their attributes, deepest first.
    pub fn finish(&mut self) -> Result<Extracted, LayerError> {
        self.end_layer()?;
        for (path, meta) in std::mem::take(&mut self.directories).iter().rev() {
            let parent = self.dirs.parent(path)?;
            let stat = self
                .placer
                .finish_directory(parent.as_fd(), path.name().unwrap_or(b"."), meta)
                .map_err(|e| LayerError::io(format!("cannot set attributes: {path}"), e))?;
            self.pool.add_placed(Placed { path: path.clone(), stat });
        }
        Ok(Extracted { placed: self.pool.take_placed(), notes: self.placer.notes() })
    }
}
