//! What makes a directory survive: which paths may have changed, one true instant of the tree,
//! its way to the remote, and the way back.
//!
//! A flush reads as `dirty → plan → cut → commit`, a start as `head → restore`.
pub mod absent;
pub(crate) mod backing;
pub mod barrier;
pub mod choice;
pub mod chunk;
pub mod commit;
pub mod compact;
pub mod cut;
pub mod dictionary;
pub mod dirty;
pub mod flusher;
pub mod head;
pub(crate) mod held;
pub mod identity;
pub mod live;
pub(crate) mod mapped;
pub mod plain;
pub mod plan;
pub mod prune;
pub mod record;
pub mod restore;
pub mod scan;
pub mod schedule;
pub mod source;
pub mod staging;
pub mod verify;
pub(crate) mod walindex;

pub(crate) use backing::{open_directory, reach};
