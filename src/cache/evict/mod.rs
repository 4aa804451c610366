//! What goes first when there is no room: the [`Policy`] trait and its kinds. docs/CACHE.md says when to
//! choose which.
//!
//! A policy orders *units*: whole files, and single blocks of objects. It knows nothing of pins: whoever
//! asks it for victims puts back those that cannot go.
pub mod adaptive;
pub mod admission;
pub mod cost;
pub mod lru;
pub mod s3fifo;

pub use adaptive::AdaptiveTtl;
pub use admission::Gate;
pub use cost::CostBased;
pub use lru::Lru;
pub use s3fifo::S3Fifo;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;

/// The block number of a unit that is a whole file.
pub const WHOLE: u32 = u32::MAX;

/// What is evicted at once: a whole file or one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit {
    /// Which entry.
    pub generation: u64,
    /// Which block of it, or [`WHOLE`].
    pub block: u32,
}

/// What a policy may know of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What it takes on the disk.
    pub bytes: u64,
    /// How long it took to get, in microseconds.
    pub cost_us: u32,
    /// How often it was used.
    pub hits: u32,
    /// The same content has the same number, whenever it is admitted.
    pub fingerprint: u64,
    /// The time, in seconds.
    pub now: u64,
}

/// Orders units by how soon they go.
pub trait Policy: Send + std::fmt::Debug {
    /// Its name in settings and statistics.
    fn name(&self) -> &'static str;
    /// So many units come at once, and may have room made for them.
    fn expect(&mut self, units: usize) {
        let _ = units;
    }
    /// A unit is there that was not.
    fn admitted(&mut self, unit: Unit, facts: Facts);
    /// A unit was used. One that is not known is ignored.
    fn touched(&mut self, unit: Unit, facts: Facts);
    /// A unit is gone.
    fn removed(&mut self, unit: Unit);
    /// Takes out what is to go first.
    fn victim(&mut self) -> Option<Unit>;
    /// A victim could not go, because it is in use.
    fn kept(&mut self, unit: Unit, facts: Facts) {
        self.admitted(unit, facts);
    }
    /// Takes out a unit whose time is over, if the policy knows such a thing.
    fn expired(&mut self, now: u64) -> Option<Unit> {
        let _ = now;
        None
    }
    /// How many units it orders.
    fn len(&self) -> usize;
    /// Whether it orders none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The policies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyKind {
    /// What was not used for longest goes first.
    #[default]
    Lru,
    /// What was used only once goes first (S3-FIFO).
    S3Fifo,
    /// What is cheapest to get again, for the room it takes, goes first (GDSF).
    CostBased,
    /// Each has a time to live that grows with how often it is used.
    AdaptiveTtl,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lru, Self::S3Fifo, Self::CostBased, Self::AdaptiveTtl];

    /// Its name in settings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::S3Fifo => "s3-fifo",
            Self::CostBased => "cost-based",
            Self::AdaptiveTtl => "adaptive-ttl",
        }
    }

    /// An empty policy of this kind.
    pub fn build(self) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru::default()),
            Self::S3Fifo => Box::new(S3Fifo::default()),
            Self::CostBased => Box::new(CostBased::default()),
            Self::AdaptiveTtl => Box::new(AdaptiveTtl::default()),
        }
    }
}
