//! [`DirectoryStore`]: objects as plain files beneath a directory.
//!
//! A PUT writes a file aside, syncs it, and renames it into place, so a reader sees old or new, whole.
//! Conditions are checked and the rename done under a lock (`flock`) that every process takes, so they
//! are exact on one machine and on network file systems whose locks work.
//!
//! Tags: objects up to [`HASHED_MAX_BYTES`] (HEAD documents) are named by the BLAKE3 of their bytes.
//! Larger ones would have to be read to be named, so they are named by size, inode, and the times of modification
//! and of change, and each PUT makes the former unique: it takes the clock or one nanosecond more than the last PUT.
//! The latter tells what other programs write in place, even if they set the former back; not before they have
//! ended, so an object is to be replaced by renaming another file over it.
//!
//! What is made is the owner's, and the group's as far as the top directory is (`rights`).
mod rights;
mod upload;
mod walk;

use super::{
    Condition, Download, Object, ObjectStore, Page, Properties, RemoteError, Tag, Upload, body, key,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use rights::Rights;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use upload::DirectoryUpload;

/// Up to this size a tag is a hash of the content.
pub const HASHED_MAX_BYTES: u64 = 1 << 20;
/// A `get` of anything larger is refused: it is meant for small documents.
pub const GET_MAX_BYTES: u64 = 64 << 20;
/// Bytes per chunk of a download, and before an upload's buffer goes to its file.
const CHUNK_BYTES: usize = 1 << 20;
/// The file every PUT locks; it holds the last modification time given out, in nanoseconds.
const LOCK_NAME: &str = ".icecache.lock";
/// Where files are written aside.
const ASIDE_NAME: &str = ".icecache.aside";

/// A store in a directory. Clones share it; other processes may use it at the same time.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// The root has been there: if it is not any more, it was moved or its disk is not mounted, and to make
    /// it again would pass for a store that lost everything.
    seen: AtomicBool,
    swept: AtomicBool,
}

/// A file written aside. Its flock says that its writer lives; dropping it removes the file.
struct Aside {
    file: File,
    path: PathBuf,
    /// The modification time it is published with.
    stamp: SystemTime,
    kept: bool,
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path); // best effort: the next sweep finds it
        }
    }
}

impl DirectoryStore {
    /// Uses the directory `root` (absolute). If it is missing now it is made at the first PUT; if it goes
    /// missing later every call fails with `NoBucket` until it is back.
    pub fn open(root: &Path) -> Result<Self, RemoteError> {
        if !root.is_absolute() {
            return Err(RemoteError::Refused {
                message: format!("path is not absolute: {}", root.display()),
            });
        }
        let seen = match std::fs::metadata(root) {
            Ok(meta) if !meta.is_dir() => {
                return Err(RemoteError::Refused { message: format!("not a directory: {}", root.display()) });
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("look at", root, &e)),
            found => found.is_ok(),
        };
        let (root, seen, swept) = (root.to_owned(), AtomicBool::new(seen), AtomicBool::new(false));
        Ok(Self { shared: Arc::new(Shared { root, seen, swept }) })
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, RemoteError>
    where
        T: Send + 'static,
        F: FnOnce(&Shared) -> Result<T, RemoteError> + Send + 'static,
    {
        let shared = self.shared.clone();
        join(tokio::task::spawn_blocking(move || work(&shared)).await)
    }
}

fn join<T>(joined: Result<Result<T, RemoteError>, tokio::task::JoinError>) -> Result<T, RemoteError> {
    joined.unwrap_or_else(|e| Err(RemoteError::Unavailable { message: format!("file task ended: {e}") }))
}

/// What a failed system call means to the caller of a store.
fn failed(what: &str, path: &Path, error: &std::io::Error) -> RemoteError {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => RemoteError::Denied { message },
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::FileTooLarge
        | ErrorKind::Unsupported
        | ErrorKind::InvalidInput => RemoteError::Refused { message },
        // A full disk, an I/O error, a stale handle: may be gone at the next attempt.
        _ => RemoteError::Unavailable { message },
    }
}

