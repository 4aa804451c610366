//! Stands where hints by HTTP would be taken, in a build without the feature `http`.
use crate::config::TablesSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::serve::startup::StatusPipe;
use crate::tables::Lake;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// There is none.
pub(super) enum Webhook {}
/// None are taken.
pub(super) enum Taking {}

impl Webhook {
    /// Says that this build takes no hints, if the settings ask for it.
    pub fn begin(settings: &TablesSettings, _: &Runtime, _: &StatusPipe) -> Result<Option<Self>> {
        if settings.hints.is_none() {
            return Ok(None);
        }
        let message = "this build takes no hints by HTTP: it was made without the feature 'http'";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    pub fn address(&self) -> SocketAddr {
        match *self {}
    }

    pub fn serve(self, _: &Runtime, _: Arc<Lake>) -> Taking {
        match self {}
    }
}

impl Taking {
    pub fn end(self, _: &Runtime) {
        match self {}
    }
}
