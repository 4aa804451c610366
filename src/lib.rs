//! icecache: a directory that survives its machine.
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod fs;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod journal;
pub mod layer;
pub mod path;
pub mod remote;
pub mod serve;
pub mod state;
pub mod sync;

pub use error::{Error, ErrorKind, Result};
