//! [`CostBased`]: what is cheapest to get again, for the room it takes, goes first (Cherkasova's
//! GreedyDual-Size-Frequency).
//!
//! The value of a unit is `uses × cost ÷ bytes`, on top of the value that the last victim had: what is not
//! used any more is overtaken sooner or later, however valuable it was.
use super::{Facts, Policy, Unit};
use std::collections::{BTreeSet, HashMap};

/// What getting anything costs at least, in microseconds, so that no unit is worth nothing.
const COST_MIN_US: u64 = 100;

/// A value in 2⁻²⁰ microseconds a byte, so that it can be compared exactly.
type Value = u128;

/// Greedy-dual by size and frequency.
#[derive(Debug, Default)]
pub struct CostBased {
    order: BTreeSet<(Value, Unit)>,
    values: HashMap<Unit, Value>,
    /// The value of the last victim.
    floor: Value,
}

impl CostBased {
    fn put(&mut self, unit: Unit, facts: Facts) {
        self.removed(unit);
        let uses = Value::from(facts.hits) + 1;
        let cost = Value::from(u64::from(facts.cost_us).max(COST_MIN_US));
        let value = self.floor + ((uses * cost) << 20) / Value::from(facts.bytes.max(1));
        self.order.insert((value, unit));
        self.values.insert(unit, value);
    }
}

impl Policy for CostBased {
    fn name(&self) -> &'static str {
        "cost-based"
    }

    fn admitted(&mut self, unit: Unit, facts: Facts) {
        self.put(unit, facts);
    }

    fn touched(&mut self, unit: Unit, facts: Facts) {
        if self.values.contains_key(&unit) {
            self.put(unit, facts);
        }
    }

    fn removed(&mut self, unit: Unit) {
        if let Some(value) = self.values.remove(&unit) {
            self.order.remove(&(value, unit));
        }
    }

    fn victim(&mut self) -> Option<Unit> {
        let (value, unit) = self.order.pop_first()?;
        self.values.remove(&unit);
        self.floor = value;
        Some(unit)
    }

    fn len(&self) -> usize {
        self.values.len()
    }
}
