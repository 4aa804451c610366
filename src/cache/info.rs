//! What can be told of entries, without reading them.
use super::blob_entry::BlobEntry;
use super::core::Slot;
use super::key::{Key, ObjectId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What an entry is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryName {
    /// A file.
    File(Key),
    /// An object of which blocks are there.
    Object(Arc<ObjectId>),
}

/// An entry as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What it is called.
    pub name: EntryName,
    /// The size of the whole in bytes; of a file that is being filled, what is there.
    pub size: u64,
    /// How much of it is on the disk, in bytes as they are counted against `max_bytes`.
    pub on_disk: u64,
    /// How many blocks of it are there, and of how many; of a file one of one.
    pub blocks: (u32, u32),
    /// When it was admitted, in seconds since 1970.
    pub created: u64,
    /// How often it was used; of an object its blocks together.
    pub hits: u64,
    /// When it was used last, as a number that grows with each use of anything.
    pub used: u64,
    /// Whether guards hold it.
    pub pinned: bool,
    /// Whether it is still being filled.
    pub filling: bool,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nowhere.
    Absent,
    /// There.
    There {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Somebody fills it.
    Filling {
        /// Who.
        filler: String,
        /// How much is there, in bytes.
        written: u64,
        /// How long that has taken so far.
        age: Duration,
    },
}

/// What deleting led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// There was nothing.
    Absent,
    /// It is gone.
    Gone,
    /// The name is free; the bytes go with the last guard.
    WhenUnpinned,
    /// It was being filled: the fill was given up.
    Filling,
}

/// What verifying found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Bytes that were read and are right.
    pub right: u64,
    /// Files and blocks that were not, and were dropped.
    pub dropped: u64,
}

pub(super) fn of_slot(slot: &Slot) -> Info {
    match slot {
        Slot::File(file) => {
            let used = file.usage.used();
            Info {
                name: EntryName::File(file.key.clone()),
                size: file.size,
                on_disk: file.charged(),
                blocks: (1, 1),
                created: file.created,
                hits: used.hits.into(),
                used: used.tick,
                pinned: file.usage.is_pinned(),
                filling: false,
            }
        }
        Slot::Filling(filling) => {
            let written = filling.progress.borrow().written;
            Info {
                name: EntryName::File(filling.key.clone()),
                size: written,
                on_disk: super::budget::on_disk(written),
                blocks: (0, 1),
                created: super::evictor::now(),
                hits: 0,
                used: 0,
                pinned: true,
                filling: true,
            }
        }
    }
}

/// `None` while nothing is there of it.
pub(super) fn of_blob(blob: &Arc<BlobEntry>) -> Option<Info> {
    let blocks = blob.blocks();
    let uses = || blocks.iter().map(|block| block.usage.used());
    (!blocks.is_empty()).then(|| Info {
        name: EntryName::Object(blob.id.clone()),
        size: blob.id.size,
        on_disk: blob.charged(),
        blocks: (blocks.len() as u32, blob.blocks_total()),
        created: blob.created,
        hits: uses().map(|used| u64::from(used.hits)).sum(),
        used: uses().map(|used| used.tick).max().unwrap_or(0),
        pinned: !blob.is_unread(),
        filling: false,
    })
}
