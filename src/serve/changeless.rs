//! Stands where changes between proxies would, in a build without the feature `redis`.
use crate::cache::{OriginFiles, Tier};
use crate::error::Result;
use std::sync::Arc;

/// There is none.
pub struct Exchange;

impl Exchange {
    /// Nothing ends.
    pub fn end(self) {}
}

/// Proxies have nothing in common.
pub struct Shared(Vec<Arc<dyn Tier>>);

impl Shared {
    /// Says that this build has no Redis, if one is named.
    ///
    /// # Errors
    /// One is named.
    pub async fn open(url: Option<&str>) -> Result<Self> {
        super::tiers::tiers(url).await.map(Self)
    }

    /// None.
    pub fn tiers(&self) -> Vec<Arc<dyn Tier>> {
        self.0.clone()
    }

    /// Nothing is told to anybody.
    pub fn exchange(self, _: &Arc<OriginFiles>) -> Exchange {
        Exchange
    }
}
