//! The shelter: files of a cut that nobody was writing are packed straight from the backing. Until
//! that has happened, whoever wants to change one makes a copy first.
use super::attr::{Attr, FileKey};
use super::inode::Inode;
use crate::layer::content::Content;
use crate::path::RelPath;
use crate::state::reach;
use crate::state::staging::Staging;
use crate::sync::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the content of one sheltered file is.
#[derive(Debug)]
enum Place {
    /// On the backing, not opened yet.
    Backing,
    /// Opened: survives renames and the loss of the last name. Equal to the cut until written.
    Opened(File),
    /// Copied before somebody changed it.
    Copied(File),
}

/// The content of one sheltered file. Readers share the lock, a coming writer takes it alone: it
/// waits for a read under way and for no more than that.
#[derive(Debug)]
struct Sheltered(RwLock<Place>);

impl Content for Sheltered {
    fn length(&self) -> io::Result<u64> {
        match &*self.0.read() {
            Place::Opened(file) | Place::Copied(file) => file.length(),
            Place::Backing => Err(io::Error::other("sheltered file is not open")),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &*self.0.read() {
            Place::Opened(file) | Place::Copied(file) => Content::read_at(file, buffer, offset),
            Place::Backing => Err(io::Error::other("sheltered file is not open")),
        }
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        match &*self.0.read() {
            Place::Opened(file) | Place::Copied(file) => file.data_after(offset),
            Place::Backing => Err(io::Error::other("sheltered file is not open")),
        }
    }
}

/// All sheltered files. Owner of its locks.
#[derive(Debug)]
pub struct Shelter {
    /// Whether there may be any: the only thing an operation reads while no flush is packing.
    active: AtomicBool,
    files: Mutex<HashMap<FileKey, Arc<Sheltered>>>,
    /// Renames since the cut, oldest first: where a path of the cut leads now.
    renames: Mutex<Vec<(RelPath, RelPath)>>,
    staging: Staging,
}

impl Shelter {
    /// An empty shelter that copies into `staging`.
    pub fn new(staging: Staging) -> Self {
        Self { active: AtomicBool::new(false), files: Mutex::default(), renames: Mutex::default(), staging }
    }

    /// Shelters these files; the gate is closed.
    pub fn admit(&self, sheltered: impl IntoIterator<Item = FileKey>) {
        let mut files = self.files.lock();
        files
            .extend(sheltered.into_iter().map(|key| (key, Arc::new(Sheltered(RwLock::new(Place::Backing))))));
        self.renames.lock().clear();
        self.active.store(!files.is_empty(), Ordering::Release);
    }

    fn get(&self, key: FileKey) -> Option<Arc<Sheltered>> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        self.files.lock().get(&key).cloned()
    }

    /// Whether [`before_write`](Self::before_write) would copy, or wait for who reads.
    pub fn must_copy(&self, inode: &Inode) -> bool {
        let Some(sheltered) = self.get(inode.key()) else { return false };
        // Locked: somebody copies or packs it now.
        sheltered.0.try_read().is_none_or(|place| !matches!(*place, Place::Copied(_)))
    }

    /// Call before the content of `inode` may change: copies it if it is still needed.
    pub fn before_write(&self, inode: &Inode) -> io::Result<()> {
        let Some(sheltered) = self.get(inode.key()) else { return Ok(()) };
        let mut place = sheltered.0.write();
        let copied = match &*place {
            Place::Copied(_) => return Ok(()),
            Place::Opened(file) => self.staging.copy(file)?,
            Place::Backing => self.staging.copy(&open(inode)?)?,
        };
        *place = Place::Copied(copied);
        Ok(())
    }

    /// Call before a name of `inode` goes: opens it, so that its content stays reachable.
    pub fn before_unlink(&self, inode: &Inode) -> io::Result<()> {
        let Some(sheltered) = self.get(inode.key()) else { return Ok(()) };
        let mut place = sheltered.0.write();
        if let Place::Backing = *place {
            *place = Place::Opened(open(inode)?);
        }
        Ok(())
    }

    /// Runs a rename and notes where it leads, so that no path of the cut is looked up in between.
    /// Paths are needed only while files are sheltered, so they are asked for only then.
    pub fn rename(
        &self,
        exchange: bool,
        paths: impl FnOnce() -> Option<(RelPath, RelPath)>,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.active.load(Ordering::Acquire) {
            return rename();
        }
        let mut renames = self.renames.lock();
        let paths = paths(); // under the lock: another rename may be moving a directory above
        rename()?;
        let Some((from, to)) = paths else { return Ok(()) };
        if exchange {
            // In three steps, the middle one through a name that cannot exist.
            let aside = RelPath::root().join(b"\n/exchange/\n");
            renames.push((from.clone(), aside.clone()));
            renames.push((to.clone(), from));
            renames.push((aside, to));
        } else {
            renames.push((from, to));
        }
        Ok(())
    }

