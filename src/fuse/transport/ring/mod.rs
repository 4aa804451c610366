//! [`RingTransport`]: requests and replies by io_uring, a ring for each processor.
//!
//! The kernel puts a request into a free *entry* (a buffer of ours) of the queue that belongs to the
//! processor of whoever asks, and wakes the thread that waits there; the reply goes back in the same
//! entry, in the system call that waits for the next request. So a request is answered on the
//! processor it came from: no other one is woken. FORGET, INTERRUPT and notifications keep to the
//! device. Source: `Documentation/filesystems/fuse-io-uring.rst` and `include/uapi/linux/fuse.h`.
mod command;
mod entries;
mod processors;
mod seat;
mod serve;
mod switch;

pub use seat::Seat;

use super::{Handler, Transport, device};
use crate::fuse::connection::Connection;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue};
use processors::Processors;
use seat::Mailbox;
use serve::Server;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use switch::Switch;

type Ring = IoUring<Entry128, cqueue::Entry>;

/// Submissions that a ring takes between two system calls.
const SUBMISSIONS: u32 = 64;
/// Completions that a ring holds; more wait in the kernel.
const COMPLETIONS: u32 = 256;
/// A thread of a ring calls no deeper than one of the device, which has the default.
const STACK_BYTES: usize = 1 << 20;

/// Rings, made before the mount: once the kernel is told that there are some, it waits for them.
#[derive(Debug)]
pub struct Offer {
    threads: Vec<Prepared>,
    /// Keeps the kernel's own offer until the handshake is over.
    _switch: Switch,
}

#[derive(Debug)]
struct Prepared {
    queues: Vec<u16>,
    go: SyncSender<Go>,
    thread: JoinHandle<io::Result<()>>,
}

/// What a thread needs to begin.
struct Go {
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
    mailbox: Arc<Mailbox>,
}

impl Offer {
    /// Makes the rings, or says why there can be none here.
    pub fn make() -> Result<Self, String> {
        let switch = Switch::hold()?;
        let processors = Processors::of_machine().map_err(|e| format!("cannot tell processors: {e}"))?;
        let mut offer = Self { threads: Vec::new(), _switch: switch };
        for (cpu, queues) in processors.queues() {
            let prepared = prepare(cpu, queues).map_err(|e| format!("cannot make an io_uring: {e}"))?;
            offer.threads.push(prepared);
        }
        Ok(offer)
    }
}

fn prepare(cpu: usize, queues: Vec<u16>) -> io::Result<Prepared> {
    let (go, wait) = sync_channel(1);
    let (made, outcome) = sync_channel(1);
    let own = queues.clone();
    let thread = std::thread::Builder::new().name(format!("ring-{cpu}")).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || begin(cpu, own, &made, &wait))?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("thread ended")))?;
    Ok(Prepared { queues, go, thread })
}

/// The life of a ring's thread.
fn begin(
    cpu: usize,
    queues: Vec<u16>,
    made: &SyncSender<io::Result<()>>,
    wait: &Receiver<Go>,
) -> io::Result<()> {
    // Not ours to run on, perhaps by now: it then costs what the device costs.
    let _pinned = processors::pin(cpu);
    let ring = match make_ring() {
        Ok(ring) => ring,
        Err(e) => {
            let _told = made.send(Err(e));
            return Ok(());
        }
    };
    let _told = made.send(Ok(()));
    let Ok(Go { connection, handler, mailbox }) = wait.recv() else { return Ok(()) };
    let mut server = Server::new(ring, queues, connection.clone(), handler.clone(), mailbox);
    match server.run() {
        // The kernel has gone back to the device; so do we.
        Err(serve::Ended::NeverBegan(why)) => {
            tracing::warn!(error = %why, "io_uring refused; requests travel by the device");
            device::serve(&connection, &*handler)
        }
        Err(serve::Ended::Failed(e)) => Err(e),
        Ok(()) => Ok(()),
    }
}

fn make_ring() -> io::Result<Ring> {
    let mut builder = Ring::builder();
    // One thread uses it, and kernel work for it is done only when that thread waits: nothing
    // interrupts it in the middle of a request.
    builder.setup_single_issuer().setup_defer_taskrun().setup_cqsize(COMPLETIONS);
    builder.build(SUBMISSIONS)
}

/// Serves a mount by rings.
pub struct RingTransport {
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
    threads: Vec<(Prepared, Arc<Mailbox>)>,
}

impl std::fmt::Debug for RingTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingTransport").field("rings", &self.threads.len()).finish_non_exhaustive()
    }
}

impl RingTransport {
    /// Takes what was offered; the kernel must have agreed to
    /// [`OVER_IO_URING`](crate::fuse::abi::init::Features::OVER_IO_URING).
    pub fn new(connection: Arc<Connection>, handler: Arc<dyn Handler>, offer: Offer) -> io::Result<Self> {
        let mut threads = Vec::new();
        for prepared in offer.threads {
            let mailbox = Arc::new(Mailbox::new(connection.clone())?);
            threads.push((prepared, mailbox));
        }
        Ok(Self { connection, handler, threads })
    }

    /// The way to make room in the rings.
    pub fn room(&self) -> Room {
        let mailboxes = self.threads.iter().map(|(_, mailbox)| mailbox.clone()).collect();
        Room { mailboxes, made: AtomicUsize::new(0) }
    }
}

impl Transport for RingTransport {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn run(self: Box<Self>) -> io::Result<()> {
        let mut threads = Vec::new();
        for (prepared, mailbox) in self.threads {
            tracing::debug!(queues = ?prepared.queues, "ring begins");
            let go = Go { connection: self.connection.clone(), handler: self.handler.clone(), mailbox };
            prepared.go.send(go).map_err(|_| io::Error::other("a ring's thread has ended"))?;
            threads.push(prepared.thread);
        }
        let mut result = device::serve(&self.connection, &*self.handler);
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            result = result.and(ended);
        }
        result
    }
}

/// How long [`Room::make`] waits for all rings: they are busy with requests for microseconds.
const ROOM_PATIENCE: Duration = Duration::from_millis(200);

/// Makes room in the rings.
#[derive(Debug)]
pub struct Room {
    mailboxes: Vec<Arc<Mailbox>>,
    /// What has been made so far.
    made: AtomicUsize,
}

impl Room {
    /// Sees to it that `count` more requests can be withheld at once on any processor. A queue without
    /// a free entry takes no request, not even one whose answer would free others.
    pub fn make(&self, count: usize) {
        let made = self.made.load(Ordering::Relaxed);
        if count <= made {
            return;
        }
        let count = count.next_power_of_two(); // so that the next file more costs nothing
        self.made.store(count, Ordering::Relaxed);
        let (done, all_done) = sync_channel(self.mailboxes.len());
        for mailbox in &self.mailboxes {
            mailbox.make_room(count, done.clone());
        }
        drop(done);
        for _ in &self.mailboxes {
            // Less room than asked for is no error here: the cut finds files that it cannot hold.
            if all_done.recv_timeout(ROOM_PATIENCE).is_err() {
                return;
            }
        }
    }
}
