//! The versions of a name, as people and JSON see them.
use super::control::LogLine;
use crate::state::head::Head;

/// One line for each version, newest first.
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
