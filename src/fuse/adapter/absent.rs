//! Operations that need content which is not on the disk yet: they begin when it is there.
use super::Adapter;
use crate::fs::absent::Need;
use crate::fuse::transport::Reply;
use crate::state::absent::Hydrator;
use crate::state::absent::tree::Node;
use std::sync::Arc;
use std::time::Duration;

/// When no byte has come from the store for so long, the wait ends with `EIO`: no program waits without
/// end, and a large file may take as long as it is large.
const PATIENCE: Duration = Duration::from_secs(120);

impl Adapter {
    /// Runs `op` when what it needs is on the disk; at once, on this thread, if nothing is missing.
    pub(super) fn when_here<T: Send + 'static>(
        &self,
        need: Need,
        reply: Reply<T>,
        op: impl FnOnce(&Self, Reply<T>) + Send + 'static,
    ) {
        let (Some(hydrator), false) = (&self.hydrator, need == Need::Nothing) else {
            return op(self, reply);
        };
        let (this, hydrator) = (self.clone(), hydrator.clone());
        hydrator.handle().clone().spawn(async move {
            let brought = while_it_comes(&hydrator, bring(&hydrator, need)).await;
            // The operation itself may wait for a disk.
            tokio::task::spawn_blocking(move || match brought {
                Ok(()) => op(&this, reply),
                Err(error) => {
                    tracing::warn!(%error, "content could not be brought");
                    reply.error(libc::EIO);
                }
            });
        });
    }
}

async fn while_it_comes(
    hydrator: &Hydrator,
    brought: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let mut brought = std::pin::pin!(brought);
    let mut bytes = hydrator.bytes();
    loop {
        if let Ok(brought) = tokio::time::timeout(PATIENCE, &mut brought).await {
            return brought;
        }
        if hydrator.bytes() == std::mem::replace(&mut bytes, hydrator.bytes()) {
            return Err("the store has sent nothing for too long".to_owned());
        }
    }
}

async fn bring(hydrator: &Arc<Hydrator>, need: Need) -> Result<(), String> {
    match need {
        Need::Nothing => Ok(()),
        Need::Files(files) => hydrator.bring(files).await.map_err(|e| e.to_string()),
        Need::Empty(file) => {
            let own = hydrator.clone();
            blocking(move || own.empty(file).map_err(|e| e.to_string())).await
        }
        Need::Below(nodes) => {
            let (own, made) = (hydrator.clone(), nodes.clone());
            let make = move |node: &Node| own.absent().make_within(*node).map_err(|e| e.to_string());
            blocking(move || made.iter().try_for_each(make)).await?;
            let files = nodes.iter().flat_map(|node| hydrator.absent().files_within(*node)).collect();
            hydrator.bring(files).await.map_err(|e| e.to_string())
        }
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("the daemon is ending".to_owned()))
}
