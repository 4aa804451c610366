//! The kernel's side of a mount: the only place that sees FUSE types.
//!
//! [`mount`] attaches a directory, [`connection`] agrees with the kernel in its [wire format](abi),
//! [`transport`] moves requests, and [`adapter`] translates each into one call of a
//! [`Volume`](crate::fs::Volume).
pub mod abi;
pub mod adapter;
pub mod attempt;
pub mod connection;
pub mod errno;
mod interrupts;
pub mod mount;
pub mod notify;
pub mod pool;
mod probe;
#[cfg(feature = "tables")]
pub mod tables;
pub mod transport;
