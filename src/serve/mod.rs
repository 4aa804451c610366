//! What runs for a mount and how others talk to it: the daemon, its start-up pipe, its control socket
//! and the registry by which a verb finds it.
#[cfg(feature = "http")]
#[cfg_attr(not(feature = "redis"), allow(unused, reason = "nobody is there to be heard"))]
mod changes;
pub mod control;
#[cfg(feature = "fuse")]
pub mod daemon;
#[cfg(not(feature = "fuse"))]
pub mod daemonless;
pub mod directory;
pub mod history;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod metrics;
#[cfg(all(not(feature = "redis"), any(feature = "http", all(feature = "fuse", feature = "tables"))))]
#[path = "peerless.rs"]
mod peers;
#[cfg(all(feature = "redis", any(feature = "http", all(feature = "fuse", feature = "tables"))))]
mod peers;
#[cfg(feature = "http")]
pub mod proxy;
pub mod registry;
pub mod run;
#[cfg(any(feature = "http", all(feature = "fuse", feature = "tables")))]
mod shared;
pub mod shown;
mod start;
pub mod startup;

#[cfg(not(feature = "fuse"))]
pub use daemonless as daemon;

/// Refuses where this build has no daemon.
pub fn can_mount() -> crate::Result<()> {
    if cfg!(feature = "fuse") {
        return Ok(());
    }
    Err(cannot_mount())
}

fn cannot_mount() -> crate::Error {
    let message = "this build cannot mount: it was made without the feature 'fuse'";
    crate::Error::new(crate::ErrorKind::Unsupported, message)
}
