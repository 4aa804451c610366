//! [`Name`]: which files are an entry's, and what a name found in `objects/` means.
use crate::cache::digest::Digest;
use crate::cache::key::Identity;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The end of the names of witnesses that are files.
pub(super) const SIDECAR: &str = ".w";

/// Which files are an entry's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    /// The digest of its identity.
    pub digest: Digest,
    /// Its generation.
    pub generation: u64,
}

impl Name {
    /// The name of this generation of an entry.
    pub fn new(identity: &Identity, generation: u64) -> Self {
        Self { digest: identity.digest(), generation }
    }
}

/// A file found in `objects/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// An entry's bytes.
    Bytes(Name),
    /// An entry's witness.
    Witness(Name),
    /// Nothing of ours.
    Foreign,
}

impl Found {
    /// What a name in the directory of this number means.
    pub fn parse(directory: u8, name: &OsStr) -> Self {
        let whole = name.as_bytes();
        let stem = whole.strip_suffix(SIDECAR.as_bytes());
        let read = |text: &[u8]| {
            let text = std::str::from_utf8(text).ok()?;
            let (rest, generation) = text.split_once('-')?;
            let lower = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if rest.len() != 62 || generation.len() != 16 || !lower(rest) || !lower(generation) {
                return None;
            }
            let digest = blake3::Hash::from_hex(format!("{directory:02x}{rest}")).ok()?;
            let generation = u64::from_str_radix(generation, 16).ok()?;
            Some(Name { digest: *digest.as_bytes(), generation })
        };
        match read(stem.unwrap_or(whole)) {
            Some(name) if stem.is_some() => Self::Witness(name),
            Some(name) => Self::Bytes(name),
            None => Self::Foreign,
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::super::Store;
    use super::*;
    use crate::cache::key::Key;
    use std::path::PathBuf;

    #[test]
    fn names_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::open_directory(dir.path()).expect("opens");
        let identity = Identity::File { key: Key::new("k").expect("a key"), size: 1 };
        let name = Name::new(&identity, 0xabc);
        let parse = |path: PathBuf| {
            let directory = path.parent().and_then(|p| p.file_name()).and_then(OsStr::to_str).expect("named");
            Found::parse(u8::from_str_radix(directory, 16).expect("hex"), path.file_name().expect("named"))
        };
        assert_eq!(parse(store.path(&name)), Found::Bytes(name));
        assert_eq!(parse(store.sidecar(&name)), Found::Witness(name));
        for other in ["", "x", "a.w", "-", "journal", &format!("{}-{}", "A".repeat(62), "0".repeat(16))] {
            assert_eq!(Found::parse(0, OsStr::new(other)), Found::Foreign, "{other}");
        }
    }
}
