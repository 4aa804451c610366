//! The objects beneath a directory, in the order in which S3 lists them.
use super::super::{Listed, Page, RemoteError, key, list};
use super::failed;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;

/// One name in a directory: a directory's sorts with its slash, as the keys below it do.
struct Name {
    key: String,
    meta: Metadata,
}

/// Objects whose keys begin with `prefix` and come after `after`.
///
/// A symlink to a directory is refused: following it may never end, and to leave it out would say that the
/// objects behind it, which can be read, are not there.
pub(super) fn page(root: &Path, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError> {
    let mut walk = Walk { root, prefix, after: after.unwrap_or_default(), page: Page::default() };
    // What is not below the last slash of the prefix cannot begin with it.
    walk.directory(prefix.rfind('/').map_or("", |slash| &prefix[..=slash]))?;
    Ok(walk.page)
}

struct Walk<'a> {
    root: &'a Path,
    prefix: &'a str,
    after: &'a str,
    page: Page,
}

impl Walk<'_> {
    /// Adds what is below `directory` (empty, or with its slash).
    fn directory(&mut self, directory: &str) -> Result<(), RemoteError> {
        for Name { key, meta } in self.names(directory)? {
            if self.page.more {
                break;
            }
            if meta.is_dir() {
                // Else everything below it sorts before `after`.
                if *key > *self.after || self.after.starts_with(&key) {
                    self.directory(&key)?;
                }
            } else if *key > *self.after {
                if self.page.objects.len() == list::PAGE_MAX_OBJECTS {
                    self.page.more = true;
                    break;
                }
                let path = self.root.join(&key);
                let modified = meta.modified().map_err(|e| failed("look at", &path, &e))?.into();
                self.page.objects.push(Listed { key, length: meta.len(), modified });
            }
        }
        Ok(())
    }

    /// The names in a directory that keys can have and that may lead to the prefix, in order.
    fn names(&self, directory: &str) -> Result<Vec<Name>, RemoteError> {
        let path = self.root.join(directory);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(e) => return Err(failed("list", &path, &e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| failed("list", &path, &e))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let mut key = format!("{directory}{name}");
            if key::fault(&key).is_some() || !(key.starts_with(self.prefix) || self.prefix.starts_with(&key))
            {
                continue;
            }
            let path = entry.path();
            let meta = match std::fs::metadata(&path) {
                Ok(meta) => meta,
                Err(e) if e.kind() == ErrorKind::NotFound => continue, // removed meanwhile
                Err(e) => return Err(failed("look at", &path, &e)),
            };
            if meta.is_dir() {
                if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                    let message = format!("cannot list through a symlink: {}", path.display());
                    return Err(RemoteError::Refused { message });
                }
                key.push('/');
            } else if !meta.is_file() || !key.starts_with(self.prefix) {
                continue;
            }
            names.push(Name { key, meta });
        }
        names.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(names)
    }
}
