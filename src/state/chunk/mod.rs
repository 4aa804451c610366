//! Chunks: content in pieces of 64 KiB, known by digest, so that what the remote has is not sent again.
//!
//! A file is cut at multiples of [`CHUNK_BYTES`]; the last piece is shorter. [`Digests`] computes them
//! while content passes by, [`Known`] remembers where in which layer each stands, [`Borrowing`] looks them
//! up while a layer is packed. That a file changed little, was renamed, copied or touched, or is the same
//! as another one are all the same case. What is not here: content that was moved within its file by
//! anything but a multiple of the size of a chunk.
mod borrowing;
mod digests;
mod known;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;

pub use borrowing::{Borrowing, Digested, places};
pub use digests::{Chunk, Digests};
pub use known::{Known, Place};

/// Bytes of a chunk.
pub const CHUNK_BYTES: u64 = 64 << 10;
/// A shorter chunk is sent again: what would say where it stands, and the request that gets it from
/// there, cost more.
pub const CHUNK_BYTES_MIN: u64 = 512;

/// BLAKE3 of a chunk.
pub type ChunkDigest = [u8; 32];
