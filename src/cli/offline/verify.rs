//! A version of a name, looked at without writing anything.
use super::{Choice, Opened, Reports, Show};
use crate::config::{Layout, RemoteSettings};
use crate::state::choice::choose;
use crate::state::verify::{self, Depth, Report};
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;

/// What a person sees of it.
const PHASE: &str = "verifying";

/// Whether a version could be restored.
pub fn verify(remote: &RemoteSettings, choice: &Choice, depth: Depth, show: &Show<'_>) -> Result<Report> {
    if remote.layout == Layout::Single {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "layout single keeps nothing to verify an archive by: test it with 'zstd -t'",
        ));
    }
    let opened = Opened::new(remote)?;
    let head = choose(opened.expect_head(remote)?, choice)?;
    let reports = Reports::new(PHASE, show);
    let work = verify::verify(Arc::clone(&opened.store), &head, depth, &reports);
    Ok(opened.runtime.block_on(work)?)
}
