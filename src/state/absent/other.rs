//! [`Other`]: a name of a file that stands on the disk already, though we have not brought it.
use super::tree::{FileRow, Node};
use super::{Absent, Fate};
use crate::state::identity::Identity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) node: Node,
    pub(super) ino: u64,
}

impl Absent {
    /// Of a file with several names, one that is on the disk: the daemon was killed before all of them were.
    /// It must be the very file, as the version has it.
    pub(super) fn other_name(&self, number: u32) -> Option<Other> {
        if self.trusted || !self.names.contains_key(&number) {
            return None;
        }
        let row = self.tree.file(number);
        let laid = self.names.get(&number).into_iter().flatten().copied();
        laid.filter(|node| self.stands(*node)).find_map(|node| self.other_at(node, &row))
    }

    /// What stands at a name, if it is as the version has it.
    fn other_at(&self, node: Node, row: &FileRow) -> Option<Other> {
        let dir = self.dir_of(self.tree.parent(node)).ok()?;
        let stat = rustix::fs::statat(&dir, self.tree.name(node), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let ident = Identity::from(&stat);
        let same = ident.file_type() == FileType::RegularFile
            && (ident.size, ident.mtime, ident.mode & 0o7777) == (row.size, row.mtime, row.mode);
        same.then_some(Other { dir, node, ino: ident.ino })
    }

    /// Of a file that is not absent any more, what stands on the disk under a name that the file never lost: it came
    /// another way. `None`: it has no such name. Who has the file open would write to one that nobody else sees.
    ///
    /// # Errors
    /// `ESTALE` if it is not as the version has it.
    pub(super) fn in_its_place(&self, number: u32) -> io::Result<Option<File>> {
        let here = self.names_of(number).into_iter().filter(|node| self.fate(*node) == Some(Fate::Here));
        let (here, row) = (here.collect::<Vec<_>>(), self.tree.file(number));
        let same = here.iter().find_map(|node| self.other_at(*node, &row));
        match same {
            Some(other) => self.open_other(&other).map(Some),
            None if here.is_empty() => Ok(None),
            None => Err(Errno::STALE.into()),
        }
    }

    /// Opens a name that is on the disk already.
    pub(super) fn open_other(&self, other: &Other) -> io::Result<File> {
        let open = |access| {
            let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&other.dir, self.tree.name(other.node), flags, Mode::empty())
        };
        // Where we may not write it nobody opens it to do so.
        let file = File::from(open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY))?);
        match rustix::fs::fstat(&file)?.st_ino == other.ino {
            true => Ok(file),
            false => Err(Errno::STALE.into()),
        }
    }
}
