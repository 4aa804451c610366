//! The verbs that need a remote but no daemon.
use crate::config::RemoteSettings;
use crate::serve::control::LogLine;
use crate::serve::startup::Progress;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fs::File;

/// What a restore or an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transferred {
    /// The version that was restored or made.
    pub version: String,
    /// Entries.
    pub entries: u64,
    /// Bytes that went over the wire.
    pub bytes: u64,
}

/// The versions of a name, newest first.
pub fn log(remote: &RemoteSettings) -> Result<Vec<LogLine>> {
    Err(pending("log", remote))
}

/// Writes a version (the newest one if `None`) beneath `target`.
pub fn restore(
    remote: &RemoteSettings,
    _version: Option<&str>,
    _target: &File,
    _progress: &mut dyn FnMut(&Progress),
) -> Result<Transferred> {
    Err(pending("restore", remote))
}

/// Makes an archive the newest version of a name.
pub fn import(
    remote: &RemoteSettings,
    _archive: File,
    _progress: &mut dyn FnMut(&Progress),
) -> Result<Transferred> {
    Err(pending("import", remote))
}

fn pending(verb: &str, remote: &RemoteSettings) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this build cannot {verb} without a mount: {}", remote.name))
}
