//! `icecache tables …`: what a mount shows of Iceberg tables.
#[cfg(feature = "tables")]
mod show;
#[cfg(feature = "tables")]
mod verbs;
#[cfg(feature = "tables")]
mod watch;

#[cfg(feature = "tables")]
pub use verbs::TablesVerb;
