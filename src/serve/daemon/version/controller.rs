//! What the control socket asks of a mount that shows a version.
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::MemoryJournal;
use crate::layer::PackOptions;
use crate::remote::{Counters, Store};
use crate::serve::control::{
    Controller, ExportReply, FlushReply, HydrateReply, LogLine, Status, UnmountReply,
};
use crate::serve::daemon::controller::blocking;
use crate::serve::daemon::ending::Ending;
use crate::serve::daemon::hydrating::{hydrate, lost};
use crate::serve::daemon::served::Served;
use crate::serve::history;
use crate::state::commit::pack::pack;
use crate::state::cut::{CutOptions, Cutter};
use crate::state::head::read_head;
use crate::state::plan::LookOptions;
use crate::state::record::Records;
use crate::state::staging::Staging;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Answers for a version.
#[derive(Clone)]
pub(super) struct VersionController {
    pub(super) settings: Arc<MountSettings>,
    pub(super) served: Arc<Served>,
    pub(super) ending: Arc<Ending>,
    pub(super) requests: Arc<Counters>,
    pub(super) store: Store,
    pub(super) version: String,
}

impl VersionController {
    /// Packs the version as it stands on the disk, which must be all of it.
    fn pack(&self, to: File) -> Result<ExportReply> {
        let place = self.settings.state_dir.join("staging");
        let staging =
            Staging::open(&place).map_err(|e| Error::io(format!("cannot use {}", place.display()), e))?;
        let options = CutOptions {
            deadline: self.settings.cut_deadline,
            mount_dev: 0,
            hold: false, // nobody can write
            look: LookOptions::default(),
        };
        let cutter = Cutter::new(self.served.volume().clone(), staging, options, None);
        // Nothing is known of the disk, so everything is packed.
        let records = Records::open(
            Arc::new(MemoryJournal::new()),
            &self.settings.remote,
            self.settings.name.as_str(),
        )?;
        let cut = cutter.cut_whole(&records)?;
        let packed = pack(&cut.plan, &cut, to, PackOptions::default(), None)?;
        Ok(ExportReply {
            version: Some(self.version.clone()),
            entries: packed.summary.entries,
            bytes: packed.summary.bytes,
        })
    }
}

impl Controller for VersionController {
    fn status(&self) -> Status {
        let (mode, mode_reason) = self.served.mode();
        let left = self.served.hydrator().map(|hydrator| hydrator.absent().left()).unwrap_or_default();
        let (lost_files, lost_error) = lost(self.served.hydrator());
        Status {
            dir: self.settings.dir.clone(),
            pid: std::process::id(),
            mode,
            mode_reason,
            transport: self.served.transport().to_owned(),
            name: self.settings.name.to_string(),
            remote: self.settings.remote.clone(),
            state_dir: self.settings.state_dir.clone(),
            version: Some(self.version.clone()),
            read_only: true,
            fork: None,
            dirty_files: 0,
            dirty_bytes: 0,
            open_for_write: 0,
            absent_files: left.files,
            absent_bytes: left.bytes,
            lost_files,
            lost_error,
            unneeded_layers: 0,
            unneeded_bytes: 0,
            unneeded_error: None,
            last_flush: None,
            last_error: None,
            stuck: Vec::new(),
            stuck_total: 0,
            tables: None,
            uptime_s: self.served.started().elapsed().as_secs(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({
            "operations": self.served.volume().counters().snapshot(),
            "requests": self.requests.snapshot(),
            "flushes": 0,
            "hydrated_on_demand": self.served.hydrator().map_or(0, |hydrator| hydrator.demanded()),
        })
    }

    fn flush(&self, _: bool) -> BoxFuture<'_, Result<FlushReply>> {
        let message = format!(
            "nothing to flush, version {} is mounted read-only: {}",
            self.version,
            self.settings.dir.display()
        );
        async move { Err(Error::new(ErrorKind::Unsupported, message)) }.boxed()
    }

    fn log(&self) -> BoxFuture<'_, Result<Vec<LogLine>>> {
        async move {
            let read = read_head(&*self.store, self.settings.name.as_str()).await?;
            Ok(read.map(|(head, _)| history::lines(&head)).unwrap_or_default())
        }
        .boxed()
    }

    fn export(&self, to: File) -> BoxFuture<'_, Result<ExportReply>> {
        async move {
            hydrate(self.served.hydrator(), Vec::new()).await?;
            let own = self.clone();
            blocking(move || own.pack(to)).await
        }
        .boxed()
    }

    fn hydrate(&self, paths: Vec<PathBuf>) -> BoxFuture<'_, Result<HydrateReply>> {
        hydrate(self.served.hydrator(), paths).boxed()
    }

    fn unmount(&self) -> BoxFuture<'_, Result<UnmountReply>> {
        let ending = self.ending.clone();
        blocking(move || ending.unmount()).boxed()
    }
}
