//! [`Objects`]: how this crate reads the files of tables. Whoever uses it brings the stores.
mod apart;
mod local;

pub(crate) use apart::Apart;
pub use local::LocalObjects;

use crate::location::Location;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// How many bytes it has.
    pub size: u64,
    /// Its version, where the store names one; equal means same bytes.
    pub etag: Option<String>,
}

/// A part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects and their sizes, in the order of their keys.
    pub objects: Vec<(Location, u64)>,
    /// Common prefixes up to the next slash, which they end in; only if the listing is by folder.
    pub folders: Vec<Location>,
    /// To be passed on for the next part; `None`: this was the last.
    pub next: Option<String>,
}

/// Why an object could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// There is none; never used for anything that is not certain.
    #[error("no such object: {location}")]
    NotFound {
        /// The object asked for.
        location: Location,
    },
    /// Larger than the caller allows.
    #[error("object is too large: {location}: {size} bytes, at most {limit}")]
    TooLarge {
        /// The object.
        location: Location,
        /// How many bytes it has.
        size: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// Credentials are missing, wrong, expired, or do not permit the call.
    #[error("access denied: {location}: {why}")]
    Denied {
        /// The object asked for.
        location: Location,
        /// What the store said; never a secret.
        why: String,
    },
    /// Time-out, reset, slow down: a later attempt may succeed.
    #[error("store unavailable: {location}: {why}")]
    Unavailable {
        /// The object asked for.
        location: Location,
        /// What happened.
        why: String,
    },
    /// No retry mends it: no store for this scheme, a malformed answer.
    #[error("cannot read object: {location}: {why}")]
    Failed {
        /// The object asked for.
        location: Location,
        /// What happened.
        why: String,
    },
}

/// Stores for any location. Retries, credentials and caching are its own affair.
#[async_trait]
pub trait Objects: Send + Sync + std::fmt::Debug {
    /// The whole object, if it has at most `limit` bytes; else [`ObjectError::TooLarge`], and nothing is read.
    async fn get(&self, location: &Location, limit: u64) -> Result<Bytes, ObjectError>;
    /// A part of it. Exactly the range, or [`ObjectError::Failed`].
    async fn get_range(&self, location: &Location, range: Range<u64>) -> Result<Bytes, ObjectError>;
    /// Its size and version.
    async fn head(&self, location: &Location) -> Result<ObjectInfo, ObjectError>;
    /// Objects whose keys begin with that of `prefix`, part by part: `after` is [`Listing::next`] of the part
    /// before. `by_folder`: only up to the next slash. A prefix nothing lies under is an empty listing.
    async fn list(
        &self,
        prefix: &Location,
        by_folder: bool,
        after: Option<&str>,
    ) -> Result<Listing, ObjectError>;
}
