//! [`Lru`]: what was not used for longest goes first.
use super::{Facts, Policy, Unit};
use lru::LruCache;

/// Least recently used.
#[derive(Debug)]
pub struct Lru {
    order: LruCache<Unit, ()>,
}

impl Default for Lru {
    fn default() -> Self {
        Self { order: LruCache::unbounded() }
    }
}

impl Policy for Lru {
    fn name(&self) -> &'static str {
        "lru"
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
