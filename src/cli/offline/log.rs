//! The history of a name.
use super::{Opened, single_key, unknown};
use crate::Result;
use crate::config::{Layout, RemoteSettings};
use crate::remote::RemoteError;
use crate::serve::control::LogLine;
use crate::state::head::Head;

/// The versions of a name, newest first.
pub fn log(remote: &RemoteSettings) -> Result<Vec<LogLine>> {
    let opened = Opened::new(remote)?;
    match remote.layout {
        Layout::Layered => Ok(lines(&opened.expect_head(remote)?)),
        Layout::Single => single(&opened, remote),
    }
}

/// One line for each layer that is still apart.
pub fn lines(head: &Head) -> Vec<LogLine> {
    let mut parent = None;
    let mut lines: Vec<LogLine> = Vec::with_capacity(head.layers.len());
    for (index, layer) in head.layers.iter().enumerate() {
        let version = layer.version.to_string();
        lines.push(LogLine {
            version: version.clone(),
            time: layer.time,
            writer: layer.writer.to_string(),
            layers: index as u64 + 1,
            bytes: layer.bytes,
            entries: Some(layer.entries),
            parent: parent.replace(version),
            tags: Vec::new(),
        });
    }
    lines.reverse();
    lines
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
