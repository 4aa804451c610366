//! [`RedisError`]: why Redis, or what speaks like it, did not do what was asked. Never with a password in it.
use super::options::Address;
use crate::error::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

/// Why Redis did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// An option makes no sense.
    #[error("redis option {option}: {why}")]
    Option {
        /// Which one.
        option: String,
        /// What was expected.
        why: String,
    },
    /// A file that an option names cannot be read.
    #[error("cannot read the file of redis option {option}: {}: {why}", .path.display())]
    File {
        /// Which option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Nobody answers there, the connection broke, or its certificate is not to be trusted.
    #[error("redis cannot be reached: {address}: {message}")]
    Unreachable {
        /// Which server.
        address: Address,
        /// What happened.
        message: String,
    },
    /// No answer came in time.
    #[error("redis did not answer within {} ms: {address}", .after.as_millis())]
    TimedOut {
        /// Which server.
        address: Address,
        /// How long was waited.
        after: Duration,
    },
    /// User and password are wrong, missing, or not permitted to do this.
    #[error("redis denies access: {address}: {message}")]
    Denied {
        /// Which server.
        address: Address,
        /// What it said.
        message: String,
    },
    /// The server answered with another error.
    #[error("redis refused the command: {address}: {message}")]
    Refused {
        /// Which server.
        address: Address,
        /// What it said.
        message: String,
    },
    /// The slots of a cluster are elsewhere by now, or nowhere.
    #[error("redis has moved what it kept: {address}: {message}")]
    Moved {
        /// Which server.
        address: Address,
        /// What it said.
        message: String,
    },
    /// It failed a moment ago, and is not asked until it answers again.
    #[error("redis is not asked, it failed a moment ago")]
    Open,
    /// More is under way than is permitted at once.
    #[error("too much is under way to redis")]
    Busy,
    /// The server has no such command.
    #[error("redis has no {what}: {address}")]
    Unsupported {
        /// Which server.
        address: Address,
        /// What it lacks.
        what: &'static str,
    },
    /// An event is larger than events may be.
    #[error("an event of {bytes} bytes is too large, at most {max}")]
    TooLarge {
        /// How large.
        bytes: usize,
        /// How large it may be.
        max: usize,
    },
}

impl RedisError {
    /// What a caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Option { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::File { .. } | Self::Refused { .. } => ErrorKind::Io,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Moved { .. } | Self::Open => {
                ErrorKind::Unavailable
            }
            Self::Busy => ErrorKind::Busy,
        }
    }

    /// What the client library says, about a server. `scrub` takes secrets out: some servers repeat the
    /// arguments of a command that they do not know, and AUTH may be one.
    pub(super) fn new(
        address: &Address,
        error: &::redis::RedisError,
        scrub: impl Fn(&str) -> String,
    ) -> Self {
        use ::redis::{ErrorKind as Kind, ServerErrorKind as Server};
        let (address, message) = (address.clone(), scrub(&error.to_string()));
        match error.kind() {
            Kind::AuthenticationFailed | Kind::Server(Server::NoPerm) => Self::Denied { address, message },
            Kind::Server(Server::Moved | Server::Ask | Server::ReadOnly) => Self::Moved { address, message },
            Kind::Server(_) => Self::Refused { address, message },
            Kind::Extension if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
                Self::Denied { address, message }
            }
            Kind::Extension => Self::Refused { address, message },
            _ => Self::Unreachable { address, message },
        }
    }
}

impl From<RedisError> for crate::error::Error {
    fn from(error: RedisError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}
