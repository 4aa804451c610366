//! What the control socket asks of a mount.
use super::ending::Ending;
use super::hydrating;
use super::served::Served;
use super::tables::Desk;
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::PackOptions;
use crate::path::RelPath;
use crate::remote::{Counters, Store};
use crate::serve::control::{
    Controller, ExportReply, FlushRecord, FlushReply, HydrateReply, LastError, LogLine, Status, TablesAsk,
    UNSAVED_LISTED_MAX, UnmountReply, Unsaved, no_tables,
};
use crate::state::absent::Left;
use crate::state::flusher::Flusher;
use crate::state::head::instant;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Answers for one mount.
pub struct MountController {
    settings: Arc<MountSettings>,
    served: Arc<Served>,
    flusher: Arc<Flusher>,
    ending: Arc<Ending>,
    requests: Arc<Counters>,
    store: Store,
    /// Answers for the tables beside the directory.
    tables: Option<Desk>,
}

impl MountController {
    /// Answers for `served`, which `flusher` saves.
    pub fn new(
        settings: Arc<MountSettings>,
        served: Arc<Served>,
        flusher: Arc<Flusher>,
        ending: Arc<Ending>,
        requests: Arc<Counters>,
        store: Store,
        tables: Option<Desk>,
    ) -> Self {
        Self { settings, served, flusher, ending, requests, store, tables }
    }

    fn left(&self) -> Left {
        self.served.hydrator().map_or_else(Left::default, |hydrator| hydrator.absent().left())
    }

    /// The fork that versions go to, also one that an earlier daemon had to make.
    fn fork(&self) -> Option<String> {
        Some(self.flusher.committer().name()).filter(|name| name != self.settings.name.as_str())
    }
}

/// Runs what may block for long on a thread where that does no harm.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stopped = |_| Error::new(ErrorKind::Unavailable, "the daemon is ending");
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

fn unsaved_entry((path, why): (&RelPath, &String)) -> Unsaved {
    Unsaved { path: PathBuf::from(OsStr::from_bytes(path.as_bytes())), reason: Some(why.clone()) }
}

impl Controller for MountController {
    fn status(&self) -> Status {
        let flushes = self.flusher.status();
        let unsaved = self.flusher.unsaved(0);
        let (mode, mode_reason) = self.served.mode();
        let (lost_files, lost_error) = hydrating::lost(self.served.hydrator());
        let (unneeded_layers, unneeded_bytes) = self.flusher.committer().unneeded();
        Status {
            dir: self.settings.dir.clone(),
            pid: std::process::id(),
            mode,
            mode_reason,
            transport: self.served.transport().to_owned(),
            name: self.flusher.committer().name(),
            remote: self.settings.remote.clone(),
            state_dir: self.settings.state_dir.clone(),
            version: super::version(flushes.version),
            read_only: false,
            fork: self.fork(),
            dirty_files: unsaved.count,
            dirty_bytes: unsaved.bytes,
            open_for_write: self.served.volume().open_for_write() as u64,
            absent_files: self.left().files,
            absent_bytes: self.left().bytes,
            lost_files,
            lost_error,
            unneeded_layers,
            unneeded_bytes,
            unneeded_error: self.flusher.prune_error(),
            last_flush: flushes.last.map(|done| FlushRecord {
                time: instant(done.time),
                version: done.receipt.version.to_string(),
                entries: done.receipt.changed + done.receipt.removed,
                bytes: done.receipt.bytes,
                duration_ms: done.duration.as_millis() as u64,
            }),
            last_error: flushes.error.map(|failed| LastError {
                time: instant(failed.time),
                message: failed.message,
                attempts: failed.attempts,
            }),
            stuck_total: flushes.stuck.len() as u64,
            stuck: flushes.stuck.iter().take(UNSAVED_LISTED_MAX).map(unsaved_entry).collect(),
            tables: self.tables.as_ref().map(Desk::status),
            uptime_s: self.served.started().elapsed().as_secs(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn stats(&self) -> serde_json::Value {
        let flushes = self.flusher.status();
        let mut stats = serde_json::json!({
            "operations": self.served.volume().counters().snapshot(),
            "requests": self.requests.snapshot(),
            "flushes": flushes.flushes,
            "flush_failures": flushes.failures,
            "hydrated_on_demand": self.served.hydrator().map_or(0, |h| h.demanded()),
            "prefetched_bytes": self.served.hydrator().map_or(0, |h| h.background()),
            "flushed_bytes": flushes.bytes,
            "cut": self.flusher.cut_stats(),
        });
        if let Some(tables) = &self.tables {
            stats["tables"] = tables.stats();
        }
        stats
    }

    fn flush(&self, wait: bool) -> BoxFuture<'_, Result<FlushReply>> {
        let asked = self.flusher.request();
        async move {
            if !wait {
                let status = self.flusher.status();
                return Ok(FlushReply {
                    version: super::version(status.version),
                    durable: false,
                    entries: 0,
                    bytes: 0,
                    fork: self.fork(),
                    merged: None,
                });
            }
            let ending = |_| Error::new(ErrorKind::Unavailable, "the daemon is ending");
            let receipt = asked.await.map_err(ending)??;
            let status = self.flusher.status();
            if let Some((path, why)) = status.stuck.first_key_value() {
                let message = format!("{} entries cannot be saved, first {path}: {why}", status.stuck.len());
                return Err(Error::new(ErrorKind::Io, message));
            }
            Ok(FlushReply {
                version: super::version(receipt.version),
                durable: true,
                entries: receipt.changed + receipt.removed,
                bytes: receipt.bytes,
                fork: self.fork(),
                merged: receipt.merge.as_ref().map(ToString::to_string),
            })
        }
        .boxed()
    }

    fn log(&self) -> BoxFuture<'_, Result<Vec<LogLine>>> {
        async move {
            let committer = self.flusher.committer();
            if self.settings.layout == crate::config::Layout::Single {
                let (name, version) = (committer.name(), super::version(committer.version()));
                return Ok(crate::serve::history::of_archive(&*self.store, &name, version).await?);
            }
            Ok(committer.head().map(|head| crate::serve::history::lines(&head)).unwrap_or_default())
        }
        .boxed()
    }

    fn export(&self, to: File) -> BoxFuture<'_, Result<ExportReply>> {
        let flusher = self.flusher.clone();
        let version = super::version(flusher.status().version);
        async move {
            // An archive is whole.
            hydrating::hydrate(self.served.hydrator(), Vec::new()).await?;
            blocking(move || {
                let packed = flusher.export(to, PackOptions::default())?;
                Ok(ExportReply { version, entries: packed.summary.entries, bytes: packed.summary.bytes })
            })
            .await
        }
        .boxed()
    }

    fn hydrate(&self, paths: Vec<PathBuf>) -> BoxFuture<'_, Result<HydrateReply>> {
        hydrating::hydrate(self.served.hydrator(), paths).boxed()
    }

    fn tables(&self, ask: TablesAsk) -> BoxFuture<'_, Result<serde_json::Value>> {
        async move {
            match &self.tables {
                Some(tables) => tables.answer(ask).await,
                None => Err(no_tables(&self.settings.dir)),
            }
        }
        .boxed()
    }

    fn unmount(&self) -> BoxFuture<'_, Result<UnmountReply>> {
        let ending = self.ending.clone();
        blocking(move || ending.unmount()).boxed()
    }
}

impl std::fmt::Debug for MountController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountController").field("remote", &self.store.url()).finish_non_exhaustive()
    }
}
