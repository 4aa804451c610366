//! [`Store`]: the files of the cache and their names.
//!
//! ```text
//! DIR/objects/<2 hex>/<62 hex>-<generation>      an entry: its bytes at their own offsets, nothing else
//! DIR/objects/<2 hex>/<62 hex>-<generation>.w    its witness, if that is too long for an attribute
//! DIR/tmp/<generation>                           a file that is being filled; emptied at each start
//! DIR/journal/                                   see the journal module
//! ```
//!
//! The name is the digest of the identity; the generation makes each entry's path its own, so that a key
//! can be used anew while somebody still reads what it named before.
use super::error::CacheError;
use super::witness::{SLOT_BYTES, Witness};
use name::SIDECAR;
use rustix::fs::{FallocateFlags, Mode, OFlags, XattrFlags};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

mod foreign;
mod name;
mod slots;

pub use name::{Found, Name};
pub use slots::Slots;

/// The attribute that holds a witness.
pub const ATTRIBUTE: &str = "user.icecache";
/// The attribute of `objects/` that holds the limits that were given last.
const LIMITS_ATTRIBUTE: &str = "user.icecache.limits";
const LIMITS_MAX_BYTES: usize = 256;
/// The longest witness kept in an attribute: file systems give all attributes of a file 4 KiB or less.
pub const ATTRIBUTE_MAX_BYTES: usize = 2048;
/// Objects that nobody reads are kept open up to a number within these bounds: a quarter of the descriptors.
const OPEN_MIN: usize = 16;
const OPEN_MAX: usize = 4096;
/// The longest witness that is read: that of [`crate::cache::witness::BLOCKS_MAX`] blocks.
const WITNESS_MAX_BYTES: u64 = (crate::cache::witness::BLOCKS_MAX + 103) * SLOT_BYTES as u64;

/// Where a witness is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In an attribute of the file.
    Attribute,
    /// In a file beside it.
    Sidecar,
}

/// Why an entry has no witness.
#[derive(Debug)]
pub enum NoWitness {
    /// There is none: it was removed, or is just being so.
    Absent,
    /// It is not what was written.
    Damaged,
    /// It cannot be looked at.
    Unread(std::io::Error),
}

impl NoWitness {
    /// As an error of whoever wanted the entry.
    pub fn error(self, what: &impl ToString, path: PathBuf) -> CacheError {
        match self {
            Self::Absent => CacheError::Deleted,
            Self::Damaged => CacheError::Corrupt { what: what.to_string() },
            Self::Unread(e) => CacheError::io("read the witness of", path, e),
        }
    }
}

/// The files in a directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// How many objects are open, and from how many on those that nobody reads are closed.
    open: AtomicUsize,
    open_max: usize,
}

/// Whether it is one itself, and no link to one.
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

