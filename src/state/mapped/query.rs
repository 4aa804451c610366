//! [`next`]: asks the kernel for the next mapping of a process that is shared and may be stored to, and for no other
//! (`PROCMAP_QUERY`, include/uapi/linux/fs.h, since Linux 6.11).
//!
//! A process has hundreds of mappings of which hardly one is of this kind. As text the kernel writes a line for each of
//! them, and every save reads those of all processes.
use super::Mapping;
use rustix::ioctl::{self, Opcode, Updater, opcode};
use std::borrow::Cow;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

const PROCMAP_QUERY: Opcode = opcode::read_write::<Query>(b'f', 17);
const WRITABLE: u64 = 0x02;
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;
/// Room for a path as the kernel shows it; one that needs more is refused, with `ENAMETOOLONG`.
pub(super) const PATH_ROOM: usize = 4096;

/// `struct procmap_query`
#[repr(C)]
#[derive(Debug, Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    found_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_bytes: u32,
    build_id_bytes: u32,
    name: u64,
    build_id: u64,
}

/// The first such mapping at `address` or after it, and where it ends; `None` if there is none, or the process is
/// gone or has none at all, as threads of the kernel. Its path goes through `room`.
///
/// Fails with `ENOTTY` where the kernel cannot be asked.
pub(super) fn next<'a>(
    maps: BorrowedFd<'_>,
    address: u64,
    room: &'a mut [u8; PATH_ROOM],
) -> rustix::io::Result<Option<(Mapping<'a>, u64)>> {
    let mut query = Query {
        size: size_of::<Query>() as u64,
        flags: WRITABLE | SHARED | COVERING_OR_NEXT | FILE_BACKED,
        address,
        name_bytes: PATH_ROOM as u32,
        name: room.as_mut_ptr() as u64,
        ..Query::default()
    };
    // SAFETY: the opcode takes this struct, whose size it is told. It writes at most as many bytes of the name as `room`
    // has, which is borrowed for longer than the call, and no build id, for which no room is given.
    match unsafe { ioctl::ioctl(maps, Updater::<PROCMAP_QUERY, Query>::new(&mut query)) } {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => return Ok(None),
        Err(e) => return Err(e),
    }
    let path = CStr::from_bytes_until_nul(room).map_or(&[][..], CStr::to_bytes);
    let mapping = Mapping { dev: (query.major, query.minor), ino: query.inode, path: Cow::Borrowed(path) };
    Ok(Some((mapping, query.end)))
}
