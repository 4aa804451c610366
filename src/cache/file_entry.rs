//! [`FileEntry`]: a whole file in the cache. Its bytes never change.
use super::budget::{Budget, Charge};
use super::digest::{self, Digest};
use super::error::CacheError;
use super::events::Subject;
use super::evict::{Facts, Unit, WHOLE};
use super::filling::room;
use super::key::{Identity, Key};
use super::record::{EntryRecord, Used};
use super::store::{Name, Place, Store, without_readahead};
use super::trust::Trust;
use super::usage::Usage;
use super::witness::Witness;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

/// How much is read at once to compute a checksum.
const VERIFY_STEP_BYTES: usize = 1 << 20;

/// A whole file. If it was held when it was removed, its bytes go with the last reference.
#[derive(Debug)]
pub struct FileEntry {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes.
    pub whole: Digest,
    /// Its generation.
    pub generation: u64,
    /// When it was admitted, in seconds since 1970.
    pub created: u64,
    /// How it is used.
    pub usage: Usage,
    block_bytes: u64,
    place: Place,
    /// All of it was written or verified by this process.
    verified: AtomicBool,
    /// One for each block, once somebody reads it.
    trusts: OnceLock<Box<[Trust]>>,
    /// Seen on the disk by the check after the start.
    seen: AtomicBool,
    /// It was held when it was removed.
    removed: AtomicBool,
    /// Held by whoever reads all of it to compute its checksum.
    verifying: Mutex<()>,
    /// Open as long as somebody uses it.
    open: Mutex<Weak<File>>,
    store: Arc<Store>,
    charge: Charge,
    /// The digests of its blocks, once its witness has gone.
    kept: OnceLock<Vec<Digest>>,
}

/// What a new [`FileEntry`] is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub record: EntryRecord,
    pub generation: u64,
    pub store: Arc<Store>,
    /// Whether we have just written its bytes.
    pub verified: bool,
}

impl FileEntry {
    /// One that was found on the disk, charged whatever the limits; `None` if the record is of something else.
    pub(super) fn found(parts: Parts, budget: &Arc<Budget>) -> Option<Self> {
        let Identity::File { key, size } = &parts.record.identity else { return None };
        let charge = budget.found(room(key, *size, parts.record.block_bytes), 1);
        Self::new(parts, charge)
    }

    /// `None` if the record is of something else.
    pub(super) fn new(parts: Parts, charge: Charge) -> Option<Self> {
        let EntryRecord {
            identity: Identity::File { key, size },
            block_bytes,
            whole,
            created,
            sidecar,
            used,
        } = parts.record
        else {
            return None;
        };
        Some(Self {
            key,
            size,
            whole,
            generation: parts.generation,
            created,
            usage: Usage::new(used),
            block_bytes,
            place: if sidecar { Place::Sidecar } else { Place::Attribute },
            verified: AtomicBool::new(parts.verified),
            trusts: OnceLock::new(),
            seen: AtomicBool::new(parts.verified),
            removed: AtomicBool::new(false),
            verifying: Mutex::default(),
            open: Mutex::default(),
            store: parts.store,
            charge,
            kept: OnceLock::new(),
        })
    }

    /// What it is.
    pub fn identity(&self) -> Identity {
        Identity::File { key: self.key.clone(), size: self.size }
    }

    /// What its files are called.
    pub fn name(&self) -> Name {
        Name::new(&self.identity(), self.generation)
    }

    /// Where its bytes are.
    pub fn path(&self) -> PathBuf {
        self.store.path(&self.name())
    }

    pub(super) fn subject(&self) -> Subject {
        Subject::File(self.key.clone())
    }

    pub(super) fn unit(&self) -> Unit {
        Unit { generation: self.generation, block: WHOLE }
    }

    pub(super) fn facts(&self, now: u64) -> Facts {
        let Used { hits, cost_us, .. } = self.usage.used();
        let fingerprint = digest::fingerprint(&self.whole);
        Facts { bytes: self.charge.bytes(), cost_us, hits, fingerprint, now }
    }

    pub(super) fn record(&self) -> EntryRecord {
        EntryRecord {
            identity: self.identity(),
            block_bytes: self.block_bytes,
            whole: self.whole,
            created: self.created,
            sidecar: self.place == Place::Sidecar,
            used: self.usage.used(),
        }
    }

