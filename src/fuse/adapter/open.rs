//! Opens and creations: a backing registered for passthrough, or a handle of our own.
use super::super::errno::errno;
use super::TTL;
use super::convert::file_attr;
use crate::fs::open::{Opened, Registration};
use crate::fs::{Caller, Volume};
use fuser::{BackingId, Errno, FileHandle, FopenFlags, Generation, ReplyCreate, ReplyOpen};
use rustix::fs::OFlags;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

fn backing(registration: &Registration) -> Option<&BackingId> {
    registration.0.downcast_ref()
}

pub(super) fn open(volume: &Volume, caller: Caller, inode: u64, flags: OFlags, reply: ReplyOpen) {
    let register = |fd: BorrowedFd<'_>| Ok(Registration(Arc::new(reply.open_backing(fd)?)));
    match volume.open(caller, inode, flags, &register) {
        Ok((Opened::Passthrough(registration), handle)) => match backing(&registration) {
            Some(id) => reply.opened_passthrough(FileHandle(handle), FopenFlags::FOPEN_NOFLUSH, id),
            None => reply.error(Errno::EIO),
        },
        Ok((Opened::Classic(handle), _)) => {
            let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            reply.opened(FileHandle(handle), keep);
        }
        Err(e) => reply.error(errno(&e)),
    }
}

/// What a file is made with, but for its name.
#[derive(Clone, Copy)]
pub(super) struct Creation {
    pub(super) caller: Caller,
    pub(super) parent: u64,
    pub(super) mode: u32,
    pub(super) flags: OFlags,
}

pub(super) fn create(volume: &Volume, what: Creation, name: &CStr, reply: ReplyCreate) {
    let register = |fd: BorrowedFd<'_>| Ok(Registration(Arc::new(reply.open_backing(fd)?)));
    match volume.create(what.caller, what.parent, name, what.mode, what.flags, &register) {
        Ok((id, attr, opened)) => {
            let (found, generation) = (file_attr(id, &attr), Generation(attr.generation));
            match opened {
                Opened::Passthrough(registration) => match backing(&registration) {
                    Some(id) => reply.created_passthrough(
                        &TTL,
                        &found,
                        generation,
                        FileHandle(0),
                        FopenFlags::FOPEN_NOFLUSH,
                        id,
                    ),
                    None => reply.error(Errno::EIO),
                },
                Opened::Classic(handle) => {
                    let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                    reply.created(&TTL, &found, generation, FileHandle(handle), keep);
                }
            }
        }
        Err(e) => reply.error(errno(&e)),
    }
}
