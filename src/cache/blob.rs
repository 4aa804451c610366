//! [`Blob`]: reads an immutable remote object through the cache, block by block.
use super::blob_entry::{BlobEntry, Sought};
use super::block::Block;
use super::core::Core;
use super::disk;
use super::error::CacheError;
use super::evictor::Note;
use super::file::File;
use super::flight::Flight;
use super::key::ObjectId;
use super::origin::Coming;
use super::part::Part;
use super::readahead::ReadAhead;
use super::shares::Share;
use super::stats::Meters;
use super::tier::Origin;
use super::trip::{Counted, Trip};
use crate::remote::ByteStream;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU32;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How often a block is looked for on the disk before it is fetched whatever the disk says.
const ATTEMPTS_MAX: u32 = 3;

/// An object that is read through the cache. What is missing comes from its origin, once for all who want
/// it. Cheap to clone; each clone counts as a reader of its own.
#[derive(Debug)]
pub struct Blob {
    core: Arc<Core>,
    entry: Arc<BlobEntry>,
    origin: Arc<dyn Origin>,
    ahead: Mutex<ReadAhead>,
    /// Blocks from this one on are not fetched for who reads forward.
    ahead_end: AtomicU32,
}

impl Blob {
    pub(super) fn new(core: Arc<Core>, id: &ObjectId, origin: Arc<dyn Origin>) -> Self {
        let entry = core.blob(id);
        let ahead = Mutex::new(ReadAhead::new(core.config.readahead_max));
        Self { core, entry, origin, ahead, ahead_end: AtomicU32::new(u32::MAX) }
    }

    /// Which object it is.
    pub fn id(&self) -> &ObjectId {
        &self.entry.id
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.entry.id.size
    }

    /// The size of its blocks in bytes.
    pub fn block_bytes(&self) -> u64 {
        self.entry.block_bytes
    }

    /// How many of its blocks are on the disk, and how many there are.
    pub fn blocks(&self) -> (u32, u32) {
        (self.entry.blocks_here(), self.entry.blocks_total())
    }

