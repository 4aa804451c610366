//! Listings, with and without the attributes of what is listed.
use super::super::errno::errno;
use super::TTL;
use super::convert::{absent, file_attr, file_type};
use crate::fs::Volume;
use fuser::{FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

pub(super) fn readdir(volume: &Volume, inode: u64, offset: u64, mut reply: ReplyDirectory) {
    let listed = volume.readdir(inode, offset, |name, entry| {
        let kind = file_type(entry.file_type.as_raw_mode());
        !reply.add(INodeNo(entry.ino), entry.next, kind, OsStr::from_bytes(name.to_bytes()))
    });
    match listed {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn readdirplus(volume: &Volume, inode: u64, offset: u64, mut reply: ReplyDirectoryPlus) {
    let listed = volume.readdirplus(inode, offset, |name, entry, found| {
        let name = OsStr::from_bytes(name.to_bytes());
        !match found {
            Some((id, attr)) => {
                let generation = Generation(attr.generation);
                reply.add(INodeNo(id), entry.next, name, &TTL, &file_attr(id, attr), generation)
            }
            None => {
                let mut itself = absent();
                itself.kind = FileType::Directory;
                itself.ino = INodeNo(entry.ino);
                reply.add(INodeNo(0), entry.next, name, &Duration::ZERO, &itself, Generation(0))
            }
        }
    });
    match listed {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}
