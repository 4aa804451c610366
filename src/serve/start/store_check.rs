//! [`StoreCheck`]: whether the store can refuse to overwrite.
use super::within;
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{RemoteError, Store, supports_conditional_writes};
use crate::state::record::Records;
use crate::sync::Mutex;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

type Answer = std::result::Result<bool, RemoteError>;

/// Found out once for each state directory, while a start reads what it needs: nobody waits for its requests
/// as long as there are others under way.
pub struct StoreCheck<'a> {
    runtime: &'a Runtime,
    store: &'a Store,
    asked: Mutex<Option<JoinHandle<Answer>>>,
}

impl<'a> StoreCheck<'a> {
    /// Asks, unless that was done before or nobody wants to know.
    pub fn begin(
        runtime: &'a Runtime,
        settings: &MountSettings,
        store: &'a Store,
        records: &Records,
    ) -> Self {
        let known = records.meta().base.is_some() || settings.allow_unsafe_no_cas;
        let ask = || {
            let (store, key) = (Store::clone(store), format!("{}/probe", settings.name));
            runtime.spawn(async move { supports_conditional_writes(&*store, &key).await })
        };
        Self { runtime, store, asked: Mutex::new((!known).then(ask)) }
    }

    /// Waits for the answer, until `limit` if there is one. Nothing may be recorded of this remote before.
    pub fn passed(&self, limit: Option<Instant>) -> Result<()> {
        let Some(asked) = self.asked.lock().take() else { return Ok(()) };
        let stopped = |_| Error::new(ErrorKind::Io, "the check of the store was stopped");
        if self.runtime.block_on(within(limit, asked))?.map_err(stopped)?? {
            return Ok(());
        }
        let message = format!(
            "this store ignores conditional writes, so two machines could overwrite each other: {} \
             (--unsafe-no-cas accepts that)",
            self.store.url()
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

impl Drop for StoreCheck<'_> {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.lock().take() {
            asked.abort();
        }
    }
}
