//! What several machines have in common: blocks that one has fetched, and hints that something has changed.
use super::peers::Peers;
use crate::cache::Tier;
use crate::error::Result;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// The others, if the settings lead to any.
pub struct Shared(Option<Arc<Peers>>);

/// Talk with the others: ends when it is dropped.
pub struct Exchange(Option<AbortHandle>);

/// What one of the others says.
#[derive(Debug)]
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nobody is there to be heard"))]
pub enum Heard<T> {
    /// This.
    Said(T),
    /// Something may have been said that was not heard.
    Gap,
}

impl Shared {
    /// Those who meet at the Redis of this URL. One that does not answer is asked again later.
    ///
    /// # Errors
    /// The URL cannot be used, or this build has no Redis.
    pub async fn open(redis: Option<&str>) -> Result<Self> {
        match redis {
            Some(url) => Ok(Self(Some(Arc::new(Peers::open(url).await?)))),
            None => Ok(Self(None)),
        }
    }

    /// Where blocks are looked for before the store is asked.
    pub fn tiers(&self) -> Vec<Arc<dyn Tier>> {
        self.0.iter().map(|peers| peers.tier()).collect()
    }

    /// Talks with the others in this way until the answer is dropped; with nobody, if there are none.
    pub fn exchange<F>(self, runtime: &Handle, talk: impl FnOnce(Arc<Peers>) -> F) -> Exchange
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Exchange(self.0.map(|peers| runtime.spawn(talk(peers)).abort_handle()))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(talk) = &self.0 {
            talk.abort();
        }
    }
}
