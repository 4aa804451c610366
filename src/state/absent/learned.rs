//! [`Learned`]: the trace of a name, beside its HEAD in the remote.
//!
//! It is a help and no more: what cannot be read or written is a line in the log.
use super::Absent;
use super::trace::{TRACE_BYTES_MAX, Trace, TraceError};
use crate::remote::{Condition, RemoteError, Store};
use crate::sync::Mutex;
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// See the module. Owner of its lock.
pub struct Learned {
    absent: Arc<Absent>,
    store: Store,
    key: String,
    earlier: OnceCell<Trace>,
    /// How much was recorded when it was written last.
    written: Mutex<usize>,
}

impl std::fmt::Debug for Learned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learned").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot read trace: {0}")]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Trace(#[from] TraceError),
}

impl Learned {
    /// What is learned of `name`.
    pub fn new(absent: Arc<Absent>, store: Store, name: &str) -> Self {
        let (earlier, written) = (OnceCell::new(), Mutex::default());
        Self { absent, store, key: format!("{name}/trace"), earlier, written }
    }

    /// What earlier mounts have read first; `None` if nobody can tell now.
    pub async fn earlier(&self) -> Option<&Trace> {
        let read = self.earlier.get_or_try_init(|| async {
            match self.read().await {
                Err(Unusable::Remote(RemoteError::NotFound { .. })) => Ok(Trace::default()),
                // Useless as it is, so another may take its place; not that of a newer program.
                Err(Unusable::Trace(error @ (TraceError::Corrupt { .. } | TraceError::TooLong { .. }))) => {
                    tracing::warn!(%error, key = self.key, "what was learned cannot be used");
                    Ok(Trace::default())
                }
                other => other,
            }
        });
        read.await.inspect_err(|error| tracing::warn!(%error, key = self.key, "nothing is learned")).ok()
    }

    /// The same, as far as it is known already.
    pub fn known(&self) -> Option<&Trace> {
        self.earlier.get()
    }

    async fn read(&self) -> Result<Trace, Unusable> {
        let mut download = self.store.download(&self.key, None).await?;
        if download.length > TRACE_BYTES_MAX as u64 {
            return Err(TraceError::TooLong { bytes: download.length }.into());
        }
        let mut bytes = Vec::with_capacity(download.length as usize);
        while let Some(chunk) = download.body.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > TRACE_BYTES_MAX {
                return Err(TraceError::TooLong { bytes: bytes.len() as u64 }.into());
            }
        }
        Ok(Trace::parse(&bytes)?)
    }

    /// Writes what was recorded, if there is more than when it was written last.
    pub async fn save(&self) {
        let recorded = self.absent.recorder().len();
        if recorded == *self.written.lock() {
            return;
        }
        let Some(earlier) = self.earlier().await else { return };
        let bytes = self.absent.recorder().trace(&self.absent).after(earlier.clone()).to_bytes();
        match self.store.put(&self.key, bytes.into(), Condition::Always).await {
            Ok(_) => *self.written.lock() = recorded,
            Err(error) => tracing::warn!(%error, key = self.key, "cannot save what was learned"),
        }
    }
}
