//! A command that is run on a kept directory: its process, and where it can have a mount.
pub mod doubt;
pub mod namespace;
pub mod probe;
mod signals;
mod supervisor;
mod tidying;

pub use signals::{is_ignored, unblock};
pub use supervisor::{Ended, Grace, Hurry, SpawnError, Supervisor};
pub use tidying::tidying_until;
