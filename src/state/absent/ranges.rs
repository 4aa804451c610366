//! [`Ranges`]: large absent files, read by range before they are here.
//!
//! Such a file is open at once, and what is read of it is brought frame by frame (`fetch`) into the
//! file that it will be (`partial`), with more ahead of who reads on (`ahead`). Whoever needs all of
//! it has the rest brought to the same place.
mod ahead;
mod fetch;
mod partial;
mod partials;
mod present;

pub(super) use partial::Ending;
pub use partial::Partial;
pub(super) use partials::{KEPT_MAX, Partials};

use super::Absent;
use super::content::Content;
use super::hydrate::Failure;
use crate::layer::{LayerError, Metadata};
use crate::remote::Store;
use crate::state::restore::{Counters, RestoreError};
use crate::sync::Mutex;
use ahead::Ahead;
use fetch::{Flight, Frames, blocking};
use futures::{StreamExt, TryStreamExt};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A file up to this size is brought whole before its open is answered: that takes hardly longer than a
/// round trip or two, and from then on the kernel serves it. A larger one is read by range.
pub const WHOLE_BYTES_MAX: u64 = 8 << 20;

/// Frames of one request for who reads: the first of them are there before the last are sent.
const READ_FRAMES: usize = 8;
/// Frames of one request when all of a file is brought.
const STEP_FRAMES: usize = 17;
/// So many steps of one file at once.
const STEPS: usize = 3;
/// So many reads are copied out of files at once, for which others waited.
const READS_MAX: usize = 16;
/// How often a read is tried whose content a full disk takes away again.
const READ_TRIES: usize = 4;

/// Who reads a large file that may not be here: one for each open.
#[derive(Debug)]
pub struct Reader {
    partial: Arc<Partial>,
    ahead: Mutex<Ahead>,
}

impl Reader {
    /// The file.
    pub fn partial(&self) -> &Arc<Partial> {
        &self.partial
    }

    /// The number of the file.
    pub fn file_number(&self) -> u32 {
        self.partial.number()
    }

    /// Reads what is here; `None` if something must be brought first.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.partial.read(buffer, offset)
    }

    /// The descriptor of the file, once it is whole.
    pub fn file(&self) -> Option<&std::fs::File> {
        self.partial.is_whole().then(|| self.partial.file())
    }
}

/// See the module. Owner of its locks.
pub struct Ranges {
    absent: Arc<Absent>,
    frames: Arc<Frames>,
    handle: Handle,
    reads: Semaphore,
    /// The disk can keep files without names.
    usable: bool,
}

impl std::fmt::Debug for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranges").field("usable", &self.usable).finish_non_exhaustive()
    }
}

impl Ranges {
    pub(super) fn new(absent: Arc<Absent>, store: Store, handle: Handle, counters: Arc<Counters>) -> Self {
        Self {
            usable: absent.keeps_nameless(),
            frames: Arc::new(Frames::new(absent.clone(), store, handle.clone(), counters)),
            handle,
            absent,
            reads: Semaphore::new(READS_MAX),
        }
    }

    /// Whether a file is large enough.
    pub fn serves(&self, file: u32) -> bool {
        self.usable && self.absent.tree().file(file).size > WHOLE_BYTES_MAX
    }

    /// Opens a file; no request is made. `NotFound` if it is not absent.
    pub fn open(&self, file: u32) -> io::Result<Reader> {
        Ok(Reader { partial: self.partial(file)?, ahead: Mutex::default() })
    }

