//! Requests, read.
use super::init::Features;
use super::{Body, InHeader, Opcode};
use crate::clock::Timestamp;
use crate::fs::{SetAttr, SetTime};
use std::ffi::CStr;
use zerocopy::FromBytes;

/// One request of the kernel. Names and data are borrowed from the buffer it came in.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks about what.
    pub header: InHeader,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// What is asked. The inode it is about, or the directory of its name, stands in the header.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // the protocol's own names
pub enum Operation<'a> {
    Lookup {
        name: &'a CStr,
    },
    /// The kernel dropped so many references. No reply.
    Forget {
        count: u64,
    },
    /// The same for several inodes. No reply.
    BatchForget {
        items: &'a [ForgetOne],
    },
    Getattr,
    Setattr {
        handle: Option<u64>,
        set: SetAttr,
    },
    Readlink,
    Symlink {
        name: &'a CStr,
        target: &'a CStr,
    },
    Mknod {
        name: &'a CStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    Mkdir {
        name: &'a CStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a CStr,
    },
    Rmdir {
        name: &'a CStr,
    },
    Rename {
        name: &'a CStr,
        new_parent: u64,
        new_name: &'a CStr,
        flags: u32,
    },
    /// The name is to be made in the header's directory.
    Link {
        inode: u64,
        name: &'a CStr,
    },
    Open {
        flags: u32,
        kill_privileges: bool,
    },
    Create {
        name: &'a CStr,
        mode: u32,
        umask: u32,
        flags: u32,
        kill_privileges: bool,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        kill_privileges: bool,
    },
    Statfs,
    Release {
        handle: u64,
        flags: u32,
    },
    Fsync {
        handle: u64,
        data_only: bool,
    },
    Setxattr {
        name: &'a CStr,
        value: &'a [u8],
        flags: u32,
        /// The caller may not keep the set-group-id bit.
        kill_setgid: bool,
    },
    Getxattr {
        name: &'a CStr,
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a CStr,
    },
    Readdir {
        offset: u64,
        size: u32,
    },
    Readdirplus {
        offset: u64,
        size: u32,
    },
    Fsyncdir,
    Fallocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    Lseek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange {
        handle: u64,
        offset: u64,
        to: (u64, u64, u64),
        length: u64,
    },
    /// The mount is over.
    Destroy,
    /// Not served: the answer is `ENOSYS`, which most of the kernel's callers ask only once for.
    Unknown,
}

/// One item of a BATCH_FORGET.
#[derive(Debug, Clone, Copy, FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
#[repr(C, packed)] // read where it lies, aligned or not
pub struct ForgetOne {
    /// Which inode.
    pub inode: u64,
    /// How many references.
    pub count: u64,
}

/// Declares structs as the kernel lays them out.
macro_rules! wire {
    ($($name:ident { $($field:ident: $type:ty,)* })*) => {
        $(#[derive(FromBytes)] #[repr(C)] #[allow(dead_code)] // what is not used here keeps the layout
        struct $name { $($field: $type,)* })*
    };
}

