//! [`Beside`]: tables and a directory on one mount.
//!
//! Each request goes to one of the two by the number of its inode: numbers of tables have a bit that no number of the
//! directory has. Two names at the top are those of tables; the directory never hears of them, so nothing of tables
//! can be in a version of it.
use super::TablesAdapter;
use super::nodes;
use crate::fs::Volume;
use crate::fs::inode::ROOT_ID;
use crate::fs::listing::DirEntry;
use crate::fuse::abi::answer::List;
use crate::fuse::abi::request::{Operation, Request};
use crate::fuse::adapter::Adapter;
use crate::fuse::transport::{Handler, Pending, Reply};
use rustix::fs::FileType;
use std::ffi::CStr;
use std::sync::Arc;

/// What numbers of tables have. The directory's are below: see `fs::inode`.
pub(super) const OWN: u64 = 1 << 63;
/// The names at the top that belong to tables.
pub const FOLDERS: [&CStr; 2] = [c"iceberg", c"objects"];
/// The cookies of their entries follow this one. No file system has them, and no directory so many names that its
/// own come near.
const COOKIES: u64 = 0x7fff_ffff_ffff_fff0;

/// See the module.
#[derive(Debug)]
pub struct Beside {
    volume: Arc<Volume>,
    directory: Adapter,
    tables: TablesAdapter,
}

/// Who answers.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Directory,
    /// Under this number.
    Tables(u64),
    /// Nobody; this errno.
    Refused(i32),
}

impl Beside {
    /// Shows `volume`, served by `directory`, and `tables`.
    pub fn new(volume: Arc<Volume>, directory: Adapter, tables: TablesAdapter) -> Self {
        Self { volume, directory, tables }
    }

    /// The listing of the top: ours, then those of the directory.
    fn list(&self, offset: u64, size: u32, plus: bool, reply: Reply<Vec<u8>>) {
        reply.fill(size as usize, |buffer| {
            let mut list = List::new(buffer);
            let (ours, rest) = begin(offset);
            for (name, next) in FOLDERS.iter().zip(COOKIES + 1..).skip(ours) {
                let entry = DirEntry {
                    name: (*name).to_owned(),
                    ino: u64::MAX, // the kernel learns it when it looks it up
                    file_type: FileType::Directory,
                    next,
                };
                let bytes = name.to_bytes();
                let taken = if plus { list.entry(bytes, &entry, None) } else { list.name(bytes, &entry) };
                if !taken {
                    return Ok(list.bytes());
                }
            }
            if plus {
                self.volume.readdirplus(ROOT_ID, rest, |name, entry, found| {
                    if is_ours(name) {
                        // Somebody put it under the mount; it is not shown.
                        if let Some((id, _)) = found {
                            self.volume.forget(id, 1);
                        }
                        return true;
                    }
                    list.entry(name.to_bytes(), entry, found)
                })?;
            } else {
                self.volume.readdir(ROOT_ID, rest, |name, entry| {
                    is_ours(name) || list.name(name.to_bytes(), entry)
                })?;
            }
            Ok(list.bytes())
        });
    }
}

/// How many of our entries a listing has behind it, and where it is in the directory's.
fn begin(offset: u64) -> (usize, u64) {
    match offset.checked_sub(COOKIES) {
        Some(ours) if ours <= FOLDERS.len() as u64 => (ours as usize, 0),
        _ if offset == 0 => (0, 0),
        _ => (FOLDERS.len(), offset),
    }
}

fn is_ours(name: &CStr) -> bool {
    FOLDERS.contains(&name)
}

/// Whose a name in a folder is.
fn side(parent: u64, name: &CStr) -> Side {
    match parent {
        ROOT_ID if is_ours(name) => Side::Tables(OWN | nodes::ROOT),
        ROOT_ID => Side::Directory,
        _ => side_of(parent),
    }
}

/// Whose an inode is.
fn side_of(id: u64) -> Side {
    if id & OWN == 0 { Side::Directory } else { Side::Tables(id) }
}

