//! What runs for a mount and how others talk to it: the daemon, its start-up pipe, its control socket
//! and the registry by which a verb finds it.
pub mod control;
#[cfg(feature = "fuse")]
pub mod daemon;
pub mod history;
pub mod registry;
pub mod startup;
