//! One entry of a layer: a path and what stands there.
use super::reference::References;
use crate::clock::Timestamp;
use crate::path::RelPath;

/// What every kind of entry carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky (`0o7777`), no file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name; values are arbitrary bytes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Whether they are the same, whenever the content changed.
    pub fn is_but_for_times(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, &self.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
    }
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its length in bytes, holes included.
        size: u64,
        /// Its data was mapped for writing during the cut and may not be of one instant.
        fuzzy: bool,
        /// The parts of its content that stand in other layers.
        refs: References,
    },
    /// A directory (its content are entries of their own).
    Directory,
    /// A symbolic link.
    Symlink {
        /// Arbitrary bytes, never interpreted by us.
        target: Vec<u8>,
    },
    /// Another name of a file that stands earlier in the same layer.
    HardLink {
        /// The earlier path.
        target: RelPath,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major and minor number.
        rdev: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        rdev: (u32, u32),
    },
    /// Nothing stands there any more, and nothing below it: hides older layers.
    Whiteout,
}

/// A path and what stands there. Sockets have no kind: they are never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: Kind,
    /// Its attributes (ignored for whiteouts and hard links).
    pub meta: Metadata,
}
