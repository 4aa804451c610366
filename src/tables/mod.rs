//! Apache Iceberg tables as a read-only tree of files.
//!
//! ```text
//!   catalogs ──► lake: which tables there are; each is published once somebody looks into it
//!      ▲           │
//!   tracker        ▼
//!   asks what   view: path below the mount ──► folder, file of this machine, object, link
//!   changed        │
//!                  ▼
//!                stores: objects of buckets, read through the cache, and by column where they have any (ahead)
//!                  ▲
//!                keeper: brings what took the place of what was hot, and what is pinned (pins, held, room)
//! ```
//!
//! A table (slot) turns over (turn, several at once: turning) when the tracker, a hint or a person says so; whoever listens to the feed hears
//! of it. What a person may ask for is in desk and report.
//!
//! What tables and their files are is known by the crate `icecache-iceberg`; here it meets the stores, the cache
//! and the clock. docs/TABLES.md has what is shown, and the rules.
mod ahead;
mod asked;
mod aws;
mod branches;
mod chosen;
mod counted;
mod crowd;
mod desk;
mod dropped;
mod feed;
mod footer;
mod held;
mod hinted;
mod keeper;
mod known;
mod lake;
mod lent;
mod names;
mod objects;
mod partitions;
mod past;
mod pins;
mod remembered;
pub mod report;
mod room;
mod sealed;
mod selection;
mod slot;
mod stock;
mod stores;
mod told;
mod tracker;
mod turn;
mod turning;
mod view;

pub use ahead::{Ahead, Known};
pub use feed::{Batch, Event, Feed, What};
pub use hinted::HintCounts;
pub use lake::{Lake, LakeOptions, Turned};
pub use pins::{Pinned, decode as decode_pins};
pub use remembered::decode as decode_remembered;
pub use selection::Selection;
pub use stores::Stores;
pub use tracker::{Pace, track};
pub use view::{Found, Kind, Listed, Stays, View, ViewError};
