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
mod aside;
mod rights;
mod root;
mod tag;
mod upload;
mod walk;

use super::{
    Condition, Download, Object, ObjectStore, Page, Properties, RemoteError, Tag, Upload, body, key,
};
use aside::Aside;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use root::Root;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tag::{identify, read_all};
use upload::DirectoryUpload;

pub use tag::HASHED_MAX_BYTES;

/// A `get` of anything larger is refused: it is meant for small documents.
pub const GET_MAX_BYTES: u64 = 64 << 20;
/// Bytes per chunk of a download, and before an upload's buffer goes to its file.
const CHUNK_BYTES: usize = 1 << 20;

/// A store in a directory. Clones share it; other processes may use it at the same time.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: Arc<Root>,
}

impl DirectoryStore {
    /// Uses the directory `root` (absolute). If it is missing now it is made at the first PUT; if it goes
    /// missing later every call fails with `NoBucket` until it is back.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] if the path is not absolute, or of something else.
    pub fn open(root: &Path) -> Result<Self, RemoteError> {
        Ok(Self { root: Arc::new(Root::open(root)?) })
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, RemoteError>
    where
        T: Send + 'static,
        F: FnOnce(&Root) -> Result<T, RemoteError> + Send + 'static,
    {
        let root = self.root.clone();
        join(tokio::task::spawn_blocking(move || work(&root)).await)
    }
}

fn join<T>(joined: Result<Result<T, RemoteError>, tokio::task::JoinError>) -> Result<T, RemoteError> {
    joined.unwrap_or_else(|e| Err(RemoteError::Unavailable { message: format!("file task ended: {e}") }))
}

/// What a failed system call means to the caller of a store.
fn failed(what: &str, path: &Path, error: &std::io::Error) -> RemoteError {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        // A loop of links is no matter of time.
        _ if error.raw_os_error() == Some(libc::ELOOP) => RemoteError::Refused { message },
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

#[async_trait]
impl ObjectStore for DirectoryStore {
    fn url(&self) -> String {
        format!("file://{}", self.root.path.display())
    }

    async fn get(&self, key: &str) -> Result<Object, RemoteError> {
        let key = key.to_owned();
        self.blocking(move |root| {
            let (file, path) = root.open_object(&key)?;
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
            .blocking(move |root| {
                let (file, path) = root.open_object(&name)?;
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
        self.blocking(move |root| {
            let mut aside = root.create_aside()?;
            aside.file.write_all(&bytes).map_err(|e| failed("write", &aside.path, &e))?;
            root.publish(&key, aside, Some(&bytes), &condition)
        })
        .await
    }

    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        key::check(key)?;
        let aside = self.blocking(Root::create_aside).await?;
        Ok(Box::new(DirectoryUpload::new(self.clone(), key.to_owned(), condition, aside)))
    }

    async fn head(&self, key: &str) -> Result<Properties, RemoteError> {
        let key = key.to_owned();
        self.blocking(move |root| {
            let (file, path) = root.open_object(&key)?;
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
        self.blocking(move |root| root.delete(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |root| {
            root.require()?;
            walk::page(&root.path, &prefix, after.as_deref())
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
