//! Opens and creations: a backing registered for passthrough, or a handle of our own.
use crate::fs::Volume;
use crate::fs::open::{Opened, Opening, Registration};
use crate::fuse::abi::answer;
use crate::fuse::connection::Backing;
use crate::fuse::transport::Reply;
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub(super) fn open(volume: &Volume, inode: u64, how: Opening, reply: Reply<answer::Opened>) {
    let register = |fd: BorrowedFd<'_>| Ok(Registration(Arc::new(reply.register(fd)?)));
    let opened = volume.open(inode, how, &register);
    // The registration is held until the kernel has its number.
    let result = opened.as_ref().map_err(copy).and_then(|(opened, handle)| told(opened, *handle));
    reply.send(result);
}

/// What a file is made with, but for its name.
#[derive(Clone, Copy)]
pub(super) struct Creation {
    pub(super) parent: u64,
    pub(super) mode: u32,
    pub(super) how: Opening,
}

pub(super) fn create(volume: &Volume, what: Creation, name: &CStr, reply: Reply<answer::Created>) {
    let register = |fd: BorrowedFd<'_>| Ok(Registration(Arc::new(reply.register(fd)?)));
    let created = volume.create(what.parent, name, what.mode, what.how, &register);
    let result = created.as_ref().map_err(copy).and_then(|(id, attr, opened)| {
        Ok(answer::Created { id: *id, attr: *attr, opened: told(opened, 0)? })
    });
    reply.send(result);
}

/// How the kernel is told; `handle` names passthrough opens.
pub(super) fn told(opened: &Opened, handle: u64) -> io::Result<answer::Opened> {
    match opened {
        Opened::Classic(handle) => Ok(answer::Opened::Handle(*handle)),
        Opened::Passthrough(Registration(registration)) => {
            let backing = registration.downcast_ref::<Backing>();
            let backing = backing.ok_or_else(|| io::Error::other("not a registration of this kernel's"))?;
            Ok(answer::Opened::Backing { handle, id: backing.id() })
        }
    }
}

/// The same error once more; only its errno counts.
fn copy(error: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(crate::fuse::errno::errno(error))
}
