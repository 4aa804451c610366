//! [`Backing`]: looking at the backing directory, beneath its descriptor and nowhere else.
//!
//! Paths come from marks and may be stale: a component can have become a symbolic link since. So
//! every directory on the way is opened without following any, beneath the root.
use crate::layer::References;
use crate::layer::entry::{Kind, Metadata};
use crate::path::RelPath;
use crate::state::identity::Identity;
use crate::state::walindex;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The longest piece of a path given to one system call (`PATH_MAX` is 4096 with its NUL).
const PIECE_MAX: usize = 3800;
/// The longest list of attribute names and the longest value Linux hands out.
const XATTR_MAX: usize = 65_536;

/// Says which paths are no part of the tree; what is below such a path is none either.
pub type Exclude = Arc<dyn Fn(&RelPath) -> bool + Send + Sync>;

/// Whether nothing is missed where nobody can look: `lost+found` at the root of a disk is of the file system, and as long as it
/// is closed nothing of an ordinary user's is in it.
pub(crate) fn is_closed_to_all_but_root(path: &RelPath, e: &io::Error) -> bool {
    path.as_bytes() == b"lost+found" && e.kind() == io::ErrorKind::PermissionDenied
}

/// One thread's view of the backing directory. It remembers the last directory it opened, so make
/// a new one for each pass over a changing tree.
pub(crate) struct Backing<'a> {
    root: BorrowedFd<'a>,
    exclude: Option<&'a Exclude>,
    last: Option<(RelPath, OwnedFd)>,
}

impl<'a> Backing<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, exclude: Option<&'a Exclude>) -> Self {
        Self { root, exclude, last: None }
    }

    /// What stands at a path. `None` if nothing does, or nothing that is ever stored: a socket,
    /// something excluded, SQLite's index of a log.
    pub(crate) fn stat(&mut self, path: &RelPath) -> io::Result<Option<Identity>> {
        if self.excluded(path) {
            return Ok(None);
        }
        let ident = match (path.parent(), path.name()) {
            (Some(parent), Some(name)) => {
                let Some(dir) = self.directory(&parent)? else { return Ok(None) };
                match gone_is_none(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))? {
                    Some(stat) if walindex::is_one(dir, name, &Identity::from(&stat)) => return Ok(None),
                    Some(stat) => Identity::from(&stat),
                    None => return Ok(None),
                }
            }
            _ => Identity::from(&rustix::fs::fstat(self.root)?),
        };
        Ok((ident.file_type() != FileType::Socket).then_some(ident))
    }

    /// The next look goes by names from the root on: the directory that was opened last may have another name by now, or
    /// none.
    pub(crate) fn look_anew(&mut self) {
        self.last = None;
    }

    /// The names in a directory, sorted; `None` if it is no directory any more.
    pub(crate) fn list(&mut self, path: &RelPath) -> io::Result<Option<Vec<Vec<u8>>>> {
        let Some(fd) = self.directory(path)? else { return Ok(None) };
        // The descriptor at hand is for lookups only.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = gone_is_none(rustix::fs::openat(fd, c".", flags, Mode::empty()))?;
        let Some(fd) = opened else { return Ok(None) };
        let dir = Dir::new(fd)?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(Some(names))
    }

    /// All that a layer says of a path besides content; `None` if something else stands there by now.
    pub(crate) fn describe(
        &mut self,
        path: &RelPath,
        ident: &Identity,
    ) -> io::Result<Option<(Kind, Metadata)>> {
        let rdev = (rustix::fs::major(ident.rdev), rustix::fs::minor(ident.rdev));
        let kind = match ident.file_type() {
            FileType::RegularFile => Kind::File { size: ident.size, fuzzy: false, refs: References::none() },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => match self.link_target(path)? {
                Some(target) => Kind::Symlink { target },
                None => return Ok(None),
            },
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice { rdev },
            FileType::BlockDevice => Kind::BlockDevice { rdev },
            _ => return Ok(None),
        };
        let Some(xattrs) = self.xattrs(path)? else { return Ok(None) };
        let meta = Metadata {
            mode: ident.mode & 0o7777,
            uid: ident.uid,
            gid: ident.gid,
            mtime: ident.mtime,
            xattrs,
        };
        Ok(Some((kind, meta)))
    }

    fn excluded(&self, path: &RelPath) -> bool {
        self.exclude.is_some_and(|out| out(path) || path.ancestors().any(|p| out(&p)))
    }

    /// The directory at a path, opened for lookups only; `None` if there is none.
    pub(crate) fn directory(&mut self, path: &RelPath) -> io::Result<Option<BorrowedFd<'_>>> {
        if path.is_root() {
            return Ok(Some(self.root));
        }
        if self.last.as_ref().is_none_or(|(at, _)| at != path) {
            match gone_is_none(open_directory(self.root, path))? {
                Some(fd) => self.last = Some((path.clone(), fd)),
                None => return Ok(None),
            }
        }
        Ok(self.last.as_ref().map(|(_, fd)| fd.as_fd()))
    }

    fn link_target(&mut self, path: &RelPath) -> io::Result<Option<Vec<u8>>> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Ok(None) };
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let Some(dir) = self.directory(&parent)? else { return Ok(None) };
        match rustix::fs::readlinkat(dir, name.as_c_str(), Vec::new()) {
            Err(Errno::INVAL) => Ok(None),
            other => Ok(gone_is_none(other)?.map(CString::into_bytes)),
        }
    }

    /// Extended attributes by way of /proc, which is the only one for a name below a descriptor
    /// before Linux 6.13.
    #[allow(clippy::type_complexity)] // as in Metadata
    fn xattrs(&mut self, path: &RelPath) -> io::Result<Option<Vec<(Vec<u8>, Vec<u8>)>>> {
        let (dir, name) = match (path.parent(), path.name()) {
            (Some(parent), Some(name)) => (self.directory(&parent)?, name),
            _ => (Some(self.root), &b"."[..]),
        };
        let Some(dir) = dir else { return Ok(None) };
        let mut place = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        place.extend_from_slice(name);
        let place = CString::new(place).map_err(|_| Errno::INVAL)?;
        let list = match read_whole(|buffer| rustix::fs::llistxattr(place.as_c_str(), buffer)) {
            Err(Errno::NOTSUP) => return Ok(Some(Vec::new())),
            Err(Errno::NOENT) if !std::path::Path::new("/proc/self/fd").exists() => {
                return Err(io::Error::other("cannot read extended attributes without /proc"));
            }
            other => match gone_is_none(other)? {
                Some(list) => list,
                None => return Ok(None),
            },
        };
        let mut xattrs = Vec::new();
        for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let key = CString::new(name).map_err(|_| Errno::INVAL)?;
            match read_whole(|buffer| rustix::fs::lgetxattr(place.as_c_str(), key.as_c_str(), buffer)) {
                Ok(value) => xattrs.push((name.to_vec(), value)),
                Err(Errno::NODATA | Errno::NOTSUP) => {}
                Err(e) => match gone_is_none::<()>(Err(e))? {
                    Some(()) => {}
                    None => return Ok(None),
                },
            }
        }
        xattrs.sort();
        Ok(Some(xattrs))
    }
}

