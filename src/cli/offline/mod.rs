//! The verbs that need a remote but no daemon.
mod export;
mod fork;
mod import;
mod log;
mod outline;
mod prune;
mod restore;
mod spool;
mod tag;
mod verify;

pub use export::export;
pub use fork::fork;
pub use import::{import, single_archive};
pub use log::log;
pub use prune::{Pruned, Rules, prune};
pub use restore::restore;
pub use spool::spool;
pub use tag::{Tagged, check_tag, tag};
pub use verify::verify;

pub use crate::config::Choice;

use crate::config::{Layout, RemoteSettings};
use crate::remote::{ObjectStore, Store, open_configured};
use crate::runtime::{self, Threads};
use crate::serve::startup::Progress;
use crate::state::head::{Head, archive_key, head_key, read_head};
use crate::state::restore as restoring;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Watches a transfer; may be called from any thread.
pub type Show<'a> = dyn Fn(&Progress) + Send + Sync + 'a;

/// What a restore or an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transferred {
    /// The version that was restored or made.
    pub version: String,
    /// Entries.
    pub entries: u64,
    /// Bytes that went over the wire.
    pub bytes: u64,
}

/// Hands on what a restore or a verification reports.
struct Reports<'a> {
    show: &'a Show<'a>,
    progress: Mutex<Progress>,
}

impl<'a> Reports<'a> {
    fn new(phase: &str, show: &'a Show<'a>) -> Self {
        Self { show, progress: Mutex::new(Progress { phase: phase.to_owned(), ..Progress::default() }) }
    }
}

impl restoring::Progress for Reports<'_> {
    fn bytes(&self, done: u64, total: u64) {
        let mut progress = self.progress.lock();
        (progress.bytes, progress.bytes_total) = (done, total);
        (self.show)(&progress);
    }

    fn files(&self, done: u64) {
        self.progress.lock().entries = done;
    }
}

/// A store, and the runtime on which it is used.
struct Opened {
    runtime: Runtime,
    store: Store,
}

impl Opened {
    fn new(remote: &RemoteSettings) -> Result<Self> {
        let runtime = runtime::start("remote", Threads::Few(2))?;
        let store = runtime.block_on(open_configured(&remote.remote, &remote.s3, Arc::default()))?;
        Ok(Self { runtime, store })
    }

    /// The newest version of a name; `None` only if there certainly is none.
    fn head(&self, remote: &RemoteSettings) -> Result<Option<Head>> {
        let read = self.runtime.block_on(read_head(&*self.store, remote.name.as_str()))?;
        Ok(read.map(|(head, _)| head))
    }

    /// Like [`head`](Self::head), where a version must exist.
    fn expect_head(&self, remote: &RemoteSettings) -> Result<Head> {
        self.head(remote)?.ok_or_else(|| self.unknown(remote))
    }

    /// Why a name has nothing of what was asked for.
    fn unknown(&self, remote: &RemoteSettings) -> Error {
        self.runtime.block_on(unknown(&*self.store, remote))
    }
}

/// See [`Opened::unknown`]: there is no such name, or it is in the other layout.
async fn unknown(store: &dyn ObjectStore, remote: &RemoteSettings) -> Error {
    let name = &remote.name;
    let (key, other) = match remote.layout {
        Layout::Layered | Layout::Log => (single_key(remote), "single"),
        Layout::Single => (head_key(name.as_str()), "layered"),
    };
    if store.head(&key).await.is_ok() {
        let message =
            format!("this name is in layout {other}, not in the one asked for: {name} in {}", remote.remote);
        return Error::new(ErrorKind::Invalid, message);
    }
    Error::new(ErrorKind::NotFound, format!("remote has no such name: {name} in {}", remote.remote))
}

/// The key of a name in layout single.
fn single_key(remote: &RemoteSettings) -> String {
    archive_key(remote.name.as_str())
}

#[cfg(test)]
mod tests;
