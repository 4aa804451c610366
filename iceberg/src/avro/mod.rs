//! Avro object container files, read and changed in place.
//!
//! Lists and manifests are changed in a few strings and numbers; everything else must stay as its writer left it,
//! also what no version of the specification knows. So a file is not decoded into values and written again: its
//! own schema says where each field lies, and the fields that change are cut out of the bytes and replaced. Header
//! (schema, user metadata, codec), order and all other bytes stay; small blocks become larger ones.
//!
//! Every length is checked against what is left before anything is done with it.
mod codec;
mod container;
mod cursor;
mod schema;

use codec::Codec;
pub(crate) use container::{Container, Edits, Room, Run, container};
pub(crate) use cursor::{Item, bytes, elements, long, put_bytes, put_long, records, text, walk};
pub(crate) use schema::{Kind, Node, Schema};

/// Why bytes are no Avro file that is understood here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AvroError {
    /// It breaks the format.
    #[error("{0}")]
    Malformed(&'static str),
    /// A codec that no writer of Iceberg uses.
    #[error("codec {0} is not known; null, deflate, snappy and zstandard are")]
    Codec(String),
    /// It grows beyond a bound.
    #[error("it is larger than {limit} bytes when decompressed")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
}
