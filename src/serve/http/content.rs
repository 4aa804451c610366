//! [`Content`]: what a key names, whatever it is.
use super::conditions::Validators;
use super::reply::Pieces;
use crate::cache::{Blob, File, Found, Waiting};
use crate::remote::Properties;
use futures::StreamExt;
use std::ops::Range;
use std::time::{Duration, SystemTime};

/// See the module.
#[derive(Debug)]
pub(super) enum Content {
    /// A whole file of the cache.
    File(File),
    /// One that somebody fills.
    Filling(Waiting),
    /// An object of the origin, read through the cache.
    Object(Blob, Properties),
}

impl From<Found> for Content {
    fn from(found: Found) -> Self {
        match found {
            Found::File(file) => Self::File(file),
            Found::Filling(waiting) => Self::Filling(waiting),
        }
    }
}

impl Content {
    /// In bytes; `None` where only who fills it could know.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::File(file) => Some(file.size()),
            Self::Filling(waiting) => waiting.stream().size(),
            Self::Object(blob, _) => Some(blob.size()),
        }
    }

    /// The media type that the origin keeps.
    pub(super) fn media_type(&self) -> Option<&str> {
        match self {
            Self::Object(_, properties) => properties.content_type.as_deref(),
            _ => None,
        }
    }

    /// What the origin says that its bytes are encoded with.
    pub(super) fn encoding(&self) -> Option<&str> {
        match self {
            Self::Object(_, properties) => properties.content_encoding.as_deref(),
            _ => None,
        }
    }

    /// What tells it from another version. Of a file the checksum of its bytes, which is not known before
    /// all of them are.
    pub(super) fn validators(&self) -> Validators {
        match self {
            Self::File(file) => Validators {
                etag: file.checksum().map(|digest| format!("\"{}\"", blake3::Hash::from(digest).to_hex())),
                modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(file.created())),
            },
            Self::Filling(_) => Validators::default(),
            Self::Object(blob, properties) => {
                let tag = blob.id().tag.trim_matches('"');
                let is_tag = tag.bytes().all(|b| b > b' ' && b != b'"' && b < 0x7f);
                let seconds = u64::try_from(properties.modified.sec).ok();
                Validators {
                    etag: is_tag.then(|| format!("\"{tag}\"")),
                    modified: seconds.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s)),
                }
            }
        }
    }

    /// A part of it as it comes. `None`: all of it.
    pub(super) fn pieces(&self, range: Option<&Range<u64>>) -> Pieces {
        let found = match self {
            Self::File(file) => Found::File(file.clone()),
            Self::Filling(waiting) => Found::Filling(waiting.clone()),
            Self::Object(blob, _) => {
                let range = range.cloned().unwrap_or(0..blob.size());
                return blob.clone().stream(range).boxed();
            }
        };
        let stream = found.stream();
        let stream = match range {
            Some(range) => stream.range(range.clone()),
            None => stream,
        };
        stream.into_stream().boxed()
    }
}