impl Store {
    /// Makes what is missing.
    ///
    /// # Errors
    /// [`CacheError::Invalid`] if the directory holds something and is no cache.
    pub fn open_directory(root: &Path) -> Result<Self, CacheError> {
        foreign::refuse(root)?;
        let make = |path: PathBuf| match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) => Ok(()),
            // Where a link leads it is not ours to delete what we do not know.
            Err(rustix::io::Errno::EXIST) if path != root && !is_directory(&path) => {
                let what = format!(
                    "a cache of which a directory is a link or no directory (remove that): {}",
                    path.display()
                );
                Err(CacheError::Invalid { what })
            }
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(CacheError::errno("make directory", path, e)),
        };
        make(root.to_path_buf())?;
        make(root.join("tmp"))?;
        make(root.join("objects"))?;
        for n in 0..=255_u8 {
            make(root.join("objects").join(format!("{n:02x}")))?;
        }
        let open_max = (crate::descriptors::limit() / 4).clamp(OPEN_MIN, OPEN_MAX);
        Ok(Self { root: root.to_path_buf(), open: AtomicUsize::new(0), open_max })
    }

    /// An object was opened.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// An object was closed.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Whether so many objects are open that those should be closed that nobody reads. Each may have two
    /// descriptors.
    pub fn is_crowded(&self) -> bool {
        self.open.load(Relaxed) > self.open_max
    }

    /// Removes what was being filled when the last process ended; how many files that were. Only by whoever has the
    /// lock of the journal.
    pub fn empty_tmp(&self) -> Result<u64, CacheError> {
        let tmp = self.root.join("tmp");
        let entries = std::fs::read_dir(&tmp).map_err(|e| CacheError::io("read directory", &tmp, e))?;
        let mut removed = 0;
        for entry in entries.flatten() {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) => {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove an unfinished file");
                }
            }
        }
        Ok(removed)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an entry's bytes are.
    pub fn path(&self, name: &Name) -> PathBuf {
        let hex = blake3::Hash::from(name.digest).to_hex();
        let (directory, rest) = hex.as_str().split_at(2);
        let mut path = self.root.join("objects");
        path.push(directory);
        path.push(format!("{rest}-{:016x}", name.generation));
        path
    }

    /// Where an entry's witness is, if it is a file.
    pub fn sidecar(&self, name: &Name) -> PathBuf {
        beside(self.path(name))
    }

    /// Where a file is while it is filled.
    pub fn tmp(&self, generation: u64) -> PathBuf {
        self.root.join("tmp").join(format!("{generation:016x}"))
    }

    /// The directories that hold entries.
    pub fn directories(&self) -> impl Iterator<Item = (u8, PathBuf)> + '_ {
        (0..=255_u8).map(|n| (n, self.root.join("objects").join(format!("{n:02x}"))))
    }

    /// The newest session of which there are files; 0 if there are none.
    pub fn newest_session(&self) -> u32 {
        let newest = self.directories().filter_map(|(number, path)| {
            let names = std::fs::read_dir(path).ok()?.flatten().map(|entry| entry.file_name());
            let generation = |found| match found {
                Found::Bytes(name) | Found::Witness(name) => name.generation,
                Found::Foreign => 0,
            };
            names.map(|name| generation(Found::parse(number, &name))).max()
        });
        newest.max().map_or(0, |generation| (generation >> 32) as u32)
    }

    /// Creates a file that must not exist, for reading and writing.
    pub fn create(&self, path: &Path) -> Result<File, CacheError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| CacheError::errno("create", path, e))?;
        Ok(fd.into())
    }

    /// Opens a plain file of the cache, and does not wait for the other end of what is none.
    pub fn open_file(path: &Path, writable: bool) -> std::io::Result<File> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = rustix::fs::open(
            path,
            access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        let file = File::from(fd);
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
        }
        Ok(file)
    }

    /// Writes a witness into an attribute; `false` if it does not fit, or the file system has none.
    pub fn put_attribute(file: &File, witness: &[u8]) -> bool {
        witness.len() <= ATTRIBUTE_MAX_BYTES
            && rustix::fs::fsetxattr(file, ATTRIBUTE, witness, XattrFlags::empty()).is_ok()
    }

    /// Takes the attribute away that [`put_attribute`](Self::put_attribute) has put there.
    pub fn disown_file(file: &File) {
        let _absent = rustix::fs::fremovexattr(file, ATTRIBUTE);
    }

    /// Writes a witness into a file of its own.
    pub fn put_sidecar(&self, name: &Name, witness: &[u8]) -> Result<(), CacheError> {
        let path = self.sidecar(name);
        let written = self.create(&path)?.write_all_at(witness, 0);
        if let Err(e) = written {
            let _partial = std::fs::remove_file(&path);
            return Err(CacheError::io("write", path, e));
        }
        Ok(())
    }

    /// Keeps the limits where they outlive the journal, if the file system has attributes.
    pub fn put_limits(&self, limits: &[u8]) {
        let path = self.root.join("objects");
        if let Err(error) = rustix::fs::setxattr(&path, LIMITS_ATTRIBUTE, limits, XattrFlags::empty()) {
            tracing::debug!(%error, "the limits of the cache are in its journal alone");
        }
    }

    /// What [`put_limits`](Self::put_limits) kept.
    pub fn get_limits(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(LIMITS_MAX_BYTES);
        let spare = rustix::buffer::spare_capacity(&mut bytes);
        rustix::fs::getxattr(self.root.join("objects"), LIMITS_ATTRIBUTE, spare).ok()?;
        Some(bytes)
    }

    /// The witness of an entry, and where it was.
    pub fn get_witness(&self, name: &Name) -> Result<(Witness, Place), NoWitness> {
        let path = self.path(name);
        let mut bytes = Vec::with_capacity(ATTRIBUTE_MAX_BYTES);
        let spare = rustix::buffer::spare_capacity(&mut bytes);
        let damaged = match rustix::fs::lgetxattr(&path, ATTRIBUTE, spare) {
            Ok(_) => match Witness::decode(&bytes) {
                Ok(witness) => return Ok((witness, Place::Attribute)),
                Err(_) => true,
            },
            Err(rustix::io::Errno::RANGE) => true, // longer than any of ours
            Err(_) => false,
        };
        let file = match Self::open_file(&beside(path), false) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !damaged => return Err(NoWitness::Absent),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(NoWitness::Damaged),
            opened => opened.map_err(NoWitness::Unread)?,
        };
        if file.metadata().map_err(NoWitness::Unread)?.len() > WITNESS_MAX_BYTES {
            return Err(NoWitness::Damaged);
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).map_err(NoWitness::Unread)?;
        let witness = Witness::decode(&bytes).map_err(|_| NoWitness::Damaged)?;
        Ok((witness, Place::Sidecar))
    }

    /// Removes the witness of an entry, so that no start finds it again although its bytes stay a while.
    pub fn disown(&self, name: &Name) {
        let path = self.path(name);
        let _absent = rustix::fs::lremovexattr(&path, ATTRIBUTE);
        let _absent = std::fs::remove_file(beside(path));
    }

    /// Removes an entry's files.
    pub fn remove(&self, name: &Name) {
        let path = self.path(name);
        for path in [path.clone(), beside(path)] {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file of the cache");
            }
        }
    }
}

