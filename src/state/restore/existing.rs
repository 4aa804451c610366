//! [`Ground`]: what the disk held before, and how it makes room.
use super::seen::Seen;
use crate::layer::extract::copy::copy_to_free_name;
use crate::layer::extract::{Dirs, Extractor, Placer, move_to_free_name, remove_all};
use crate::layer::{Entry, Kind, LayerError};
use crate::path::RelPath;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// The tree restored into.
#[derive(Debug)]
pub(super) struct Ground {
    aside: Option<Dirs>,
    placer: Placer,
    /// It was empty at the start, so nothing can stand in the way.
    empty: bool,
    moved: Vec<RelPath>,
}

impl Ground {
    pub(super) fn new(root: &OwnedFd, aside: Option<OwnedFd>) -> Self {
        Self {
            aside: aside.map(Dirs::new),
            placer: Placer::default(),
            empty: is_empty(root).unwrap_or(false),
            moved: Vec::new(),
        }
    }

    pub(super) fn take_moved(&mut self) -> Vec<RelPath> {
        std::mem::take(&mut self.moved)
    }

    /// What stands at `path`; a local file where a directory above it must be is moved away first.
    pub(super) fn look(
        &mut self,
        extractor: &mut Extractor,
        seen: &Seen,
        path: &RelPath,
    ) -> Result<Option<Stat>, LayerError> {
        if self.empty {
            return Ok(None);
        }
        let refused = match extractor.lstat(path) {
            Err(e @ LayerError::Refused { .. }) => e,
            other => return other,
        };
        let mut above: Vec<RelPath> = path.ancestors().collect();
        above.reverse();
        for dir in above {
            let Some(stat) = extractor.lstat(&dir)? else { break };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                // What a layer put there is never led through.
                if seen.layer_of(&dir).is_some() {
                    return Err(refused);
                }
                self.move_aside(extractor, &dir)?;
                break;
            }
        }
        extractor.lstat(path)
    }

    /// Makes room for an entry whose path exists.
    pub(super) fn clear(
        &mut self,
        extractor: &mut Extractor,
        entry: &Entry,
        there: &Stat,
    ) -> Result<(), LayerError> {
        let local = FileType::from_raw_mode(there.st_mode);
        if local == FileType::Directory && matches!(entry.kind, Kind::Directory) {
            return Ok(());
        }
        if self.is_same(extractor, entry, there, local)? {
            return Ok(()); // replaced by the entry
        }
        self.move_aside(extractor, &entry.path)
    }

    /// Whether the local file is the entry as far as lstat can tell.
    fn is_same(
        &self,
        extractor: &mut Extractor,
        entry: &Entry,
        there: &Stat,
        local: FileType,
    ) -> Result<bool, LayerError> {
        let mtime = (there.st_mtime, there.st_mtime_nsec as u32);
        let same_time = mtime == (entry.meta.mtime.sec, entry.meta.mtime.nsec);
        let rdev = (rustix::fs::major(there.st_rdev), rustix::fs::minor(there.st_rdev));
        Ok(match &entry.kind {
            Kind::File { size, .. } => {
                local == FileType::RegularFile && there.st_size as u64 == *size && same_time
            }
            Kind::Symlink { target } => {
                local == FileType::Symlink && {
                    let parent = extractor.parent(&entry.path)?;
                    let name = entry.path.name().unwrap_or_default();
                    rustix::fs::readlinkat(&parent, name, Vec::new())
                        .is_ok_and(|found| found.as_bytes() == target.as_slice())
                }
            }
            // It stands for its target, which is compared by what stands there when it is written.
            Kind::HardLink { target } => {
                extractor.settle()?;
                extractor.lstat(target)?.is_some_and(|t| {
                    t.st_mode == there.st_mode
                        && t.st_size == there.st_size
                        && (t.st_mtime, t.st_mtime_nsec) == (there.st_mtime, there.st_mtime_nsec)
                })
            }
            Kind::Fifo => local == FileType::Fifo,
            Kind::CharDevice { rdev: r } => local == FileType::CharacterDevice && rdev == *r,
            Kind::BlockDevice { rdev: r } => local == FileType::BlockDevice && rdev == *r,
            Kind::Directory | Kind::Whiteout => false,
        })
    }

    fn move_aside(&mut self, extractor: &mut Extractor, path: &RelPath) -> Result<(), LayerError> {
        let failed = |e: std::io::Error| LayerError::io(format!("cannot move aside: {path}"), e);
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

fn is_empty(root: &OwnedFd) -> Result<bool, Errno> {
    for child in rustix::fs::Dir::read_from(root)? {
        if !matches!(child?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
