//! How requests travel between the kernel and the adapter.
//!
//! Today over read(2) and writev(2) on the device, by `fuser`. FUSE over io_uring routes each
//! request to the caller's CPU and is the known next gain; it enters as another [`Transport`].
use super::adapter::Adapter;
use super::notify::NotifyThread;
use crate::fs::Volume;
use fuser::{Config, Session, SessionACL};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Serves one mounted device until it is unmounted.
pub trait Transport: Send {
    /// Its name, for status.
    fn name(&self) -> &'static str;
    /// Serves requests on `threads` threads; returns when the file system is unmounted.
    fn run(self: Box<Self>, threads: usize) -> io::Result<()>;
}

/// `/dev/fuse` by read and write.
#[derive(Debug)]
pub struct DeviceTransport {
    session: Session<Adapter>,
}

impl DeviceTransport {
    /// Takes a device that is already mounted and completes the handshake. The volume must have
    /// been built with `passthrough` as [`probe_passthrough`](super::mount::probe_passthrough) said.
    pub fn handshake(device: OwnedFd, adapter: Adapter, threads: usize) -> io::Result<Self> {
        let volume: Arc<Volume> = adapter.volume().clone();
        let mut config = Config::default();
        config.n_threads = Some(threads);
        // The kernel already enforces who may enter; a second check would be ours alone to get wrong.
        let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
        volume.set_kernel(Box::new(NotifyThread::start(session.notifier())?));
        Ok(Self { session })
    }
}

impl Transport for DeviceTransport {
    fn name(&self) -> &'static str {
        "device"
    }

    fn run(self: Box<Self>, _threads: usize) -> io::Result<()> {
        self.session.run()
    }
}
