//! What makes a directory survive: which paths may have changed, one true instant of the tree,
//! its way to the remote, and the way back.
//!
//! A flush reads as `dirty → plan → cut → commit`, a start as `head → restore`.
mod backing;
pub mod commit;
pub mod dirty;
pub mod head;
pub mod identity;
pub mod plan;
pub mod record;
pub mod scan;
pub mod source;
