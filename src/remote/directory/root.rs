//! [`Root`]: the top directory of a store, and what is done beneath it under its lock.
use super::super::{Condition, RemoteError, Tag, key};
use super::aside::{Aside, next_stamp, sweep};
use super::failed;
use super::rights::Rights;
use super::tag::{HASHED_MAX_BYTES, identify, tag_by_content};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The file every PUT locks; it holds the last modification time given out, in nanoseconds.
const LOCK_NAME: &str = ".icecache.lock";
/// Where files are written aside.
const ASIDE_NAME: &str = ".icecache.aside";

/// See the module.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    /// The root has been there: if it is not any more, it was moved or its disk is not mounted, and to make
    /// it again would pass for a store that lost everything.
    seen: AtomicBool,
    swept: AtomicBool,
}

fn sync_directory(path: &Path) -> Result<(), RemoteError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| failed("sync", path, &e))
}

/// Makes a directory and what leads to it, durably; but not `floor`, which must be there.
fn make_directory(path: &Path, floor: Option<&Path>, rights: Rights) -> Result<(), RemoteError> {
    match rights.make_directory(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_directory),
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => match path.parent() {
            Some(parent) if Some(parent) == floor => {
                Err(RemoteError::NoBucket { name: parent.display().to_string() })
            }
            Some(parent) => {
                make_directory(parent, floor, rights)?;
                make_directory(path, floor, rights)
            }
            None => Err(failed("create", path, &e)),
        },
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let message = format!("not a directory, an object is in the way: {}", path.display());
            Err(RemoteError::Refused { message })
        }
        Err(e) => Err(failed("create", path, &e)),
    }
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, RemoteError> {
        let refused = |why| Err(RemoteError::Refused { message: format!("{why}: {}", path.display()) });
        if !path.is_absolute() {
            return refused("path is not absolute");
        }
        let seen = match std::fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => return refused("not a directory"),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("look at", path, &e)),
            found => found.is_ok(),
        };
        Ok(Self { path: path.to_owned(), seen: AtomicBool::new(seen), swept: AtomicBool::new(false) })
    }

    pub(super) fn open_object(&self, key: &str) -> Result<(File, PathBuf), RemoteError> {
        key::check(key)?;
        let path = self.path.join(key);
        // A FIFO would be waited for.
        match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Ok(file) => Ok((file, path)),
            // Certain, unlike most errors: no such name, or an object where a directory would have to be.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.require()?;
                Err(RemoteError::NotFound { key: key.to_owned() })
            }
            Err(e) => Err(failed("open", &path, &e)),
        }
    }

    /// Fails if the root has been there and is not any more.
    pub(super) fn require(&self) -> Result<(), RemoteError> {
        if !self.seen.load(Relaxed) {
            return Ok(());
        }
        let gone = || RemoteError::NoBucket { name: self.path.display().to_string() };
        match std::fs::metadata(&self.path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(gone()),
            Err(e) => Err(failed("look at", &self.path, &e)),
            Ok(meta) if !meta.is_dir() => Err(gone()),
            Ok(_) => Ok(()),
        }
    }

    /// Makes a directory beneath the root, never the root itself.
    fn make_below(&self, path: &Path) -> Result<(), RemoteError> {
        self.require()?;
        make_directory(path, Some(&self.path), self.rights()?)
    }

    /// The rights of what is made beneath the root.
    fn rights(&self) -> Result<Rights, RemoteError> {
        match std::fs::metadata(&self.path) {
            Ok(root) => Ok(Rights::beneath(&root)),
            Err(e) => Err(self.require().err().unwrap_or_else(|| failed("look at", &self.path, &e))),
        }
    }

    /// Waits for the lock of the store; closing the file gives it back.
    fn lock(&self) -> Result<File, RemoteError> {
        if !self.seen.load(Relaxed) {
            make_directory(&self.path, None, Rights::OWNER)?;
            self.seen.store(true, Relaxed);
        }
        let path = self.path.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let made = self.rights()?.make_file(&path, options.clone().create_new(true));
                // Another process may have made it meanwhile.
                made.or_else(
                    |e| if e.kind() == ErrorKind::AlreadyExists { options.open(&path) } else { Err(e) },
                )
            }
            opened => opened,
        };
        let file = file.map_err(|e| match self.require() {
            Err(gone) => gone,
            Ok(()) => failed("open", &path, &e),
        })?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed("lock", &path, &e.into())),
            }
        }
    }

    pub(super) fn create_aside(&self) -> Result<Aside, RemoteError> {
        let lock = self.lock()?; // a sweep must not come between creating a file and locking it
        let directory = self.path.join(ASIDE_NAME);
        self.make_below(&directory)?;
        if !self.swept.swap(true, Relaxed) {
            sweep(&directory);
        }
        let path = directory.join(uuid::Uuid::new_v4().to_string());
        let file = self.rights()?.make_file(&path, OpenOptions::new().write(true).create_new(true));
        let file = file.map_err(|e| failed("create", &path, &e))?;
        let stamp = next_stamp(&lock, &self.path.join(LOCK_NAME))?;
        let aside = Aside { file, path, stamp, kept: false };
        flock(&aside.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed("lock", &aside.path, &e.into()))?;
        drop(lock);
        Ok(aside)
    }

    /// Moves a finished file to its key if the condition holds. `content` is given if it is small.
    pub(super) fn publish(
        &self,
        key: &str,
        mut aside: Aside,
        content: Option<&[u8]>,
        condition: &Condition,
    ) -> Result<Tag, RemoteError> {
        // The time before the sync: it is part of the tag, so it must survive a power cut as the bytes do.
        aside.file.set_modified(aside.stamp).map_err(|e| failed("stamp", &aside.path, &e))?;
        aside.file.sync_all().map_err(|e| failed("sync", &aside.path, &e))?;
        let path = self.path.join(key);
        let parent = path.parent().unwrap_or(&self.path).to_owned();
        let _lock = self.lock()?;
        self.check(key, condition)?;
        self.make_below(&parent)?;
        std::fs::rename(&aside.path, &path).map_err(|e| failed("rename to", &path, &e))?;
        aside.kept = true;
        sync_directory(&parent)?;
        match content {
            Some(bytes) if bytes.len() as u64 <= HASHED_MAX_BYTES => Ok(tag_by_content(bytes)),
            _ => identify(&File::open(&path).map_err(|e| failed("open", &path, &e))?, &path).map(|i| i.0),
        }
    }

    /// Removes an object if there is one. Its directory stays: somebody may be about to write there.
    pub(super) fn delete(&self, key: &str) -> Result<(), RemoteError> {
        key::check(key)?;
        let path = self.path.join(key);
        let absent = |e: &std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        match std::fs::symlink_metadata(&path) {
            Err(e) if absent(&e) => return self.require(),
            Err(e) => return Err(failed("look at", &path, &e)),
            Ok(_) => {}
        }
        let _lock = self.lock()?; // not between the look of a PUT at its condition and its rename
        match std::fs::remove_file(&path) {
            Ok(()) => path.parent().map_or(Ok(()), sync_directory),
            Err(e) if absent(&e) => Ok(()),
            Err(e) => Err(failed("remove", &path, &e)),
        }
    }

    fn check(&self, key: &str, condition: &Condition) -> Result<(), RemoteError> {
        if *condition == Condition::Always {
            return Ok(());
        }
        let current = match self.open_object(key) {
            Ok((file, path)) => Some(identify(&file, &path)?.0),
            Err(RemoteError::NotFound { .. }) => None,
            Err(e) => return Err(e),
        };
        let holds = match condition {
            Condition::Always => true,
            Condition::IfAbsent => current.is_none(),
            Condition::IfMatch(tag) => current.as_ref() == Some(tag),
        };
        if holds { Ok(()) } else { Err(RemoteError::Precondition { key: key.to_owned() }) }
    }
}
