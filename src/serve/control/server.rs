//! The daemon's end of the control socket.
use super::message::{Ask, Outcome, PROTOCOL_VERSION, Reply, Request};
use super::{Controller, REPLY_MAX_BYTES, REQUEST_MAX_BYTES, SocketPath};
use crate::serve::startup::WireError;
use crate::{Error, ErrorKind, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use serde::Serialize;
use std::fs::{File, Permissions};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Clients served at the same time; further ones wait in the listener's queue.
pub const CLIENTS_MAX: usize = 64;

/// A client that asks nothing for so long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// A client that does not take its answer for so long is let go.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// After the shutdown, how long answers under way may still take to be sent.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Pause after accept failed (no descriptors): else the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Creates the socket, mode 0600. The caller holds the lock of the state directory, so whatever
/// socket is there is a dead one. Needs a tokio runtime.
pub fn bind(socket: &Path) -> Result<UnixListener> {
    let failed = |e| Error::io(format!("cannot create control socket: {}", socket.display()), e);
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let at = SocketPath::new(socket).map_err(failed)?;
    let listener = UnixListener::bind(&at.path).map_err(failed)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers clients until `shutdown` resolves; answers under way are then still sent. Returns when no
/// client is left.
pub async fn serve(
    controller: Arc<dyn Controller>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            // Closed is impossible: nobody closes this semaphore.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) if permitted(&stream) => {
                let controller = Arc::clone(&controller);
                let stopped = stopped.clone();
                tokio::spawn(async move {
                    if let Err(e) = converse(&*controller, stream, stopped).await {
                        tracing::debug!("control client left: {e}");
                    }
                    drop(slot);
                });
            }
            Ok(_) => tracing::warn!("refused a control client of another user"),
            Err(e) => {
                tracing::warn!("cannot accept control client: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = stop.send(true);
    // All slots are free again exactly when every client is gone.
    let _ = tokio::time::timeout(DRAIN_MAX, slots.acquire_many(CLIENTS_MAX as u32)).await;
}

/// Root, or the daemon's own user.
fn permitted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

/// Answers one client until it leaves, idles, breaks the rules, or the daemon stops.
async fn converse(
    controller: &dyn Controller,
    mut stream: UnixStream,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut incoming = Incoming::default();
    loop {
        let line = tokio::select! {
            line = tokio::time::timeout(IDLE_MAX, incoming.line(&stream)) => line,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        let outcome = match line {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(line))) => answer(controller, &line, incoming.descriptor.take()).await,
            Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => {
                let error = Error::new(ErrorKind::Invalid, "request line is too long");
                // The rest of the line cannot be told from a next request: answer and part.
                send(&mut stream, &Outcome::Error((&error).into())).await?;
                return Err(e);
            }
            Ok(Err(e)) => return Err(e),
        };
        send(&mut stream, &outcome).await?;
    }
}

async fn send(stream: &mut UnixStream, outcome: &Outcome) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Reply { v: PROTOCOL_VERSION, outcome: outcome.clone() })?;
    if text.len() >= REPLY_MAX_BYTES {
        let error = Error::new(ErrorKind::Full, "answer is longer than 16 MiB");
        let outcome = Outcome::Error((&error).into());
        text = serde_json::to_vec(&Reply { v: PROTOCOL_VERSION, outcome })?;
    }
    text.push(b'\n');
    tokio::time::timeout(WRITE_MAX, stream.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn answer(controller: &dyn Controller, line: &[u8], descriptor: Option<OwnedFd>) -> Outcome {
    match dispatch(controller, line, descriptor).await {
        Ok(value) => Outcome::Ok(value),
        Err(e) => Outcome::Error(WireError::from(&e)),
    }
}

async fn dispatch(
    controller: &dyn Controller,
    line: &[u8],
    descriptor: Option<OwnedFd>,
) -> Result<serde_json::Value> {
    let malformed = |e| Error::new(ErrorKind::Invalid, "malformed control request").with_source(e);
    let value: serde_json::Value = serde_json::from_slice(line).map_err(malformed)?;
    // The version first: a later protocol may ask what this one cannot parse.
    if value.get("v").and_then(serde_json::Value::as_u64) != Some(PROTOCOL_VERSION.into()) {
        let message = format!("daemon speaks another control protocol: version {PROTOCOL_VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let request: Request = serde_json::from_value(value).map_err(malformed)?;
    match request.ask {
        Ask::Status => encode(&controller.status()),
        Ask::Stats => Ok(controller.stats()),
        Ask::Flush { wait } => encode(&controller.flush(wait).await?),
        Ask::Log => encode(&controller.log().await?),
        Ask::Export => {
            let missing = || Error::new(ErrorKind::Invalid, "export came without a file descriptor");
            encode(&controller.export(File::from(descriptor.ok_or_else(missing)?)).await?)
        }
        Ask::Hydrate { paths } => encode(&controller.hydrate(paths).await?),
        Ask::Unmount => encode(&controller.unmount().await?),
        Ask::Tables(ask) => controller.tables(ask).await,
    }
}

fn encode(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::Io, "cannot encode answer").with_source(e))
}

/// Lines of one client, with the descriptor that came along.
#[derive(Default)]
struct Incoming {
    buffer: Vec<u8>,
    /// The last one received and not yet used; more than one at a time are closed.
    descriptor: Option<OwnedFd>,
}

impl Incoming {
    /// The next line without its end; `None` when the client closed. Cancel safe: what was read stays
    /// in the buffer.
    async fn line(&mut self, stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.buffer.len() > REQUEST_MAX_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if stream.async_io(Interest::READABLE, || self.receive(stream)).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptor = descriptors.last();
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            self.descriptor = None; // more than one: none is the one that was meant
        }
        self.buffer.extend_from_slice(&chunk[..got.bytes]);
        Ok(got.bytes)
    }
}
