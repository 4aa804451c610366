//! [`Waste`]: how much of what the layers of a version hold is of no use to it.
use super::merge::{Merge, Tail};
use crate::layer::{Kind, LayerError};
use crate::state::head::{Head, layer_id};
use std::collections::HashMap;
use std::ops::Range;
use uuid::Uuid;

/// A restore may read this many hundredths of what it needs for nothing.
const DEAD_MAX_PERCENT: u64 = 20;

/// In bytes of tar streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::state) struct Waste {
    /// What the version needs.
    pub(in crate::state) live: u64,
    /// What stands beside it in the same layers, and in those that are referred to.
    pub(in crate::state) dead: u64,
}

impl Waste {
    /// That of the layers `run` of a version, which begin with its oldest. `tails` are theirs.
    pub(in crate::state) fn of(
        head: &Head,
        run: Range<usize>,
        tails: &[Tail<'_>],
    ) -> Result<Self, LayerError> {
        let layers = head.layers.get(run).unwrap_or_default();
        let mut lent: HashMap<Uuid, u64> = HashMap::new();
        let mut live = 0;
        for merged in Merge::new(tails)? {
            let merged = merged?;
            live += merged.row.length;
            if let Kind::File { refs, .. } = &merged.entry.kind {
                for part in refs.iter() {
                    *lent.entry(part.layer).or_default() += part.length;
                }
            }
        }
        let own = |id: &Uuid| layers.iter().any(|layer| layer_id(&layer.key) == Some(*id));
        let whole: u64 = layers.iter().map(|layer| layer.raw_bytes).sum();
        let lenders: u64 = head
            .held
            .iter()
            .filter(|layer| layer_id(&layer.key).is_some_and(|id| lent.contains_key(&id) && !own(&id)))
            .map(|layer| layer.raw_bytes)
            .sum();
        live += lent.values().sum::<u64>();
        Ok(Self { live, dead: (whole + lenders).saturating_sub(live) })
    }

    /// Whether a restore is much slower for it.
    pub(in crate::state) fn is_much(&self) -> bool {
        self.dead.saturating_mul(100) > self.live.saturating_mul(DEAD_MAX_PERCENT)
    }
}
