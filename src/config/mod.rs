//! What a mount is told: one value set, merged from four sources.
//!
//! Precedence is flag > environment > file > default, and every value knows its [`Origin`]. The
//! sources carry text; [`MountSettings::resolve`] turns the merged text into checked types, so that a
//! wrong value is reported in the same words wherever it came from. All keys stand in one table,
//! [`keys::KEYS`]: a flag `--max-delay`, the variable `ICECACHE_MAX_DELAY` and the file's `max-delay`
//! are the same key.
pub mod choice;
pub mod file;
pub mod keys;
pub mod merge;
pub mod place;
pub mod settings;
pub mod tables;
pub mod text;
pub mod types;
pub mod wire;
mod word;

pub use choice::Choice;
pub use file::ConfigFile;
pub use merge::{Environment, Merged, Origin, Value};
pub use settings::{MountSettings, RemoteSettings, S3Settings};
pub use tables::{HintsSettings, KeepVersions, TablesSettings};
pub use types::{
    Access, FsyncMode, Layout, MountFlags, Name, OnConflict, OnExisting, Passthrough, Restore, Scan,
    Transport, Xattr,
};

pub(crate) use word::words;

use std::path::PathBuf;

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file exists but cannot be read.
    #[error("cannot read configuration: {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or holds something no key allows.
    #[error("{message}: {} line {line}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value does not fit its key.
    #[error("{key} (from {origin}): {message}")]
    Value {
        /// The key.
        key: &'static str,
        /// Where the value stands.
        origin: Origin,
        /// What is expected and what was given.
        message: String,
    },
    /// Values are fine one by one but not together.
    #[error("{message}")]
    Conflict {
        /// What does not go together.
        message: String,
    },
    /// A directory that must be known is not.
    #[error("{message}")]
    Missing {
        /// What is missing and how to give it.
        message: String,
    },
}

impl From<ConfigError> for crate::Error {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unreadable { path, source } => {
                Self::io(format!("cannot read configuration: {}", path.display()), source)
            }
            other => Self::new(crate::ErrorKind::Invalid, other.to_string()),
        }
    }
}
