//! [`CacheError`]: why the cache did not do what was asked. It can be cloned, because all who wait for one
//! fill are told the same.
use super::budget::Short;
use super::tier::FetchError;
use crate::journal::JournalError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A rule of admission: [`CacheError::NotAdmitted`].
pub(super) const TOO_LARGE: &str = "it is too large";
/// Another one.
pub(super) const TOO_MUCH: &str = "too much was written lately";

/// Why the cache did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The request makes no sense.
    #[error("not possible: {what}")]
    Invalid {
        /// What was wrong with it.
        what: String,
    },
    /// Another process has the directory.
    #[error("cache is in use by another process{}: {}", .pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), .path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// The process, if it is known and alive.
        pid: Option<u32>,
    },
    /// The journal did not do what was asked.
    #[error("{0}")]
    Journal(Arc<JournalError>),
    /// The disk did not do what was asked.
    #[error("cannot {action}: {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: Arc<std::io::Error>,
    },
    /// There is no room, and nothing that may be evicted.
    #[error("no room in the cache for {bytes} bytes: {short}")]
    NoRoom {
        /// How many were wanted; of a content of unknown size the next piece.
        bytes: u64,
        /// The limit that does not permit them.
        short: Short,
    },
    /// The admission filter does not let it in.
    #[error("not admitted to the cache: {why}")]
    NotAdmitted {
        /// By which rule.
        why: &'static str,
    },
    /// Whoever filled the entry gave up: the handle was dropped, or told so.
    #[error("the fill was given up: {why}")]
    GivenUp {
        /// What the filler said.
        why: String,
    },
    /// Whoever filled the entry did nothing for too long.
    #[error("the fill has stalled for {} ms", .after.as_millis())]
    Stalled {
        /// How long nothing came.
        after: Duration,
    },
    /// The content is not as long as was said.
    #[error("expected {expected} bytes, got {got}")]
    WrongSize {
        /// What was said.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The entry was deleted while it was filled or read.
    #[error("the entry was deleted meanwhile")]
    Deleted,
    /// Bytes on the disk are not those that were written. They are dropped.
    #[error("cached bytes are damaged and were dropped: {what}")]
    Corrupt {
        /// Of which entry.
        what: String,
    },
    /// The origin did not give the bytes.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The cache was closed.
    #[error("the cache is closed")]
    Closed,
}

impl CacheError {
    /// Whether the process or the system was short of something, which says nothing of what is on the disk.
    pub(crate) fn is_shortage(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN, libc::EINTR];
        source.raw_os_error().is_some_and(|errno| short.contains(&errno))
    }

    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source: Arc::new(source) }
    }

    pub(super) fn errno(action: &'static str, path: impl Into<PathBuf>, source: rustix::io::Errno) -> Self {
        Self::io(action, path, source.into())
    }

    /// Whether the disk or the budget is full: what was to be kept can still be passed through.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => full(source),
            _ => false,
        }
    }

    /// Whether the disk has no room, which others might give back.
    pub(super) fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Whether an error of the disk says that it has no room.
pub(super) fn full(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl From<JournalError> for CacheError {
    fn from(e: JournalError) -> Self {
        match e {
            JournalError::Busy { path, pid } => Self::Busy { path, pid },
            e => Self::Journal(Arc::new(e)),
        }
    }
}

impl From<CacheError> for crate::Error {
    fn from(e: CacheError) -> Self {
        use crate::ErrorKind;
        let kind = match &e {
            CacheError::Invalid { .. } => ErrorKind::Invalid,
            CacheError::Busy { .. } => ErrorKind::Busy,
            CacheError::Io { source, .. } if full(source) => ErrorKind::Full,
            CacheError::NoRoom { .. } | CacheError::NotAdmitted { .. } => ErrorKind::Full,
            CacheError::Corrupt { .. } | CacheError::WrongSize { .. } => ErrorKind::Corrupt,
            CacheError::GivenUp { .. } | CacheError::Stalled { .. } => ErrorKind::Unavailable,
            CacheError::Deleted => ErrorKind::NotFound,
            CacheError::Fetch(e) => e.kind(),
            CacheError::Closed | CacheError::Io { .. } => ErrorKind::Io,
            CacheError::Journal(e) => match &**e {
                JournalError::Corrupt { .. } => ErrorKind::Corrupt,
                JournalError::Version { .. } => ErrorKind::Unsupported,
                _ => ErrorKind::Io,
            },
        };
        Self::new(kind, e.to_string())
    }
}
