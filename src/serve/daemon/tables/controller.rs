//! What the control socket asks of a mount that shows tables.
use super::{BUSY_PATIENCE, BUSY_PAUSE, Desk};
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::fuse::mount::Mounted;
use crate::serve::control::{
    Controller, ExportReply, FlushReply, HydrateReply, LogLine, Status, TablesAsk, UnmountReply,
};
use crate::serve::daemon::controller::blocking;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What the control socket asks of a mount of tables.
#[derive(Clone)]
pub(super) struct TablesController {
    pub(super) settings: Arc<MountSettings>,
    pub(super) mounted: Arc<Mounted>,
    pub(super) mode: (String, String),
    pub(super) transport: &'static str,
    pub(super) desk: Desk,
    pub(super) started: Instant,
}

impl TablesController {
    fn refused<T>(&self, what: &str) -> Result<T> {
        let message = format!("{what}, tables are mounted read-only: {}", self.settings.dir.display());
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn unmount_now(&self) -> Result<UnmountReply> {
        let give_up = Instant::now() + BUSY_PATIENCE;
        while let Err(e) = self.mounted.unmount(false) {
            if e.kind() != io::ErrorKind::ResourceBusy {
                return Err(Error::io(format!("cannot unmount {}", self.settings.dir.display()), e));
            }
            if Instant::now() > give_up {
                let dir = self.settings.dir.display();
                let message = format!("still in use: {dir} (lsof or fuser tells by whom)");
                return Ok(self.reply(false, Some(&Error::new(ErrorKind::Busy, message))));
            }
            std::thread::sleep(BUSY_PAUSE);
        }
        Ok(self.reply(true, None))
    }

    fn reply(&self, unmounted: bool, error: Option<&Error>) -> UnmountReply {
        UnmountReply {
            version: None,
            unmounted,
            unsaved_total: 0,
            unsaved: Vec::new(),
            kept_in: PathBuf::new(),
            error: error.map(Into::into),
            fork: None,
            absent_files: 0,
            merged: None,
        }
    }
}

impl Controller for TablesController {
    fn status(&self) -> Status {
        Status {
            dir: self.settings.dir.clone(),
            pid: std::process::id(),
            mode: self.mode.0.clone(),
            mode_reason: self.mode.1.clone(),
            transport: self.transport.to_owned(),
            name: "tables".to_owned(),
            remote: self.desk.catalogs.clone(),
            state_dir: self.settings.state_dir.clone(),
            version: None,
            read_only: true,
            fork: None,
            dirty_files: 0,
            dirty_bytes: 0,
            open_for_write: 0,
            absent_files: 0,
            absent_bytes: 0,
            lost_files: 0,
            lost_error: None,
            unneeded_layers: 0,
            unneeded_bytes: 0,
            unneeded_error: None,
            last_flush: None,
            last_error: None,
            stuck: Vec::new(),
            stuck_total: 0,
            tables: Some(self.desk.status()),
            uptime_s: self.started.elapsed().as_secs(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn stats(&self) -> Value {
        self.desk.stats()
    }

    fn flush(&self, _: bool) -> BoxFuture<'_, Result<FlushReply>> {
        async move { self.refused("nothing to flush") }.boxed()
    }

    fn log(&self) -> BoxFuture<'_, Result<Vec<LogLine>>> {
        async move { self.refused("no versions of a directory") }.boxed()
    }

    fn export(&self, _: File) -> BoxFuture<'_, Result<ExportReply>> {
        async move { self.refused("nothing to export") }.boxed()
    }

    fn hydrate(&self, _: Vec<PathBuf>) -> BoxFuture<'_, Result<HydrateReply>> {
        async move { self.refused("nothing to bring") }.boxed()
    }

    fn tables(&self, ask: TablesAsk) -> BoxFuture<'_, Result<Value>> {
        self.desk.answer(ask).boxed()
    }

    fn unmount(&self) -> BoxFuture<'_, Result<UnmountReply>> {
        let own = self.clone();
        blocking(move || own.unmount_now()).boxed()
    }
}
