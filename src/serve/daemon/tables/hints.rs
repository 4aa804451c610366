//! Hints between machines: who notices that a table has changed tells the others, and they ask their catalogs.
use crate::serve::peers::Peers;
use crate::serve::shared::Heard;
use crate::tables::{Lake, What};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What the events of tables are about.
const TOPIC: &str = "tables/changed";
/// So long this machine's own events are waited for at a time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The table in this folder has changed.
#[derive(Debug, Serialize, Deserialize)]
struct Hint {
    location: String,
}

/// Tells other machines of changes, and hears of theirs.
pub(super) async fn exchange(lake: Arc<Lake>, peers: Arc<Peers>) {
    tokio::join!(tell(&lake, &peers), hear(&lake, &peers));
}

async fn tell(lake: &Lake, peers: &Peers) {
    let mut next = lake.feed().since(None, PATIENCE).await.next;
    loop {
        let batch = lake.feed().since(Some(next), PATIENCE).await;
        if batch.ended {
            return;
        }
        next = batch.next;
        for event in batch.events.iter().filter(|event| matches!(event.what, What::Shown { .. })) {
            if let Some(location) = lake.location_of(&event.table) {
                peers.tell(TOPIC, &Hint { location }).await;
            }
        }
    }
}

async fn hear(lake: &Lake, peers: &Peers) {
    let mut listener = peers.listen(TOPIC);
    loop {
        match listener.next::<Hint>().await {
            Ok(Heard::Said(hint)) => lake.hint_folder(&hint.location),
            Ok(Heard::Gap) => lake.hint_all(),
            Err(error) => {
                tracing::warn!(%error, "no hints from other machines; catalogs are asked all the same");
                return;
            }
        }
    }
}