    fn partial(&self, file: u32) -> io::Result<Arc<Partial>> {
        let partials = &self.absent.partials;
        if let Some(partial) = partials.get(file) {
            return Ok(partial);
        }
        if !self.absent.wants(file) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let empty = self.absent.begin_nameless(file)?;
        let partial = Partial::new(file, self.absent.tree().file(file), empty);
        partials.keep(partial, || self.absent.wants(file)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Brings what is missing of a range, and more ahead of who reads on; then reads it.
    pub async fn read(self: &Arc<Self>, reader: &Reader, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        let partial = &reader.partial;
        let failed = |e: io::Error| self.failed(partial, LayerError::io("cannot read file", e));
        for _ in 0..READ_TRIES {
            let brought = async {
                let content = self.frames.content(partial).await?;
                for flight in self.ask(reader, content, &range, true) {
                    flight.await?;
                }
                Ok(())
            };
            unless_ended(partial, brought).await?;
            let _one_of_few = self.reads.acquire().await;
            let (own, range) = (partial.clone(), range.clone());
            let read = blocking(move || {
                let mut buffer = vec![0; (range.end - range.start) as usize];
                let length = own.read(&mut buffer, range.start)?;
                Ok(length.map(|length| {
                    buffer.truncate(length);
                    buffer
                }))
            });
            if let Some(bytes) = read.await?.map_err(failed)? {
                if partial.begin_end() {
                    self.end(partial).await;
                }
                return Ok(bytes);
            }
        }
        Err(failed(rustix::io::Errno::NOSPC.into()))
    }

    /// A read was answered with what was here: who reads on shall not wait later.
    pub fn was_read(self: &Arc<Self>, reader: &Reader, range: &Range<u64>) {
        if let Some(content) = reader.partial.content.get() {
            self.ask(reader, content, range, false);
        }
        if reader.partial.begin_end() {
            let (own, partial) = (self.clone(), reader.partial.clone());
            self.handle.spawn(async move { own.end(&partial).await });
        }
    }

    /// All of a file was read: it is as if it had been brought.
    async fn end(&self, partial: &Arc<Partial>) {
        let (own, absent) = (partial.clone(), self.absent.clone());
        match blocking(move || absent.adopt(&own, None)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "what was read cannot take its place yet"),
            Err(_) => {}
        }
    }

    /// Asks for what is missing, and what comes next. The flights are those of what is missing.
    fn ask(&self, reader: &Reader, content: &Arc<Content>, range: &Range<u64>, missing: bool) -> Vec<Flight> {
        let partial = &reader.partial;
        self.absent.recorder().read(partial.number(), &(range.start..range.end.min(content.size())));
        let ahead = reader.ahead.lock().read(range, content.size());
        let mut wanted = if missing { partial.missing(range.clone()) } else { Vec::new() };
        let now = wanted.len();
        wanted.extend(ahead.into_iter().flat_map(|range| partial.missing(range)));
        if wanted.is_empty() {
            return Vec::new();
        }
        // Together, so that neighbours are one request.
        self.frames.ask(partial, content, &wanted, READ_FRAMES);
        let now = wanted.get(..now).unwrap_or_default();
        if now.is_empty() { Vec::new() } else { self.frames.ask(partial, content, now, READ_FRAMES) }
    }

    /// Where a file has data or, with `hole`, a hole, at or after `offset`; `None` behind the last. The outer `None`:
    /// it is whole, and the disk knows.
    pub async fn seek(
        &self,
        reader: &Reader,
        offset: u64,
        hole: bool,
    ) -> Result<Option<Option<u64>>, Failure> {
        let sought = async {
            let content = self.frames.content(&reader.partial).await?;
            let found = if hole { Some(content.hole_after(offset)) } else { content.data_after(offset) };
            Ok(Some(found.filter(|_| offset < content.size())))
        };
        unless_ended(&reader.partial, sought).await
    }

    /// Brings all of a file and puts it in its places, or in none if it has lost them while somebody has it open.
    /// The rest as in [`gather`](Self::gather).
    pub(super) async fn whole<T, F: Future<Output = Option<T>>>(
        self: &Arc<Self>,
        file: u32,
        step: u64,
        turn: impl Fn(u64) -> F,
    ) -> Result<(), Failure> {
        let Some(partial) = self.found(file).await? else { return Ok(()) };
        self.gather(&partial, u64::MAX, step, turn).await?;
        let (own, absent) = (partial.clone(), self.absent.clone());
        let ended = blocking(move || absent.adopt(&own, None)).await?;
        ended.map_err(|e| self.failed(&partial, e))
    }

    /// Brings what a cut to a `length` leaves of a file, which nobody sees of it until it is [`cut`](Self::cut).
    /// `None`: it is not absent.
    pub(super) async fn beginning<T, F: Future<Output = Option<T>>>(
        self: &Arc<Self>,
        file: u32,
        length: u64,
        step: u64,
        turn: impl Fn(u64) -> F,
    ) -> Result<Option<Arc<Partial>>, Failure> {
        let Some(partial) = self.found(file).await? else { return Ok(None) };
        self.gather(&partial, length, step, turn).await?;
        if length > 0 {
            // What the cut waits for is on the disk by then: it is one pass of the gate.
            let own = partial.clone();
            let synced = blocking(move || own.file().sync_data()).await?;
            synced.map_err(|e| self.failed(&partial, LayerError::io("cannot write file", e)))?;
        }
        Ok(Some(partial))
    }

    /// Puts a file in its places without what is cut off. Nothing has changed if that fails; it is as long as it was
    /// if somebody put all of it there first.
    pub(super) fn cut(&self, partial: &Partial, length: u64) -> Result<(), Failure> {
        self.absent.adopt(partial, Some(length)).map_err(|e| self.failed(partial, e))
    }

    /// The file if it is absent, or has lost its names while it was open.
    async fn found(self: &Arc<Self>, file: u32) -> Result<Option<Arc<Partial>>, Failure> {
        let own = self.clone();
        match blocking(move || own.partial(file)).await? {
            Ok(partial) => Ok(Some(partial)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                let source = LayerError::io("cannot make a file", e);
                Err(Arc::new(RestoreError::Finish { source }))
            }
        }
    }

    /// Brings what is missing of the first `length` bytes of a file, in steps of so many. `turn` is awaited before
    /// each, is told how many are missing, and what it returns is kept until the step is over.
    async fn gather<T, F: Future<Output = Option<T>>>(
        &self,
        partial: &Arc<Partial>,
        length: u64,
        step: u64,
        turn: impl Fn(u64) -> F,
    ) -> Result<(), Failure> {
        if length == 0 || partial.is_whole() {
            return Ok(());
        }
        unless_ended(partial, self.gathered(partial, length, step, turn)).await
    }

    async fn gathered<T, F: Future<Output = Option<T>>>(
        &self,
        partial: &Arc<Partial>,
        length: u64,
        step: u64,
        turn: impl Fn(u64) -> F,
    ) -> Result<(), Failure> {
        let content = self.frames.content(partial).await?.clone();
        let length = length.min(content.size());
        let discards = partial.discards();
        let steps = (0..length).step_by(step as usize);
        let steps = futures::stream::iter(steps).map(|start| {
            let (content, turn) = (&content, &turn);
            async move {
                let range = start..(start + step).min(length);
                let bytes = partial.missing(range.clone()).iter().map(|r| r.end - r.start).sum();
                if bytes == 0 {
                    return Ok(());
                }
                let Some(_turn) = turn(bytes).await else { return Err(Arc::new(RestoreError::Stopped)) };
                // What came meanwhile need not come.
                let missing = partial.missing(range);
                for flight in self.frames.ask(partial, content, &missing, STEP_FRAMES) {
                    flight.await?;
                }
                Ok(())
            }
        });
        steps.buffer_unordered(STEPS).try_collect::<()>().await?;
        if partial.discards() != discards {
            let full = LayerError::io("cannot write file", rustix::io::Errno::NOSPC);
            return Err(self.failed(partial, full));
        }
        Ok(())
    }

    /// Brings ranges of a file that nobody reads yet; it keeps them for who will.
    pub(super) async fn bring(self: &Arc<Self>, file: u32, ranges: &[Range<u64>]) -> Result<(), Failure> {
        let own = self.clone();
        let Ok(partial) = blocking(move || own.partial(file)).await? else { return Ok(()) };
        let content = self.frames.content(&partial).await?;
        let missing: Vec<_> = ranges.iter().flat_map(|range| partial.missing(range.clone())).collect();
        for flight in self.frames.ask(&partial, content, &missing, STEP_FRAMES) {
            flight.await?;
        }
        Ok(())
    }

    fn failed(&self, partial: &Partial, source: LayerError) -> Failure {
        let layer = self.absent.layers().get(partial.row().place.layer as usize);
        let key = layer.map(|layer| layer.source.key.clone()).unwrap_or_default();
        Arc::new(RestoreError::Layer { key, source })
    }
}

/// What is brought of a file, or nothing once that has ended: nothing more of it comes then.
async fn unless_ended<T: Default>(
    partial: &Partial,
    brought: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = partial.ended() => Ok(T::default()),
        brought = brought => brought,
    }
}

impl Absent {
    /// The attributes of a file that a layer keeps, as they are now.
    pub(super) fn metadata(&self, file: u32) -> Metadata {
        let row = self.tree.file(file);
        let xattrs = self.tree.xattrs(file).into_owned();
        Metadata { mode: row.mode, uid: row.uid, gid: row.gid, mtime: row.mtime, xattrs }
    }
}
