//! Opening a cache: the journal, what comes back from it, and what runs as long as the cache lives.
use super::blob_entry::BlobEntry;
use super::budget::{Budget, FileSystem, Limits};
use super::buffers::Pool;
use super::check;
use super::config::{Config, Recall};
use super::core::{Core, Slot};
use super::error::CacheError;
use super::events::Events;
use super::evict::{Gate, PolicyKind};
use super::evictor::{Evictor, Held, now};
use super::index::Index;
use super::key::{Key, ObjectId};
use super::ledger::{Ledger, Recency};
use super::memory::Memory;
use super::record::{
    BLOCKS, BlockRecord, CLEAN, ENTRIES, LIMITS, META, block_key, decode_limits, encode_clean, encode_limits,
    entry_key,
};
use super::rehydrate::{Ground, Rehydrated, rehydrate};
use super::shares::Shares;
use super::shortage::relieve;
use super::stats::Meters;
use super::store::Store;
use super::watch::watch_fills;
use crate::clock::SystemClock;
use crate::journal::{Batch, Journal, JournalError, SledJournal, move_aside};
use crate::sync::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// How long the end of another process is waited for: it may be writing its journal.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often what has lived long enough is thrown out, and what the disk lacks because others write to it.
const TEND_EVERY: Duration = Duration::from_secs(30);

/// Opens a cache on a journal in its directory. Blocks.
pub fn open(config: &Config, runtime: &Handle) -> Result<(Arc<Core>, Weak<SledJournal>), CacheError> {
    config.check()?;
    let store = Arc::new(Store::open_directory(&config.directory)?);
    let path = config.directory.join("journal");
    let mut moved = false;
    loop {
        let disk = FileSystem(config.directory.clone());
        let opened = SledJournal::open_relieved(&path, PATIENCE, || relieve(&store, &path, &disk))?;
        if let Some(damage) = &opened.damage {
            tracing::warn!(reason = %damage.reason, moved_to = %damage.moved_to.display(),
                "the journal of the cache is damaged; it is rebuilt from the files");
        }
        let journal = Arc::new(opened.journal);
        let sled = Arc::downgrade(&journal);
        match Builder::new(config.clone(), store.clone(), journal, runtime) {
            Ok(builder) => return Ok((builder.start()?, sled)),
            // It opens, and yet it cannot be read: aside with it, once.
            Err(CacheError::Journal(e)) if matches!(*e, JournalError::Corrupt { .. }) && !moved => {
                moved = true;
                let moved_to = move_aside(&path)?;
                tracing::warn!(reason = %e, moved_to = %moved_to.display(),
                    "the journal of the cache cannot be read; it is rebuilt from the files");
            }
            Err(e) => return Err(e),
        }
    }
}

/// Opens a cache on this journal. Blocks.
pub fn open_on(config: Config, journal: Arc<dyn Journal>, runtime: &Handle) -> Result<Arc<Core>, CacheError> {
    config.check()?;
    let store = Arc::new(Store::open_directory(&config.directory)?);
    Builder::new(config, store, journal, runtime)?.start()
}

/// The same without what runs in the background.
#[cfg(all(test, feature = "model"))]
pub fn assemble(
    config: Config,
    journal: Arc<dyn Journal>,
    runtime: &Handle,
) -> Result<Arc<Core>, CacheError> {
    let store = Arc::new(Store::open_directory(&config.directory)?);
    Builder::new(config, store, journal, runtime)?.assemble()
}

/// The limits that were given last: as the journal has them, or what is kept beside it.
fn last_limits(journal: &dyn Journal, store: &Store) -> Result<Option<Limits>, JournalError> {
    let kept = [journal.get(META, LIMITS)?, store.get_limits()];
    Ok(kept.into_iter().flatten().find_map(|value| match decode_limits(&value) {
        Ok(limits) => Some(limits),
        Err(why) => {
            tracing::warn!(%why, "limits that the cache remembers are of no use");
            None
        }
    }))
}

/// A cache that has come back, before anything runs.
struct Builder {
    config: Config,
    store: Arc<Store>,
    journal: Arc<dyn Journal>,
    runtime: Handle,
    budget: Arc<Budget>,
    evictor: Arc<Evictor>,
    files: Index<Key, Slot>,
    blobs: Index<Arc<ObjectId>, Arc<BlobEntry>>,
    came_back: Rehydrated,
    took: Duration,
}

