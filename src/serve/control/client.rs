//! A verb's end of the control socket: blocking, one question at a time.
use super::message::{Ask, Outcome, PROTOCOL_VERSION, Reply, Request};
use super::{
    ExportReply, FlushReply, HydrateReply, LogLine, REPLY_MAX_BYTES, SocketPath, Status, TablesAsk,
    UnmountReply,
};
use crate::{Error, ErrorKind, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Questions that a healthy daemon answers at once.
const QUICK_MAX: Duration = Duration::from_secs(10);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to a control socket. `NotFound` if nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let connected = SocketPath::new(socket).and_then(|at| UnixStream::connect(&at.path));
        let stream = connected.map_err(|e| {
            let message = format!("cannot reach daemon: {}", socket.display());
            match e.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                    Error::new(ErrorKind::NotFound, message).with_source(e)
                }
                _ => Error::io(message, e),
            }
        })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The number of the daemon's process here; where it is in another namespace of processes, that is not the one it
    /// gives itself. `None` if it has none here.
    pub fn daemon(&self) -> Option<u32> {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut size = size_of::<libc::ucred>() as libc::socklen_t;
        let stream = self.stream.get_ref().as_raw_fd();
        // SAFETY: the place has this size, and the kernel writes no more.
        let asked = unsafe {
            let place = (&raw mut peer).cast();
            libc::getsockopt(stream, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut size)
        };
        u32::try_from(peer.pid).ok().filter(|pid| asked == 0 && *pid != 0)
    }

    /// How the mount stands.
    pub fn status(&mut self) -> Result<Status> {
        self.ask(Ask::Status, Some(QUICK_MAX), None)
    }

    /// Counters since the start.
    pub fn stats(&mut self) -> Result<serde_json::Value> {
        self.ask(Ask::Stats, Some(QUICK_MAX), None)
    }

    /// Flushes; with `wait` until durable, or until `limit` is over (`Unavailable`).
    pub fn flush(&mut self, wait: bool, limit: Option<Duration>) -> Result<FlushReply> {
        self.ask(Ask::Flush { wait }, limit, None)
    }

    /// The versions, newest first.
    pub fn log(&mut self) -> Result<Vec<LogLine>> {
        self.ask(Ask::Log, None, None)
    }

    /// Has the newest version written into `to`.
    pub fn export(&mut self, to: &File) -> Result<ExportReply> {
        self.ask(Ask::Export, None, Some(to))
    }

    /// Brings what is only in the remote; takes as long as it takes.
    pub fn hydrate(&mut self, paths: Vec<PathBuf>) -> Result<HydrateReply> {
        self.ask(Ask::Hydrate { paths }, None, None)
    }

    /// Asks a mount that shows tables; takes as long as it takes. The answers are in `tables::report`.
    pub fn tables<T: DeserializeOwned>(&mut self, ask: TablesAsk) -> Result<T> {
        self.ask(Ask::Tables(ask), None, None)
    }

    /// Final flush and unmount; takes as long as the daemon's own time limit allows.
    pub fn unmount(&mut self) -> Result<UnmountReply> {
        self.ask(Ask::Unmount, None, None)
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        ask: Ask,
        limit: Option<Duration>,
        descriptor: Option<&File>,
    ) -> Result<T> {
        let line = self.exchange(ask, limit, descriptor).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::new(ErrorKind::Unavailable, "daemon did not answer in time")
            }
            _ => Error::new(ErrorKind::Unavailable, "lost connection to daemon").with_source(e),
        })?;
        let malformed = |e| Error::new(ErrorKind::Corrupt, "malformed answer of daemon").with_source(e);
        let reply: Reply = serde_json::from_slice(&line).map_err(malformed)?;
        match reply.outcome {
            Outcome::Ok(value) => serde_json::from_value(value).map_err(malformed),
            Outcome::Error(e) => Err(e.into()),
        }
    }

    fn exchange(
        &mut self,
        ask: Ask,
        limit: Option<Duration>,
        descriptor: Option<&File>,
    ) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Request { v: PROTOCOL_VERSION, ask })?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(Some(QUICK_MAX))?;
        match descriptor {
            None => stream.write_all(&line)?,
            Some(file) => {
                let descriptors = [file.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
                let sent = rustix::net::sendmsg(
                    &*stream,
                    &[IoSlice::new(&line)],
                    &mut control,
                    SendFlags::NOSIGNAL,
                )?;
                stream.write_all(&line[sent..])?;
            }
        }
        let mut reply = Vec::new();
        (&mut self.stream).take(REPLY_MAX_BYTES as u64 + 1).read_until(b'\n', &mut reply)?;
        if reply.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(reply)
    }
}
