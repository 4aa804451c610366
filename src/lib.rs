//! icecache: a directory that survives its machine.
//!
//! A mounted directory is worked in at the speed of the local disk, and its content is kept in an
//! object store as *versions*: each is the whole tree at one instant. A version is a list of *layers*
//! (immutable `tar.zst` archives, each holding what one flush changed), named by a small document,
//! *HEAD*, which is only ever replaced under a condition.
//!
//! # The two paths
//!
//! A write, and what becomes of it:
//!
//! ```text
//!  program ──► kernel ──► the file in the backing     passthrough: file data goes past us
//!                │
//!                ▼
//!  fuse ──► fs/ops ──► state/dirty                    "may have changed", from the writable open on
//!                          │ a second after the last change
//!                          ▼
//!                      state/flusher
//!                          │
//!                      state/plan                     what differs from the clean records (journal)
//!                          │
//!                      state/cut                      one instant of the whole tree
//!                          │
//!                      state/commit ──► layer ──► remote   layers/<id>.tar.zst   first the data,
//!                          │                      remote   <name>/HEAD           then what names it
//!                          ▼
//!                      state/record ──► journal       the new clean records
//! ```
//!
//! A start:
//!
//! ```text
//!  remote   <name>/HEAD ──► state/head ──► serve/daemon/reconcile    who is newer, disk or remote?
//!  remote   layers/…    ──► state/restore ──► layer/extract ──► the backing
//!                                                 │
//!                           state/record ◄────────┘                  what is clean from here on
//!                           state/scan                               after an unclean stop only
//!                               │
//!                               ▼
//!                           fuse/mount ──► usable
//! ```
//!
//! Dependencies point down: `cli, serve, lambda → fuse → fs → state → layer, cache → journal, remote → config, error`.
//! [`cache`] is a floor of its own: files and blocks of remote objects on the local disk. `redis` lies on it: a
//! tier that machines share. `tables` lies on it too: Iceberg tables as files, read through it.
//!
//! # Without a mount
//!
//! Everything below `fuse` works on plain directories. Here one becomes a version and comes back
//! elsewhere:
//!
//! ```
//! use icecache::clock::Timestamp;
//! use icecache::journal::MemoryJournal;
//! use icecache::layer::PackOptions;
//! use icecache::path::RelPath;
//! use icecache::remote::{MemoryStore, Store};
//! use icecache::state::commit::{CommitOptions, Committer, Layout, Lost};
//! use icecache::state::dirty::{Extent, Marks};
//! use icecache::state::head::read_head;
//! use icecache::state::plan::{LookOptions, Plan};
//! use icecache::state::record::Records;
//! use icecache::state::restore::{LayerSource, NoProgress, Policy, restore};
//! use icecache::state::source::DirectorySource;
//! use std::fs::{self, File};
//! use std::os::fd::AsFd;
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let here = tempfile::tempdir()?;
//! fs::create_dir(here.path().join("notes"))?;
//! fs::write(here.path().join("notes/today"), "it snows")?;
//! let root = File::open(here.path())?;
//!
//! let store: Store = Arc::new(MemoryStore::new());
//! let records = Arc::new(Records::open(Arc::new(MemoryJournal::new()), "memory:", "work")?);
//! let options = CommitOptions {
//!     layout: Layout::Layered,
//!     host: "here".into(),
//!     pack: PackOptions::default(),
//!     dictionary: false,
//!     log: false,
//!     at_once: false,
//!     lost: Lost::Fork,
//! };
//! let (committer, _opening) = Committer::open(store.clone(), records.clone(), options).await?;
//!
//! // What the plan looks at is marked; here that is everything.
//! let marks = Marks::from([(RelPath::root(), Extent::Subtree)]);
//! let plan = Plan::capture(root.as_fd(), &records, &marks, &LookOptions::default())?;
//! let content = Arc::new(DirectorySource::new(root.try_clone()?.into()));
//! let receipt = committer.commit(Arc::new(plan), content, Timestamp::now()).await?;
//! assert_eq!(receipt.version, 1);
//!
//! // Anywhere else: HEAD names the layers, the layers make the tree.
//! let (head, _tag) = read_head(&*store, "work").await?.ok_or("no such name")?;
//! let elsewhere = tempfile::tempdir()?;
//! let target = File::open(elsewhere.path())?.into();
//! restore(store, LayerSource::newest_first(&head), target, Policy::default(), &NoProgress).await?;
//! assert_eq!(fs::read_to_string(elsewhere.path().join("notes/today"))?, "it snows");
//! # Ok(())
//! # })
//! # }
//! ```
#![cfg_attr(
    all(test, feature = "model"),
    allow(clippy::large_enum_variant, reason = "the locks of the models are larger than real ones")
)]
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
mod descriptors;
pub mod error;
pub mod fs;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod journal;
#[cfg(feature = "lambda")]
pub mod lambda;
pub mod layer;
pub mod memory;
pub mod metrics;
pub mod path;
#[cfg(feature = "redis")]
pub mod redis;
pub mod remote;
pub mod runtime;
pub mod serve;
pub mod state;
pub mod sync;
#[cfg(feature = "tables")]
pub mod tables;

pub use error::{Error, ErrorKind, Result};