    /// The content of a file as of the cut, where `path` was its name.
    pub fn content(
        &self,
        root: BorrowedFd<'_>,
        path: &RelPath,
        key: FileKey,
    ) -> io::Result<Box<dyn Content>> {
        let sheltered = self.get(key).ok_or_else(|| io::Error::other("file is not sheltered"))?;
        {
            let mut place = sheltered.0.write();
            if let Place::Backing = *place {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let renames = self.renames.lock(); // no rename between the look-up and the open
                let now = path_now(&renames, path);
                let open = |at: BorrowedFd<'_>, name: &CStr| {
                    rustix::fs::openat2(at, name, flags, Mode::empty(), beneath)
                };
                let file = File::from(reach(root, &now, open)?);
                if Attr::at(&file, c"")?.key != key {
                    return Err(io::Error::other("another file stands there now"));
                }
                *place = Place::Opened(file);
            }
        }
        Ok(Box::new(sheltered))
    }

    /// This file is needed no more.
    pub fn dismiss(&self, key: FileKey) {
        let gone = self.files.lock().remove(&key);
        drop(gone); // may be the last descriptor of a deleted file
    }

    /// No file is needed any more.
    pub fn clear(&self) {
        self.active.store(false, Ordering::Release);
        let gone = std::mem::take(&mut *self.files.lock());
        drop(gone);
        self.renames.lock().clear();
    }
}

fn path_now(renames: &[(RelPath, RelPath)], path: &RelPath) -> RelPath {
    renames.iter().fold(path.clone(), |path, (from, to)| {
        if !path.starts_with(from) {
            return path;
        }
        let rest = path.as_bytes()[from.as_bytes().len()..].split(|b| *b == b'/');
        rest.filter(|c| !c.is_empty()).fold(to.clone(), |p, name| p.join(name))
    })
}

fn open(inode: &Inode) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    inode.at(|dir, name| Ok(rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::inode::InodeTable;

    fn path(s: &str) -> RelPath {
        RelPath::new(s).expect("valid path")
    }

    /// What each file was, though they have one number on two devices.
    #[test]
    fn files_of_one_number_are_sheltered_apart() -> io::Result<()> {
        let (dir, staged) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let root = || rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let table = InodeTable::new(root()?, 8)?;
        let shelter = Shelter::new(Staging::open(staged.path())?);
        let mut inodes = Vec::new();
        for (dev, name) in [c"a", c"b"].into_iter().enumerate() {
            std::fs::write(dir.path().join(name.to_str().expect("a name")), name.to_bytes())?;
            let attr = Attr::at(root()?, name)?;
            let key = FileKey { dev: attr.key.dev + dev as u32, ino: 77 };
            inodes.push(table.intern(table.root(), name, &Attr { key, ..attr }));
        }
        shelter.admit(inodes.iter().map(|inode| inode.key()));
        for (inode, name) in inodes.iter().zip(["a", "b"]) {
            assert!(shelter.must_copy(inode), "{name}");
            shelter.before_write(inode)?;
            std::fs::write(dir.path().join(name), "changed")?;
        }
        for (inode, name) in inodes.iter().zip(["a", "b"]) {
            let (content, mut text) = (shelter.content(root()?.as_fd(), &path(name), inode.key())?, [0; 8]);
            let length = content.read_at(&mut text, 0)?;
            assert_eq!(&text[..length], name.as_bytes());
            shelter.dismiss(inode.key());
        }
        Ok(())
    }

    #[test]
    fn paths_of_the_cut_follow_later_renames() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let shelter = Shelter::new(Staging::open(dir.path())?);
        shelter.admit([FileKey::of((1, 1))]);
        let rename =
            |from, to, exchange| shelter.rename(exchange, || Some((path(from), path(to))), || Ok(()));
        let now = |p| path_now(&shelter.renames.lock(), &path(p));
        rename("a", "b", false)?;
        rename("b/x", "y", false)?;
        rename("b", "y/deep", false)?;
        assert_eq!(now("a/f"), path("y/deep/f"));
        assert_eq!(now("a/x/f"), path("y/f"));
        rename("y", "z", true)?;
        assert_eq!(now("a/x/f"), path("z/f"));
        assert_eq!(now("z/q"), path("y/q"));
        assert_eq!(now("ab"), path("ab"));
        Ok(())
    }
}
