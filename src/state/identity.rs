//! [`Identity`]: what lstat says of a file, and whether two of them mean the same content.
use crate::clock::Timestamp;
use crate::layer::{Entry, Kind};
use rustix::fs::{FileType, Stat};

/// One lstat, reduced to what tells a changed file from an unchanged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Device; not compared (it changes with reboots), but part of a hard link's key.
    pub dev: u64,
    /// Inode number on the backing file system.
    pub ino: u64,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or metadata; the kernel's, nobody can set it.
    pub ctime: Timestamp,
}

/// Which file it is: its device and its number there. Beneath one directory two may have one number: where another file
/// system is mounted in it, and on an overlayfs whose layers have devices of their own.
pub type FileId = (u64, u64);

impl Identity {
    /// Which file it is.
    pub fn id(&self) -> FileId {
        (self.dev, self.ino)
    }

    /// Whether nothing changed since: content, attributes, extended attributes.
    ///
    /// A write that does not move the ctime exists only within one tick of kernels before 6.13.
    pub fn unchanged_since(&self, earlier: &Self) -> bool {
        (self.ino, self.mode, self.size, self.mtime, self.ctime)
            == (earlier.ino, earlier.mode, earlier.size, earlier.mtime, earlier.ctime)
    }

    /// The file type bits of the mode.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it may be of what an entry says: type, permissions and owner, and but for directories size and time. Of
    /// content and of extended attributes it tells nothing; a name of what has several is none of its own.
    pub fn may_be(&self, entry: &Entry) -> bool {
        let meta = &entry.meta;
        let (file_type, size, rdev) = match &entry.kind {
            Kind::File { size, .. } => (FileType::RegularFile, Some(*size), None),
            Kind::Directory => (FileType::Directory, None, None),
            Kind::Symlink { target } => (FileType::Symlink, Some(target.len() as u64), None),
            Kind::Fifo => (FileType::Fifo, None, None),
            Kind::CharDevice { rdev } => (FileType::CharacterDevice, None, Some(rdev)),
            Kind::BlockDevice { rdev } => (FileType::BlockDevice, None, Some(rdev)),
            Kind::HardLink { .. } | Kind::Whiteout => return false,
        };
        self.file_type() == file_type
            && (self.mode & 0o7777, self.uid, self.gid) == (meta.mode, meta.uid, meta.gid)
            && (file_type == FileType::Directory || self.mtime == meta.mtime)
            && size.is_none_or(|size| self.size == size)
            && rdev.is_none_or(|(major, minor)| self.rdev == rustix::fs::makedev(*major, *minor))
    }
}

impl From<&Stat> for Identity {
    fn from(s: &Stat) -> Self {
        Self {
            dev: s.st_dev,
            ino: s.st_ino,
            mode: s.st_mode,
            nlink: s.st_nlink as u32,
            uid: s.st_uid,
            gid: s.st_gid,
            rdev: s.st_rdev,
            size: s.st_size as u64,
            mtime: Timestamp { sec: s.st_mtime, nsec: s.st_mtime_nsec as u32 },
            ctime: Timestamp { sec: s.st_ctime, nsec: s.st_ctime_nsec as u32 },
        }
    }
}
