//! Journals that are of no use: they are kept for whoever wants to know what happened, but not all of them.
use crate::journal::JournalError;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Gives a journal that is of no use another name, for whoever wants to know what happened to it. Of those only the
/// newest stays: each may be as large as what it described.
///
/// # Errors
/// [`JournalError::Io`] if it cannot be renamed.
pub fn move_aside(path: &Path) -> Result<PathBuf, JournalError> {
    for earlier in moved_aside(path) {
        if let Err(error) = remove_aside(&earlier) {
            tracing::warn!(path = %earlier.display(), %error, "cannot remove a damaged journal of before");
        }
    }
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.9fZ").to_string();
    let mut target = aside(path);
    target.push(time);
    let target = path.with_file_name(target);
    std::fs::rename(path, &target).map_err(|source| JournalError::Io { action: "move aside", source })?;
    Ok(target)
}

/// Removes one that was moved aside; not everything of its name is a directory.
pub fn remove_aside(aside: &Path) -> std::io::Result<()> {
    if aside.symlink_metadata()?.is_dir() {
        std::fs::remove_dir_all(aside)
    } else {
        std::fs::remove_file(aside)
    }
}

/// How the names begin of those that were moved aside.
fn aside(path: &Path) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".corrupt-");
    name
}

/// The journals that were moved aside for this one.
pub fn moved_aside(path: &Path) -> Vec<PathBuf> {
    let entries = path.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let prefix = aside(path);
    let is_one = |name: &OsStr| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
    let entries = entries.into_iter().flatten().flatten();
    entries.filter(|entry| is_one(&entry.file_name())).map(|entry| entry.path()).collect()
}
