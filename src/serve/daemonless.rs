//! Stands where the daemon would, in a build without the feature `fuse`.
use super::startup::{Ended, StatusPipe};
use crate::Result;
use crate::config::MountSettings;

/// Says that this build cannot mount.
#[allow(clippy::needless_pass_by_value)] // the signature of the daemon
pub fn run(_settings: MountSettings, _status: &StatusPipe) -> Result<Ended> {
    Err(super::cannot_mount())
}
