//! [`Frames`]: brings frames of layers for files that are read by range, each once at a time.
use super::partial::{Frame, Partial};
use crate::layer::frame::FRAME_RAW_MAX;
use crate::layer::{Dictionary, LayerError, LayerIndex, locate};
use crate::remote::{RemoteError, Store};
use crate::state::absent::content::Content;
use crate::state::absent::hydrate::Failure;
use crate::state::absent::{Absent, Layer};
use crate::state::dictionary::Dictionaries;
use crate::state::restore::{Counters, LayerSource, RestoreError};
use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// So many requests are under way at once for files that are read by range. Each holds what the store
/// sends faster than the disk takes it, and a frame with its content: some 3 MiB.
const REQUESTS_MAX: usize = 16;
/// Less than this of its first frame may not hold the headers of an entry: one more is asked for at once.
const HEADERS_LIKELY: u64 = 64 << 10;
/// The headers of an entry, a sparse map among them, lie in so many frames at most.
const HEADER_FRAMES_MAX: usize = 24;

pub(super) type Flight = Shared<BoxFuture<'static, Result<(), Failure>>>;

/// See the module.
pub(super) struct Frames {
    absent: Arc<Absent>,
    store: Store,
    handle: Handle,
    counters: Arc<Counters>,
    requests: Semaphore,
    dictionaries: Dictionaries,
}

/// Frames of one layer that are asked for together, and whom to tell of each.
struct Group {
    layer: u32,
    frames: Range<usize>,
    told: Vec<oneshot::Sender<Result<(), Failure>>>,
}

impl Frames {
    pub(super) fn new(absent: Arc<Absent>, store: Store, handle: Handle, counters: Arc<Counters>) -> Self {
        Self {
            absent,
            store,
            handle,
            counters,
            requests: Semaphore::new(REQUESTS_MAX),
            dictionaries: Dictionaries::default(),
        }
    }

