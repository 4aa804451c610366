//! [`AdaptiveTtl`]: each unit has a time to live that follows how often it is used.
//!
//! A new unit lives for [`FIRST_SECONDS`], one that comes back after a restart for as long as its uses have earned it
//! beside their intervals, which nobody has kept. Each use makes that several times the mean time between its uses,
//! within bounds, counted from now. What is over goes even if there is room; when there is none, what would
//! be over first goes first.
use super::{Facts, Policy, Unit};
use std::collections::{BTreeSet, HashMap};

/// How long a unit lives that was never used, in seconds.
pub const FIRST_SECONDS: u64 = 3600;
/// The bounds of a time to live, in seconds.
pub const TTL_SECONDS: std::ops::RangeInclusive<u64> = 300..=7 * 24 * 3600;
/// So many times the mean time between two uses a unit is kept after one.
const PATIENCE: u64 = 8;
/// Seconds are counted in so many parts, so that uses within one second have an order.
const PARTS: u64 = 1 << 20;

#[derive(Debug, Clone, Copy)]
struct Life {
    /// When it is over, in parts of seconds.
    end: u64,
    /// When it was last used, in seconds.
    last: u64,
    /// The mean time between uses, in seconds; `None` before the second use.
    gap: Option<u64>,
}

/// Time to live by frequency of use.
#[derive(Debug, Default)]
pub struct AdaptiveTtl {
    order: BTreeSet<(u64, Unit)>,
    lives: HashMap<Unit, Life>,
    /// Counts uses, for their order within one second.
    uses: u64,
}

/// What so many uses lengthen a life to at least, in seconds.
fn earned(hits: u32) -> u64 {
    FIRST_SECONDS / 4 * u64::from(hits.min(64))
}

impl AdaptiveTtl {
    fn put(&mut self, unit: Unit, last: u64, gap: Option<u64>, ttl: u64) {
        self.removed(unit);
        self.uses = (self.uses + 1) % PARTS;
        let end = (last + ttl) * PARTS + self.uses;
        self.order.insert((end, unit));
        self.lives.insert(unit, Life { end, last, gap });
    }
}

impl Policy for AdaptiveTtl {
    fn name(&self) -> &'static str {
        "adaptive-ttl"
    }

    fn admitted(&mut self, unit: Unit, facts: Facts) {
        self.put(unit, facts.now, None, FIRST_SECONDS.max(earned(facts.hits)));
    }

    fn touched(&mut self, unit: Unit, facts: Facts) {
        let Some(life) = self.lives.get(&unit).copied() else { return };
        let since = facts.now.saturating_sub(life.last);
        let gap = life.gap.map_or(since, |gap| (3 * gap + since) / 4);
        // Frequent use within one second says nothing about the hours to come: uses lengthen it as well.
        let ttl = (gap * PATIENCE).max(earned(facts.hits));
        self.put(unit, facts.now, Some(gap), ttl.clamp(*TTL_SECONDS.start(), *TTL_SECONDS.end()));
    }

    fn removed(&mut self, unit: Unit) {
        if let Some(life) = self.lives.remove(&unit) {
            self.order.remove(&(life.end, unit));
        }
    }

    fn victim(&mut self) -> Option<Unit> {
        let (_, unit) = self.order.pop_first()?;
        self.lives.remove(&unit);
        Some(unit)
    }

    fn expired(&mut self, now: u64) -> Option<Unit> {
        let (end, _) = *self.order.first()?;
        (end / PARTS < now).then(|| self.victim()).flatten()
    }

    fn len(&self) -> usize {
        self.lives.len()
    }
}
