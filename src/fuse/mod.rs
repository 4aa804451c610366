//! The kernel's side of a mount: the only place that sees FUSE types.
//!
//! [`mount`] attaches a directory, [`transport`] moves requests between the device and
//! [`adapter`], which translates each into one call of a [`Volume`](crate::fs::Volume).
pub mod adapter;
pub mod errno;
pub mod mount;
pub mod notify;
pub mod pool;
mod probe;
pub mod transport;