/// A small buffer first, the largest possible if that was not enough.
fn read_whole(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match call(&mut small) {
        Ok(length) => Ok(small[..length.min(small.len())].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_MAX];
            let length = call(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

pub(crate) fn open_directory(root: BorrowedFd<'_>, path: &RelPath) -> rustix::io::Result<OwnedFd> {
    let open = |at: BorrowedFd<'_>, piece: &[u8]| {
        let piece = CString::new(piece).map_err(|_| Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(at, piece.as_c_str(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    };
    if path.is_root() {
        return open(root, b".");
    }
    if path.as_bytes().len() <= PIECE_MAX {
        return open(root, path.as_bytes());
    }
    let mut at: Option<OwnedFd> = None;
    let mut piece = Vec::new();
    for component in path.components() {
        if piece.len() + component.len() >= PIECE_MAX {
            at = Some(open(at.as_ref().map_or(root, |fd| fd.as_fd()), &piece)?);
            piece.clear();
        }
        if !piece.is_empty() {
            piece.push(b'/');
        }
        piece.extend_from_slice(component);
    }
    open(at.as_ref().map_or(root, |fd| fd.as_fd()), &piece)
}

/// Calls with a directory and the name by which `path` is reached from there: the root and the whole path,
/// as long as one system call takes that, else the directory that holds it.
pub(crate) fn reach<T>(
    root: BorrowedFd<'_>,
    path: &RelPath,
    call: impl FnOnce(BorrowedFd<'_>, &CStr) -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match (path.parent(), path.name()) {
        (Some(parent), Some(name)) if path.as_bytes().len() > PIECE_MAX => {
            let dir = open_directory(root, &parent)?;
            call(dir.as_fd(), &CString::new(name).map_err(|_| Errno::INVAL)?)
        }
        _ => call(root, &path.to_cstring()),
    }
}

/// The ways a path says that nothing stands there.
fn gone_is_none<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether a file or directory is of an overlayfs: those of an image change their numbers with their first change, and pages
/// are those of a file of another layer.
pub fn is_overlayfs(file: impl AsFd) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
    const MAGIC: rustix::fs::FsWord = 0x794c_7630;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == MAGIC)
}
