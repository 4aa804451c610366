//! [`TableError`]: why a table cannot be shown.
use crate::objects::ObjectError;
use crate::predicate::PredicateError;
use std::path::{Path, PathBuf};

/// Why a table cannot be shown. A table that fails does not touch its neighbours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// A file of the table could not be read from its store.
    #[error("cannot read a file of the table: {0}")]
    Object(#[from] ObjectError),
    /// A file of the table is not what the specification says.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// Which file, or which part of one.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The table is encrypted: its metadata cannot be rewritten without its keys, and must not lie on a disk in
    /// plain.
    #[error(
        "table is encrypted ({by}), so its metadata cannot be rewritten; read it through its catalog: the files \
         under objects/ are the ciphertext"
    )]
    Encrypted {
        /// What says so.
        by: &'static str,
    },
    /// The specification allows it, this crate does not know it.
    #[error("{what} is not supported; {advice}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// Larger or more than the bound, which is there so that no file can exhaust the machine.
    #[error("{what} is too large: {size}, at most {limit}")]
    TooLarge {
        /// Which file, or what is counted.
        what: String,
        /// How large.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// No such snapshot, reference or rewritten file.
    #[error("the table has no {what}")]
    NoSuch {
        /// What was asked for.
        what: String,
    },
    /// What was asked for cannot be asked of this table.
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    /// The local folder did not do what was asked.
    #[error("cannot {action}: {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl TableError {
    /// A file that breaks the specification.
    pub(crate) fn malformed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), why: why.into() }
    }

    /// Whether a file of the table is to blame, not the moment, nor the disk, nor who asks: then nothing is lost by going on
    /// without what needs that file.
    pub fn is_of_a_file(&self) -> bool {
        match self {
            Self::Object(error) => !matches!(error, ObjectError::Unavailable { .. }),
            Self::Malformed { .. }
            | Self::Encrypted { .. }
            | Self::Unsupported { .. }
            | Self::TooLarge { .. } => true,
            Self::NoSuch { .. } | Self::Predicate(_) | Self::Io { .. } => false,
        }
    }

    /// Whether a later attempt may succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Object(ObjectError::Unavailable { .. }))
    }
}

/// Adds what was tried with which file to an error of the system.
pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> TableError + 'a {
    move |source| TableError::Io { action, path: path.to_owned(), source }
}
