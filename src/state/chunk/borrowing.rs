//! [`Borrowing`]: what of a file that is packed stands in a layer already.
use super::{CHUNK_BYTES, CHUNK_BYTES_MIN, Chunk, ChunkDigest, Digests, Known, Place};
use crate::journal::JournalError;
use crate::layer::content::Content;
use crate::layer::tar::{Extent, SparseMap};
use crate::layer::{Appended, Reference, References};
use crate::state::head::{Head, layer_id, layer_key};
use crate::sync::Mutex;
use std::collections::{BTreeSet, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;

/// For one layer that is being packed.
#[derive(Debug)]
pub struct Borrowing {
    known: Arc<Known>,
    /// The layers that may be referred to.
    lenders: HashSet<Uuid>,
    own: Uuid,
    used: BTreeSet<Uuid>,
    bytes: u64,
}

impl Borrowing {
    /// The layer `own` goes on top of `head`. In a first layer everything stands itself, so that plain tar
    /// unpacks it; what it has is remembered all the same.
    pub fn new(known: Arc<Known>, head: Option<&Head>, own: Uuid) -> Self {
        let layers = head.into_iter().flat_map(Head::all_layers);
        let with_table = layers.filter(|(_, layer)| layer.table.is_some());
        let mut lenders: HashSet<Uuid> = with_table.filter_map(|(_, layer)| layer_id(&layer.key)).collect();
        if head.is_some() {
            lenders.insert(own);
        }
        Self { known, lenders, own, used: BTreeSet::new(), bytes: 0 }
    }

    /// Only layers that this one lists as well are referred to.
    #[must_use]
    pub fn within(mut self, head: &Head) -> Self {
        let listed: HashSet<Uuid> = head.all_layers().filter_map(|(_, layer)| layer_id(&layer.key)).collect();
        self.lenders.retain(|lender| *lender == self.own || listed.contains(lender));
        self
    }

    /// What other entries have of a file: whole chunks without holes.
    pub fn references(&mut self, content: &dyn Content, size: u64) -> io::Result<References> {
        if size < CHUNK_BYTES_MIN || self.lenders.is_empty() {
            return Ok(References::none());
        }
        let map = SparseMap::of(content, size)?;
        let mut digests = Digests::new(size);
        let mut buffer = vec![0; CHUNK_BYTES.min(size) as usize];
        let mut found = Vec::new();
        for extent in &map.extents {
            for part in chunks_within(extent.offset..extent.offset + extent.len, size) {
                let buffer = &mut buffer[..(part.end - part.start) as usize];
                read_exact(content, buffer, part.start)?;
                digests.update(part.start, buffer);
                for Chunk { at, length, digest } in digests.take() {
                    let known = self.known.find(&digest, |layer| self.lenders.contains(layer));
                    if let Some(Place { layer, from }) = known.map_err(broken)? {
                        found.push(Reference { at, length, layer, from });
                    }
                }
            }
        }
        // More than can be written down: better none.
        Ok(References::new(found, size).unwrap_or_default())
    }

    /// Whether all of these may be referred to.
    pub fn lends(&self, refs: &References) -> bool {
        refs.iter().all(|part| self.lenders.contains(&part.layer))
    }

    /// A file was packed: what it referred to is needed from now on, and what stood in it is known.
    pub fn packed(
        &mut self,
        refs: &References,
        appended: &Appended,
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<(), JournalError> {
        self.used.extend(refs.iter().map(|part| part.layer));
        self.bytes += refs.bytes();
        self.known.add(places(self.own, appended.from, &appended.data, chunks))
    }

    /// Bytes that were not sent again.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The keys of the other layers that this one refers to.
    pub fn refers(&self) -> Vec<String> {
        self.used.iter().filter(|layer| **layer != self.own).map(|layer| layer_key(*layer)).collect()
    }
}

/// Where chunks of a file stand whose data begin at `from` in the stream of a layer.
pub fn places(
    layer: Uuid,
    mut from: u64,
    data: &[Extent],
    chunks: impl IntoIterator<Item = Chunk>,
) -> Vec<(ChunkDigest, Place)> {
    let (mut chunks, mut places) = (chunks.into_iter().peekable(), Vec::new());
    for extent in data {
        let end = extent.offset + extent.len;
        while let Some(chunk) = chunks.next_if(|chunk| chunk.at < end) {
            if chunk.at >= extent.offset && chunk.at + chunk.length <= end {
                places.push((chunk.digest, Place { layer, from: from + (chunk.at - extent.offset) }));
            }
        }
        from += extent.len;
    }
    places
}

/// The whole chunks of a file within a range of it.
fn chunks_within(range: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    let first = range.start.next_multiple_of(CHUNK_BYTES);
    let starts = (first..range.end).step_by(CHUNK_BYTES as usize);
    starts.map(move |start| start..(start + CHUNK_BYTES).min(size)).take_while(move |c| c.end <= range.end)
}

fn read_exact(content: &dyn Content, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match content.read_at(buffer, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn broken(e: JournalError) -> io::Error {
    io::Error::other(e)
}

/// Content that is digested as it is read. What was looked up before may have been read at another
/// instant (of a file that was mapped for writing); what is remembered is what was packed.
#[allow(missing_debug_implementations, reason = "content has none")]
pub struct Digested<'a> {
    content: &'a dyn Content,
    digests: Mutex<Digests>,
}

impl<'a> Digested<'a> {
    /// Reads `content`, of which `size` bytes are packed.
    pub fn new(content: &'a dyn Content, size: u64) -> Self {
        Self { content, digests: Mutex::new(Digests::new(size)) }
    }

    /// The chunks that were read whole.
    pub fn chunks(self) -> Vec<Chunk> {
        self.digests.into_inner().take()
    }
}

impl Content for Digested<'_> {
    fn length(&self) -> io::Result<u64> {
        self.content.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.content.read_at(buffer, offset)?;
        self.digests.lock().update(offset, &buffer[..n]);
        Ok(n)
    }

    fn data_after(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.content.data_after(offset)
    }
}
