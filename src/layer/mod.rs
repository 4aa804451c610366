//! The archive format alone: what a layer is, how it is written and read. No policy, no remote.
//!
//! A layer is a `tar.zst` that plain `tar --zstd -x` extracts (docs/FORMAT.md). From the outside in:
//! [`frame`] cuts the byte stream into checked zstd frames, [`tar`] turns entries into headers and
//! back, [`LayerWriter`] and [`LayerReader`] join the two, [`extract`] puts entries on a disk.
//! [`LayerIndex`] and [`Contents`], from the end of a layer, say what is where in it, so that a part
//! of it can be read alone.
mod buffers;
pub mod content;
pub mod contents;
pub mod dictionary;
pub mod entry;
pub mod error;
pub mod extract;
pub mod frame;
mod frames_in;
mod frames_out;
pub mod index;
pub mod locate;
mod number;
mod pipeline;
pub mod reader;
pub mod reference;
pub mod section;
pub mod table;
mod tap;
pub mod tar;
#[cfg(test)]
mod tests;
pub mod writer;

pub use buffers::Buffers;
pub use contents::{Contents, Row};
pub use dictionary::Dictionary;
pub use entry::{Entry, Kind, Metadata};
pub use error::LayerError;
pub use extract::Extractor;
pub use index::LayerIndex;
pub use locate::{Located, locate};
pub use reader::{LayerReader, Watch};
pub use reference::{Reference, References};
pub use section::Section;
pub use tap::{Part, Tap};
pub use writer::{Appended, LayerWriter, PackOptions, Summary, Tail};
