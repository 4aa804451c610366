//! [`LayerError`]: why a layer cannot be written, read or extracted.
use crate::error::{Error, ErrorKind};
use crate::path::RelPath;
use std::io;

/// Why a layer cannot be written, read or extracted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A system call, the source or the sink failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the entry's path where there is one.
        what: String,
        /// The failure.
        source: io::Error,
    },
    /// The content of an entry cannot be read where it is taken from.
    #[error("cannot read: {path}: {source}")]
    Content {
        /// The entry.
        path: RelPath,
        /// The failure.
        source: io::Error,
    },
    /// The bytes do not start like a layer.
    #[error("not a layer: its first frame is not ours")]
    NotALayer,
    /// A newer program wrote it.
    #[error("layer has a format version this program does not know: {found}")]
    UnknownVersion {
        /// The version it names.
        found: u32,
    },
    /// Its format is older than contents: it can only be read as a whole.
    #[error("layer has no contents, its format version is {version}")]
    NoContents {
        /// The version.
        version: u32,
    },
    /// It is compressed with a dictionary that the reader was not given.
    #[error("layer needs a compression dictionary that is not at hand: {which}")]
    Dictionary {
        /// Its digest in hex, or its number.
        which: String,
    },
    /// The bytes end before the layer does.
    #[error("layer is truncated: {what}")]
    Truncated {
        /// What was being read.
        what: String,
    },
    /// The bytes are not what their checksums or the format promise.
    #[error("layer is corrupt: {what}")]
    Corrupt {
        /// What is wrong, with the entry's path where there is one.
        what: String,
    },
    /// The file became shorter while it was packed.
    #[error("file changed while it was packed: {path}")]
    Changed {
        /// The entry.
        path: RelPath,
    },
    /// The entry has no form in the format.
    #[error("entry cannot be stored: {what}: {path}")]
    Unstorable {
        /// Why.
        what: String,
        /// The entry.
        path: RelPath,
    },
    /// The file system has no room for the extended attributes of the entry, however much of its space is free.
    #[error("the extended attributes do not fit this file system: {path}")]
    Attributes {
        /// The entry.
        path: RelPath,
    },
    /// Extracting the entry would leave the tree or is not ours to do.
    #[error("entry refused: {what}: {entry}")]
    Refused {
        /// Why.
        what: String,
        /// The entry's path, printable.
        entry: String,
    },
}

impl LayerError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    pub(crate) fn content(path: &RelPath, source: impl Into<io::Error>) -> Self {
        Self::Content { path: path.clone(), source: source.into() }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    pub(crate) fn truncated(what: impl Into<String>) -> Self {
        Self::Truncated { what: what.into() }
    }

    pub(crate) fn refused(what: impl Into<String>, entry: &RelPath) -> Self {
        Self::Refused { what: what.into(), entry: entry.to_string() }
    }

    pub(crate) fn unstorable(what: impl Into<String>, path: &RelPath) -> Self {
        Self::Unstorable { what: what.into(), path: path.clone() }
    }

    /// Says in which entry it happened, where the error does not say so itself.
    #[must_use]
    pub(crate) fn in_entry(self, entry: &RelPath) -> Self {
        match self {
            Self::Truncated { what } => Self::Truncated { what: format!("{what}: {entry}") },
            Self::Corrupt { what } => Self::Corrupt { what: format!("{what}: {entry}") },
            Self::Io { what, source } => Self::Io { what: format!("{what}: {entry}"), source },
            other => other,
        }
    }

    /// What the caller should do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } | Self::Content { source, .. } => match source.kind() {
                _ if crate::error::is_full(source) => ErrorKind::Full,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Io,
            },
            Self::NotALayer | Self::Truncated { .. } | Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::UnknownVersion { .. }
            | Self::NoContents { .. }
            | Self::Dictionary { .. }
            | Self::Attributes { .. } => ErrorKind::Unsupported,
            Self::Changed { .. } => ErrorKind::Conflict,
            Self::Unstorable { .. } => ErrorKind::Invalid,
            Self::Refused { .. } => ErrorKind::Denied,
        }
    }
}

impl From<LayerError> for Error {
    fn from(e: LayerError) -> Self {
        Self::new(e.kind(), "layer failed").with_source(e)
    }
}

impl LayerError {
    /// A failed read of a byte stream of ours: the stream wraps what it found in an [`io::Error`].
    pub(crate) fn from_stream(what: &str, e: io::Error) -> Self {
        if e.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            if let Some(Ok(inner)) = e.into_inner().map(|inner| inner.downcast::<Self>()) {
                return *inner;
            }
            return Self::corrupt(what);
        }
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Self::truncated(what),
            _ => Self::io(what, e),
        }
    }

    /// The reverse of [`from_stream`](Self::from_stream).
    pub(crate) fn into_stream(self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self)
    }
}

impl From<rustix::io::Errno> for LayerError {
    fn from(e: rustix::io::Errno) -> Self {
        Self::io("system call failed", e)
    }
}