impl Builder {
    fn new(
        mut config: Config,
        store: Arc<Store>,
        journal: Arc<dyn Journal>,
        runtime: &Handle,
    ) -> Result<Self, CacheError> {
        let start = Instant::now();
        store.empty_tmp()?;
        let last = last_limits(&*journal, &store)?;
        if let Some(last) = last {
            config.recalled(last);
        }
        let budget = Budget::new(config.limits(), Box::new(FileSystem(config.directory.clone())));
        let (evictor, files, blobs) =
            (Arc::new(Evictor::new(config.policy)), Index::default(), Index::default());
        let came_back = rehydrate(&Ground {
            journal: &*journal,
            store: &store,
            budget: &budget,
            evictor: &evictor,
            files: &files,
            blobs: &blobs,
            now: now(),
        })?;
        if came_back.rebuilt && last.is_none() && config.recall != Recall::default() {
            let Limits { max_bytes, max_entries, min_free } = config.limits();
            tracing::warn!(
                max_bytes,
                max_entries,
                min_free,
                "the limits that the cache was given are lost with its journal; these hold now"
            );
        }
        if config.remember {
            let limits = encode_limits(&config.limits());
            store.put_limits(&limits);
            let mut batch = Batch::new();
            batch.put(META, LIMITS, limits);
            journal.apply(batch)?;
        }
        let took = start.elapsed();
        let runtime = runtime.clone();
        Ok(Self { config, store, journal, runtime, budget, evictor, files, blobs, came_back, took })
    }

    fn assemble(self) -> Result<Arc<Core>, CacheError> {
        let Self { config, store, runtime, budget, evictor, files, blobs, came_back, .. } = self;
        let session = (came_back.first_generation >> 32) as u32;
        let certain = Arc::new(AtomicBool::new(came_back.clean));
        let recency = recency(Arc::downgrade(&evictor), config.recency_interval, session, certain.clone());
        let ledger = Ledger::new(self.journal, config.flush_interval, recency)?;
        let meters = Meters::default();
        meters.rehydrated.store(came_back.entries, SeqCst);
        meters.lost.store(came_back.lost, SeqCst);
        meters.journal_rebuilds.store(came_back.rebuilt.into(), SeqCst);
        meters.replay_us.store(self.took.as_micros() as u64, SeqCst);
        let core = Arc::new(Core {
            gate: Gate::new(config.admission.clone(), config.max_bytes, Arc::new(SystemClock)),
            pool: Pool::new(config.block_bytes as usize),
            memory: Memory::new(config.memory_bytes),
            fetches: Shares::new(config.fetches_max),
            store,
            budget,
            evictor,
            ledger,
            files,
            blobs,
            meters,
            events: Events::default(),
            runtime,
            fetching: watch::Sender::new(0),
            keeping: Arc::default(),
            fillings: Mutex::new(HashMap::new()),
            filling: Arc::new(Notify::new()),
            checked: watch::Sender::new(0),
            closed: RwLock::new(false),
            first_generation: came_back.first_generation,
            certain,
            rebuilt: came_back.rebuilt,
            deleted: Mutex::default(),
            departed: Mutex::default(),
            generations: AtomicU64::new(came_back.first_generation),
            config,
        });
        core.shrink_to(u64::MAX, None);
        Ok(core)
    }

    fn start(self) -> Result<Arc<Core>, CacheError> {
        let core = self.assemble()?;
        let runtime = core.runtime.clone();
        runtime.spawn(watch_fills(Arc::downgrade(&core), core.filling.clone(), core.config.stall));
        if core.config.policy == PolicyKind::AdaptiveTtl || core.config.min_free > 0 {
            runtime.spawn(tend(Arc::downgrade(&core)));
        }
        let checking = core.clone();
        runtime.spawn_blocking(move || check::check(&checking));
        Ok(core)
    }
}

/// Writes down what was used, once in a while, and at the end that it was one.
fn recency(evictor: Weak<Evictor>, interval: Duration, session: u32, certain: Arc<AtomicBool>) -> Recency {
    let last = Mutex::new(Instant::now());
    Box::new(move |batch: &mut Batch, ending, complete| {
        let mut last = last.lock();
        if !ending && last.elapsed() < interval {
            return;
        }
        if ending && complete && certain.load(SeqCst) {
            batch.put(META, CLEAN, encode_clean(session));
        }
        let Some(evictor) = evictor.upgrade() else { return };
        *last = Instant::now();
        for note in evictor.take_dirty() {
            note.written(|held, block| match (held, block) {
                (Held::File(file), _) => {
                    batch.put(ENTRIES, &entry_key(file.generation), file.record().encode(file.generation));
                }
                (Held::Blob(blob), Some(block)) => {
                    let record = BlockRecord { digest: block.digest, used: block.usage.used() };
                    let key = block_key(blob.generation, block.number);
                    batch.put(BLOCKS, &key, record.encode(blob.generation, block.number));
                }
                (Held::Blob(_), None) => {}
            });
        }
    })
}

async fn tend(core: Weak<Core>) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        let Some(core) = core.upgrade() else { return };
        let runtime = core.runtime.clone();
        let tending = move || {
            core.expire();
            core.shrink_to(u64::MAX, None);
        };
        let _ended = runtime.spawn_blocking(tending).await;
    }
}
