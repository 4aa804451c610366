//! [`RelPath`]: a path inside the mounted tree, proven to stay inside it.
use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest name of one directory entry, in bytes (Linux `NAME_MAX`).
pub const NAME_MAX_BYTES: usize = 255;

/// A path relative to the root of a tree: bytes, components separated by single slashes; never
/// absolute, never with an empty, `.` or `..` component, never with a NUL. The root is empty.
///
/// [`Ord`] compares component by component, so that a directory sorts directly before its content
/// (plain byte order would put `a-b` between `a` and `a/b`).
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not a [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It starts with a slash.
    #[error("path is absolute")]
    Absolute,
    /// A component is `..`.
    #[error("path leaves its tree by '..'")]
    Parent,
    /// A component is empty or `.`.
    #[error("path has an empty or '.' component")]
    Empty,
    /// A component is longer than [`NAME_MAX_BYTES`].
    #[error("path component is longer than 255 bytes")]
    TooLong,
    /// It contains a NUL byte.
    #[error("path contains a NUL byte")]
    Nul,
}

impl RelPath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks every rule of the type; `""` is the root.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        for component in bytes.split(|b| *b == b'/') {
            match component {
                b"" | b"." => return Err(PathError::Empty),
                b".." => return Err(PathError::Parent),
                c if c.len() > NAME_MAX_BYTES => return Err(PathError::TooLong),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes, without a leading or trailing slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a std path (the root is `""`).
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// For system calls; the root becomes `.`.
    pub fn to_cstring(&self) -> CString {
        let bytes: &[u8] = if self.is_root() { b"." } else { &self.0 };
        CString::new(bytes).unwrap_or_default() // no NUL: checked by every constructor
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last component, or `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        if self.is_root() { None } else { self.0.rsplit(|b| *b == b'/').next() }
    }

    /// The directory that holds it, or `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// The entry `name` below this directory.
    ///
    /// The name comes from the kernel or from a directory listing, so it is one valid component.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        if !self.is_root() {
            bytes.extend_from_slice(&self.0);
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// The entry that these names lead to from this directory, one below the other.
    #[must_use]
    pub fn join_all<'a>(&self, names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = self.0.to_vec();
        for name in names {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(name);
        }
        Self(bytes.into())
    }

    /// Whether this path is `dir` or below it.
    pub fn starts_with(&self, dir: &Self) -> bool {
        dir.is_root()
            || (self.0.starts_with(&dir.0) && (self.0.len() == dir.0.len() || self.0[dir.0.len()] == b'/'))
    }

    /// Every proper ancestor below the root, nearest first, then the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        std::iter::successors(self.parent(), Self::parent)
    }

    /// The components, first to last.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl AsRef<[u8]> for RelPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    /// Printable whatever the bytes are: control and non-UTF-8 bytes are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> RelPath {
        RelPath::new(s).expect("valid path")
    }

    #[test]
    fn refuses_what_leaves_the_tree() {
        assert_eq!(RelPath::new("/etc"), Err(PathError::Absolute));
        assert_eq!(RelPath::new("a/../../b"), Err(PathError::Parent));
        assert_eq!(RelPath::new("a//b"), Err(PathError::Empty));
        assert_eq!(RelPath::new("a/./b"), Err(PathError::Empty));
        assert_eq!(RelPath::new(b"a\0b"), Err(PathError::Nul));
        assert_eq!(RelPath::new([b'x'; 256]), Err(PathError::TooLong));
    }

    #[test]
    fn a_directory_sorts_directly_before_its_content() {
        let mut v = ["a-b", "a/b", "a", "a.c"].map(path);
        v.sort();
        assert_eq!(v, ["a", "a/b", "a-b", "a.c"].map(path));
    }

    #[test]
    fn parents_and_prefixes() {
        assert_eq!(path("a/b/c").ancestors().collect::<Vec<_>>(), [path("a/b"), path("a"), RelPath::root()]);
        assert!(path("a/b").starts_with(&path("a")));
        assert!(!path("ab").starts_with(&path("a")));
        assert!(path("ab").starts_with(&RelPath::root()));
        assert_eq!(RelPath::root().join(b"x").join(b"y"), path("x/y"));
    }
}
