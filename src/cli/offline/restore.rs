//! A version of a name, written into a directory.
use super::{Opened, Show, Transferred};
use crate::config::{Layout, RemoteSettings};
use crate::state::head::Head;
use crate::{Error, ErrorKind, Result};
use std::fs::File;

/// Writes a version (the newest one if `None`) beneath `target`.
pub fn restore(
    remote: &RemoteSettings,
    version: Option<&str>,
    target: &File,
    show: &Show<'_>,
) -> Result<Transferred> {
    if remote.layout == Layout::Single {
        let message = "layout single is restored by: zstd -d NAME.zst | tar x";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let opened = Opened::new(remote)?;
    let head = select(opened.expect_head(remote)?, version)?;
    let _ = (target, show);
    Err(Error::new(ErrorKind::Unsupported, format!("this build cannot restore: version {}", head.version)))
}

/// The newest version, or the one asked for.
fn select(head: Head, version: Option<&str>) -> Result<Head> {
    let Some(version) = version else { return Ok(head) };
    let number = version.parse().map_err(|_| {
        Error::new(ErrorKind::Invalid, format!("version must be a number, see 'icecache log': {version}"))
    })?;
    head.at(number).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no such version: {version}")))
}
