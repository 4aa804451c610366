//! Stands where tables would, in a build without the feature `tables`.
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{Kernel, Volume};
use crate::fuse::adapter::Adapter;
use crate::fuse::connection::Wanted;
use crate::fuse::transport::Handler;
use crate::serve::control::{TablesAsk, TablesStatus};
#[cfg(feature = "http")]
use crate::serve::metrics::TablesTotals;
use crate::serve::startup::{Ended, StatusPipe};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// There is none.
pub enum Shelf {}
/// There are none.
pub enum Shown {}
/// There is none.
#[derive(Debug, Clone)]
pub enum Desk {}

fn without() -> Error {
    let message = "this build shows no tables: it was made without the feature 'tables'";
    Error::new(ErrorKind::Unsupported, message)
}

pub(super) fn run(_: &Arc<MountSettings>, _: &StatusPipe) -> Result<Ended> {
    Err(without())
}

impl Shelf {
    /// Says that this build has no tables, if the settings name some.
    pub fn open(settings: &MountSettings, _: &Runtime, _: &StatusPipe) -> Result<Option<Self>> {
        if settings.tables.is_none() { Ok(None) } else { Err(without()) }
    }

    pub fn wanted(&self, _: bool) -> Wanted {
        match *self {}
    }

    pub fn io_bytes(&self) -> u32 {
        match *self {}
    }

    pub fn withheld(&self) -> usize {
        match *self {}
    }

    pub fn beside(&self, _: Arc<Volume>, _: Adapter) -> Arc<dyn Handler> {
        match *self {}
    }

    pub fn fits(&self, _: &Volume) -> Result<()> {
        match *self {}
    }

    pub fn set_kernel(&self, _: Arc<dyn Kernel>) {
        match *self {}
    }

    pub fn show(self, _: &Runtime) -> Shown {
        match self {}
    }
}

impl Shown {
    pub fn desk(&self) -> Desk {
        match *self {}
    }

    pub fn end(self, _: &Runtime) {
        match self {}
    }
}

impl Desk {
    pub fn hints(&self) -> Option<SocketAddr> {
        match *self {}
    }

    pub fn status(&self) -> TablesStatus {
        match *self {}
    }

    pub fn stats(&self) -> Value {
        match *self {}
    }

    #[cfg(feature = "http")]
    pub fn totals(&self) -> TablesTotals {
        match *self {}
    }

    pub async fn answer(&self, _: TablesAsk) -> Result<Value> {
        match *self {}
    }
}
