//! The operations, one file per family. Each takes inode numbers as the kernel gives them and
//! returns plain values; errors are the backing's own.
mod create;
pub(super) mod data;
mod deferred;
mod lookup;
mod readdir;
mod remove;
mod rename;
pub(super) mod setattr;
pub(super) mod xattr;
