//! [`DeviceTransport`]: requests by read(2), replies by writev(2).
use super::{Handler, Pending, Transport, handle_fenced};
use crate::fuse::abi::request::Request;
use crate::fuse::abi::{Body, InHeader, InterruptIn, Opcode};
use crate::fuse::connection::Connection;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use zerocopy::FromBytes;

/// `/dev/fuse`, read by some threads.
pub struct DeviceTransport {
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
    threads: usize,
}

impl std::fmt::Debug for DeviceTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceTransport").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl DeviceTransport {
    /// Serves `connection` by `threads` threads, at least one.
    pub fn new(connection: Arc<Connection>, handler: Arc<dyn Handler>, threads: usize) -> Self {
        Self { connection, handler, threads: threads.max(1) }
    }
}

impl Transport for DeviceTransport {
    fn name(&self) -> &'static str {
        "device"
    }

    fn run(self: Box<Self>) -> io::Result<()> {
        let (ended, ends) = sync_channel(self.threads);
        for number in 0..self.threads {
            let (connection, handler, ended) = (self.connection.clone(), self.handler.clone(), ended.clone());
            let thread = std::thread::Builder::new().name(format!("fuse-{number}"));
            thread.spawn(move || told(&ended, || serve(&connection, &*handler)))?;
        }
        for _ in 0..self.threads {
            ends.recv().unwrap_or_else(|_| Err(io::Error::other("a thread is lost")))?;
        }
        Ok(())
    }
}

/// Runs the life of a thread and tells how it ended, also if it panicked.
pub(super) fn told(ended: &SyncSender<io::Result<()>>, life: impl FnOnce() -> io::Result<()>) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
    let outcome = outcome.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
    let _nobody_waits = ended.send(outcome);
}

/// Serves requests on the calling thread until the mount is over.
pub(super) fn serve(connection: &Arc<Connection>, handler: &dyn Handler) -> io::Result<()> {
    let mut buffer = vec![0; connection.receive_bytes()];
    while let Some(length) = connection.receive(&mut buffer)? {
        let Ok((header, body)) = InHeader::read_from_prefix(&buffer[..length]) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request without a header"));
        };
        if header.opcode == Opcode::Interrupt as u32 {
            // It is itself not answered.
            if let Ok((interrupt, _)) = InterruptIn::read_from_prefix(body) {
                connection.interrupts().interrupt(interrupt.unique);
            }
            continue;
        }
        let pending = Pending::by_device(connection, &header);
        match Request::read(header, Body::whole(body), connection.features()) {
            Some(request) => handle_fenced(handler, request, pending),
            None => tracing::error!(opcode = header.opcode, length, "a request that cannot be read"),
        }
    }
    Ok(())
}
