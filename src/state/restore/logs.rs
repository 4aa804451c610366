//! [`Logs`]: logs of SQLite that stand beside the databases of a version, and are not the version's.
//!
//! Whoever opens a database replays the log beside it. One that was written beside another database is damage, so it
//! does not stay where it is.
use super::existing::Ground;
use crate::layer::LayerError;
use crate::layer::extract::Extractor;
use crate::path::RelPath;
use crate::state::walindex::{LOG_SUFFIXES, is_log};
use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Logs {
    /// What stands beside a file that was placed, and may be one.
    beside: BTreeSet<RelPath>,
    /// What the version itself has under such a name.
    own: HashSet<RelPath>,
}

impl Logs {
    /// A file of the version stands at `path` now, which was not there before.
    pub(super) fn placed(&mut self, extractor: &mut Extractor, path: &RelPath) -> Result<(), LayerError> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return Ok(()) };
        for suffix in LOG_SUFFIXES {
            let log = parent.join(&[name, suffix].concat());
            if extractor.lstat(&log)?.is_some() {
                self.beside.insert(log);
            }
        }
        Ok(())
    }

    /// The version has `path`.
    pub(super) fn has(&mut self, path: &RelPath) {
        let name = path.name().unwrap_or_default();
        if LOG_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            self.own.insert(path.clone());
        }
    }

    /// Takes away what the version does not have.
    pub(super) fn tidy(self, extractor: &mut Extractor, ground: &mut Ground) -> Result<(), LayerError> {
        for log in self.beside.difference(&self.own.into_iter().collect()) {
            let parent = extractor.parent(log)?;
            if is_log(parent.as_fd(), log.name().unwrap_or_default()) {
                ground.move_aside(extractor, log)?;
            }
        }
        Ok(())
    }
}
