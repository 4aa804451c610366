//! [`WalIndex`]: SQLite's `X-shm`, the one file that is no part of a version.
//!
//! It is memory that the processes using a database share, and every one of them stores to it
//! through a mapping, so no cut can have it of one instant. SQLite makes it anew from `X` and
//! `X-wal` when a database is first opened. A file is taken for one by what it contains; the name
//! alone only says which files are asked. Whoever is in doubt gets the file saved.
use crate::path::RelPath;
use crate::state::backing::open_directory;
use crate::state::identity::Identity;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// What SQLite appends to the name of a database.
const SUFFIX: &[u8] = b"-shm";
const LOG_SUFFIX: &[u8] = b"-wal";
/// The names of what a database replays when it is opened.
pub(crate) const LOG_SUFFIXES: [&[u8]; 2] = [LOG_SUFFIX, b"-journal"];
/// The names of all files of a database, as they are appended to its own.
pub(crate) const FILE_SUFFIXES: [&[u8]; 3] = [b"", LOG_SUFFIX, b"-journal"];
/// How a log begins, whichever its checksums' order of bytes is, and how a journal does.
const LOGS: [&[u8]; 3] =
    [&[0x37, 0x7f, 0x06, 0x82], &[0x37, 0x7f, 0x06, 0x83], &[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]];
/// What an index says at its start and in the second copy of its header
/// (<https://sqlite.org/walformat.html>, `iVersion`).
const VERSION: u32 = 3_007_000;
/// Where the second copy of the header is.
const SECOND: usize = 48;
/// Both copies and the checkpoint information that follows them.
const HEADER_BYTES: usize = 136;
/// To so many bytes SQLite shortens an index that nobody uses, before it makes it anew.
const STUB_BYTES: usize = 3;
/// How every database begins that is not encrypted.
pub(super) const DATABASE: &[u8; 16] = b"SQLite format 3\0";
/// Where a database says by which versions it can be written and read; 2 is WAL.
const MODES: std::ops::Range<usize> = 18..20;

/// How far an index has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalIndex {
    /// It has its header, which no other file has.
    Made,
    /// Nothing but zeros, or what is left of a header: it is one only beside its database.
    Empty,
}

/// Whether a name can be that of an index.
fn may_be(name: &[u8]) -> bool {
    name.len() > SUFFIX.len() && name.ends_with(SUFFIX)
}

/// Where the index of a database is, for the path of the database or of its log.
pub(crate) fn beside(path: &RelPath) -> Option<RelPath> {
    let name = path.name()?;
    let database = name.strip_suffix(LOG_SUFFIX).unwrap_or(name);
    Some(path.parent()?.join(&[database, SUFFIX].concat()))
}

/// The database that a file would belong to if it were of one, which may be itself, and all files that that could have.
pub(crate) fn database_of(path: &RelPath) -> Option<(RelPath, [RelPath; 3])> {
    let (parent, name) = (path.parent()?, path.name()?);
    let database = LOG_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(*suffix)).unwrap_or(name);
    if database.is_empty() {
        return None;
    }
    Some((parent.join(database), FILE_SUFFIXES.map(|suffix| parent.join(&[database, suffix].concat()))))
}

/// Whether the file `name` in `dir` is an index. `ident` is its lstat.
pub(crate) fn is_one(dir: BorrowedFd<'_>, name: &[u8], ident: &Identity) -> bool {
    // SQLite's has one name: who gave it another means to keep it.
    if !may_be(name) || !ident.file_type().is_file() || ident.nlink != 1 {
        return false;
    }
    let Some(database) = name.strip_suffix(SUFFIX) else { return false };
    match head::<HEADER_BYTES>(dir, name).and_then(|head| recognise(&head)) {
        Some(WalIndex::Made) => true,
        Some(WalIndex::Empty) => is_database(dir, database),
        None => false,
    }
}

/// Whether the file `name` in `dir` is a log that would be replayed.
pub(crate) fn is_log(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    head::<8>(dir, name).is_some_and(|head| LOGS.iter().any(|log| head.starts_with(log)))
}