wire! {
    SetattrIn {
        valid: u32, padding: u32, handle: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32, mode: u32, unused4: u32, uid: u32, gid: u32,
        unused5: u32,
    }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32, }
    MkdirIn { mode: u32, umask: u32, }
    RenameIn { new_dir: u64, }
    Rename2In { new_dir: u64, flags: u32, padding: u32, }
    LinkIn { inode: u64, }
    OpenIn { flags: u32, open_flags: u32, }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    // READ, READDIR and WRITE share it.
    IoIn {
        handle: u64, offset: u64, size: u32, io_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    ReleaseIn { handle: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    FsyncIn { handle: u64, flags: u32, padding: u32, }
    SetxattrIn { size: u32, flags: u32, }
    // Follows it where that is agreed ([`Features::SETXATTR_EXT`]).
    SetxattrMoreIn { before: SetxattrIn, more_flags: u32, padding: u32, }
    GetxattrIn { size: u32, padding: u32, }
    FallocateIn { handle: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    LseekIn { handle: u64, offset: u64, whence: u32, padding: u32, }
    CopyIn {
        handle: u64, offset: u64, inode_out: u64, handle_out: u64, offset_out: u64, length: u64, flags: u64,
    }
    ForgetIn { count: u64, }
    BatchForgetIn { count: u32, dummy: u32, }
}

/// Bits of `SetattrIn::valid`.
mod valid {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const HANDLE: u32 = 1 << 6;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
    pub(super) const LOCK_OWNER: u32 = 1 << 9;
    pub(super) const KILL_PRIVILEGES: u32 = 1 << 11;
}

/// Bit of `OpenIn::open_flags` and `CreateIn::open_flags`.
const OPEN_KILL_PRIVILEGES: u32 = 1 << 0;
/// Bit of `IoIn::io_flags`.
const WRITE_KILL_PRIVILEGES: u32 = 1 << 2;
/// Bit of `SetxattrMoreIn::more_flags`.
const SETXATTR_KILL_SETGID: u32 = 1 << 0;
/// Bit of `FsyncIn::flags`.
const FSYNC_DATA_ONLY: u32 = 1 << 0;

impl<'a> Request<'a> {
    /// Reads a request that came in one piece.
    pub fn parse(bytes: &'a [u8], agreed: Features) -> Option<Self> {
        let (header, body) = InHeader::read_from_prefix(bytes).ok()?;
        Self::read(header, Body::whole(body), agreed)
    }

    /// Reads a request of a kernel with which these features are agreed. `None`: it is not what its opcode says
    /// (never from a sane kernel).
    pub fn read(header: InHeader, body: Body<'a>, agreed: Features) -> Option<Self> {
        Some(Self { header, operation: operation(&header, body, agreed)? })
    }
}

fn operation<'a>(header: &InHeader, body: Body<'a>, agreed: Features) -> Option<Operation<'a>> {
    let Some(opcode) = Opcode::from_number(header.opcode) else { return Some(Operation::Unknown) };
    Some(match opcode {
        Opcode::Lookup => Operation::Lookup { name: name(body.rest())?.0 },
        Opcode::Forget => Operation::Forget { count: body.fixed::<ForgetIn>()?.0.count },
        Opcode::BatchForget => {
            let (fixed, rest) = body.fixed::<BatchForgetIn>()?;
            let items = <[ForgetOne]>::ref_from_prefix_with_elems(rest, fixed.count as usize).ok()?.0;
            Operation::BatchForget { items }
        }
        Opcode::Getattr => Operation::Getattr,
        Opcode::Setattr => setattr(&body.fixed()?.0),
        Opcode::Readlink => Operation::Readlink,
        Opcode::Symlink => {
            let (link, rest) = name(body.rest())?;
            Operation::Symlink { name: link, target: name(rest)?.0 }
        }
        Opcode::Mknod => {
            let (MknodIn { mode, rdev, umask, .. }, rest) = body.fixed()?;
            Operation::Mknod { name: name(rest)?.0, mode, umask, rdev }
        }
        Opcode::Mkdir => {
            let (MkdirIn { mode, umask }, rest) = body.fixed()?;
            Operation::Mkdir { name: name(rest)?.0, mode, umask }
        }
        Opcode::Unlink => Operation::Unlink { name: name(body.rest())?.0 },
        Opcode::Rmdir => Operation::Rmdir { name: name(body.rest())?.0 },
        Opcode::Rename => {
            let (RenameIn { new_dir }, rest) = body.fixed()?;
            rename(rest, new_dir, 0)?
        }
        Opcode::Rename2 => {
            let (Rename2In { new_dir, flags, .. }, rest) = body.fixed()?;
            rename(rest, new_dir, flags)?
        }
        Opcode::Link => {
            let (LinkIn { inode }, rest) = body.fixed()?;
            Operation::Link { inode, name: name(rest)?.0 }
        }
        Opcode::Open => {
            let (OpenIn { flags, open_flags }, _) = body.fixed()?;
            Operation::Open { flags, kill_privileges: open_flags & OPEN_KILL_PRIVILEGES != 0 }
        }
        Opcode::Create => {
            let (CreateIn { flags, mode, umask, open_flags }, rest) = body.fixed()?;
            let kill_privileges = open_flags & OPEN_KILL_PRIVILEGES != 0;
            Operation::Create { name: name(rest)?.0, mode, umask, flags, kill_privileges }
        }
        Opcode::Read => {
            let (IoIn { handle, offset, size, .. }, _) = body.fixed()?;
            Operation::Read { handle, offset, size }
        }
        Opcode::Write => {
            let (IoIn { handle, offset, size, io_flags, .. }, rest) = body.fixed()?;
            let data = rest.get(..size as usize)?;
            Operation::Write { handle, offset, data, kill_privileges: io_flags & WRITE_KILL_PRIVILEGES != 0 }
        }
        Opcode::Statfs => Operation::Statfs,
        Opcode::Release => {
            let (ReleaseIn { handle, flags, .. }, _) = body.fixed()?;
            Operation::Release { handle, flags }
        }
        Opcode::Fsync => {
            let (FsyncIn { handle, flags, .. }, _) = body.fixed()?;
            Operation::Fsync { handle, data_only: flags & FSYNC_DATA_ONLY != 0 }
        }
        Opcode::Setxattr => {
            let (SetxattrMoreIn { before, more_flags, .. }, rest) = match agreed.has(Features::SETXATTR_EXT) {
                true => body.fixed()?,
                false => {
                    let (before, rest) = body.fixed()?;
                    (SetxattrMoreIn { before, more_flags: 0, padding: 0 }, rest)
                }
            };
            let SetxattrIn { size, flags } = before;
            let (key, rest) = name(rest)?;
            let kill_setgid = more_flags & SETXATTR_KILL_SETGID != 0;
            Operation::Setxattr { name: key, value: rest.get(..size as usize)?, flags, kill_setgid }
        }
        Opcode::Getxattr => {
            let (GetxattrIn { size, .. }, rest) = body.fixed()?;
            Operation::Getxattr { name: name(rest)?.0, size }
        }
        Opcode::Listxattr => Operation::Listxattr { size: body.fixed::<GetxattrIn>()?.0.size },
        Opcode::Removexattr => Operation::Removexattr { name: name(body.rest())?.0 },
        Opcode::Readdir => {
            let (IoIn { offset, size, .. }, _) = body.fixed()?;
            Operation::Readdir { offset, size }
        }
        Opcode::Readdirplus => {
            let (IoIn { offset, size, .. }, _) = body.fixed()?;
            Operation::Readdirplus { offset, size }
        }
        Opcode::Fsyncdir => Operation::Fsyncdir,
        Opcode::Fallocate => {
            let (FallocateIn { handle, offset, length, mode, .. }, _) = body.fixed()?;
            Operation::Fallocate { handle, offset, length, mode }
        }
        Opcode::Lseek => {
            let (LseekIn { handle, offset, whence, .. }, _) = body.fixed()?;
            Operation::Lseek { handle, offset, whence }
        }
        Opcode::CopyFileRange => {
            let (CopyIn { handle, offset, inode_out, handle_out, offset_out, length, .. }, _) =
                body.fixed()?;
            Operation::CopyFileRange { handle, offset, to: (inode_out, handle_out, offset_out), length }
        }
        Opcode::Destroy => Operation::Destroy,
        // INIT is over before requests are served, and no interrupt is of interest.
        Opcode::Init | Opcode::Interrupt => Operation::Unknown,
    })
}

