//! What a mount must know of Apache Iceberg.
//!
//! A table is a tree of files that name each other by absolute URIs: metadata → manifest lists → manifests → data
//! and deletes. This crate rewrites that tree so that every URI in it is a path below a mount, and any engine can
//! read the table by path:
//!
//! ```text
//!  catalog ──► where the metadata of a table is, and whether that has changed
//!     │
//!     ▼
//!  publication ──► metadata, lists, manifests, position deletes: rewritten once each, into a local folder
//!     │                         │
//!     │                         └── mapping: location ↔ path below the mount
//!     ▼
//!  diff ──► which files came and went between two versions
//!
//!  predicate ──► which files of a version a query reads
//! ```
//!
//! It knows no kernel, no cache and no store: [`Objects`] brings the stores, whoever mounts shows the folder.
mod avro;
pub mod catalog;
pub mod columns;
mod deletes;
mod diff;
mod document;
mod error;
mod location;
mod manifest;
pub mod mapping;
pub mod metadata;
pub mod objects;
mod orc;
pub mod predicate;
pub mod publication;
mod puffin;
pub mod rewrite;
mod table;

pub use catalog::{Catalog, CatalogAddress, CatalogError};
pub use diff::{ChangeKind, Difference, write_next};
pub use error::TableError;
pub use location::{LOCATION_MAX_BYTES, Location, LocationError};
pub use mapping::{Mapping, MappingError};
pub use objects::{ObjectError, Objects};
pub use predicate::{Predicate, PredicateError};
pub use publication::{Place, Publication};
pub use table::{StorageCredential, Table, TableId, Token};