/// Whether there is an index at `path` beneath `root`, on the backing.
pub(crate) fn is_at(root: BorrowedFd<'_>, path: &RelPath) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return false };
    if !may_be(name) {
        return false;
    }
    let opened = if parent.is_root() { None } else { Some(open_directory(root, &parent)) };
    let dir = match &opened {
        None => root,
        Some(Ok(dir)) => dir.as_fd(),
        Some(Err(_)) => return false,
    };
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| is_one(dir, name, &Identity::from(&stat)))
}

fn recognise(head: &[u8]) -> Option<WalIndex> {
    let is_made = |at: usize| {
        let word = head.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
        // In the byte order of the machine that made it.
        word.is_some_and(|w| [u32::from_le_bytes(w), u32::from_be_bytes(w)].contains(&VERSION))
    };
    let is_blank = |at: usize| head.get(at..at + 4).is_some_and(|b| b == [0; 4]);
    let stub = |version: [u8; 4]| head.len() <= STUB_BYTES && version.starts_with(head);
    // SQLite writes the second copy first.
    if head.len() == HEADER_BYTES && is_made(SECOND) && (is_made(0) || is_blank(0)) {
        Some(WalIndex::Made)
    } else if head.iter().all(|b| *b == 0) || stub(VERSION.to_le_bytes()) || stub(VERSION.to_be_bytes()) {
        Some(WalIndex::Empty)
    } else {
        None
    }
}

/// Whether `name` is a database that keeps a write-ahead log, so that `name-shm` is SQLite's.
fn is_database(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    let Some(head) = head::<{ MODES.end }>(dir, name) else { return false };
    head.starts_with(DATABASE) && head.get(MODES) == Some(&[2, 2])
}

/// The first bytes of a regular file, all there are of `N`; `None` if it cannot be read.
fn head<const N: usize>(dir: BorrowedFd<'_>, name: &[u8]) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut head = vec![0; N];
    let mut filled = 0;
    while filled < N {
        match file.read_at(&mut head[filled..], filled as u64).ok()? {
            0 => break,
            got => filled += got,
        }
    }
    head.truncate(filled);
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn index() -> Vec<u8> {
        let mut bytes = vec![0; 32768];
        bytes[..4].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[SECOND..SECOND + 4].copy_from_slice(&VERSION.to_ne_bytes());
        bytes
    }

    fn database(mode: u8) -> Vec<u8> {
        let mut bytes = DATABASE.to_vec();
        bytes.extend([16, 0, mode, mode]);
        bytes
    }

    /// Whether `d-shm` is taken for an index when it has `content` and `d` is as given.
    fn taken(content: &[u8], database: Option<&[u8]>) -> bool {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("d-shm"), content).expect("writes");
        if let Some(database) = database {
            fs::write(dir.path().join("d"), database).expect("writes");
        }
        let root = File::open(dir.path()).expect("opens");
        is_at(root.as_fd(), &RelPath::new("d-shm").expect("valid path"))
    }

    #[test]
    fn an_index_is_known_by_its_header_alone_and_an_empty_one_by_its_database() {
        assert!(taken(&index(), None), "also when its database is encrypted, or gone");
        let mut half = index();
        half[..4].fill(0);
        assert!(taken(&half, None), "the second copy is written first");
        for empty in [&b""[..], &[0; 3], &VERSION.to_ne_bytes()[..3], &[0; 32768]] {
            assert!(taken(empty, Some(&database(2))));
            assert!(!taken(empty, Some(&database(1))), "no write-ahead log, so it is not SQLite's");
            assert!(!taken(empty, None));
        }
    }

    #[test]
    fn a_file_that_is_only_called_so_is_a_file() {
        for content in [&b"mine"[..], b"not", &[0, 0, 0, 7], &index()[..100], &index()[4..]] {
            assert!(!taken(content, Some(&database(2))), "{content:?}");
        }
        let dir = tempfile::tempdir().expect("temp dir");
        for name in ["d-shm", "-shm", "d.shm"] {
            fs::write(dir.path().join(name), index()).expect("writes");
        }
        fs::hard_link(dir.path().join("d-shm"), dir.path().join("kept")).expect("links");
        std::os::unix::fs::symlink("d.shm", dir.path().join("link-shm")).expect("links");
        let root = File::open(dir.path()).expect("opens");
        for name in ["d-shm", "-shm", "d.shm", "link-shm", "missing-shm", ""] {
            let path = RelPath::new(name).expect("valid path");
            assert!(!is_at(root.as_fd(), &path), "{name}");
        }
    }
}
