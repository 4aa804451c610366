//! [`Aside`]: what is written before it gets its key.
use super::super::RemoteError;
use super::failed;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file written aside. Its flock says that its writer lives; dropping it removes the file.
pub(super) struct Aside {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// The modification time it is published with.
    pub(super) stamp: SystemTime,
    pub(super) kept: bool,
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path); // best effort: the next sweep finds it
        }
    }
}

/// Removes what writers left that died: files nobody has locked. Called under the lock of the store.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_file(&path); // best effort: it only costs space
        }
    }
}

/// A modification time no PUT of this store had before, later than all of them.
pub(super) fn next_stamp(mut lock: &File, path: &Path) -> Result<SystemTime, RemoteError> {
    let mut text = String::new();
    lock.take(64).read_to_string(&mut text).map_err(|e| failed("read", path, &e))?;
    let last: u64 = text.trim().parse().unwrap_or(0); // new, or torn by a crash: the clock has moved on
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let stamp = now.max(last.saturating_add(1));
    lock.write_all_at(format!("{stamp:020}\n").as_bytes(), 0).map_err(|e| failed("write", path, &e))?;
    lock.flush().map_err(|e| failed("write", path, &e))?;
    Ok(UNIX_EPOCH + Duration::from_nanos(stamp))
}
