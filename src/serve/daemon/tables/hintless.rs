//! Stands where hints between machines would, in a build without the feature `redis`.
use crate::cache::Tier;
use crate::error::Result;
use crate::serve::tiers::tiers;
use crate::tables::Lake;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// There is none.
pub(super) struct Exchange;

impl Exchange {
    /// Nothing ends.
    pub fn end(self) {}
}

/// Machines have nothing in common.
pub(super) struct Shared(Vec<Arc<dyn Tier>>);

impl Shared {
    /// Says that this build has no Redis, if one is named.
    pub async fn open(url: Option<&str>) -> Result<Self> {
        tiers(url).await.map(Self)
    }

    /// None.
    pub fn tiers(&self) -> Vec<Arc<dyn Tier>> {
        self.0.clone()
    }

    /// Nothing is told to anybody.
    pub fn exchange(self, _: &Arc<Lake>, _: &Runtime) -> Exchange {
        Exchange
    }
}
