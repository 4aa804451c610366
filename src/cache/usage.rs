//! [`Usage`]: how a file or a block is used. Counted by readers without a lock.
use super::record::Used;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// How a file or a block is used.
#[derive(Debug, Default)]
pub struct Usage {
    /// Guards that live.
    pins: AtomicU32,
    hits: AtomicU32,
    tick: AtomicU64,
    cost_us: AtomicU32,
    /// Used since the policy was told last.
    touched: AtomicBool,
    /// Used since the journal was told last.
    dirty: AtomicBool,
    /// It is no longer in the cache, whoever still holds it.
    left: AtomicBool,
}

impl Usage {
    /// As the journal has it.
    pub fn new(used: Used) -> Self {
        let usage = Self::default();
        usage.hits.store(used.hits, Relaxed);
        usage.tick.store(used.tick, Relaxed);
        usage.cost_us.store(used.cost_us, Relaxed);
        usage
    }

    /// For the journal.
    pub fn used(&self) -> Used {
        Used {
            tick: self.tick.load(Relaxed),
            hits: self.hits.load(Relaxed),
            cost_us: self.cost_us.load(Relaxed),
        }
    }

    /// One more guard. Only while whoever removes the entry is locked out.
    pub fn pin(&self) {
        self.pins.fetch_add(1, SeqCst);
    }

    /// One guard less.
    pub fn unpin(&self) {
        self.pins.fetch_sub(1, SeqCst);
    }

    /// Whether a guard lives.
    pub fn is_pinned(&self) -> bool {
        self.pins.load(SeqCst) > 0
    }

    /// One more use; `true` if the policy is to be told.
    pub fn hit(&self) -> bool {
        self.hits.fetch_add(1, Relaxed);
        // The load spares the write on what many threads use at once.
        !self.touched.load(Relaxed) && !self.touched.swap(true, Relaxed)
    }

    /// The policy is told; `true` if the journal is to be told as well.
    pub(super) fn told(&self, tick: u64) -> bool {
        self.touched.store(false, Relaxed);
        self.tick.store(tick, Relaxed);
        !self.dirty.swap(true, Relaxed)
    }

    /// The journal is told.
    pub(super) fn written(&self) {
        self.dirty.store(false, Relaxed);
    }

    /// It leaves the cache. Before the journal is told: what is left is not written down any more.
    pub(super) fn leave(&self) {
        self.left.store(true, SeqCst);
    }

    /// Whether it has left the cache.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(SeqCst)
    }

    /// When it was used last.
    pub fn tick(&self) -> u64 {
        self.tick.load(Relaxed)
    }
}
