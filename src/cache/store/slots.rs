//! [`Slots`]: the witness of an open object, of which one slot after another is written.
use super::{ATTRIBUTE, Name, Place, Store};
use crate::cache::digest::Digest;
use crate::cache::error::CacheError;
use crate::cache::witness::{SLOT_BYTES, Witness, slot};
use rustix::fs::XattrFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The witness of an open object: slots are written one by one.
#[derive(Debug)]
pub enum Slots {
    /// The whole of it, as it is in the attribute.
    Attribute {
        /// Its bytes.
        image: Vec<u8>,
        /// Where the slots begin.
        start: usize,
    },
    /// The file, and where its slots begin.
    Sidecar {
        /// The witness.
        file: File,
        /// Where the slots begin.
        start: usize,
    },
}

impl Slots {
    /// Of this witness, which is already written at `place`.
    pub fn open(store: &Store, name: &Name, witness: &Witness, place: Place) -> Result<Self, CacheError> {
        let image = witness.encode();
        let start = image.len() - witness.slots.len() * SLOT_BYTES;
        match place {
            Place::Attribute => Ok(Self::Attribute { image, start }),
            Place::Sidecar => {
                let path = store.sidecar(name);
                let file = Store::open_file(&path, true).map_err(|e| CacheError::io("open", path, e))?;
                Ok(Self::Sidecar { file, start })
            }
        }
    }

    /// Writes the slot of a block of the object whose bytes are in `bytes`.
    pub fn set(
        &mut self,
        bytes: &File,
        generation: u64,
        block: u32,
        digest: Option<&Digest>,
    ) -> std::io::Result<()> {
        let slot = slot(generation, block, digest);
        match self {
            Self::Attribute { image, start } => {
                let at = *start + block as usize * SLOT_BYTES;
                if let Some(place) = image.get_mut(at..at + SLOT_BYTES) {
                    place.copy_from_slice(&slot);
                }
                Ok(rustix::fs::fsetxattr(bytes, ATTRIBUTE, image, XattrFlags::empty())?)
            }
            Self::Sidecar { file, start } => {
                file.write_all_at(&slot, (*start + block as usize * SLOT_BYTES) as u64)
            }
        }
    }
}
