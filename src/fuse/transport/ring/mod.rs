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
use entries::Entries;
use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue};
use processors::Processors;
use seat::Mailbox;
use serve::Server;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use switch::Switch;

type Ring = IoUring<Entry128, cqueue::Entry>;

/// Submissions that a ring takes between two system calls.
const SUBMISSIONS: u32 = 64;
/// Completions that a ring holds; more wait in the kernel.
const COMPLETIONS: u32 = 256;
/// Entries that a queue begins with at least. One costs the kernel some 700 bytes.
const ENTRIES_FIRST: usize = 64;

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
}

/// What a thread needs to begin.
struct Go {
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
    mailbox: Arc<Mailbox>,
    /// Told how the thread ended.
    ended: SyncSender<io::Result<()>>,
}

impl Offer {
    /// Makes the rings, or says why there can be none here. `payload_bytes`: what a READ, a WRITE or a
    /// listing may carry. `withheld`: how many requests may wait for their answers at any time.
    pub fn make(payload_bytes: usize, withheld: usize) -> Result<Self, String> {
        let switch = Switch::hold()?;
        let processors = Processors::of_machine().map_err(|e| format!("cannot tell processors: {e}"))?;
        let mut offer = Self { threads: Vec::new(), _switch: switch };
        for (cpu, queues) in processors.queues() {
            let entries = Entries::new(queues, payload_bytes, withheld.max(ENTRIES_FIRST));
            let prepared = entries
                .and_then(|entries| prepare(cpu, entries))
                .map_err(|e| format!("cannot make an io_uring: {e}"))?;
            offer.threads.push(prepared);
        }
        Ok(offer)
    }
}

fn prepare(cpu: usize, entries: Entries) -> io::Result<Prepared> {
    let (go, wait) = sync_channel(1);
    let (made, outcome) = sync_channel(1);
    let queues = entries.queues().iter().map(|q| q.id).collect();
    let thread = std::thread::Builder::new().name(format!("ring-{cpu}"));
    thread.spawn(move || begin(cpu, entries, &made, &wait))?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("thread ended")))?;
    Ok(Prepared { queues, go })
}

/// The life of a ring's thread.
fn begin(cpu: usize, entries: Entries, made: &SyncSender<io::Result<()>>, wait: &Receiver<Go>) {
    // Not ours to run on, perhaps by now: it then costs what the device costs.
    let _pinned = processors::pin(cpu);
    let ring = match make_ring() {
        Ok(ring) => ring,
        Err(e) => {
            let _told = made.send(Err(e));
            return;
        }
    };
    let _told = made.send(Ok(()));
    let Ok(Go { connection, handler, mailbox, ended }) = wait.recv() else { return };
    device::told(&ended, || {
        let mut server = Server::new(ring, entries, connection.clone(), handler.clone(), mailbox);
        match server.run() {
            Err(serve::Ended::Refused(why)) => {
                tracing::warn!(error = %why, "the kernel refused io_uring; requests travel by the device");
                device::serve(&connection, &*handler)
            }
            Err(serve::Ended::Failed(e)) => Err(e),
            Ok(()) => Ok(()),
        }
    });
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
        let (ended, ends) = sync_channel(self.threads.len() + 1);
        let mut running = 1;
        for (prepared, mailbox) in self.threads {
            tracing::debug!(queues = ?prepared.queues, "ring begins");
            let (connection, handler) = (self.connection.clone(), self.handler.clone());
            let go = Go { connection, handler, mailbox, ended: ended.clone() };
            prepared.go.send(go).map_err(|_| io::Error::other("a ring's thread has ended"))?;
            running += 1;
        }
        let (connection, handler) = (self.connection, self.handler);
        let thread = std::thread::Builder::new().name("fuse-0".into());
        thread.spawn(move || device::told(&ended, || device::serve(&connection, &*handler)))?;
        // The first failure ends the mount: requests of that processor would wait for ever.
        for _ in 0..running {
            ends.recv().unwrap_or_else(|_| Err(io::Error::other("a ring's thread is lost")))?;
        }
        Ok(())
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
    /// Sees to it that `count` more requests can be withheld at once on any of our processors. A queue without
    /// a free entry takes no request, not even one whose answer would free others.
    pub fn make(&self, count: usize) {
        let made = self.made.load(Ordering::Relaxed);
        if count <= made {
            return;
        }
        let count = count.next_power_of_two(); // so that the next file more costs nothing
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
        self.made.store(count, Ordering::Relaxed);
    }
}