/// A name ended by a NUL, and what follows it.
fn name(bytes: &[u8]) -> Option<(&CStr, &[u8])> {
    let name = CStr::from_bytes_until_nul(bytes).ok()?;
    Some((name, &bytes[name.count_bytes() + 1..]))
}

fn rename(rest: &[u8], new_parent: u64, flags: u32) -> Option<Operation<'_>> {
    let (from, rest) = name(rest)?;
    let (to, _) = name(rest)?;
    Some(Operation::Rename { name: from, new_parent, new_name: to, flags })
}

fn setattr(asked: &SetattrIn) -> Operation<'static> {
    let has = |bit| asked.valid & bit != 0;
    // Seconds before 1970 are sent as the two's complement.
    let time = |set, now, sec, nsec| match (has(set), has(now)) {
        (_, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(Timestamp { sec: sec as i64, nsec })),
        (false, false) => None,
    };
    // chown(2) that leaves owner and group, and a write that must not leave the bits: the kernel has kept to itself what
    // else it was asked for.
    let is_nothing = asked.valid & !(valid::HANDLE | valid::LOCK_OWNER) == 0;
    let set = SetAttr {
        mode: has(valid::MODE).then_some(asked.mode),
        uid: has(valid::UID).then_some(asked.uid),
        gid: has(valid::GID).then_some(asked.gid),
        size: has(valid::SIZE).then_some(asked.size),
        atime: time(valid::ATIME, valid::ATIME_NOW, asked.atime, asked.atime_nsec),
        mtime: time(valid::MTIME, valid::MTIME_NOW, asked.mtime, asked.mtime_nsec),
        drop_privileges: has(valid::KILL_PRIVILEGES) || is_nothing,
    };
    Operation::Setattr { handle: has(valid::HANDLE).then_some(asked.handle), set }
}

#[cfg(test)]
mod tests;
