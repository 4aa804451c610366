//! The history of a name.
use super::{Opened, single_key, unknown};
use crate::Result;
use crate::config::{Layout, RemoteSettings};
use crate::remote::RemoteError;
use crate::serve::control::LogLine;
use crate::serve::history::lines;

/// The versions of a name, newest first.
pub fn log(remote: &RemoteSettings) -> Result<Vec<LogLine>> {
    let opened = Opened::new(remote)?;
    match remote.layout {
        Layout::Layered => Ok(lines(&opened.expect_head(remote)?)),
        Layout::Single => single(&opened, remote),
    }
}

/// This layout keeps one version and no record of it but its archive.
fn single(opened: &Opened, remote: &RemoteSettings) -> Result<Vec<LogLine>> {
    // A stream that is dropped unread costs one request and no content.
    let found = opened.runtime.block_on(opened.store.download(&single_key(remote), None));
    let download = match found {
        Ok(download) => download,
        Err(RemoteError::NotFound { .. }) => return Err(unknown(remote)),
        Err(e) => return Err(e.into()),
    };
    Ok(vec![LogLine {
        version: download.tag.0,
        time: jiff::Timestamp::UNIX_EPOCH,
        writer: "-".to_owned(),
        layers: 1,
        bytes: download.length,
        entries: None,
        parent: None,
        tags: Vec::new(),
    }])
}
