//! [`Reply`]: the one answer that a request gets.
use super::super::abi::InHeader;
use super::super::abi::answer::{Answer, Payload};
use super::super::connection::{Backing, Connection};
use super::super::errno::errno;
use super::super::interrupts::Interruptible;
use super::ring::Seat;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The way back of one request. Dropped unanswered, it answers `EIO`: nobody waits for ever.
#[derive(Debug)]
pub struct Pending {
    way: Option<Way>,
    /// Which request it is, and which thread made it.
    unique: u64,
    pid: u32,
}

#[derive(Debug)]
enum Way {
    /// Written to the device by whoever answers.
    Device { connection: Arc<Connection> },
    /// Handed to the ring that the request came by.
    Ring(Seat),
}

impl Pending {
    pub(super) fn by_device(connection: &Arc<Connection>, header: &InHeader) -> Self {
        Self::new(Way::Device { connection: connection.clone() }, header)
    }

    pub(super) fn by_ring(seat: Seat, header: &InHeader) -> Self {
        Self::new(Way::Ring(seat), header)
    }

    fn new(way: Way, header: &InHeader) -> Self {
        Self { way: Some(way), unique: header.unique, pid: header.pid }
    }

    /// The kernel expects no reply to this request.
    pub fn none(mut self) {
        self.way = None;
    }

    /// Fixes what kind of answer is given.
    pub fn reply<A>(self) -> Reply<A> {
        Reply { pending: self, answer: PhantomData }
    }

    fn answer(&mut self, error: i32, payload: Payload) {
        match self.way.take() {
            Some(Way::Device { connection }) => {
                if let Err(e) = connection.reply(self.unique, -error, payload.as_bytes()) {
                    // ENOENT: who asked was interrupted meanwhile. Anything else is the mount's end.
                    tracing::trace!(error = %e, "reply not taken");
                }
            }
            Some(Way::Ring(seat)) => seat.answer(error, payload),
            None => {}
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.answer(libc::EIO, Payload::EMPTY);
    }
}

/// A reply of a certain kind.
#[derive(Debug)]
pub struct Reply<A> {
    pending: Pending,
    answer: PhantomData<fn(A)>,
}

impl<A> Reply<A> {
    /// Answers with an errno.
    pub fn error(mut self, errno: i32) {
        self.pending.answer(errno, Payload::EMPTY);
    }

    /// From now on who asks waits, perhaps for long: so that it can be let go. `None` once it is answered.
    pub fn interruptible(&self) -> Option<Interruptible> {
        let Pending { way, unique, pid } = &self.pending;
        let connection = match way.as_ref()? {
            Way::Device { connection } => connection,
            Way::Ring(seat) => seat.connection(),
        };
        Some(connection.interrupts().wait(*unique, *pid))
    }

    /// Registers a file of the backing with the connection that the request came by.
    pub fn register(&self, file: BorrowedFd<'_>) -> io::Result<Backing> {
        match &self.pending.way {
            Some(Way::Device { connection }) => connection.register(file),
            Some(Way::Ring(seat)) => seat.connection().register(file),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<A: Answer> Reply<A> {
    /// Answers with a result.
    pub fn send(mut self, result: io::Result<A>) {
        match result {
            Ok(answer) => self.pending.answer(0, answer.payload()),
            Err(e) => self.pending.answer(errno(&e), Payload::EMPTY),
        }
    }
}

impl Reply<Vec<u8>> {
    /// Answers with what `fill` writes into a buffer of `size` bytes, which is the kernel's own if
    /// possible. `fill` returns how many bytes it wrote.
    pub fn fill(mut self, size: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        if let Some(Way::Ring(seat)) = &self.pending.way
            && let Some(mut lent) = seat.borrow_buffer(size)
        {
            match fill(&mut lent) {
                Ok(length) => self.pending.answer(0, Payload::InPlace(length.min(size))),
                Err(e) => self.pending.answer(errno(&e), Payload::EMPTY),
            }
            return;
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match fill(&mut buffer[..size]) {
                Ok(length) => self.respond_with(&buffer[..length.min(size)]),
                Err(e) => self.pending.answer(errno(&e), Payload::EMPTY),
            }
        });
    }

    fn respond_with(&mut self, bytes: &[u8]) {
        match self.pending.way.take() {
            Some(Way::Device { connection }) => {
                if let Err(e) = connection.reply(self.pending.unique, 0, bytes) {
                    tracing::trace!(error = %e, "reply not taken");
                }
            }
            Some(Way::Ring(seat)) => seat.answer(0, Payload::Owned(bytes.to_vec())),
            None => {}
        }
    }
}
