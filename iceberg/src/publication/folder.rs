//! [`Folder`]: the local folder that a table is published in.
use crate::error::{TableError, io};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

/// The tests end the process here.
#[cfg(test)]
use super::kills::moment;
#[cfg(not(test))]
fn moment() {}

/// Where files are written aside, below the folder; what is there is nobody's.
const ASIDE: &str = ".aside";

/// A folder whose files appear whole. All calls block.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
    /// Folders below it that will be found after a loss of power, as far as this one has seen to it.
    lasting: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A file that is written aside, and goes if it is not [placed](Self::place).
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    aside: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Makes its bytes survive a loss of power.
    pub fn sync(&self) -> Result<(), TableError> {
        self.file.sync_all().map_err(io("sync", &self.aside))?;
        moment();
        Ok(())
    }

    /// From now on it is there.
    pub fn place(self) -> Result<(), TableError> {
        fs::rename(&self.aside, &self.path).map_err(io("rename into place", &self.path))?;
        moment();
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Of what was placed nothing is left; and what cannot be removed the next start removes.
        let _gone = fs::remove_file(&self.aside);
    }
}

impl Folder {
    /// Opens it, and makes it if it is not there. What another process has left half-written is removed.
    pub fn open(root: &Path) -> Result<Self, TableError> {
        let aside = root.join(ASIDE);
        fs::create_dir_all(&aside).map_err(io("create folder", &aside))?;
        let own = format!("{}.", std::process::id());
        for entry in fs::read_dir(&aside).map_err(io("list", &aside))? {
            let entry = entry.map_err(io("list", &aside))?;
            if !entry.file_name().to_string_lossy().starts_with(&own) {
                let path = entry.path();
                fs::remove_file(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(Self { root: root.to_owned(), lasting: Arc::default() })
    }

    /// The size of a file; `None` if there is none.
    pub fn size(&self, path: &str) -> Result<Option<u64>, TableError> {
        let path = self.root.join(path);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("look at", &path)(error)),
        }
    }

    /// When a file was written; `None` if there is none.
    pub fn written(&self, path: &str) -> Result<Option<SystemTime>, TableError> {
        let path = self.root.join(path);
        match fs::symlink_metadata(&path).and_then(|meta| meta.modified()) {
            Ok(time) => Ok(Some(time)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("look at", &path)(error)),
        }
    }

    /// A file; `None` if there is none.
    pub fn read(&self, path: &str) -> Result<Option<Bytes>, TableError> {
        let path = self.root.join(path);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    /// The names in a folder below this one; none if it is not there.
    pub fn names(&self, path: &str) -> Result<Vec<String>, TableError> {
        let path = self.root.join(path);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io("list", &path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(io("list", &path))?.file_name().into_string());
        }
        Ok(names)
    }

    /// Writes a file aside, not synced yet. The folder that it is for is there then, and the way to that survives a loss
    /// of power.
    pub fn stage(&self, path: &str, bytes: &[u8]) -> Result<Staged, TableError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let aside =
            self.root.join(ASIDE).join(format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Relaxed)));
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            self.make(parent)?;
        }
        let file = File::create(&aside).map_err(io("write", &aside))?;
        let mut staged = Staged { file, aside, path };
        moment();
        staged.file.write_all(bytes).map_err(io("write", &staged.aside))?;
        moment();
        Ok(staged)
    }

    /// Writes a file: aside, synced, then renamed into place, so that it is there whole or not at all.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), TableError> {
        let staged = self.stage(path, bytes)?;
        staged.sync()?;
        staged.place()
    }

    /// Makes a folder. Who waits for the lock waits for the way to the folder that it needs, too.
    fn make(&self, folder: &Path) -> Result<(), TableError> {
        let mut lasting = self.lasting.lock();
        if lasting.contains(folder) && folder.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(io("create folder", folder))?;
        moment();
        for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            sync_folder(above)?;
        }
        lasting.insert(folder.to_owned());
        Ok(())
    }

    /// Removes a file; returns how many bytes it had.
    pub fn remove(&self, path: &str) -> Result<u64, TableError> {
        let size = self.size(path)?.unwrap_or(0);
        let path = self.root.join(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", &path)(error)),
            _ => Ok(size),
        }
    }

    /// Removes a folder and those above it, up to this one, as far as they are empty.
    pub fn remove_folders(&self, path: &str) -> Result<(), TableError> {
        let mut path = self.root.join(path);
        while path.starts_with(&self.root) && path != self.root {
            match fs::remove_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => break,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(io("remove folder", &path)(error)),
            }
            path.pop();
        }
        Ok(())
    }

    /// Makes the names in a folder below this one, if it is there, survive a loss of power.
    pub fn sync(&self, path: &str) -> Result<(), TableError> {
        sync_folder(&self.root.join(path))
    }
}

fn sync_folder(path: &Path) -> Result<(), TableError> {
    match File::open(path) {
        Ok(folder) => folder.sync_all().map_err(io("sync", path))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io("open", path)(error)),
    }
    moment();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_there_whole_and_remains_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.write("a/b/x", b"one").unwrap();
        folder.write("a/b/x", b"three").unwrap();
        folder.sync("a/b").unwrap();
        folder.sync("none").unwrap();
        assert_eq!(folder.size("a/b/x").unwrap(), Some(5));
        assert_eq!(folder.read("a/b/x").unwrap().unwrap(), "three");
        assert_eq!(folder.names("a/b").unwrap(), ["x"]);
        assert_eq!(folder.size("a/b").unwrap(), None);
        assert_eq!(folder.read("a/none").unwrap(), None);
        // What is not placed goes; a folder that has gone is made again.
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        drop(folder.stage("a/b/y", b"never").unwrap());
        assert_eq!(folder.names("a/b").unwrap(), [""; 0]);
        folder.write("a/b/y", b"four").unwrap();
        assert_eq!(folder.names("a/b").unwrap(), ["y"]);
        let left = dir.path().join(ASIDE).join("0.1");
        fs::write(&left, b"half").unwrap();
        Folder::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(fs::read_dir(dir.path().join(ASIDE)).unwrap().next().is_none());
    }
}
