//! [`Passing`]: which content stands where in the layers, learned while a restore reads it, so that a small change of
//! a large file does not send all of it.
use crate::layer::tar::Extent;
use crate::layer::{Entry, Kind, LayerReader, References, Watch};
use crate::state::chunk::{self, CHUNK_BYTES, ChunkDigest, Digests, Known};
use crate::sync::Mutex;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use uuid::Uuid;

/// Bytes that are read at once of a file that is complete.
const READ_BYTES: usize = 256 << 10;

/// For one restore. Owner of the lock of what is under way.
#[derive(Debug)]
pub(super) struct Passing {
    known: Option<Arc<Known>>,
    /// The layer that goes by; foreign archives have no id.
    layer: Option<Uuid>,
    digests: Arc<Mutex<Option<Digests>>>,
}

/// The data of an entry are about to go by.
#[derive(Debug)]
pub(super) struct Begun {
    layer: Uuid,
    from: u64,
    data: Vec<Extent>,
}

impl Passing {
    pub(super) fn new(known: Option<Arc<Known>>) -> Self {
        Self { known, layer: None, digests: Arc::default() }
    }

    /// This layer is next.
    pub(super) fn layer(&mut self, id: Option<Uuid>) {
        self.layer = id;
    }

    /// What the reader of that layer shows its content to.
    pub(super) fn watch(&self) -> Option<Watch> {
        self.layer.filter(|_| self.known.is_some())?;
        let digests = Arc::clone(&self.digests);
        Some(Box::new(move |at, bytes| {
            if let Some(digests) = &mut *digests.lock() {
                digests.update(at, bytes);
            }
        }))
    }

    /// An entry was read and its data were not. A file of one chunk is not remembered: it costs little to send, and
    /// there may be millions of them.
    pub(super) fn begin<R: Read + Send>(&self, entry: &Entry, reader: &LayerReader<R>) -> Option<Begun> {
        let layer = self.layer.filter(|_| self.known.is_some())?;
        let Kind::File { size, .. } = entry.kind else { return None };
        if size <= CHUNK_BYTES {
            return None;
        }
        *self.digests.lock() = Some(Digests::new(size));
        Some(Begun { layer, from: reader.position(), data: reader.data().to_vec() })
    }

    /// The entry is done, whether or not its data were read.
    pub(super) fn end(&self, begun: Option<Begun>) {
        let (Some(Begun { layer, from, data }), Some(mut digests)) = (begun, self.digests.lock().take())
        else {
            return;
        };
        self.remember(chunk::places(layer, from, &data, digests.take()));
    }

    /// A file has the parts of it that stand in other layers.
    pub(super) fn completed(&self, file: &File, refs: &References) -> io::Result<()> {
        let size = file.metadata()?.len();
        if self.known.is_none() || size <= CHUNK_BYTES {
            return Ok(());
        }
        let mut buffer = vec![0; READ_BYTES];
        for part in refs.iter() {
            let (mut digests, mut at, end) = (Digests::new(size), part.at, part.at + part.length);
            while at < end {
                let buffer = &mut buffer[..(end - at).min(READ_BYTES as u64) as usize];
                file.read_exact_at(buffer, at)?;
                digests.update(at, buffer);
                at += buffer.len() as u64;
            }
            let data = Extent { offset: part.at, len: part.length };
            self.remember(chunk::places(part.layer, part.from, &[data], digests.take()));
        }
        Ok(())
    }

    /// Nothing more goes by: what waits need not stay in memory.
    pub(super) fn settle(&self) {
        let settled = self.known.as_ref().map_or(Ok(()), |known| known.settle());
        if let Err(e) = settled {
            tracing::debug!("what was restored is not remembered: {e}");
        }
    }

    fn remember(&self, chunks: Vec<(ChunkDigest, chunk::Place)>) {
        let Some(known) = &self.known else { return };
        if let Err(e) = known.add(chunks) {
            tracing::debug!("what was restored is not remembered: {e}"); // and is sent again if it changes
        }
    }
}
