//! `icecache tables …`: what a mount shows of Iceberg tables; and the flags of such a mount.
mod flags;
#[cfg(feature = "tables")]
mod show;
#[cfg(feature = "tables")]
mod verbs;
#[cfg(feature = "tables")]
mod watch;

pub use flags::TablesArgs;
#[cfg(feature = "tables")]
pub use verbs::TablesVerb;
