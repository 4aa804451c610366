//! Object stores: where layers and HEAD live.
//!
//! A store needs only whole and ranged GET, PUT, and PUT under a condition; to see what is there and to
//! delete what nobody needs it takes HEAD, LIST and DELETE too, which may be denied. Keys are slash-separated
//! UTF-8; no key is ever both an object and a prefix of another (a directory cannot be a file).
//! Kinds: [`s3`](S3Store), [`directory`](DirectoryStore), [`memory`](MemoryStore). Decorators wrap
//! any of them: [`Counted`], [`Retry`], [`Faulty`]. What [`open`] returns is retried and counted.
mod body;
pub mod counted;
pub mod directory;
pub mod faulty;
pub mod handed;
pub mod key;
pub mod list;
pub mod memory;
mod open;
pub mod probe;
pub mod recent;
pub mod retry;
pub mod s3;
pub mod url;

pub use counted::{Counted, Counters, Snapshot};
pub use directory::DirectoryStore;
pub use faulty::{Fault, Faulty};
pub use handed::Handed;
pub use list::{Level, Listed, Page};
pub use memory::MemoryStore;
pub use open::{open, open_borrowing, open_configured, open_counted};
pub use probe::supports_conditional_writes;
pub use recent::Recent;
pub use retry::{Retry, RetryPolicy};
pub use s3::{KeySource, Keyring, LentKeys, S3Keys, S3Options, S3Store};
pub use url::{RemoteUrl, url_of};

use crate::clock::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;

/// The version of one object as its store names it (S3: the ETag). Opaque; equal means same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tag(pub String);

/// When a PUT may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Always,
    /// Only if the key names no object (`If-None-Match: *`).
    IfAbsent,
    /// Only if the object still has this tag (`If-Match`).
    IfMatch(Tag),
}

/// A small object, read whole.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its version.
    pub tag: Tag,
}

/// What a store says of an object without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// How many bytes it has.
    pub length: u64,
    /// Its version.
    pub tag: Tag,
    /// When it was last written, by the clock of the store.
    pub modified: Timestamp,
    /// Its media type, where the store keeps one.
    pub content_type: Option<String>,
    /// What its bytes were encoded with, such as `gzip`, where the store keeps that.
    pub content_encoding: Option<String>,
}

/// The bytes of an object as they arrive. An item may be an error; after one the stream ends.
pub type ByteStream = BoxStream<'static, Result<Bytes, RemoteError>>;

/// An object being read as a stream.
pub struct Download {
    /// How many bytes the stream will carry; a stream that ends earlier yields an error.
    pub length: u64,
    /// The version that is read.
    pub tag: Tag,
    /// The bytes.
    pub body: ByteStream,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("length", &self.length)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// No such object. Never used for a missing bucket or for anything that is not certain.
    #[error("no such object: {key}")]
    NotFound {
        /// The key asked for.
        key: String,
    },
    /// The condition of a PUT did not hold, or (S3 409) another conditional PUT was under way.
    #[error("object changed meanwhile: {key}")]
    Precondition {
        /// The key of the PUT.
        key: String,
    },
    /// Credentials are missing, wrong, expired, or do not permit the call.
    #[error("access denied: {message}")]
    Denied {
        /// What the store said; never contains a secret.
        message: String,
    },
    /// The bucket or root directory does not exist.
    #[error("no such bucket or directory: {name}")]
    NoBucket {
        /// Its name.
        name: String,
    },
    /// Time-out, reset, 5xx, slow down: worth another attempt.
    #[error("remote unavailable: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// The store answered something that no retry mends (malformed, not implemented, bad digest).
    #[error("remote refused the request: {message}")]
    Refused {
        /// What the store said.
        message: String,
    },
}

impl RemoteError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// An object under construction. Nothing is visible under its key before [`finish`](Upload::finish);
/// dropping it without finishing leaves nothing visible.
#[async_trait]
pub trait Upload: Send {
    /// Appends bytes. Waits while the bounded number of parts in flight is exhausted.
    async fn write(&mut self, bytes: Bytes) -> Result<(), RemoteError>;
    /// Publishes the object and returns its tag.
    async fn finish(self: Box<Self>) -> Result<Tag, RemoteError>;
    /// Gives up; best effort to free what the store holds.
    async fn abort(self: Box<Self>);
}

/// An object store, bound to one bucket or directory and one prefix; keys are relative to it.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// The URL a person would type to get here (no secrets).
    fn url(&self) -> String;
    /// What tells it from all other stores, also where those have the same URL: the URL, and before it the endpoint
    /// if one was named; see [`url_of`].
    fn identity(&self) -> String {
        self.url()
    }
    /// Reads a small object whole (HEAD documents); `NotFound` if there is none.
    async fn get(&self, key: &str) -> Result<Object, RemoteError>;
    /// Reads an object, or a range of it, as a stream. A range that reaches beyond the end is clipped;
    /// one that is empty or starts at or beyond the end is `Refused`.
    async fn download(&self, key: &str, range: Option<Range<u64>>) -> Result<Download, RemoteError>;
    /// Writes a small object whole, atomically, under a condition. `IfMatch` on a key without an
    /// object is `Precondition`. After an error other than `Precondition`, `Denied`, `NoBucket` and
    /// `Refused` the object may have been written: read it back.
    async fn put(&self, key: &str, bytes: Bytes, condition: Condition) -> Result<Tag, RemoteError>;
    /// Starts an object of unknown length; memory in use stays bounded whatever the length.
    /// A store sends an object that fits one part as one PUT.
    /// The condition is checked when it is finished.
    async fn upload(&self, key: &str, condition: Condition) -> Result<Box<dyn Upload>, RemoteError>;
    /// What an object is, without its bytes; `NotFound` if there is none.
    async fn head(&self, key: &str) -> Result<Properties, RemoteError>;
    /// Removes an object; that it is not there is no error. `Denied` says that these credentials may not,
    /// `Refused` that the store cannot. Whoever reads the object now may be cut off.
    async fn delete(&self, key: &str) -> Result<(), RemoteError>;
    /// Objects whose keys begin with `prefix` (any string, the empty one too) and come after `after` in the
    /// order of their bytes: one [`Page`]; [`list::objects`] goes through all. What is written or removed
    /// between two pages may or may not be seen. Errors as for [`delete`](Self::delete).
    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, RemoteError>;
    /// The same up to the next slash behind `prefix`, in as few requests as the store permits.
    async fn level(&self, prefix: &str, after: Option<&str>) -> Result<Level, RemoteError> {
        Ok(Level::of(self.list(prefix, after).await?, prefix))
    }
    /// Somebody has the bytes of an object that never changes, and vouches for them: [`Handed`] reads it from there.
    /// Other stores do nothing.
    fn hand(&self, _key: &str, _bytes: &Bytes) {}
}

/// A store shared by the tasks of a daemon.
pub type Store = Arc<dyn ObjectStore>;
