//! The archive format alone: what a layer is, how it is written and read. No policy, no remote.
//!
//! A layer is a `tar.zst` that plain `tar --zstd -x` extracts (docs/FORMAT.md). From the outside in:
//! [`frame`] cuts the byte stream into checked zstd frames, [`tar`] turns entries into headers and
//! back, [`LayerWriter`] and [`LayerReader`] join the two, [`extract`] puts entries on a disk.
pub mod content;
pub mod entry;
pub mod error;
pub mod extract;
pub mod frame;
mod frames_in;
mod frames_out;
mod pipeline;
pub mod reader;
pub mod tar;
#[cfg(test)]
mod tests;
pub mod writer;

pub use entry::{Entry, Kind, Metadata};
pub use error::LayerError;
pub use extract::Extractor;
pub use reader::LayerReader;
pub use writer::{LayerWriter, PackOptions, Summary};
