//! Exit codes.
use crate::{Error, ErrorKind};
use std::process::ExitCode;

/// How the command ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed in a way no other code names.
    Failure,
    /// The command line or the configuration makes no sense.
    Usage,
    /// Something is not in the remote; it is still on the local disk.
    Unsaved,
    /// Somebody else holds the directory, the state or the name.
    Busy,
    /// Not mounted, or no such version.
    NotFound,
    /// The remote or the daemon does not answer; trying again may work.
    Unavailable,
    /// Credentials or permissions do not allow it.
    Denied,
    /// Another writer was there first; nothing was overwritten.
    Conflict,
    /// What is in the remote is damaged or lost.
    Damaged,
    /// 'exec' itself failed, before the command or in saving after it.
    ExecFailed,
    /// The command of 'exec' cannot be run.
    CannotRun,
    /// The command of 'exec' was not found.
    NoSuchCommand,
    /// Stopped by a signal.
    Interrupted,
    /// As the command of 'exec' ended.
    Command(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unsaved => 3,
            Self::Busy => 4,
            Self::NotFound => 5,
            Self::Unavailable => 6,
            Self::Denied => 7,
            Self::Conflict => 8,
            Self::Damaged => 9,
            Self::ExecFailed => 125,
            Self::CannotRun => 126,
            Self::NoSuchCommand => 127,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

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
        Self::from(exit.code())
    }
}
