//! [`Waiting`]: whoever waits for a file that somebody else fills.
use super::core::Core;
use super::error::CacheError;
use super::file::File;
use super::filling::{Filling, State};
use super::key::Key;
use super::stream::Stream;
use std::sync::Arc;
use std::time::Duration;

/// A file that somebody fills.
#[derive(Debug, Clone)]
pub struct Waiting {
    core: Arc<Core>,
    filling: Arc<Filling>,
}

impl Waiting {
    pub(super) fn new(core: Arc<Core>, filling: Arc<Filling>) -> Self {
        Self { core, filling }
    }

    /// The key that is filled.
    pub fn key(&self) -> &Key {
        &self.filling.key
    }

    /// Who fills it.
    pub fn filler(&self) -> &str {
        &self.filling.filler
    }

    /// Bytes that can be read already.
    pub fn written(&self) -> u64 {
        self.filling.progress.borrow().written
    }

    /// For how long it has been filled.
    pub fn age(&self) -> Duration {
        self.filling.since.elapsed()
    }

    /// The file, once all of it is there; or why it will not be.
    pub async fn file(&self) -> Result<File, CacheError> {
        let mut progress = self.filling.progress.subscribe();
        let ended = progress.wait_for(|p| !matches!(p.state, State::Writing)).await;
        let state = ended.map_err(|_| CacheError::Closed)?.state.clone();
        match state {
            State::Done(file) => Ok(file),
            State::Failed(cause) => Err(cause),
            State::Writing => Err(CacheError::Closed),
        }
    }

    /// What is there, and then the rest as it comes.
    pub fn stream(&self) -> Stream {
        Stream::filling(self.core.clone(), self.filling.clone())
    }
}