    /// Bytes charged for it.
    pub(super) fn charged(&self) -> u64 {
        self.charge.bytes()
    }

    pub(super) fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Its bytes, open for reading; the same descriptor for all who have it open at once.
    pub fn open(&self) -> Result<Arc<File>, CacheError> {
        let mut open = self.open.lock();
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let path = self.path();
        let file = Store::open_file(&path, false).map_err(|e| CacheError::io("open", path, e))?;
        without_readahead(&file);
        let file = Arc::new(file);
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    /// Whether its bytes were written or verified by this process.
    pub fn is_verified(&self) -> bool {
        self.verified.load(Relaxed)
    }

    /// Whether the page cache may be believed, block by block. Of a file that was not yet verified about none.
    pub(super) fn trusts(&self) -> &[Trust] {
        self.trusts.get_or_init(|| {
            let right = self.is_verified();
            (0..self.size.div_ceil(self.block_bytes).max(1)).map(|_| Trust::new(right)).collect()
        })
    }

    /// Makes sure that its bytes were written or verified by this process; says how much was read. Blocks.
    pub fn trust(&self) -> Result<u64, CacheError> {
        let _turn = self.verifying.lock();
        if self.is_verified() {
            return Ok(0);
        }
        if !self.is_seen() {
            // The journal may not have learned that it was deleted.
            self.witnessed()?;
        }
        self.verify()
    }

    /// The digests of its blocks; none if it is no longer than one, because `whole` says it all.
    pub(super) fn nodes(&self) -> Result<Vec<Digest>, CacheError> {
        if self.size <= self.block_bytes {
            return Ok(Vec::new());
        }
        if let Some(kept) = self.kept.get() {
            return Ok(kept.clone());
        }
        let nodes: Option<Vec<Digest>> = self.witnessed()?.slots.into_iter().collect();
        nodes.ok_or_else(|| CacheError::Corrupt { what: self.key.to_string() })
    }

    /// Its witness, which says the same.
    pub(super) fn witnessed(&self) -> Result<Witness, CacheError> {
        let found = self.store.get_witness(&self.name()).map_err(|e| e.error(&self.key, self.path()))?;
        let header = &found.0.header;
        let is_ours = header.whole == self.whole
            && header.identity == self.identity()
            && header.generation == self.generation;
        if is_ours { Ok(found.0) } else { Err(CacheError::Corrupt { what: self.key.to_string() }) }
    }

    /// Reads all of it and compares the checksum; says how much was read. Blocks.
    pub fn verify(&self) -> Result<u64, CacheError> {
        let file = self.open()?;
        let doubts: Vec<u32> = self.trusts().iter().map(Trust::doubt).collect();
        let damaged = || CacheError::Corrupt { what: self.key.to_string() };
        let io = |e| CacheError::io("read", self.path(), e);
        if file.metadata().map_err(io)?.len() != self.size {
            return Err(damaged());
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; VERIFY_STEP_BYTES.min(self.size.max(1) as usize)];
        let mut at = 0;
        while at < self.size {
            let step = buffer.len().min((self.size - at) as usize);
            file.read_exact_at(&mut buffer[..step], at).map_err(io)?;
            hasher.update(&buffer[..step]);
            at += step as u64;
        }
        if *hasher.finalize().as_bytes() != self.whole {
            return Err(damaged());
        }
        self.trusts().iter().zip(doubts).for_each(|(trust, doubted)| trust.prove(doubted));
        self.verified.store(true, Relaxed);
        Ok(self.size)
    }

    pub(super) fn see(&self) {
        self.seen.store(true, Relaxed);
    }

    pub(super) fn is_seen(&self) -> bool {
        self.seen.load(Relaxed)
    }

    /// Called by whoever took it out of the index. If somebody holds it its bytes go when the last reference
    /// does, but its witness at once, so that no start finds it again.
    pub(super) fn remove(&self) {
        if self.usage.is_pinned() {
            self.removed.store(true, SeqCst);
            if let Ok(nodes) = self.nodes() {
                let _set_before = self.kept.set(nodes); // who holds it goes on comparing
            }
            self.store.disown(&self.name());
        } else {
            self.store.remove(&self.name());
        }
    }
}

impl Drop for FileEntry {
    fn drop(&mut self) {
        if self.removed.load(SeqCst) {
            self.store.remove(&self.name());
        }
    }
}
