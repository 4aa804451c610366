//! Apache Iceberg tables as a read-only tree of files.
//!
//! ```text
//!   catalogs ──► lake: which tables there are; each is published once somebody looks into it
//!      ▲           │
//!   tracker        ▼
//!   asks what   view: path below the mount ──► folder, file of this machine, object, link
//!   changed        │
//!                  ▼
//!                stores: objects of buckets, read through the cache
//! ```
//!
//! What tables and their files are is known by the crate `icecache-iceberg`; here it meets the stores, the cache
//! and the clock. docs/TABLES.md has what is shown, and the rules.
mod known;
mod lake;
mod stores;
mod tracker;
mod view;

pub use lake::{Lake, LakeOptions};
pub use stores::Stores;
pub use tracker::track;
pub use view::{Found, Kind, Listed, Stays, View, ViewError};
