//! The control socket: how verbs talk to a running daemon.
//!
//! `<state_dir>/control.sock`, a Unix stream, mode 0600; the peer must be root or of the daemon's uid.
//! One JSON line asks, one JSON line answers, as often as the client likes. An export brings the file
//! to write as a descriptor (SCM_RIGHTS) along with its line, so that the daemon never opens a path
//! for somebody else, least of all one beneath its own mount.
mod client;
mod message;
mod server;

pub use client::Client;
pub use message::{
    CatalogStatus, ExportReply, FlushRecord, FlushReply, HydrateReply, LastError, LogLine, PROTOCOL_VERSION,
    Part, Status, TablesAsk, TablesStatus, UNSAVED_LISTED_MAX, UnmountReply, Unsaved,
};
pub use server::{CLIENTS_MAX, bind, serve};

pub use crate::config::place::SOCKET_NAME;

use crate::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest request line, in bytes.
pub const REQUEST_MAX_BYTES: usize = 64 << 10;

/// The longest reply line, in bytes (a long history).
pub const REPLY_MAX_BYTES: usize = 16 << 20;

/// What a daemon can be asked. Called from async tasks: the plain functions must be quick, the
/// futures may take as long as the remote does.
pub trait Controller: Send + Sync {
    /// How it stands now.
    fn status(&self) -> Status;
    /// Counters since the start.
    fn stats(&self) -> serde_json::Value;
    /// Starts a flush; with `wait` ends when everything dirty at the call is durable in the remote.
    fn flush(&self, wait: bool) -> BoxFuture<'_, Result<FlushReply>>;
    /// The versions, newest first.
    fn log(&self) -> BoxFuture<'_, Result<Vec<LogLine>>>;
    /// Writes the newest version as one archive into `to`.
    fn export(&self, to: File) -> BoxFuture<'_, Result<ExportReply>>;
    /// Brings what is only in the remote: all, or what stands at these paths (relative to the mount) and
    /// below them.
    fn hydrate(&self, paths: Vec<PathBuf>) -> BoxFuture<'_, Result<HydrateReply>>;
    /// Final flush, then unmount. The socket stays open until the answer is sent.
    fn unmount(&self) -> BoxFuture<'_, Result<UnmountReply>>;
    /// What only a mount that shows tables knows.
    fn tables(&self, _: TablesAsk) -> BoxFuture<'_, Result<serde_json::Value>> {
        std::future::ready(Err(no_tables(&self.status().dir))).boxed()
    }
}

/// Says that a mount shows no tables.
pub fn no_tables(dir: &Path) -> crate::Error {
    let message = format!("no tables are shown there: {}", dir.display());
    crate::Error::new(crate::ErrorKind::Unsupported, message)
}

/// A way to name a socket whose path does not fit `sun_path`: through the descriptor of its directory.
struct SocketPath {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

impl SocketPath {
    /// What fits the kernel's 108 bytes with room to spare.
    const DIRECT_MAX_BYTES: usize = 100;

    fn new(socket: &Path) -> std::io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        if socket.as_os_str().as_bytes().len() <= Self::DIRECT_MAX_BYTES {
            return Ok(Self { path: socket.to_owned(), _dir: None });
        }
        let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        let dir =
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
        Ok(Self { path: Path::new(&path).join(name), _dir: Some(dir) })
    }
}

#[cfg(test)]
mod tests;
