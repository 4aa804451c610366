//! ORC files, as far as position deletes need them: a column of strings and one of numbers, row by row.
//!
//! ```text
//!  "ORC"   stripes: index, data, footer   metadata   footer   postscript   its size: 1 byte
//! ```
//!
//! The rules are those of the *ORC Specification v1*; each file here names the sections that it follows. What a file
//! claims is held against what it has before anything is done with it: no length is believed, nothing is unpacked beyond
//! the size of a chunk that the postscript states, and nothing recurs.
mod codec;
mod file;
mod integers;
mod message;
mod packed;
mod present;
mod stream;
mod strings;
mod stripe;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use file::OrcFile;

/// Why bytes are no ORC file that is understood here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrcError {
    /// It is something else, or the end of it is missing.
    #[error("it is not an ORC file: {0}")]
    Foreign(&'static str),
    /// It breaks the format.
    #[error("{0}")]
    Malformed(&'static str),
    /// The format allows it, and it is not read here.
    #[error("{0} is not known")]
    Unknown(String),
    /// Its columns, or some of them, are encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// More than the bound.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}
