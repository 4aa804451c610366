//! Records of what a version has where the disk holds something else that is to stay.
//!
//! With no record a removal of that would be none: nobody would know that the version has anything there. So there is one,
//! which tells what the version has and is equal to nothing that a disk ever has.
use crate::clock::Timestamp;
use crate::layer::{Entry, Kind};
use crate::state::identity::Identity;
use rustix::fs::FileType;

/// Nanoseconds that no clock gives, and other ones than those of files that are not here.
const NEVER: u32 = u32::MAX - 1;

/// The record of an entry that something else stands in the place of. What a link is, is told by what it leads to.
pub fn overruled(entry: &Entry) -> Identity {
    let (file_type, size, rdev) = match &entry.kind {
        Kind::File { size, .. } => (FileType::RegularFile, *size, 0),
        Kind::HardLink { .. } | Kind::Whiteout => (FileType::RegularFile, 0, 0),
        Kind::Directory => (FileType::Directory, 0, 0),
        Kind::Symlink { target } => (FileType::Symlink, target.len() as u64, 0),
        Kind::Fifo => (FileType::Fifo, 0, 0),
        Kind::CharDevice { rdev } => (FileType::CharacterDevice, 0, rustix::fs::makedev(rdev.0, rdev.1)),
        Kind::BlockDevice { rdev } => (FileType::BlockDevice, 0, rustix::fs::makedev(rdev.0, rdev.1)),
    };
    let meta = &entry.meta;
    overruled_as(&Identity {
        dev: 0,
        ino: 0,
        mode: file_type.as_raw_mode() | meta.mode & 0o7777,
        nlink: 1,
        uid: meta.uid,
        gid: meta.gid,
        rdev,
        size,
        mtime: meta.mtime,
        ctime: meta.mtime,
    })
}

/// The same of an entry that would look so if it stood.
pub fn overruled_as(ident: &Identity) -> Identity {
    // It has no other names: those that the version has are records of what stands there, or such as this one.
    Identity { dev: 0, ino: 0, nlink: 1, ctime: Timestamp { sec: 0, nsec: NEVER }, ..*ident }
}
