//! Hints between machines: who notices that a table has changed tells the others, and they ask their catalogs.
use crate::cache::Tier;
use crate::error::Result;
use crate::redis::{Notice, RedisTier};
use crate::serve::tiers::redis;
use crate::tables::{Lake, What};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

/// What the events of tables are about.
const TOPIC: &str = "tables/changed";
/// So long this machine's own events are waited for at a time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The table in this folder has changed.
#[derive(Debug, Serialize, Deserialize)]
struct Hint {
    location: String,
}

/// What several machines have in common: a Redis, if one is named.
pub(super) struct Shared(Option<Arc<RedisTier>>);

/// Ends the exchange of hints when it is dropped.
pub(super) struct Exchange(Option<AbortHandle>);

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
    pub async fn open(url: Option<&str>) -> Result<Self> {
        redis(url).await.map(Self)
    }

    /// Where blocks are looked for before the store is asked.
    pub fn tiers(&self) -> Vec<Arc<dyn Tier>> {
        self.0.iter().map(|tier| tier.clone() as Arc<dyn Tier>).collect()
    }

    /// Tells other machines of changes, and hears of theirs, until the answer is dropped.
    pub fn exchange(self, lake: &Arc<Lake>, runtime: &Runtime) -> Exchange {
        let Some(tier) = self.0 else { return Exchange(None) };
        let lake = lake.clone();
        let exchange = runtime.spawn(async move { tokio::join!(tell(&lake, &tier), hear(&lake, &tier)) });
        Exchange(Some(exchange.abort_handle()))
    }
}

async fn tell(lake: &Lake, tier: &RedisTier) {
    let mut next = lake.feed().since(None, PATIENCE).await.next;
    loop {
        let batch = lake.feed().since(Some(next), PATIENCE).await;
        if batch.ended {
            return;
        }
        next = batch.next;
        for event in batch.events.iter().filter(|event| matches!(event.what, What::Shown { .. })) {
            let Some(location) = lake.location_of(&event.table) else { continue };
            if let Err(error) = tier.publish(TOPIC, &Hint { location }).await {
                tracing::debug!(%error, "other machines could not be told of a change");
            }
        }
    }
}

async fn hear(lake: &Lake, tier: &RedisTier) {
    let mut subscription = tier.subscribe(TOPIC);
    loop {
        match subscription.next().await {
            Ok(Notice::Event(event)) => {
                if let Ok(hint) = serde_json::from_value::<Hint>(event.payload) {
                    lake.hint(&hint.location).await;
                }
            }
            // There may have been some that were not heard.
            Ok(Notice::Gap) => drop(lake.refresh_now(None).await),
            Err(error) => {
                tracing::warn!(%error, "no hints from other machines; catalogs are asked all the same");
                return;
            }
        }
    }
}
