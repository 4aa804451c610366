//! Exit codes.
use crate::{Error, ErrorKind};
use std::process::ExitCode;

/// How the command ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed in a way no other code names.
    Failure = 1,
    /// The command line or the configuration makes no sense.
    Usage = 2,
    /// Something is not in the remote; it is still on the local disk.
    Unsaved = 3,
    /// Somebody else holds the directory, the state or the name.
    Busy = 4,
    /// Not mounted, or no such version.
    NotFound = 5,
    /// The remote or the daemon does not answer; trying again may work.
    Unavailable = 6,
    /// Credentials or permissions do not allow it.
    Denied = 7,
    /// Another writer was there first; nothing was overwritten.
    Conflict = 8,
    /// What is in the remote is damaged or lost.
    Damaged = 9,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    /// The code of an error.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Invalid => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Corrupt => Self::Damaged,
            ErrorKind::Full | ErrorKind::Unsupported | ErrorKind::Io => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
