//! Stands where metrics would, in a build without the feature `http`.
use super::served::Served;
use super::tables::Desk;
use crate::config::MountSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Counters;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// There is none.
pub enum Listening {}
/// There is none.
pub enum Serving {}

impl Listening {
    /// Says that this build has no metrics, if the settings ask for them.
    pub fn begin(_runtime: &Runtime, settings: &MountSettings) -> Result<Option<Self>> {
        if settings.metrics.is_none() {
            return Ok(None);
        }
        let message = "this build has no metrics: it was made without the feature 'http'";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    pub fn address(&self) -> SocketAddr {
        match *self {}
    }

    pub fn serve(
        self,
        _runtime: &Runtime,
        _settings: Arc<MountSettings>,
        _served: Arc<Served>,
        _requests: Arc<Counters>,
        _tables: Option<Desk>,
    ) -> Serving {
        match self {}
    }

    #[cfg(feature = "tables")]
    pub fn serve_tables(self, _runtime: &Runtime, _desk: Desk) -> Serving {
        match self {}
    }
}

impl Serving {
    pub fn end(self, _runtime: &Runtime) {
        match self {}
    }
}
