//! The versions of a name, as people and JSON see them.
use super::control::LogLine;
use crate::remote::{ObjectStore, RemoteError};
use crate::state::head::{Head, LayerRef};

/// One line for each version, newest first.
pub fn lines(head: &Head) -> Vec<LogLine> {
    let versions = head.versions();
    let older = versions.iter().skip(1).map(|(layer, _)| Some(layer.version.to_string())).chain([None]);
    let line = |((layer, layers), parent): (&(&LayerRef, usize), Option<String>)| LogLine {
        version: layer.version.to_string(),
        time: Some(layer.time),
        writer: layer.writer.to_string(),
        layers: *layers as u64,
        bytes: layer.bytes,
        entries: Some(layer.entries),
        changed: Some(layer.changed),
        removed: Some(layer.removed),
        parent,
        tags: head.tags.iter().filter(|(_, v)| **v == layer.version).map(|(tag, _)| tag.clone()).collect(),
    };
    versions.iter().zip(older).map(line).collect()
}

/// Layout single keeps one version and no record of it but its archive: one line, or none if there is
/// no archive. `version`: its number where it is known; else the tag of the object stands for it.
pub async fn of_archive(
    store: &dyn ObjectStore,
    name: &str,
    version: Option<String>,
) -> Result<Vec<LogLine>, RemoteError> {
    // A stream that is dropped unread costs one request and no content.
    let download = match store.download(&format!("{name}.zst"), None).await {
        Ok(download) => download,
        Err(RemoteError::NotFound { .. }) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    Ok(vec![LogLine {
        version: version.unwrap_or(download.tag.0),
        time: None,
        writer: "-".to_owned(),
        layers: 1,
        bytes: download.length,
        entries: None,
        changed: None,
        removed: None,
        parent: None,
        tags: Vec::new(),
    }])
}
