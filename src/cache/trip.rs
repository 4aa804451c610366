//! [`Trip`]: one fetch of one block, and the keeping of what it brings.
use super::blob_entry::{BlobEntry, NewBlock};
use super::budget::on_disk;
use super::buffers::{Buffer, Pool};
use super::core::Core;
use super::error::CacheError;
use super::events::Event;
use super::evictor::Held;
use super::flight::Pilot;
use super::record::{BLOCKS, BlockRecord, ENTRIES, Used, block_key, entry_key};
use super::shares::Share;
use super::stats::Meters;
use super::tier::{FetchError, Origin};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;

/// One fetch of one block.
#[derive(Debug)]
pub struct Trip {
    pub core: Arc<Core>,
    pub entry: Arc<BlobEntry>,
    pub origin: Arc<dyn Origin>,
    pub number: u32,
}

/// What a fetch brought.
#[derive(Debug)]
pub struct Catch {
    /// The bytes of the block.
    pub bytes: Bytes,
    /// How long that took.
    pub took: Duration,
    /// Held until they are kept, so that a slow disk slows the fetches and not the memory grows.
    share: Share,
}

/// A flight that ends, in whatever way, is found by nobody any more.
struct Landing<'a>(&'a Trip);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.0.entry.land(self.0.number);
    }
}

/// A fetch under way, for who waits until there is none.
pub struct Counted(Arc<Core>);

impl Counted {
    pub fn new(core: &Arc<Core>) -> Self {
        core.fetching.send_modify(|fetching| *fetching += 1);
        Self(core.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetching.send_modify(|fetching| *fetching -= 1);
    }
}

/// The bytes of a block as they come. A block in one piece, as tiers give it, stays as it is; of several one is made in
/// memory that is used again.
struct Pieces<'a> {
    pool: &'a Arc<Pool>,
    length: u64,
    got: u64,
    one: Option<Bytes>,
    many: Option<Buffer>,
}

impl<'a> Pieces<'a> {
    fn new(pool: &'a Arc<Pool>, length: u64) -> Self {
        Self { pool, length, got: 0, one: None, many: None }
    }

    /// One more; `false` if that is too much.
    fn push(&mut self, piece: Bytes) -> bool {
        let start = self.got as usize;
        self.got += piece.len() as u64;
        if self.got > self.length {
            return false;
        }
        if self.got == self.length && start == 0 {
            self.one = Some(piece);
        } else if !piece.is_empty() {
            let many = self.many.get_or_insert_with(|| self.pool.take(self.length as usize));
            many.space()[start..self.got as usize].copy_from_slice(&piece);
        }
        true
    }

    /// All of it, if it is neither less nor more.
    fn whole(self) -> Result<Bytes, CacheError> {
        match self.one.or_else(|| self.many.map(Buffer::freeze)) {
            Some(bytes) if self.got == self.length => Ok(bytes),
            _ => Err(CacheError::WrongSize { expected: self.length, got: self.got }),
        }
    }
}

impl Trip {
    /// Fetches it, tells all who wait, and keeps it.
    pub async fn fly(self, pilot: Pilot, share: Option<Share>, counted: Counted) {
        self.carry(pilot, share).await;
        // Nothing of it holds the object any more: who waited may find that it is gone.
        drop(counted);
    }

    async fn carry(self, pilot: Pilot, share: Option<Share>) {
        let landing = Landing(&self);
        let fetched = self.fetch(share).await;
        match fetched {
            Ok(Catch { bytes, took, share }) => {
                let keeping = self.core.keeping.clone().read_owned().await;
                pilot.tell(Ok(bytes.clone()));
                if !self.entry.is_unread() {
                    self.core.memory.put(self.entry.generation, self.number, &bytes);
                }
                // Those who come now join the flight, until the block is there.
                let (core, entry, number) = (self.core.clone(), self.entry.clone(), self.number);
                let kept =
                    self.core.runtime.spawn_blocking(move || keep(&core, &entry, number, &bytes, took));
                let _logged = kept.await;
                drop((keeping, share, landing));
            }
            Err(error) => {
                Meters::count(&self.core.meters.fetch_errors);
                if matches!(error, CacheError::Fetch(FetchError::Throttled { .. })) {
                    Meters::count(&self.core.meters.fetches_throttled);
                }
                // Gone before anybody is told, so that who tries again begins anew.
                drop(landing);
                pilot.tell(Err(error));
            }
        }
        if self.entry.blocks_here() == 0 {
            self.core.drop_idle(&self.entry);
        }
    }