fn tag_by_identity(meta: &Metadata) -> Tag {
    let (size, ino) = (meta.size(), meta.ino());
    let (mtime, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    Tag(format!("f{size:x}-{ino:x}-{:x}.{:09}-{:x}.{:09}", mtime.0, mtime.1, changed.0, changed.1))
}

fn tag_by_content(bytes: &[u8]) -> Tag {
    Tag(format!("b{}", blake3::hash(bytes).to_hex()))
}

/// The tag of an open file, and its bytes if they had to be read for it.
fn identify(file: &File, path: &Path) -> Result<(Tag, u64, Option<Bytes>), RemoteError> {
    let meta = file.metadata().map_err(|e| failed("look at", path, &e))?;
    if !meta.is_file() {
        let message = format!("not an object but a directory or special file: {}", path.display());
        return Err(RemoteError::Refused { message });
    }
    if meta.len() > HASHED_MAX_BYTES {
        return Ok((tag_by_identity(&meta), meta.len(), None));
    }
    let bytes = read_all(file, meta.len(), path)?;
    Ok((tag_by_content(&bytes), bytes.len() as u64, Some(bytes)))
}

/// Reads a file whose bytes never change (it is only ever replaced).
fn read_all(mut file: &File, length: u64, path: &Path) -> Result<Bytes, RemoteError> {
    let mut bytes = Vec::with_capacity(length as usize);
    file.read_to_end(&mut bytes).map_err(|e| failed("read", path, &e))?;
    if bytes.len() as u64 != length {
        return Err(body::cut_short(&path.display().to_string(), bytes.len() as u64, length));
    }
    Ok(bytes.into())
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

impl Shared {
    fn open_object(&self, key: &str) -> Result<(File, PathBuf), RemoteError> {
        key::check(key)?;
        let path = self.root.join(key);
        // A FIFO would be waited for.
        match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
            Ok(file) => Ok((file, path)),
            // Certain, unlike most errors: no such name, or an object where a directory would have to be.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.require_root()?;
                Err(RemoteError::NotFound { key: key.to_owned() })
            }
            Err(e) => Err(failed("open", &path, &e)),
        }
    }

    /// Fails if the root has been there and is not any more.
    fn require_root(&self) -> Result<(), RemoteError> {
        if !self.seen.load(Relaxed) {
            return Ok(());
        }
        let gone = || RemoteError::NoBucket { name: self.root.display().to_string() };
        match std::fs::metadata(&self.root) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(gone()),
            Err(e) => Err(failed("look at", &self.root, &e)),
            Ok(meta) => {
                if meta.is_dir() {
                    Ok(())
                } else {
                    Err(gone())
                }
            }
        }
    }

    /// Makes a directory beneath the root, never the root itself.
    fn make_below(&self, path: &Path) -> Result<(), RemoteError> {
        self.require_root()?;
        make_directory(path, Some(&self.root), self.rights()?)
    }

    /// The rights of what is made beneath the root.
    fn rights(&self) -> Result<Rights, RemoteError> {
        match std::fs::metadata(&self.root) {
            Ok(root) => Ok(Rights::beneath(&root)),
            Err(e) => Err(self.require_root().err().unwrap_or_else(|| failed("look at", &self.root, &e))),
        }
    }

    /// Waits for the lock of the store; closing the file gives it back.
    fn lock(&self) -> Result<File, RemoteError> {
        if !self.seen.load(Relaxed) {
            make_directory(&self.root, None, Rights::OWNER)?;
            self.seen.store(true, Relaxed);
        }
        let path = self.root.join(LOCK_NAME);
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
        let file = file.map_err(|e| match self.require_root() {
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

    fn create_aside(&self) -> Result<Aside, RemoteError> {
        let lock = self.lock()?; // a sweep must not come between creating a file and locking it
        let directory = self.root.join(ASIDE_NAME);
        self.make_below(&directory)?;
        if !self.swept.swap(true, Relaxed) {
            sweep(&directory);
        }
        let path = directory.join(uuid::Uuid::new_v4().to_string());
        let file = self.rights()?.make_file(&path, OpenOptions::new().write(true).create_new(true));
        let file = file.map_err(|e| failed("create", &path, &e))?;
        let stamp = next_stamp(&lock, &self.root.join(LOCK_NAME))?;
        let aside = Aside { file, path, stamp, kept: false };
        flock(&aside.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| failed("lock", &aside.path, &e.into()))?;
        drop(lock);
        Ok(aside)
    }

    /// Moves a finished file to its key if the condition holds. `content` is given if it is small.
    fn publish(
        &self,
        key: &str,
        mut aside: Aside,
        content: Option<&[u8]>,
        condition: &Condition,
    ) -> Result<Tag, RemoteError> {
        // The time before the sync: it is part of the tag, so it must survive a power cut as the bytes do.
        aside.file.set_modified(aside.stamp).map_err(|e| failed("stamp", &aside.path, &e))?;
        aside.file.sync_all().map_err(|e| failed("sync", &aside.path, &e))?;
        let path = self.root.join(key);
        let parent = path.parent().unwrap_or(&self.root).to_owned();
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
    fn delete(&self, key: &str) -> Result<(), RemoteError> {
        key::check(key)?;
        let path = self.root.join(key);
        let absent = |e: &std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        match std::fs::symlink_metadata(&path) {
            Err(e) if absent(&e) => return self.require_root(),
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

/// Removes what writers left that died: files nobody has locked. Called under the lock of the store.
fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_file(&path); // best effort: it only costs space
        }
    }
}

/// A modification time no PUT of this store had before, later than all of them.
fn next_stamp(mut lock: &File, path: &Path) -> Result<SystemTime, RemoteError> {
    let mut text = String::new();
    lock.take(64).read_to_string(&mut text).map_err(|e| failed("read", path, &e))?;
    let last: u64 = text.trim().parse().unwrap_or(0); // new, or torn by a crash: the clock has moved on
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let stamp = now.max(last.saturating_add(1));
    lock.write_all_at(format!("{stamp:020}\n").as_bytes(), 0).map_err(|e| failed("write", path, &e))?;
    lock.flush().map_err(|e| failed("write", path, &e))?;
    Ok(UNIX_EPOCH + Duration::from_nanos(stamp))
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    fn url(&self) -> String {
        format!("file://{}", self.shared.root.display())
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        let key = key.to_owned();
        self.blocking(move |shared| {
            let (file, path) = shared.open_object(&key)?;
            match identify(&file, &path)? {
                (tag, _, Some(bytes)) => Ok(Object { bytes, tag }),
                (_, length, None) if length > GET_MAX_BYTES => Err(RemoteError::Refused {
                    message: format!("object is too large to be read whole: {key}: {length} bytes"),
                }),
                (tag, length, None) => Ok(Object { bytes: read_all(&file, length, &path)?, tag }),
            }
        })
        .await
    }

    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError> {
        let name = key.to_owned();
        let (file, tag, length, bytes) = self
            .blocking(move |shared| {
                let (file, path) = shared.open_object(&name)?;
                let (tag, length, bytes) = identify(&file, &path)?;
                Ok((file, tag, length, bytes))
            })
            .await?;
        let range = body::clip(range, length, key)?;
        let length = range.end - range.start;
        let body = match bytes {
            Some(bytes) => body::once(bytes.slice(range.start as usize..range.end as usize)),
            None => body::exact(read_range(Arc::new(file), range, key.to_owned()), length, key.to_owned()),
        };
        Ok(Download { length, tag, body })
    }

    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError> {
        key::check(key)?;
        let key = key.to_owned();
        self.blocking(move |shared| {
            let mut aside = shared.create_aside()?;
            aside.file.write_all(&bytes).map_err(|e| failed("write", &aside.path, &e))?;
            shared.publish(&key, aside, Some(&bytes), &condition)
        })
        .await
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        key::check(key)?;
        let aside = self.blocking(Shared::create_aside).await?;
        Ok(Box::new(DirectoryUpload::new(self.clone(), key.to_owned(), condition, aside)))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        let key = key.to_owned();
        self.blocking(move |shared| {
            let (file, path) = shared.open_object(&key)?;
            // Keys lie beneath a directory; it is no object. Whoever reads one for an object is told what is there.
            if file.metadata().is_ok_and(|meta| meta.is_dir()) {
                return Err(RemoteError::NotFound { key });
            }
            let (tag, length, _) = identify(&file, &path)?;
            let modified = file.metadata().and_then(|meta| meta.modified());
            let modified = modified.map_err(|e| failed("look at", &path, &e))?.into();
            Ok(Properties { length, tag, modified, content_type: None, content_encoding: None })
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let key = key.to_owned();
        self.blocking(move |shared| shared.delete(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |shared| {
            shared.require_root()?;
            walk::page(&shared.root, &prefix, after.as_deref())
        })
        .await
    }
}

fn read_range(file: Arc<File>, range: Range<u64>, key: String) -> super::ByteStream {
    Box::pin(stream::try_unfold((file, range, key), |(file, range, key)| async move {
        let want = (range.end - range.start).min(CHUNK_BYTES as u64) as usize;
        if want == 0 {
            return Ok(None);
        }
        let source = file.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; want];
            let n = source.read_at(&mut chunk, range.start)?;
            chunk.truncate(n);
            Ok(Bytes::from(chunk))
        });
        let chunk = join(read.await.map(|r| r.map_err(|e| failed("read", Path::new(&key), &e))))?;
        if chunk.is_empty() {
            return Ok(None); // shorter than it was: `exact` turns this into an error
        }
        let rest = range.start + chunk.len() as u64..range.end;
        Ok(Some((chunk, (file, rest, key))))
    }))
}
