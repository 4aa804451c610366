//! What was brought is remembered by digest: if it changes or moves it need not be sent again.
use super::content::Content;
use super::ranges::Partial;
use super::tree::Place;
use super::{Absent, Layer};
use crate::layer::tar::{Extent, padding};
use crate::state::chunk::{self, ChunkDigest, Digests};
use crate::state::head::layer_id;
use crate::state::restore::lenders::Want;
use std::io;

/// Bytes that are read at once of a file that is here.
const READ_BYTES: usize = 256 << 10;

impl Absent {
    /// The data of an entry went by.
    pub(super) fn saw_entry(&self, layer: &Layer, place: Place, data: &[Extent], digests: &mut Digests) {
        let Some(id) = layer_id(&layer.source.key) else { return };
        let bytes: u64 = data.iter().map(|extent| extent.len).sum();
        let from = place.offset + place.length - bytes - padding(bytes) as u64;
        self.remember(chunk::places(id, from, data, digests.take()));
    }

    /// A part of a file that another layer has went by.
    pub(super) fn saw_part(&self, file: u32, want: &Want, bytes: &[u8]) {
        let mut digests = Digests::new(self.tree.file(file).size);
        digests.update(want.at, bytes);
        let part = Extent { offset: want.at, len: bytes.len() as u64 };
        self.remember(chunk::places(want.layer, want.from, &[part], digests.take()));
    }

    /// All of a file that came by range is there. What programs may have written by now is not what a layer has.
    pub(super) fn saw_whole(&self, partial: &Partial, content: &Content) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        for piece in content.within(0..content.size()) {
            let layer = self.layers.get(piece.layer as usize);
            let Some(id) = layer.and_then(|layer| layer_id(&layer.source.key)) else { continue };
            let (mut digests, mut at) = (Digests::new(content.size()), piece.at);
            while at < piece.range().end {
                let buffer = &mut buffer[..(piece.range().end - at).min(READ_BYTES as u64) as usize];
                if !partial.read_of_version(buffer, at)? {
                    return Ok(());
                }
                digests.update(at, buffer);
                at += buffer.len() as u64;
            }
            let part = Extent { offset: piece.at, len: piece.length };
            let chunks = chunk::places(id, piece.stream, &[part], digests.take());
            partial.unless_whole(|| self.remember(chunks));
        }
        Ok(())
    }

    fn remember(&self, chunks: Vec<(ChunkDigest, chunk::Place)>) {
        let Some(records) = &self.records else { return };
        if let Err(e) = records.known().add(chunks) {
            tracing::debug!("what came is not remembered: {e}"); // and is sent again if it changes
        }
    }
}