    /// The bytes from the origin. Who has no share of what may be fetched at once waits for one.
    pub async fn fetch(&self, share: Option<Share>) -> Result<Catch, CacheError> {
        let store = &self.entry.id.bucket;
        let share = match share.or_else(|| self.core.fetches.try_take(store)) {
            Some(share) => share,
            None => {
                Meters::count(&self.core.meters.reads_throttled);
                self.core.fetches.take(store).await.ok_or(CacheError::Closed)?
            }
        };
        let start = Instant::now();
        Meters::count(&self.core.meters.fetches);
        let (offset, length) = self.entry.range(self.number);
        let stall = self.core.config.stall;
        let stalled = |_| {
            Meters::count(&self.core.meters.stalls);
            CacheError::Stalled { after: stall }
        };
        let asked = self.origin.fetch(&self.entry.id, offset..offset + length);
        let mut body = tokio::time::timeout(stall, asked).await.map_err(stalled)??.body;
        let mut pieces = Pieces::new(&self.core.pool, length);
        while let Some(piece) = tokio::time::timeout(stall, body.next()).await.map_err(stalled)? {
            if !pieces.push(piece.map_err(FetchError::from)?) {
                break;
            }
        }
        self.core.meters.bytes_fetched.fetch_add(pieces.got, Relaxed);
        let bytes = pieces.whole()?;
        let took = start.elapsed();
        self.core.meters.took(took);
        Ok(Catch { bytes, took, share })
    }
}

/// Keeps a block that was fetched, if there is room; if not, its readers have it all the same.
pub fn keep(core: &Arc<Core>, entry: &Arc<BlobEntry>, number: u32, bytes: &Bytes, took: Duration) {
    let cost_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    let used = Used { tick: core.evictor.tick(), hits: 0, cost_us };
    let new = NewBlock { number, bytes, used };
    let length = bytes.len() as u64;
    let kept = core.enter().and_then(|_open| {
        core.admit_object(entry.id.size)?;
        core.admit_write(length)?;
        core.squeeze(length, || {
            let (file, entries) = entry.price_of_file();
            entry.put(new, core.reserve(on_disk(length) + file, entries)?)
        })
    });
    match kept {
        Ok(block) => {
            let admitted = core.blobs.change(&*entry.id, |map| {
                let ours = map.get(&*entry.id).is_some_and(|found| Arc::ptr_eq(found, entry));
                if ours {
                    core.evictor.hold(entry.generation, Held::Blob(entry.clone()));
                    core.evictor.admit(entry.unit(&block), entry.facts(&block, super::evictor::now()));
                    core.ledger.record(|batch| {
                        if entry.to_record() {
                            batch.put(
                                ENTRIES,
                                &entry_key(entry.generation),
                                entry.record().encode(entry.generation),
                            );
                        }
                        let record = BlockRecord { digest: block.digest, used };
                        let key = block_key(entry.generation, number);
                        batch.put(BLOCKS, &key, record.encode(entry.generation, number));
                    });
                }
                ours
            });
            if admitted {
                Meters::count(&core.meters.block_inserts);
                core.meters.bytes_inserted.fetch_add(length, Relaxed);
                core.events.send(|| Event::Insert { subject: entry.subject(number), bytes: length });
            }
        }
        Err(error) => {
            if error.is_full() {
                Meters::count(&core.meters.not_kept_full);
            }
            tracing::debug!(object = %entry.id, block = number, %error, "a block was not kept");
        }
    }
}
