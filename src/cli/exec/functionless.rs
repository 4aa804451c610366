//! Stands where functions would, in a build without the feature `lambda`.
use crate::Result;
use crate::cli::Context;
use crate::cli::kept::Kept;
use crate::serve::run::Grace;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// There is none.
#[derive(Debug)]
pub(super) enum Function {}

impl Function {
    pub(super) fn grace(_: &Context) -> Option<Grace> {
        None
    }

    pub(super) fn of(_: &Context) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn claim(_: &Path) {}

    pub(super) fn stand_before(self, _: &mut Command, _: &Arc<Kept>) -> Result<Self> {
        match self {}
    }

    pub(super) fn finish(self) {
        match self {}
    }
}
