//! Fills that bring nothing any more are given up.
use super::core::Core;
use super::error::CacheError;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// How often within the time of a stall it is looked for.
const LOOKS_PER_STALL: u32 = 4;

/// Gives up fills that have stalled, as long as the cache lives.
pub async fn watch_fills(core: Weak<Core>, filling: Arc<Notify>, stall: Duration) {
    loop {
        let idle = match core.upgrade() {
            Some(core) => core.fillings.lock().is_empty(),
            None => return,
        };
        // Without a reference while it waits, so that a cache that nobody uses ends.
        if idle {
            filling.notified().await;
        } else {
            tokio::time::sleep(stall / LOOKS_PER_STALL).await;
        }
        let Some(core) = core.upgrade() else { return };
        let fillings: Vec<_> = core.fillings.lock().values().filter_map(Weak::upgrade).collect();
        for filling in fillings {
            let after = filling.progress.borrow().last.elapsed();
            if after >= stall {
                tracing::warn!(key = %filling.key, filler = %filling.filler, "a fill has stalled and is given up");
                let ending = core.clone();
                core.runtime.spawn_blocking(move || filling.abandon(&ending, CacheError::Stalled { after }));
            }
        }
    }
}
