//! The one public error. Modules have enums of their own; what leaves the library says by its
//! [`ErrorKind`] what the caller should do, and keeps the cause as its source.
use std::fmt;

/// What the caller should do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense; change it.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// Somebody else holds it (a mount, a lock, a name); wait or choose another.
    Busy,
    /// Another writer moved the state since we read it; nothing was overwritten.
    Conflict,
    /// The remote cannot be reached or asks to slow down; a later attempt may work.
    Unavailable,
    /// Credentials or permissions do not allow it.
    Denied,
    /// Bytes are not what their checksum, format or length promise.
    Corrupt,
    /// No space or no descriptors are left.
    Full,
    /// This kernel, store or build cannot do it.
    Unsupported,
    /// A system call failed in a way none of the above describes.
    Io,
}

/// An error with advice: the kind for programs, message and source for people.
///
/// Messages are lower case and put values last (`cannot open journal: PATH`).
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps a failed system call; the kind follows from its errno.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            _ if is_full(&source) => ErrorKind::Full,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            std::io::ErrorKind::InvalidInput => ErrorKind::Invalid,
            std::io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            std::io::ErrorKind::ResourceBusy | std::io::ErrorKind::AddrInUse => ErrorKind::Busy,
            _ => ErrorKind::Io,
        };
        Self::new(kind, message).with_source(source)
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message without its causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Puts a message in front; the old error becomes the source and keeps its kind.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self { kind: self.kind, message: message.into(), source: Some(Box::new(self)) }
    }
}

/// Whether a system call failed for want of space or of descriptors.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl fmt::Display for Error {
    /// The message and every cause, joined by `: `. Other errors than ours often end with the text of their own cause: that
    /// is not said again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = format!(": {}", self.message);
        let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = match cause.downcast_ref::<Self>() {
                Some(own) => format!(": {}", own.message),
                None => format!(": {cause}"),
            };
            if !said.ends_with(&text) {
                said.push_str(&text);
            }
            next = cause.source();
        }
        f.write_str(&said[2..])
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_out_of_space_or_descriptors_is_full() {
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE] {
            let error = Error::io("cannot make: x", std::io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        }
        let other = Error::io("cannot make: x", std::io::Error::from_raw_os_error(libc::EIO));
        // Each of these has the text of the one below it in its own.
        let below =
            crate::layer::LayerError::io("cannot write: f", std::io::Error::from_raw_os_error(libc::ENOSPC));
        let above = crate::state::restore::RestoreError::Layer { key: "l".into(), source: below };
        let said = Error::new(ErrorKind::Full, "failed").with_source(above).to_string();
        assert_eq!(said.matches("No space left").count(), 1, "{said}");
        assert_eq!(said.matches("cannot write: f").count(), 1, "{said}");
        assert_eq!(other.kind(), ErrorKind::Io);
    }
}