fn beside(mut path: PathBuf) -> PathBuf {
    path.as_mut_os_string().push(SIDECAR);
    path
}

/// The kernel is not to bring what nobody asked for: what is in the page cache without having been read by
/// us would be trusted.
pub fn without_readahead(file: &File) {
    let _advice = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
}

/// Gives the room of a range back; the file keeps its length.
pub fn punch(file: impl AsFd, offset: u64, length: u64) -> std::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, offset, crate::cache::budget::on_disk(length))?)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::cache::key::{Identity, Key};
    use rustix::fs::FileType;

    #[test]
    fn a_link_in_place_of_a_directory_is_not_followed() {
        for name in ["tmp", "objects", "objects/00"] {
            let (dir, elsewhere) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
            std::fs::write(elsewhere.path().join("thesis"), b"mine").expect("writes");
            Store::open_directory(dir.path()).expect("opens");
            let path = dir.path().join(name);
            std::fs::remove_dir_all(&path).expect("removes");
            std::os::unix::fs::symlink(elsewhere.path(), &path).expect("links");
            let refused = Store::open_directory(dir.path()).expect_err("refused");
            assert!(matches!(refused, CacheError::Invalid { .. }), "{name}: {refused}");
            assert!(elsewhere.path().join("thesis").exists(), "{name}");
        }
        let (dir, link) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let link = link.path().join("cache");
        std::os::unix::fs::symlink(dir.path(), &link).expect("links");
        Store::open_directory(&link).expect("the whole of it may lie elsewhere");
    }

    #[test]
    fn nobody_waits_for_what_stands_in_place_of_a_witness() {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::open_directory(dir.path()).expect("opens");
        let identity = Identity::File { key: Key::new("k").expect("a key"), size: 1 };
        let name = Name::new(&identity, 1);
        rustix::fs::mknodat(rustix::fs::CWD, store.sidecar(&name), FileType::Fifo, Mode::RWXU, 0)
            .expect("a pipe");
        assert!(matches!(store.get_witness(&name), Err(NoWitness::Unread(_))));
    }

    #[test]
    fn what_was_being_filled_is_gone_at_the_next_start() {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::open_directory(dir.path()).expect("opens");
        store.create(&store.tmp(1)).expect("creates");
        assert_eq!(store.empty_tmp().expect("empties"), 1);
        assert!(!store.tmp(1).exists());
    }
}
