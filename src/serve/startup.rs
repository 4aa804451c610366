//! The start of a daemon as its parent sees it: JSON lines through a pipe, ended by one that says
//! ready or why not.
use crate::config::wire;
use crate::sync::Mutex;
use crate::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything is in the remote.
    Saved,
    /// So many entries are not; they are still in the backing.
    Unsaved(u64),
}

/// The entry point of the daemon, as the command line calls it.
pub type DaemonMain = fn(crate::config::MountSettings, StatusPipe) -> crate::Result<Ended>;

/// One line of the pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartupLine {
    /// Something is under way; restoring mostly.
    Progress(Progress),
    /// A person should know, and the start goes on.
    Notice(String),
    /// The mount is usable. The last line.
    Ready(Ready),
    /// It will not be. The last line.
    Error(WireError),
}

/// How far a phase is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What is going on, e.g. `restoring`.
    pub phase: String,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes to do; 0 if not known.
    pub bytes_total: u64,
    /// Entries done.
    pub entries: u64,
}

/// What a usable mount says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The daemon.
    pub pid: u32,
    /// `passthrough` or `classic`.
    pub mode: String,
    /// Why that mode.
    pub mode_reason: String,
    /// The version that is shown; `None` before the first one.
    pub version: Option<String>,
    /// The mount directory.
    #[serde(with = "wire::path")]
    pub dir: PathBuf,
    /// Where metrics are, if anywhere: a port of 0 has become one by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Where hints that tables have changed are taken, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<SocketAddr>,
}

/// An [`Error`] that crosses a process border: kind and the whole message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError {
    /// The word of the kind.
    pub kind: String,
    /// Message and causes.
    pub message: String,
}

/// Kinds and their words.
const KINDS: [(ErrorKind, &str); 10] = [
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::NotFound, "not_found"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::Unavailable, "unavailable"),
    (ErrorKind::Denied, "denied"),
    (ErrorKind::Corrupt, "corrupt"),
    (ErrorKind::Full, "full"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Io, "io"),
];

/// The word of a kind, as JSON output shows it.
pub fn kind_word(kind: ErrorKind) -> &'static str {
    KINDS.iter().find(|(k, _)| *k == kind).map_or("io", |(_, word)| word)
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        Self { kind: kind_word(error.kind()).to_owned(), message: error.to_string() }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let kind = KINDS.iter().find(|(_, word)| *word == error.kind).map_or(ErrorKind::Io, |(k, _)| *k);
        Self::new(kind, error.message)
    }
}

/// Where start-up lines go.
pub type Sink = Box<dyn FnMut(&StartupLine) + Send>;

/// The daemon's end; clones share it. Owner of its lock. A parent that is gone is no error.
#[derive(Clone)]
pub struct StatusPipe {
    sink: Arc<Mutex<Option<Sink>>>,
}

impl StatusPipe {
    /// Hands every line to a function (foreground, tests).
    pub fn new(sink: Sink) -> Self {
        Self { sink: Arc::new(Mutex::new(Some(sink))) }
    }

    /// Writes JSON lines into a pipe. Notices go to the log as well, for whoever looks later.
    pub fn to_writer(mut pipe: impl Write + Send + 'static) -> Self {
        Self::new(Box::new(move |line| {
            if let StartupLine::Notice(text) = line {
                tracing::warn!("{text}");
            }
            if let Ok(mut text) = serde_json::to_vec(line) {
                text.push(b'\n');
                let _ = pipe.write_all(&text); // EPIPE: nobody waits any more
            }
        }))
    }

    /// Reports progress. Not more often than a person can see: the caller throttles.
    pub fn progress(&self, progress: Progress) {
        self.send(&StartupLine::Progress(progress));
    }

    /// Tells a person something; the start goes on.
    pub fn notice(&self, text: impl Into<String>) {
        self.send(&StartupLine::Notice(text.into()));
    }

    /// The mount is usable; the pipe is closed.
    pub fn ready(&self, ready: Ready) {
        self.send(&StartupLine::Ready(ready));
        *self.sink.lock() = None;
    }

    /// The start failed; the pipe is closed. Without effect after [`ready`](Self::ready).
    pub fn failed(&self, error: &Error) {
        self.send(&StartupLine::Error(error.into()));
        *self.sink.lock() = None;
    }

    fn send(&self, line: &StartupLine) {
        if let Some(sink) = self.sink.lock().as_mut() {
            sink(line);
        }
    }
}

impl fmt::Debug for StatusPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPipe").field("open", &self.sink.lock().is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    #[test]
    fn lines_cross_a_pipe_and_end_with_ready() {
        let (read, write) = std::io::pipe().expect("pipe");
        let status = StatusPipe::to_writer(write);
        status.progress(Progress { phase: "restoring".into(), bytes: 5, bytes_total: 9, entries: 1 });
        let dir = PathBuf::from("/tmp");
        let metrics = Some(([127, 0, 0, 1], 9000).into());
        let (mode, mode_reason) = ("classic".into(), "x".into());
        let ready = Ready { pid: 7, mode, mode_reason, version: None, dir, metrics, hints: None };
        status.ready(ready.clone());
        status.failed(&Error::new(ErrorKind::Io, "too late"));
        let lines: Vec<StartupLine> = BufReader::new(read)
            .lines()
            .map(|l| serde_json::from_str(&l.expect("line")).expect("valid"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], StartupLine::Ready(ready));
    }

    #[test]
    fn kinds_survive_the_border() {
        for (kind, _) in KINDS {
            let wire = WireError::from(&Error::new(kind, "message"));
            assert_eq!(Error::from(wire).kind(), kind);
        }
    }

    #[test]
    fn a_parent_that_left_is_no_error() {
        let (read, write) = std::io::pipe().expect("pipe");
        drop(read);
        StatusPipe::to_writer(write).notice("nobody hears this");
    }
}
