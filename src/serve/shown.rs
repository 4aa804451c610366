//! What a mount of a version kept goes away with it.
use crate::config::place::VERSION_DIR;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Says in a state directory of a mount of a version that what is above it was made for it.
const MADE: &str = "made";

/// The state directory above this one was made for it.
pub fn made_above(state_dir: &Path) -> io::Result<()> {
    fs::write(state_dir.join(MADE), [])
}

/// Removes the state directory of a mount of a version, which nothing uses any more. What is above it stays
/// if there is anything else in it, or if it was there before.
pub fn remove(state_dir: &Path) {
    if state_dir.file_name().is_none_or(|name| name != VERSION_DIR) {
        return;
    }
    let made = state_dir.join(MADE).exists();
    match remove_tree(state_dir) {
        Ok(()) if !made => {}
        Ok(()) => {
            let _not_empty = state_dir.parent().map(fs::remove_dir);
        }
        Err(error) => {
            tracing::warn!(%error, dir = %state_dir.display(), "cannot remove what was shown");
        }
    }
}

/// Removes what a version was brought into, but for the directory itself.
pub fn content(state_dir: &Path) {
    for entry in fs::read_dir(state_dir.join("content")).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&path)
        } else {
            fs::remove_file(&path)
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "cannot remove what an earlier mount has shown");
        }
    }
}

/// Also what its owner may not change: the version says so, and an ordinary user is bound by it.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(dir);
            fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn open_up(top: &Path) {
    let mut stack = vec![top.to_owned()];
    while let Some(dir) = stack.pop() {
        let _not_ours = fs::set_permissions(&dir, Permissions::from_mode(0o700));
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        stack.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_whatever_its_modes_and_what_is_beside_it_stays() {
        let temp = tempfile::tempdir().expect("temp");
        let state = temp.path().join("state");
        let shut = state.join("version/content/a/b");
        fs::create_dir_all(&shut).expect("mkdir");
        fs::write(shut.join("f"), "x").expect("write");
        std::os::unix::fs::symlink(temp.path(), shut.join("link")).expect("symlink");
        for dir in [shut.as_path(), shut.parent().expect("above")] {
            fs::set_permissions(dir, Permissions::from_mode(0o500)).expect("chmod");
        }
        fs::write(state.join("journal"), "x").expect("write");
        open_up(&state.join("version"));
        assert_eq!(fs::metadata(&shut).expect("there").permissions().mode() & 0o777, 0o700);
        content(&state.join("version"));
        assert_eq!(fs::read_dir(state.join("version/content")).expect("kept").count(), 0);
        remove(&state.join("version"));
        assert!(!state.join("version").exists() && state.join("journal").exists());
        fs::remove_file(state.join("journal")).expect("remove");
        fs::create_dir_all(state.join("version")).expect("mkdir");
        remove(&state.join("version"));
        assert!(state.exists(), "a state directory of somebody else went");
        fs::create_dir_all(state.join("version")).expect("mkdir");
        made_above(&state.join("version")).expect("write");
        remove(&state.join("version"));
        assert!(!state.exists(), "an empty state directory stayed");
    }
}
