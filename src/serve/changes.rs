//! Changes of objects, between proxies of one bucket: who notices that an object is another one by now tells the
//! others, which ask the origin when it is read next. A hint is never believed.
use crate::cache::{OriginFiles, Tier};
use crate::error::Result;
use crate::redis::{Notice, RedisTier};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

/// What these events are about.
const TOPIC: &str = "objects/changed";

/// This object has changed.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    bucket: String,
    key: String,
}

/// What several proxies have in common: a Redis, if one is named.
pub struct Shared(Option<Arc<RedisTier>>);

/// Ends the exchange when it is dropped.
pub struct Exchange(Option<AbortHandle>);

impl Exchange {
    /// From now on nothing is told and heard.
    pub fn end(self) {}
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(exchange) = &self.0 {
            exchange.abort();
        }
    }
}

impl Shared {
    /// The Redis at this URL. One that does not answer is asked again later.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub async fn open(url: Option<&str>) -> Result<Self> {
        super::tiers::redis(url).await.map(Self)
    }

    /// Where blocks are looked for before the store is asked.
    pub fn tiers(&self) -> Vec<Arc<dyn Tier>> {
        self.0.iter().map(|tier| tier.clone() as Arc<dyn Tier>).collect()
    }

    /// Tells other proxies of changes, and hears of theirs, until the answer is dropped.
    pub fn exchange(self, files: &Arc<OriginFiles>) -> Exchange {
        let Some(tier) = self.0 else { return Exchange(None) };
        let files = files.clone();
        let exchange = tokio::spawn(async move { tokio::join!(tell(&files, &tier), hear(&files, &tier)) });
        Exchange(Some(exchange.abort_handle()))
    }
}

async fn tell(files: &OriginFiles, tier: &RedisTier) {
    let mut changes = files.changes();
    loop {
        match changes.recv().await {
            Ok(key) => {
                let change = Change { bucket: files.bucket().to_owned(), key: key.to_string() };
                if let Err(error) = tier.publish(TOPIC, &change).await {
                    tracing::debug!(%error, "other machines could not be told of a change");
                }
            }
            // They find these by themselves, when what they know is no longer fresh.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn hear(files: &OriginFiles, tier: &RedisTier) {
    let mut subscription = tier.subscribe(TOPIC);
    loop {
        match subscription.next().await {
            Ok(Notice::Event(event)) => {
                if let Ok(change) = serde_json::from_value::<Change>(event.payload)
                    && change.bucket == files.bucket()
                {
                    files.forget(&change.key);
                }
            }
            // There may have been some that were not heard.
            Ok(Notice::Gap) => files.forget_all(),
            Err(error) => {
                tracing::warn!(%error, "no hints from other machines; the origin is asked all the same");
                return;
            }
        }
    }
}
