//! Where an open directory is now, beneath another one.
use super::moved::{LEAD, directories_in};
use crate::path::RelPath;
use rustix::fs::Mode;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// As the kernel says of its descriptor. It tells no path of 4096 bytes or more: of such a directory the names above are
/// looked for until it tells the rest. `None`: it is not beneath `root`, or nobody can tell.
pub(super) fn path_beneath(root: &OwnedFd, dir: &OwnedFd) -> Option<RelPath> {
    let top = told(root).ok()?;
    let (mut names, mut at) = (Vec::new(), dir.try_clone().ok()?);
    loop {
        match told(&at) {
            Ok(path) => {
                let above = RelPath::new(path.strip_prefix(&top).ok()?.as_os_str().as_bytes()).ok()?;
                return Some(above.join_all(names.iter().rev().map(|name: &CString| name.to_bytes())));
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidFilename => {}
            Err(_) => return None,
        }
        let parent = rustix::fs::openat(&at, c"..", LEAD, Mode::empty()).ok()?;
        names.push(name_in(&parent, &at)?);
        at = parent;
    }
}

fn told(dir: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// The name that a directory has in the one that holds it.
fn name_in(parent: &OwnedFd, dir: &OwnedFd) -> Option<CString> {
    let ino = rustix::fs::fstat(dir).ok()?.st_ino;
    let names = directories_in(parent.as_fd()).ok()?;
    names.into_iter().find_map(|(name, number)| (number == ino).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, openat};

    /// A directory of the temporary ones, and the deepest of so many in it.
    fn deep(levels: usize) -> (tempfile::TempDir, OwnedFd, OwnedFd, RelPath) {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = OwnedFd::from(std::fs::File::open(dir.path()).expect("opens"));
        let (mut at, mut path) = (root.try_clone().expect("clones"), RelPath::root());
        for level in 0..levels {
            let name = format!("{level:0200}");
            // Another one beside it, which is not the one.
            for name in [&*name, "beside"] {
                mkdirat(&at, name, Mode::RWXU).expect("makes");
            }
            at = openat(&at, &*name, LEAD, Mode::empty()).expect("opens");
            path = path.join(name.as_bytes());
        }
        (dir, root, at, path)
    }

    #[test]
    fn it_is_found_however_deep() {
        for levels in [0, 1, 10, 20, 21, 60] {
            let (_dir, root, at, path) = deep(levels);
            assert_eq!(path_beneath(&root, &at), Some(path), "{levels} levels");
        }
    }

    #[test]
    fn elsewhere_is_not_beneath() {
        for levels in [1, 30] {
            let (_one, root, ..) = deep(1);
            let (_other, _, at, _) = deep(levels);
            assert_eq!(path_beneath(&root, &at), None, "{levels} levels");
        }
    }
}
