//! How requests travel between the kernel and whoever handles them.
//!
//! Over the device, by read(2) and writev(2), everywhere; over io_uring where the kernel offers it:
//! there each processor has a ring of its own and answers on the spot, which spares the wake-up of
//! another processor, most of what a small request costs.
mod device;
mod reply;
mod ring;

pub use reply::{Pending, Reply};
pub use ring::Offer;

use super::abi::init::Features;
use super::abi::request::Request;
use super::connection::Connection;
use super::notify::NotifyThread;
use crate::fs::Kernel;
use device::DeviceTransport;
use ring::{RingTransport, Room};
use std::ffi::CStr;
use std::io;
use std::sync::Arc;

/// Answers requests. Called by several threads at once; must not wait for the network or for a
/// flush of a disk.
pub trait Handler: Send + Sync {
    /// Answers `request` through `pending`, now or later, on this thread or another.
    fn handle(&self, request: Request<'_>, pending: Pending);
}

/// Serves one mounted device until it is unmounted.
pub trait Transport: Send {
    /// Its name, for status.
    fn name(&self) -> &'static str;
    /// Serves requests; returns when the file system is unmounted.
    fn run(self: Box<Self>) -> io::Result<()>;
}

/// A transport that is ready to run, and the way back to the kernel.
pub struct Attached {
    /// Runs until the mount is over.
    pub transport: Box<dyn Transport>,
    /// For who is shown.
    pub link: Arc<Link>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("transport", &self.transport.name()).finish_non_exhaustive()
    }
}

/// Chooses the transport of a connection: rings where they are made and agreed on, else the device,
/// read by `threads` threads.
pub fn attach(
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
    rings: Option<Offer>,
    threads: usize,
) -> io::Result<Attached> {
    let notify = NotifyThread::start(connection.clone())?;
    if let Some(rings) = rings.filter(|_| connection.features().has(Features::OVER_IO_URING)) {
        let transport = RingTransport::new(connection, handler, rings)?;
        let link = Arc::new(Link { notify, room: Some(transport.room()) });
        return Ok(Attached { transport: Box::new(transport), link });
    }
    let transport = DeviceTransport::new(connection, handler, threads);
    Ok(Attached { transport: Box::new(transport), link: Arc::new(Link { notify, room: None }) })
}

/// What the volume can tell the kernel.
#[derive(Debug)]
pub struct Link {
    notify: NotifyThread,
    room: Option<Room>,
}

/// Several may have it.
impl<K: Kernel + ?Sized> Kernel for Arc<K> {
    fn forget_listing(&self, dir: u64) {
        (**self).forget_listing(dir);
    }

    fn forget_attr(&self, inode: u64) {
        (**self).forget_attr(inode);
    }

    fn forget_name(&self, dir: u64, name: &CStr) {
        (**self).forget_name(dir, name);
    }

    fn expect_held(&self, count: usize) {
        (**self).expect_held(count);
    }
}

impl Kernel for Link {
    fn forget_listing(&self, dir: u64) {
        self.notify.listing(dir);
    }

    fn forget_attr(&self, inode: u64) {
        self.notify.attr(inode);
    }

    fn forget_name(&self, dir: u64, name: &CStr) {
        self.notify.name(dir, name);
    }

    fn expect_held(&self, count: usize) {
        if let Some(room) = &self.room {
            room.make(count);
        }
    }
}

/// Calls the handler; a panic in it costs that one request (`EIO`), not the mount.
fn handle_fenced(handler: &dyn Handler, request: Request<'_>, pending: Pending) {
    let (opcode, inode) = (request.header.opcode, request.header.nodeid);
    let handle = std::panic::AssertUnwindSafe(|| handler.handle(request, pending));
    if std::panic::catch_unwind(handle).is_err() {
        tracing::error!(opcode, inode, "a request made its handler panic");
    }
}