/// Who answers a request.
fn route(id: u64, operation: &Operation<'_>) -> Side {
    // The two folders themselves are as firm as mount points.
    let firm = |parent, name| parent == ROOT_ID && is_ours(name);
    let across = |from: Side, to: Side| match (from, to) {
        (Side::Directory, Side::Directory) => Side::Directory,
        (Side::Tables(_), Side::Tables(_)) => Side::Refused(libc::EROFS),
        _ => Side::Refused(libc::EXDEV),
    };
    match *operation {
        Operation::Lookup { name } => side(id, name),
        Operation::Create { name, .. }
        | Operation::Mknod { name, .. }
        | Operation::Mkdir { name, .. }
        | Operation::Symlink { name, .. }
            if firm(id, name) =>
        {
            Side::Refused(libc::EEXIST)
        }
        Operation::Link { name, .. } if firm(id, name) => Side::Refused(libc::EEXIST),
        Operation::Unlink { name } | Operation::Rmdir { name } if firm(id, name) => {
            Side::Refused(libc::EBUSY)
        }
        Operation::Rename { name, new_parent, new_name, .. }
            if firm(id, name) || firm(new_parent, new_name) =>
        {
            Side::Refused(libc::EBUSY)
        }
        Operation::Rename { new_parent, .. } => across(side_of(id), side_of(new_parent)),
        Operation::Link { inode, .. } => across(side_of(inode), side_of(id)),
        // The kernel then copies by reading and writing.
        Operation::CopyFileRange { to, .. } => across(side_of(id), side_of(to.0)),
        _ => side_of(id),
    }
}

impl Handler for Beside {
    fn handle(&self, mut request: Request<'_>, pending: Pending) {
        let id = request.header.nodeid;
        match request.operation {
            Operation::BatchForget { items } => {
                pending.none();
                for item in items {
                    match side_of(item.inode) {
                        Side::Tables(id) => self.tables.forget(id, item.count),
                        _ => self.volume.forget(item.inode, item.count),
                    }
                }
                return;
            }
            Operation::Readdir { offset, size } if id == ROOT_ID => {
                return self.list(offset, size, false, pending.reply());
            }
            Operation::Readdirplus { offset, size } if id == ROOT_ID => {
                return self.list(offset, size, true, pending.reply());
            }
            _ => {}
        }
        match route(id, &request.operation) {
            Side::Directory => self.directory.handle(request, pending),
            Side::Tables(id) => {
                request.header.nodeid = id;
                self.tables.handle(request, pending);
            }
            Side::Refused(errno) => pending.reply::<()>().error(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: u64 = OWN | 7;
    const FILE: u64 = 42;

    #[test]
    fn names_at_the_top_are_those_of_tables() {
        let look_up = |id, name| route(id, &Operation::Lookup { name });
        assert_eq!(look_up(ROOT_ID, c"iceberg"), Side::Tables(OWN | 1));
        assert_eq!(look_up(ROOT_ID, c"icebergs"), Side::Directory);
        assert_eq!(look_up(FILE, c"iceberg"), Side::Directory);
        assert_eq!(look_up(TABLE, c"x"), Side::Tables(TABLE));
        let made = |name| Operation::Mkdir { name, mode: 0o755, umask: 0 };
        assert_eq!(route(ROOT_ID, &made(c"objects")), Side::Refused(libc::EEXIST));
        assert_eq!(route(ROOT_ID, &made(c"data")), Side::Directory);
        assert_eq!(route(TABLE, &made(c"objects")), Side::Tables(TABLE), "it refuses");
        assert_eq!(route(ROOT_ID, &Operation::Rmdir { name: c"iceberg" }), Side::Refused(libc::EBUSY));
    }

    #[test]
    fn nothing_goes_across() {
        let to = |from, new_parent, new_name| {
            route(from, &Operation::Rename { name: c"x", new_parent, new_name, flags: 0 })
        };
        assert_eq!(to(ROOT_ID, FILE, c"y"), Side::Directory);
        assert_eq!(to(ROOT_ID, TABLE, c"y"), Side::Refused(libc::EXDEV));
        assert_eq!(to(TABLE, ROOT_ID, c"y"), Side::Refused(libc::EXDEV));
        assert_eq!(to(TABLE, TABLE, c"y"), Side::Refused(libc::EROFS));
        assert_eq!(to(ROOT_ID, ROOT_ID, c"iceberg"), Side::Refused(libc::EBUSY));
        let link = |inode, id| route(id, &Operation::Link { inode, name: c"y" });
        assert_eq!(link(FILE, ROOT_ID), Side::Directory);
        assert_eq!(link(TABLE, ROOT_ID), Side::Refused(libc::EXDEV));
        assert_eq!(link(FILE, TABLE), Side::Refused(libc::EXDEV));
        let copy =
            |id, to| route(id, &Operation::CopyFileRange { handle: 1, offset: 0, to: (to, 2, 0), length: 1 });
        assert_eq!(copy(FILE, FILE), Side::Directory);
        assert_eq!(copy(TABLE, FILE), Side::Refused(libc::EXDEV));
    }

    #[test]
    fn a_listing_goes_on_where_it_was() {
        assert_eq!(begin(0), (0, 0));
        assert_eq!(begin(COOKIES + 1), (1, 0));
        assert_eq!(begin(COOKIES + 2), (2, 0));
        assert_eq!(begin(5), (2, 5), "within the directory");
        assert_eq!(begin(i64::MAX as u64), (2, i64::MAX as u64), "at its end");
    }
}
