//! Files and blocks on a disk that survive restarts, can be read while they come, and never take more room
//! than they may.
//!
//! ```text
//!   look_up ──► index (memory) ──► File: path, size, checksum, descriptor      a whole file, pinned
//!                  │           └─► Stream: what is there, then the rest        a file that is being filled
//!                  │
//!   blob.read ─► blob_entry ──► the block from the page cache, or verified from the disk
//!                  │
//!                  └─► flight ──► tier … origin      one fetch for all who want the block
//!                        │
//!   insert ──► fill ─────┴──► budget: charged before anything is written; evictor: who goes
//!                        │
//!                        └──► store: the bytes, and beside them their witness
//!                             ledger ──► journal: gathered, written within 250 ms
//! ```
//!
//! An entry is a *file*, named by a [`Key`] and handed out whole, or the *blocks* of an immutable remote
//! object, named by its [`ObjectId`]. On the disk either is one file that has every byte at its own offset
//! and nothing else in it. What describes the bytes lies beside them: in the journal, and in a *witness* (an
//! extended attribute, or a small file). The journal is quick; with the witnesses alone everything comes
//! back as well.
//!
//! docs/CACHE.md has what is promised, and the policies; docs/FORMAT.md has the bytes.
//!
//! ```
//! use bytes::Bytes;
//! use icecache::cache::{Cache, Config, Found, Inserted, Key, ObjectId, StoreOrigin};
//! use icecache::remote::{Condition, MemoryStore, ObjectStore, Store};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let dir = tempfile::tempdir()?;
//! let cache = Cache::open(Config::new(dir.path())).await?;
//!
//! // A file: inserted once, then handed out as a path.
//! let key = Key::new("thumbnail/1")?;
//! let Inserted::New(file) = cache.insert(&key, Bytes::from("a picture")).await? else { panic!() };
//! assert_eq!(std::fs::read(file.path())?, b"a picture");
//! drop(file);
//! let Some(Found::File(file)) = cache.look_up(&key).await? else { panic!() };
//! assert_eq!(file.checksum(), Some(*blake3::hash(b"a picture").as_bytes()));
//! drop(file);
//!
//! // An object: read through the cache, fetched once.
//! let store: Store = Arc::new(MemoryStore::new());
//! let tag = store.put("data/1", Bytes::from("much data"), Condition::Always).await?;
//! let id = ObjectId { bucket: "mem".into(), key: "data/1".into(), tag: tag.0, size: 9 };
//! let blob = cache.blob(&id, Arc::new(StoreOrigin::new(store)))?;
//! assert_eq!(&blob.read(5, 100).await?[..], b"data");
//! assert_eq!(&blob.read(0, 4).await?[..], b"much");
//! assert_eq!(cache.stats().totals.fetches, 1);
//! drop(blob);
//!
//! // After a restart both are there.
//! cache.close().await?;
//! let cache = Cache::open(Config::new(dir.path())).await?;
//! assert!(cache.look_up(&key).await?.is_some());
//! assert_eq!(cache.stats().used.entries, 2);
//! # Ok(())
//! # })
//! # }
//! ```
mod blob;
mod blob_entry;
mod block;
pub mod budget;
mod buffers;
#[allow(clippy::module_inception)] // the facade is the noun
mod cache;
mod check;
pub(crate) mod codec;
pub mod config;
mod core;
mod departure;
pub mod digest;
mod disk;
pub mod error;
pub mod events;
pub mod evict;
mod evictor;
mod file;
mod file_entry;
mod fill;
mod filling;
mod flight;
mod hedge;
mod index;
pub mod info;
mod inserted;
pub mod key;
mod ledger;
mod memory;
#[cfg(all(test, feature = "model"))]
mod model;
mod opening;
mod origin;
mod part;
mod readahead;
mod reading;
pub mod record;
mod rehydrate;
mod shares;
mod shortage;
mod spread;
pub mod stats;
mod store;
mod stream;
pub mod tier;
mod trip;
mod trust;
mod usage;
mod verify;
mod waiting;
mod watch;
pub mod witness;

pub use blob::Blob;
pub use budget::Short;
pub use cache::{Cache, Found};
pub use config::{Admission, Config, Recall};
pub use error::CacheError;
pub use events::{Cause, Event, Subject};
pub use evict::PolicyKind;
pub use file::{File, Range};
pub use fill::{Begun, Fill, FillOptions};
pub use hedge::{Hedged, Hedges};
pub use info::{EntryName, Info, Removed, Verdict, Whereabouts};
pub use inserted::Inserted;
pub use key::{Key, ObjectId};
pub use origin::{OriginFiles, Versions};
pub use part::Part;
pub use stats::{CHECKS, LATENCY_MS, Stats, Totals};
pub use stream::Stream;
pub use tier::{Chain, FetchError, Fetched, Origin, StoreOrigin, Tier, TierError, TierStats};
pub use waiting::Waiting;
