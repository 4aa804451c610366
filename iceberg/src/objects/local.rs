//! [`LocalObjects`]: files of this machine.
use super::{Listing, ObjectError, ObjectInfo, Objects};
use crate::location::Location;
use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files of this machine, by `file:` locations; with a folder, other schemes too: `s3://bucket/key` is then
/// `<folder>/s3/bucket/key`.
#[derive(Debug, Clone, Default)]
pub struct LocalObjects {
    folder: Option<PathBuf>,
}

impl LocalObjects {
    /// `file:` locations only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Buckets as folders below `folder`.
    pub fn with_buckets(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    fn path(&self, location: &Location) -> Result<PathBuf, ObjectError> {
        if let Some(path) = location.file_path() {
            return Ok(path.into());
        }
        let folder = self.folder.as_ref().ok_or_else(|| ObjectError::Failed {
            location: location.clone(),
            why: format!("no store for {}://", location.scheme()),
        })?;
        let key = location.key();
        // A key that begins with a slash would be an absolute path.
        if key.starts_with('/')
            || key.split('/').any(|c| matches!(c, "." | ".."))
            || location.authority().starts_with('.')
        {
            return Err(failed(location, "not a file below the folder"));
        }
        Ok(folder.join(location.scheme()).join(location.authority()).join(key))
    }
}

fn failed(location: &Location, why: impl Into<String>) -> ObjectError {
    ObjectError::Failed { location: location.clone(), why: why.into() }
}

fn error(location: &Location) -> impl Fn(std::io::Error) -> ObjectError + '_ {
    move |error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ObjectError::NotFound { location: location.clone() }
        }
        ErrorKind::PermissionDenied => {
            ObjectError::Denied { location: location.clone(), why: error.to_string() }
        }
        _ => failed(location, error.to_string()),
    }
}

/// Runs `work` where blocking is allowed.
async fn blocking<T: Send + 'static>(
    location: &Location,
    work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(location, error.to_string())))
}

#[async_trait]
impl Objects for LocalObjects {
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError> {
        let (path, own) = (self.path(location)?, location.clone());
        blocking(location, move || {
            let file = open(&own, &path)?;
            let size = file.metadata().map_err(error(&own))?.len();
            if size > limit {
                return Err(ObjectError::TooLarge { location: own, size, limit });
            }
            let mut bytes = Vec::new();
            file.take(limit + 1).read_to_end(&mut bytes).map_err(error(&own))?;
            if bytes.len() as u64 > limit {
                return Err(ObjectError::TooLarge { location: own, size: bytes.len() as u64, limit });
            }
            Ok(bytes.into())
        })
        .await
    }

    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let (path, own) = (self.path(location)?, location.clone());
        blocking(location, move || {
            let file = open(&own, &path)?;
            let size = file.metadata().map_err(error(&own))?.len();
            if range.start > range.end || range.end > size {
                return Err(failed(&own, format!("no bytes {range:?}: it has {size}")));
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start).map_err(error(&own))?;
            Ok(bytes.into())
        })
        .await
    }

    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError> {
        let (path, own) = (self.path(location)?, location.clone());
        blocking(location, move || {
            let meta = open(&own, &path)?.metadata().map_err(error(&own))?;
            // A file that is replaced has another inode, one that is written another time.
            let etag = format!("{}-{}-{}.{}", meta.len(), meta.ino(), meta.mtime(), meta.mtime_nsec());
            Ok(ObjectInfo { size: meta.len(), etag: Some(etag) })
        })
        .await
    }

    async fn list(
        &self,
        prefix: &Location,
        by_folder: bool,
        _after: Option<&str>,
    ) -> Result<Listing, ObjectError> {
        let (path, own) = (self.path(prefix)?, prefix.clone());
        blocking(prefix, move || {
            // The part after the last slash is the beginning of a name.
            let (folder, begin) = match own.key().rsplit_once('/') {
                Some((folder, begin)) => (folder.to_owned() + "/", begin.to_owned()),
                None => (String::new(), own.key().to_owned()),
            };
            let folder_path = if begin.is_empty() { path.as_path() } else { path.parent().unwrap_or(&path) };
            let mut listing = Listing::default();
            walk(&own, folder_path, &folder, &begin, by_folder, &mut listing)?;
            listing.objects.sort();
            listing.folders.sort();
            Ok(listing)
        })
        .await
    }
}

