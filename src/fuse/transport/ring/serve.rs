//! [`Server`]: the loop of one ring.
use super::entries::{Entries, Queue, Received, Unregistered};
use super::seat::{self, Answered, Letter, Mailbox, Seat};
use super::{Ring, command};
use crate::fuse::abi::Body;
use crate::fuse::abi::answer::Payload;
use crate::fuse::abi::request::Request;
use crate::fuse::connection::Connection;
use crate::fuse::transport::{Handler, Pending, handle_fenced};
use io_uring::squeue::Entry128;
use io_uring::{opcode, types};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

/// A queue with fewer free ones than this gets more: the kernel gives a request to an entry when it
/// arrives, and one that finds none waits for a reply to something else.
const ENTRIES_LOW: usize = 32;
/// Entries of a queue at most: as many requests can be withheld, by a cut or by a store that does not
/// answer, before the next one waits.
const ENTRIES_MAX: usize = 16 * 1024;

/// What completions of the bell are called; entries are called by their numbers.
const BELL: u64 = u64::MAX;

/// Why a ring ended that was not ended by the mount.
#[derive(Debug)]
pub enum Ended {
    /// The kernel does not take its first entries. It goes on by the device then, for the whole mount.
    Refused(io::Error),
    /// Something that should not happen. Requests of its processor would wait for ever.
    Failed(io::Error),
}

/// Serves the requests of one ring.
pub struct Server {
    ring: Ring,
    entries: Entries,
    connection: Arc<Connection>,
    handler: Arc<dyn Handler>,
    mailbox: Arc<Mailbox>,
    /// What the bell is read into.
    rung: Box<u64>,
    /// Whether it was said that there is no memory for more entries.
    short: bool,
    over: bool,
}

impl Server {
    /// Made on the thread that runs it.
    pub fn new(
        ring: Ring,
        entries: Entries,
        connection: Arc<Connection>,
        handler: Arc<dyn Handler>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        seat::sit_down(&mailbox);
        Self { ring, entries, connection, handler, mailbox, rung: Box::new(0), short: false, over: false }
    }

    /// Serves until the mount is over.
    pub fn run(&mut self) -> Result<(), Ended> {
        self.listen().map_err(Ended::Failed)?;
        self.register().map_err(Ended::Failed)?;
        self.ring.submit().map_err(Ended::Failed)?;
        // An entry that is refused comes back at once.
        let mut refusable = true;
        let (mut completed, mut answered) = (Vec::new(), Vec::new());
        while !self.over {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
                Err(e) => return Err(Ended::Failed(e)),
            }
            completed.extend(self.ring.completion().map(|c| (c.user_data(), c.result())));
            for (who, result) in completed.drain(..) {
                if who == BELL {
                    self.read_letters(&mut answered).map_err(Ended::Failed)?;
                    self.listen().map_err(Ended::Failed)?;
                } else if result < 0 {
                    self.ended(who as usize, result, refusable)?;
                } else {
                    self.handle(who as usize);
                    seat::collect(&mut answered);
                }
                self.commit(&mut answered).map_err(Ended::Failed)?;
            }
            refusable = false;
            self.refill();
            self.register().map_err(Ended::Failed)?;
        }
        Ok(())
    }

    /// An entry came back without a request.
    fn ended(&mut self, entry: usize, result: i32, refusable: bool) -> Result<(), Ended> {
        let error = io::Error::from_raw_os_error(-result);
        match -result {
            libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV => self.over = true,
            _ if refusable => return Err(Ended::Refused(error)),
            // The kernel has given up the rings of this connection, and takes no reply by them.
            libc::EOPNOTSUPP => return Err(Ended::Failed(error)),
            // Who asked was gone, or the kernel is short of memory. Others take the entry's place.
            _ => {
                tracing::warn!(%error, "an entry of a ring failed");
                self.entries.lose(entry);
            }
        }
        Ok(())
    }

    fn handle(&mut self, entry: usize) {
        let buffer = self.entries.buffer(entry);
        let Some(Received { header, operation, payload }) = self.entries.receive(entry) else { return };
        let pending = Pending::by_ring(Seat::new(self.mailbox.clone(), entry), &header);
        seat::lend(entry, buffer.filter(|_| payload.is_empty()));
        match Request::read(header, Body::split(&operation, payload), self.connection.features()) {
            Some(request) => handle_fenced(&*self.handler, request, pending),
            None => tracing::error!(opcode = header.opcode, "a request that cannot be read"),
        }
    }

    /// Hands replies, and with them their entries, to the kernel at the next system call.
    fn commit(&mut self, answered: &mut Vec<Answered>) -> io::Result<()> {
        for Answered { entry, error, payload } in answered.drain(..) {
            let in_place = if let Payload::InPlace(len) = payload { len } else { 0 };
            let Some(commit_id) = self.entries.answer(entry, error, payload.as_bytes(), in_place) else {
                continue;
            };
            let Some(queue) = self.entries.queue_of(entry) else { continue };
            let submission = command::commit(self.device(), queue, entry as u64, commit_id);
            self.push(&submission)?;
        }
        Ok(())
    }

    fn read_letters(&mut self, answered: &mut Vec<Answered>) -> io::Result<()> {
        for letter in self.mailbox.take() {
            match letter {
                Letter::Answered(reply) => answered.push(reply),
                Letter::MakeRoom(count, done) => {
                    // Whoever asks runs where we may, so only our own processor's queue is needed.
                    let free = self.entries.queues().first().map_or(0, Queue::free);
                    self.grow(0, (count + ENTRIES_LOW).saturating_sub(free));
                    self.register()?;
                    self.ring.submit()?;
                    let _told = done.send(());
                }
            }
        }
        Ok(())
    }

    fn refill(&mut self) {
        for queue in 0..self.entries.queues().len() {
            let now = &self.entries.queues()[queue];
            // The queues of other processors begin with fewer, and then grow as any other.
            if now.free() < ENTRIES_LOW.min(now.total / 2 + 1) {
                self.grow(queue, now.total.max(ENTRIES_LOW)); // twice as many
            }
        }
    }

    /// Makes entries. Without memory for them those that are there must do.
    fn grow(&mut self, queue: usize, count: usize) {
        let total = self.entries.queues().get(queue).map_or(ENTRIES_MAX, |q| q.total);
        let count = count.min(ENTRIES_MAX.saturating_sub(total));
        if count > 0
            && let Err(error) = self.entries.grow(queue, count)
            && !std::mem::replace(&mut self.short, true)
        {
            tracing::warn!(%error, count, "no memory for more requests at once");
        }
    }

    /// Gives the kernel what is new.
    fn register(&mut self) -> io::Result<()> {
        for Unregistered { queue, entry, address } in self.entries.unregistered() {
            let submission = command::register(self.device(), queue, entry as u64, address);
            self.push(&submission)?;
        }
        Ok(())
    }

    /// Waits for the mailbox's bell.
    fn listen(&mut self) -> io::Result<()> {
        let bell = types::Fd(self.mailbox.bell().as_raw_fd());
        let into: *mut u64 = &raw mut *self.rung;
        let read = opcode::Read::new(bell, into.cast(), size_of::<u64>() as u32).build().user_data(BELL);
        self.push(&read.into())
    }

    fn push(&mut self, submission: &Entry128) -> io::Result<()> {
        loop {
            // SAFETY: what a submission points to lives until it is done: the bell's word and the
            // iovecs and buffers of the entries are freed after the ring is closed (`Drop`).
            if unsafe { self.ring.submission().push(submission) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn device(&self) -> RawFd {
        self.connection.as_fd().as_raw_fd()
    }
}