    /// Reads a part of it, cut off at its end. Within one block there is no copy beyond that out of the
    /// page cache.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, CacheError> {
        let end = offset.saturating_add(length as u64).min(self.size());
        if offset >= end {
            return Ok(Bytes::new());
        }
        let block_bytes = self.block_bytes();
        let (first, last) = (offset / block_bytes, (end - 1) / block_bytes);
        if first == last {
            return self.part(first as u32, offset % block_bytes, (end - offset) as usize).await;
        }
        let mut whole = BytesMut::with_capacity((end - offset) as usize);
        while offset + (whole.len() as u64) < end {
            let at = offset + whole.len() as u64;
            let within = at % block_bytes;
            let length = (block_bytes - within).min(end - at);
            whole.extend_from_slice(&self.part((at / block_bytes) as u32, within, length as usize).await?);
        }
        Ok(whole.freeze())
    }

    /// Fills the front of `buffer` from `offset` on, and says how much: less only at the end. What the page
    /// cache has is copied once.
    pub async fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, CacheError> {
        let length =
            buffer.len().min(usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX));
        let (block_bytes, mut done) = (self.block_bytes(), 0);
        while done < length {
            let at = offset + done as u64;
            let within = at % block_bytes;
            let piece = (block_bytes - within).min((length - done) as u64) as usize;
            let space = &mut buffer[done..done + piece];
            if !self.part_now((at / block_bytes) as u32, within, space) {
                space.copy_from_slice(&self.part((at / block_bytes) as u32, within, piece).await?);
            }
            done += piece;
        }
        Ok(length)
    }

    /// The same if the page cache has all of it, known to be right; `None` otherwise. Never waits.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let length = buffer.len().min(usize::try_from(self.size().checked_sub(offset)?).ok()?);
        let (block_bytes, mut done) = (self.block_bytes(), 0);
        while done < length {
            let at = offset + done as u64;
            let within = at % block_bytes;
            let piece = (block_bytes - within).min((length - done) as u64) as usize;
            if !self.part_now((at / block_bytes) as u32, within, &mut buffer[done..done + piece]) {
                return None;
            }
            done += piece;
        }
        Some(length)
    }

    /// These bytes of it as they come, in pieces of at most a block.
    pub fn stream(self, range: Range<u64>) -> impl futures::Stream<Item = Result<Bytes, CacheError>> + Send {
        let end = range.end.min(self.size());
        futures::stream::try_unfold((self, range.start), move |(blob, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let length = (blob.block_bytes() - at % blob.block_bytes()).min(end - at);
            let bytes = blob.read(at, length as usize).await?;
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, (blob, next))))
        })
    }

    /// The first byte of a range that is not on the disk; `None` if all of it is.
    pub fn first_missing(&self, range: Range<u64>) -> Option<u64> {
        let (end, block_bytes) = (range.end.min(self.size()), self.block_bytes());
        let numbers = range.start / block_bytes..end.div_ceil(block_bytes);
        let missing = numbers.into_iter().find(|number| self.entry.block(*number as u32).is_none())?;
        (range.start < end).then(|| range.start.max(missing * block_bytes))
    }

    /// Fetches what is missing of these blocks, whose numbers ascend, as many at once as the cache permits, and waits
    /// until they are there.
    pub async fn warm(&self, blocks: impl IntoIterator<Item = u32>) -> Result<(), CacheError> {
        let end = self.entry.blocks_total();
        let at_once = self.core.config.fetches_max;
        let mut loading = futures::stream::iter(blocks.into_iter().take_while(|number| *number < end))
            .map(|number| self.load(number))
            .buffer_unordered(at_once);
        while let Some(loaded) = loading.next().await {
            loaded?;
        }
        Ok(())
    }

    /// The whole object as a file, if all blocks are there. Those that this process has neither written nor
    /// read are verified first.
    pub async fn file(&self) -> Result<Option<File>, CacheError> {
        let pin = || {
            self.entry.enter();
            let pinned = self.entry.pin_whole();
            if !pinned {
                self.core.leave(&self.entry);
            }
            pinned.then(|| File::pinned_blob(self.core.clone(), self.entry.clone()))
        };
        let Some(file) = pin() else { return Ok(None) };
        for block in self.entry.blocks() {
            if !block.is_verified() {
                block.usage.pin();
                if self.take_verified(block).await.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(file))
    }

    /// These blocks, if all of them are there: they stay as long as somebody holds this.
    pub fn hold(&self, blocks: impl IntoIterator<Item = u32>) -> Option<Part> {
        Part::pinned(self.core.clone(), self.entry.clone(), blocks.into_iter())
    }

    /// A part of one block.
    async fn part(&self, number: u32, within: u64, length: usize) -> Result<Bytes, CacheError> {
        let mut waited = false;
        let mut attempts = 0;
        let bytes = loop {
            attempts += 1;
            match self.seek(number) {
                Sought::There(block) => {
                    if attempts > ATTEMPTS_MAX {
                        block.usage.unpin();
                        break self.past(number).await?.slice(within as usize..within as usize + length);
                    }
                    if let Some(bytes) = self.core.memory.get(self.entry.generation, number) {
                        Meters::count(&self.core.meters.memory_hits);
                        self.hit(&block);
                        block.usage.unpin();
                        break bytes.slice(within as usize..within as usize + length);
                    }
                    if let Some(bytes) = self.take_cached(&block, within, length) {
                        self.hit_on_disk(&block, length);
                        block.usage.unpin();
                        break bytes;
                    }
                    if let Some(bytes) = self.take_verified(block.clone()).await {
                        self.hit_on_disk(&block, length);
                        break bytes.slice(within as usize..within as usize + length);
                    }
                }
                sought @ (Sought::Flying(_) | Sought::Missing(_)) => {
                    waited = true;
                    let (flight, counter) = match sought {
                        Sought::Missing(flight) => (flight, &self.core.meters.block_misses),
                        Sought::Flying(flight) => (flight, &self.core.meters.block_joins),
                        Sought::There(_) => continue,
                    };
                    Meters::count(counter);
                    self.core.asked(false, || self.entry.subject(number));
                    break flight.wait().await?.slice(within as usize..within as usize + length);
                }
            }
        };
        self.read_ahead(number, waited);
        Ok(bytes)
    }

    fn part_now(&self, number: u32, within: u64, space: &mut [u8]) -> bool {
        let Some(block) = self.entry.pin_block(number) else { return false };
        let offset = self.entry.range(number).0 + within;
        let found =
            block.trusting(|| self.entry.file().is_ok_and(|file| disk::read_cached(&file, space, offset)));
        if found {
            self.hit_on_disk(&block, space.len());
        }
        block.usage.unpin();
        if found {
            self.read_ahead(number, false);
        }
        found
    }

    fn hit_on_disk(&self, block: &Arc<Block>, length: usize) {
        self.core.meters.bytes_hit.fetch_add(length as u64, Relaxed);
        self.hit(block);
    }

    fn hit(&self, block: &Arc<Block>) {
        Meters::count(&self.core.meters.block_hits);
        if block.usage.hit() {
            self.core.evictor.touch(self.entry.generation + u64::from(block.number), || {
                Note::Block(Arc::downgrade(&self.entry), Arc::downgrade(block))
            });
        }
        self.core.asked(true, || self.entry.subject(block.number));
    }

    /// Bytes that the page cache has and that are known to be right.
    fn take_cached(&self, block: &Block, within: u64, length: usize) -> Option<Bytes> {
        if !block.is_verified() {
            return None;
        }
        let file = self.entry.file().ok()?;
        let mut buffer = self.core.pool.take(length);
        let offset = self.entry.range(block.number).0 + within;
        block.trusting(|| disk::read_cached(&file, buffer.space(), offset)).then(|| buffer.freeze())
    }

    /// A whole block from the disk, verified. One that is not right is dropped. Unpins it.
    async fn take_verified(&self, block: Arc<Block>) -> Option<Bytes> {
        let (core, entry) = (self.core.clone(), self.entry.clone());
        let read = self.core.runtime.spawn_blocking(move || {
            let offset = entry.range(block.number).0;
            let mut short = false;
            let right = block.verify(offset, || {
                let mut buffer = core.pool.take(block.length as usize);
                let file = entry.file().inspect_err(|e| short = e.is_shortage()).ok()?;
                disk::read(&file, buffer.space(), offset).ok()?;
                core.meters.bytes_verified.fetch_add(block.length, Relaxed);
                Some(buffer)
            });
            block.usage.unpin();
            if right.is_none() && !short {
                core.drop_damaged_block(&entry, &block);
            }
            right.map(super::buffers::Buffer::freeze)
        });
        read.await.ok().flatten()
    }

    /// Makes sure that a block is on its way or there, and waits for it.
    async fn load(&self, number: u32) -> Result<(), CacheError> {
        match self.seek(number) {
            Sought::There(block) => {
                block.usage.unpin();
                Ok(())
            }
            Sought::Flying(flight) | Sought::Missing(flight) => flight.landed().await,
        }
    }

    /// Takes a block that is on its way already, if nobody has it yet: these are its bytes.
    pub(super) fn take_coming(&self, number: u32, body: ByteStream) {
        let origin = Arc::new(Coming::new(body, self.origin.clone()));
        if let Sought::There(block) = self.seek_in(origin, number, None) {
            block.usage.unpin();
        }
    }

    /// Looks for a block; if it is nowhere, a flight for it begins.
    fn seek(&self, number: u32) -> Sought {
        self.seek_in(self.origin.clone(), number, None)
    }

    /// `ahead`: nobody asks for it yet, and this is taken for it.
    fn seek_in(&self, origin: Arc<dyn Origin>, number: u32, ahead: Option<Share>) -> Sought {
        let mut pilot = None;
        let sought = self.entry.seek(number, || {
            let (begun, flight) = Flight::begin();
            pilot = Some(begun);
            flight
        });
        if let Some(pilot) = pilot {
            let trip = Trip { core: self.core.clone(), entry: self.entry.clone(), origin, number };
            let counted = Counted::new(&self.core);
            if ahead.is_some() {
                Meters::count(&self.core.meters.readaheads);
            }
            self.core.runtime.spawn(trip.fly(pilot, ahead, counted));
        }
        sought
    }

    /// Fetches what is missing of these bytes, as far as fetches are free, and does not wait for it.
    pub fn fetch_ahead_of(&self, bytes: Range<u64>) {
        let end = bytes.end.min(self.size()).div_ceil(self.block_bytes()) as u32;
        for number in (bytes.start / self.block_bytes()) as u32..end {
            if !self.fetch_ahead(number) {
                return;
            }
        }
    }

    /// Whoever reads forward by this handle gets nothing fetched from this byte on before asking for it; `None`: all
    /// up to the end, as at first.
    pub fn read_ahead_until(&self, end: Option<u64>) {
        let end = end.map_or(u32::MAX, |end| end.div_ceil(self.block_bytes()) as u32);
        self.ahead_end.store(end, Relaxed);
    }

    /// A block was read.
    fn read_ahead(&self, number: u32, waited: bool) {
        let end = self.entry.blocks_total().min(self.ahead_end.load(Relaxed));
        let ahead = self.ahead.lock().read(number, waited, end);
        for number in ahead {
            self.fetch_ahead(number);
        }
    }

    /// Whether there is room for more.
    fn fetch_ahead(&self, number: u32) -> bool {
        // Those who wait go first: what is fetched ahead never queues.
        let Some(share) = self.core.fetches.try_take(&self.entry.id.bucket) else { return false };
        if let Sought::There(block) = self.seek_in(self.origin.clone(), number, Some(share)) {
            block.usage.unpin();
        }
        true
    }

    /// Fetches a block that the disk cannot be trusted with.
    async fn past(&self, number: u32) -> Result<Bytes, CacheError> {
        let trip =
            Trip { core: self.core.clone(), entry: self.entry.clone(), origin: self.origin.clone(), number };
        trip.fetch(None).await.map(|caught| caught.bytes)
    }
}

impl Clone for Blob {
    fn clone(&self) -> Self {
        self.entry.enter();
        let ahead = Mutex::new(ReadAhead::new(self.core.config.readahead_max));
        let ahead_end = AtomicU32::new(u32::MAX);
        Self {
            core: self.core.clone(),
            entry: self.entry.clone(),
            origin: self.origin.clone(),
            ahead,
            ahead_end,
        }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.core.leave(&self.entry);
    }
}