/// Opens a plain file; waits for nobody where it is none.
fn open(location: &Location, path: &Path) -> Result<File, ObjectError> {
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(error(location))?;
    let kind = file.metadata().map_err(error(location))?.file_type();
    match kind {
        _ if kind.is_file() => Ok(file),
        _ if kind.is_dir() => Err(ObjectError::NotFound { location: location.clone() }),
        _ => Err(failed(location, "it is no plain file")),
    }
}

fn walk(
    prefix: &Location,
    path: &Path,
    folder: &str,
    begin: &str,
    by_folder: bool,
    listing: &mut Listing,
) -> Result<(), ObjectError> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(error(prefix))?,
    };
    for entry in entries {
        let entry = entry.map_err(error(prefix))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with(begin) {
            continue;
        }
        let kind = match entry.path().metadata() {
            // Removed meanwhile, or a link to nothing.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            kind => kind.map_err(error(prefix))?,
        };
        let at = |key: &str| {
            Location::from_parts(prefix.scheme(), prefix.authority(), key)
                .map_err(|e| failed(prefix, e.to_string()))
        };
        if !kind.is_dir() {
            listing.objects.push((at(&format!("{folder}{name}"))?, kind.len()));
        } else if by_folder {
            listing.folders.push(at(&format!("{folder}{name}/"))?);
        } else {
            walk(prefix, &entry.path(), &format!("{folder}{name}/"), "", false, listing)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_and_lists_below_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("s3/b/wh/t/data")).unwrap();
        std::fs::write(dir.path().join("s3/b/wh/t/x"), b"0123456789").unwrap();
        std::fs::write(dir.path().join("s3/b/wh/t/data/y"), b"y").unwrap();
        let objects = LocalObjects::with_buckets(dir.path());
        let x: Location = "s3a://b/wh/t/x".parse().unwrap();
        assert_eq!(&objects.get(&x, 10).await.unwrap()[..], b"0123456789");
        assert!(matches!(objects.get(&x, 9).await, Err(ObjectError::TooLarge { size: 10, .. })));
        assert_eq!(&objects.get_range(&x, 2..5).await.unwrap()[..], b"234");
        assert!(matches!(objects.get_range(&x, 2..11).await, Err(ObjectError::Failed { .. })));
        assert_eq!(objects.head(&x).await.unwrap().size, 10);
        let none: Location = "s3://b/wh/t".parse().unwrap();
        assert!(matches!(objects.head(&none).await, Err(ObjectError::NotFound { .. })));
        let away: Location = "s3://b/../../x".parse().unwrap();
        assert!(matches!(objects.head(&away).await, Err(ObjectError::Failed { .. })));

        let all = objects.list(&"s3://b/wh/".parse().unwrap(), false, None).await.unwrap();
        let names: Vec<_> = all.objects.iter().map(|(l, size)| (l.as_str(), *size)).collect();
        assert_eq!(names, [("s3://b/wh/t/data/y", 1), ("s3://b/wh/t/x", 10)]);
        let folder = objects.list(&"s3://b/wh/t/".parse().unwrap(), true, None).await.unwrap();
        assert_eq!(folder.objects.len(), 1);
        assert_eq!(folder.folders, ["s3://b/wh/t/data/".parse().unwrap()]);
        // What is no file has no bytes, and is not waited for.
        let pipe = dir.path().join("s3/b/wh/t/pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let pipe: Location = "s3://b/wh/t/pipe".parse().unwrap();
        assert!(matches!(objects.get(&pipe, 10).await, Err(ObjectError::Failed { .. })));
        assert!(matches!(objects.head(&pipe).await, Err(ObjectError::Failed { .. })));
        assert_eq!(
            objects.list(&"s3://b/none/".parse().unwrap(), true, None).await.unwrap(),
            Listing::default()
        );
    }
}
