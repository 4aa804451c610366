//! Changes of objects, between proxies of one bucket: who notices that an object is another one by now tells the
//! others, which ask the origin when it is read next. A hint is never believed.
use super::peers::Peers;
use super::shared::Heard;
use crate::cache::OriginFiles;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// What these events are about.
const TOPIC: &str = "objects/changed";

/// This object has changed.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    bucket: String,
    key: String,
}

/// Tells other proxies of changes, and hears of theirs.
pub async fn exchange(files: Arc<OriginFiles>, peers: Arc<Peers>) {
    tokio::join!(tell(&files, &peers), hear(&files, &peers));
}

async fn tell(files: &OriginFiles, peers: &Peers) {
    let mut changes = files.changes();
    loop {
        match changes.recv().await {
            Ok(key) => {
                let change = Change { bucket: files.bucket().to_owned(), key: key.to_string() };
                peers.tell(TOPIC, &change).await;
            }
            // They find these by themselves, when what they know is no longer fresh.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn hear(files: &OriginFiles, peers: &Peers) {
    let mut listener = peers.listen(TOPIC);
    loop {
        match listener.next::<Change>().await {
            Ok(Heard::Said(change)) if change.bucket == files.bucket() => files.forget(&change.key),
            Ok(Heard::Said(_)) => {}
            Ok(Heard::Gap) => files.forget_all(),
            Err(error) => {
                tracing::warn!(%error, "no hints from other machines; the origin is asked all the same");
                return;
            }
        }
    }
}
