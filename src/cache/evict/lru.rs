//! [`Lru`]: what was not used for longest goes first.
use super::{Facts, Policy, Unit};
use crate::cache::spread::Spread;
use lru::LruCache;
use std::hash::BuildHasherDefault;
use std::num::NonZeroUsize;

/// Least recently used.
#[derive(Debug)]
pub struct Lru {
    order: LruCache<Unit, (), BuildHasherDefault<Spread>>,
}

impl Default for Lru {
    fn default() -> Self {
        Self { order: LruCache::unbounded_with_hasher(BuildHasherDefault::default()) }
    }
}

impl Policy for Lru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn expect(&mut self, units: usize) {
        if let Some(units) = NonZeroUsize::new(units)
            && self.order.is_empty()
        {
            // Whoever asks it for room gets a limit as well.
            self.order = LruCache::with_hasher(units, BuildHasherDefault::default());
            self.order.resize(NonZeroUsize::MAX);
        }
    }

    fn admitted(&mut self, unit: Unit, _facts: Facts) {
        self.order.put(unit, ());
    }

    fn touched(&mut self, unit: Unit, _facts: Facts) {
        self.order.promote(&unit);
    }

    fn removed(&mut self, unit: Unit) {
        self.order.pop(&unit);
    }

    fn victim(&mut self) -> Option<Unit> {
        self.order.pop_lru().map(|(unit, ())| unit)
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}
