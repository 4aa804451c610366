//! [`refuse`]: what somebody else has is not taken for a cache, which deletes what it does not know.
use super::name::Found;
use crate::cache::error::CacheError;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a cache has in its directory; one that another program moved aside has more in its name.
const OURS: [&str; 4] = ["objects", "tmp", "journal", "journal.lock"];

/// Whether a journal of ours was here, by what only we put into a directory.
fn had_journal(root: &Path) -> bool {
    let is_file = |name: &str| root.join(name).symlink_metadata().is_ok_and(|found| found.is_file());
    // What keeps the state of a mount has a journal of that name, too.
    let has_objects = root.join("objects").is_dir();
    has_objects && is_file("journal.lock") && (is_file("journal/conf") || is_file("journal/db"))
}

/// The names in a directory; none if there is no directory.
fn names(path: &Path) -> Result<Vec<Vec<u8>>, CacheError> {
    let listed = match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().into_encoded_bytes())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    listed.map_err(|e: std::io::Error| CacheError::io("read directory", path, e))
}

fn is_hex(name: &[u8], digits: usize) -> bool {
    name.len() == digits && name.iter().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(c))
}

/// Whether nothing says that the journal is somebody else's.
fn is_journal(root: &Path) -> Result<bool, CacheError> {
    let journal = root.join("journal");
    if journal.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
        // It stands where one of ours was.
        let is = |name: &str| root.join(name).symlink_metadata();
        return Ok(is("journal.lock").is_ok_and(|found| found.is_file())
            && is("objects").is_ok_and(|found| found.is_dir()));
    }
    let is_of_sled = |name: &[u8]| matches!(name, b"conf" | b"db" | b"blobs") || name.starts_with(b"snap.");
    Ok(names(&journal)?.iter().all(|name| is_of_sled(name)))
}

/// Whoever took a cache's journal away may have it back; but nobody else's folders of these names.
fn has_foreign(root: &Path) -> Result<bool, CacheError> {
    let is_ours = |name: &[u8]| {
        OURS.iter().any(|ours| ours.as_bytes() == name) || name.starts_with(b"journal.corrupt-")
    };
    if !names(root)?.iter().all(|name| is_ours(name) || name == b"lost+found")
        || !names(&root.join("tmp"))?.iter().all(|name| is_hex(name, 16))
        || !is_journal(root)?
    {
        return Ok(true);
    }
    let objects = root.join("objects");
    for name in names(&objects)? {
        let number = std::str::from_utf8(&name).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
        let (Some(number), true) = (number, is_hex(&name, 2)) else {
            return Ok(true);
        };
        let is_foreign = |name: &Vec<u8>| Found::parse(number, OsStr::from_bytes(name)) == Found::Foreign;
        if names(&objects.join(OsStr::from_bytes(&name)))?.iter().any(is_foreign) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a directory that holds something and is no cache.
pub(super) fn refuse(root: &Path) -> Result<(), CacheError> {
    if had_journal(root) || !has_foreign(root)? {
        return Ok(());
    }
    let what =
        format!("a cache in a directory that holds something else (name an empty one): {}", root.display());
    Err(CacheError::Invalid { what })
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_refused_whatever_its_names() {
        for names in [
            &["journal.txt", "tmp/important"][..],
            &["journal/notes", "objects/ab/mine"],
            &["objects/ab/mine"],
            &["journal.lock", "journal/notes", "tmp/0123456789abcdef"],
            &["journal.lock", "tmp/x", "objects/00/y"],
            &["journal.lock", "journal/conf", "journal/db", "settings"],
        ] {
            let dir = tempfile::tempdir().expect("dir");
            for name in names {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
                std::fs::write(path, b"mine").expect("writes");
            }
            let refused = Store::open_directory(dir.path()).expect_err("refused");
            assert!(matches!(refused, CacheError::Invalid { .. }), "{names:?}: {refused}");
        }
    }
}
