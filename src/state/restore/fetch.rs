//! [`Source`]: layers as blocking readers, their bytes fetched ahead by tasks.
use super::recent::Recent;
use super::{Counters, LayerSource, RestoreError};
use crate::layer::Dictionary;
use crate::remote::{RemoteError, Store};
use crate::state::dictionary::Dictionaries;
use bytes::{Buf, Bytes};
use futures::StreamExt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The most bytes of one layer that wait to be extracted.
pub(super) const AHEAD_MAX: usize = 8 << 20;
/// The pieces they wait in.
const PIECE: usize = 256 << 10;

/// Opens layers.
#[derive(Debug)]
pub(in crate::state) struct Source {
    store: Store,
    handle: Handle,
    counters: Arc<Counters>,
    dictionaries: Dictionaries,
    recent: Option<Arc<Recent>>,
}

/// The bytes of a layer. The end is reached only if length and digest are what HEAD says;
/// whatever else happened is an error here, and [`take_failure`](Self::take_failure) has its cause.
#[derive(Debug)]
pub(in crate::state) struct Fetched {
    key: String,
    pieces: mpsc::Receiver<Result<Bytes, RestoreError>>,
    current: Bytes,
    done: bool,
    failure: Option<RestoreError>,
    /// None if the bytes were there.
    task: Option<JoinHandle<()>>,
}

impl Source {
    pub(in crate::state) fn new(store: Store, handle: Handle, counters: Arc<Counters>) -> Self {
        Self { store, handle, counters, dictionaries: Dictionaries::default(), recent: None }
    }

    /// Keeps the small ranges that were read last in memory.
    #[must_use]
    pub(in crate::state) fn remembering(mut self) -> Self {
        self.recent = Some(Arc::default());
        self
    }

    /// Starts to fetch a layer.
    pub(in crate::state) fn open(&self, layer: &LayerSource) -> Fetched {
        self.start(layer.clone(), None)
    }

    /// Asks the store again for what it has read of a damaged object.
    pub(in crate::state) fn forget(&self, key: &str) {
        if let Some(recent) = &self.recent {
            recent.forget(key);
        }
    }

    /// Starts to fetch a part of an object, of which no digest is known.
    pub(in crate::state) fn open_range(&self, key: &str, range: Range<u64>) -> Fetched {
        let bytes = range.end - range.start;
        let known = self.recent.as_ref().and_then(|recent| recent.get(key, &range));
        if let Some(bytes) = known {
            return Fetched::known(key, bytes);
        }
        self.start(LayerSource { key: key.into(), bytes, digest: None, dictionary: None }, Some(range))
    }

    /// The dictionary of a layer, if it needs one. Waits for the store: not for the runtime's own threads.
    pub(in crate::state) fn dictionary(
        &self,
        layer: &LayerSource,
    ) -> Result<Option<Dictionary>, RestoreError> {
        let found = self.dictionaries.get(&*self.store, layer.dictionary.as_ref());
        // Nearly always there is none, or it is known: nothing to wait for.
        self.handle
            .block_on(found)
            .map_err(|source| RestoreError::Dictionary { key: layer.key.clone(), source })
    }

    fn start(&self, source: LayerSource, range: Option<Range<u64>>) -> Fetched {
        let (sender, pieces) = mpsc::channel(AHEAD_MAX / PIECE);
        let (store, counters, key) =
            (Arc::clone(&self.store), Arc::clone(&self.counters), source.key.clone());
        let keeps = self.recent.clone().zip(range.clone()).filter(|(_, range)| Recent::takes(range));
        let begun = keeps.as_ref().map_or(0, |(recent, _)| recent.begin());
        let task = self.handle.spawn(async move {
            let mut kept = keeps.as_ref().map(|_| Vec::new());
            let end = fetch(&store, &source, range, &sender, &counters, kept.as_mut()).await;
            if let (Ok(()), Some((recent, range)), Some(kept)) = (&end, keeps, kept) {
                recent.put(begun, &source.key, range, kept.into());
            }
            // The empty piece says that all is well; without it the stream broke off.
            drop(sender.send(end.map(|()| Bytes::new())).await);
        });
        Fetched { key, pieces, current: Bytes::new(), done: false, failure: None, task: Some(task) }
    }
}

async fn fetch(
    store: &Store,
    layer: &LayerSource,
    range: Option<Range<u64>>,
    sender: &mpsc::Sender<Result<Bytes, RestoreError>>,
    counters: &Counters,
    mut kept: Option<&mut Vec<u8>>,
) -> Result<(), RestoreError> {
    let remote = |source: RemoteError| RestoreError::Remote { key: layer.key.clone(), source };
    let mismatch = |what: String| RestoreError::Mismatch { key: layer.key.clone(), what };
    let mut download = store.download(&layer.key, range).await.map_err(remote)?;
    if download.length != layer.bytes {
        return Err(mismatch(format!("it has {} bytes instead of {}", download.length, layer.bytes)));
    }
    // Of a part no digest is known.
    let (mut hasher, mut read) = (layer.digest.map(|_| blake3::Hasher::new()), 0u64);
    while let Some(chunk) = download.body.next().await {
        let mut chunk = chunk.map_err(remote)?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&chunk);
        }
        read += chunk.len() as u64;
        if read > layer.bytes {
            return Err(mismatch("it is too long".to_owned()));
        }
        while chunk.has_remaining() {
            let piece = chunk.split_to(chunk.len().min(PIECE));
            let len = piece.len() as u64;
            if sender.send(Ok(piece)).await.is_err() {
                return Err(RestoreError::Stopped);
            }
            counters.bytes.fetch_add(len, Ordering::Relaxed);
        }
    }
    if read != layer.bytes {
        return Err(mismatch(format!("it ended after {read} of {} bytes", layer.bytes)));
    }
    if hasher.map(|hasher| *hasher.finalize().as_bytes()) != layer.digest {
        return Err(mismatch("its digest differs".to_owned()));
    }
    Ok(())
}

impl Fetched {
    /// Bytes that were read before.
    fn known(key: &str, bytes: Bytes) -> Self {
        let (_, pieces) = mpsc::channel(1);
        Self { key: key.to_owned(), pieces, current: bytes, done: true, failure: None, task: None }
    }

    /// Why reading failed, if it was not the content.
    pub(in crate::state) fn take_failure(&mut self) -> Option<RestoreError> {
        self.failure.take()
    }
}

impl Read for Fetched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.done {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) if piece.is_empty() => self.done = true,
                Some(Ok(piece)) => self.current = piece,
                Some(Err(failure)) => {
                    let message = failure.to_string();
                    self.failure = Some(failure);
                    return Err(io::Error::other(message));
                }
                None => {
                    let gone = format!("fetching stopped: {}", self.key);
                    self.failure.get_or_insert(RestoreError::Stopped);
                    return Err(io::Error::other(gone));
                }
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