    /// Where the content of a file is. Who asks first brings the beginning of its entry.
    pub(super) async fn content<'a>(&self, partial: &'a Arc<Partial>) -> Result<&'a Arc<Content>, Failure> {
        partial.content.get_or_try_init(|| self.locate(partial)).await.map_err(Arc::new)
    }

    async fn locate(&self, partial: &Arc<Partial>) -> Result<Arc<Content>, RestoreError> {
        let row = *partial.row();
        let layer = self.layer(row.place.layer)?;
        let failed = |source| RestoreError::Layer { key: layer.source.key.clone(), source };
        let entry = row.place.offset..row.place.offset + row.place.length;
        let frames = layer.index.covering(&entry);
        let first = layer.index.span_of(frames.start);
        let (mut raw, mut next) = (Vec::new(), frames.start);
        let dictionary = self.dictionary(layer).await?;
        let mut step = if first.end - entry.start < HEADERS_LIKELY { 2 } else { 1 };
        let _request = self.requests.acquire().await;
        loop {
            let some = next..(next + step).min(frames.end);
            if some.is_empty() || some.end - frames.start > HEADER_FRAMES_MAX {
                return Err(failed(LayerError::corrupt("the headers of an entry do not end")));
            }
            let mut stored = Stored::open(self, layer, some.clone()).await?;
            for frame in some {
                let bytes = stored.frame(frame).await?;
                raw.extend(layer.index.unpack(frame, &bytes, dictionary.as_ref()).map_err(failed)?);
                next = frame + 1;
            }
            let begun = raw.get((entry.start - first.start) as usize..).unwrap_or_default();
            if let Some(located) = locate(begun).map_err(failed)? {
                let content = Arc::new(
                    Content::of_entry(&row, &located, |id| self.absent.layer_of(id)).map_err(failed)?,
                );
                let span = first.start..first.start + raw.len() as u64;
                let (own, kept) = (partial.clone(), content.clone());
                let stored = blocking(move || {
                    own.lay_out(&kept)?;
                    own.store(&kept, row.place.layer, span, &raw)
                });
                stored.await?.map_err(failed)?;
                return Ok(content);
            }
            step *= 2;
        }
    }

    async fn dictionary(&self, layer: &Layer) -> Result<Option<Dictionary>, RestoreError> {
        let LayerSource { key, dictionary, .. } = &layer.source;
        let found = self.dictionaries.get(&*self.store, dictionary.as_ref()).await;
        found.map_err(|source| RestoreError::Dictionary { key: key.clone(), source })
    }

    fn layer(&self, number: u32) -> Result<&Layer, RestoreError> {
        self.absent.layers().get(number as usize).ok_or(RestoreError::Stopped)
    }

    /// Asks for the frames that have these ranges of a file, up to `together` neighbours at once. Each
    /// flight returned ends when its frame is there. Does not wait.
    pub(super) fn ask(
        self: &Arc<Self>,
        partial: &Arc<Partial>,
        content: &Arc<Content>,
        ranges: &[Range<u64>],
        together: usize,
    ) -> Vec<Flight> {
        let mut wanted: BTreeSet<Frame> = BTreeSet::new();
        for piece in ranges.iter().flat_map(|range| content.within(range.clone())) {
            let Ok(layer) = self.layer(piece.layer) else { continue };
            wanted.extend(layer.index.covering(&piece.span()).map(|frame| (piece.layer, frame)));
        }
        let (mut all, mut groups) = (Vec::with_capacity(wanted.len()), Vec::<Group>::new());
        {
            let mut flights = partial.flights.lock();
            for (layer, frame) in wanted {
                if let Some(flight) = flights.get(&(layer, frame)) {
                    all.push(flight.clone());
                    continue;
                }
                let (tell, told) = oneshot::channel();
                let lost = |_| Err(Arc::new(RestoreError::Stopped));
                let flight = told.map(move |result| result.unwrap_or_else(lost)).boxed().shared();
                flights.insert((layer, frame), flight.clone());
                all.push(flight);
                match groups.last_mut() {
                    Some(group)
                        if group.layer == layer
                            && group.frames.end == frame
                            && group.frames.len() < together =>
                    {
                        group.frames.end += 1;
                        group.told.push(tell);
                    }
                    _ => groups.push(Group { layer, frames: frame..frame + 1, told: vec![tell] }),
                }
            }
        }
        for group in groups {
            let (own, partial, content) = (self.clone(), partial.clone(), content.clone());
            self.handle.spawn(async move { own.bring(&partial, content, group).await });
        }
        all
    }

    /// Brings a group, and tells of each frame as soon as it is on the disk.
    async fn bring(&self, partial: &Arc<Partial>, content: Arc<Content>, group: Group) {
        let Group { layer, mut frames, told } = group;
        let mut told = told.into_iter();
        let result = self.stream(partial, content, layer, frames.clone(), |frame| {
            frames.start = frame + 1;
            partial.flights.lock().remove(&(layer, frame));
            if let Some(tell) = told.next() {
                let _nobody_waits = tell.send(Ok(()));
            }
        });
        let Err(failure) = result.await else { return };
        let failure: Failure = Arc::new(failure);
        for (frame, tell) in frames.zip(told) {
            partial.flights.lock().remove(&(layer, frame));
            let _nobody_waits = tell.send(Err(failure.clone()));
        }
    }

    async fn stream(
        &self,
        partial: &Arc<Partial>,
        content: Arc<Content>,
        number: u32,
        frames: Range<usize>,
        mut done: impl FnMut(usize),
    ) -> Result<(), RestoreError> {
        let _request = self.requests.acquire().await;
        let layer = self.layer(number)?;
        let dictionary = self.dictionary(layer).await?;
        let mut stored = Stored::open(self, layer, frames.clone()).await?;
        for frame in frames {
            if partial.is_whole() {
                done(frame); // it was cut: nobody wants the rest
                continue;
            }
            let bytes = stored.frame(frame).await?;
            let (own, content, absent) = (partial.clone(), content.clone(), self.absent.clone());
            let dictionary = dictionary.clone();
            let kept = blocking(move || {
                let index: Option<&LayerIndex> = absent.layers().get(number as usize).map(|l| &*l.index);
                let index = index.ok_or_else(|| LayerError::corrupt("no such layer"))?;
                let raw = index.unpack(frame, &bytes, dictionary.as_ref())?;
                own.store(&content, number, index.span_of(frame), &raw)
            });
            let failed = |source| RestoreError::Layer { key: layer.source.key.clone(), source };
            kept.await?.map_err(failed)?;
            done(frame);
        }
        Ok(())
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RestoreError::Stopped)
}

/// Frames as the store sends them.
struct Stored<'a> {
    layer: &'a Layer,
    counters: &'a Counters,
    body: crate::remote::ByteStream,
    rest: Bytes,
}

impl<'a> Stored<'a> {
    async fn open(frames: &'a Frames, layer: &'a Layer, which: Range<usize>) -> Result<Self, RestoreError> {
        let range = layer.index.stored(which);
        let (key, expected) = (&layer.source.key, range.end - range.start);
        let failed = |source: RemoteError| RestoreError::Remote { key: key.clone(), source };
        let download = frames.store.download(key, Some(range)).await.map_err(failed)?;
        if download.length != expected {
            let what = format!("a part has {} bytes instead of {expected}", download.length);
            return Err(RestoreError::Mismatch { key: key.clone(), what });
        }
        Ok(Self { layer, counters: &frames.counters, body: download.body, rest: Bytes::new() })
    }

    /// The next one, which has this number.
    async fn frame(&mut self, number: usize) -> Result<Vec<u8>, RestoreError> {
        let range = self.layer.index.stored(number..number + 1);
        let length = (range.end - range.start) as usize;
        let mut bytes = Vec::with_capacity(length.min(2 * FRAME_RAW_MAX));
        while bytes.len() < length {
            if self.rest.is_empty() {
                let key = || self.layer.source.key.clone();
                let chunk = self.body.next().await.ok_or_else(|| RestoreError::Mismatch {
                    key: key(),
                    what: "a part ended too early".to_owned(),
                })?;
                self.rest = chunk.map_err(|source| RestoreError::Remote { key: key(), source })?;
                self.counters.add(self.rest.len() as u64);
            }
            let n = self.rest.len().min(length - bytes.len());
            bytes.extend_from_slice(&self.rest[..n]);
            self.rest.advance(n);
        }
        Ok(bytes)
    }
}
