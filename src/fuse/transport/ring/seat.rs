//! [`Seat`]: the place of one request in a ring, and [`Mailbox`], by which other threads reach it.
//!
//! Entries belong to the thread of their ring. A reply that this thread gives itself is put aside in
//! a list of its own; one given elsewhere (by the thread that opens the gate, say) goes by the
//! mailbox, and the ring is woken.
use crate::fuse::abi::answer::Payload;
use crate::fuse::connection::Connection;
use crate::sync::Mutex;
use rustix::event::EventfdFlags;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// A reply on its way to its entry.
#[derive(Debug)]
pub struct Answered {
    /// Number of the entry.
    pub entry: usize,
    /// 0, or an errno.
    pub error: i32,
    /// What it carries.
    pub payload: Payload,
}

/// What other threads ask of a ring's thread.
#[derive(Debug)]
pub enum Letter {
    /// A reply. The kernel bounds how many there can be: one for each request it has sent.
    Answered(Answered),
    /// Room for so many requests more; told when it is there.
    MakeRoom(usize, SyncSender<()>),
}

/// Where letters to a ring's thread wait. Owner of its lock.
#[derive(Debug)]
pub struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: OwnedFd,
    connection: Arc<Connection>,
}

impl Mailbox {
    /// An empty one.
    pub fn new(connection: Arc<Connection>) -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self { letters: Mutex::default(), bell, connection })
    }

    /// Becomes readable (8 bytes) when there are letters.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes what is there.
    pub fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.letters.lock())
    }

    /// Asks for room; see [`Letter::MakeRoom`].
    pub fn make_room(&self, count: usize, done: SyncSender<()>) {
        self.post(Letter::MakeRoom(count, done));
    }

    fn post(&self, letter: Letter) {
        let first = {
            let mut letters = self.letters.lock();
            letters.push(letter);
            letters.len() == 1
        };
        // Only the first rings: whoever answers the bell takes them all.
        if first && let Err(error) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot wake a ring");
        }
    }
}

/// What the thread of a ring does at this moment.
struct Present {
    mailbox: *const Mailbox,
    answered: Vec<Answered>,
    /// The entry of the request being handled, and its payload if nothing of the request is in it.
    lent: Option<(usize, NonNull<u8>, usize)>,
}

thread_local! {
    static PRESENT: RefCell<Option<Present>> = const { RefCell::new(None) };
}

/// Makes the calling thread the one that `mailbox` leads to.
pub fn sit_down(mailbox: &Arc<Mailbox>) {
    let present = Present { mailbox: Arc::as_ptr(mailbox), answered: Vec::new(), lent: None };
    PRESENT.set(Some(present));
}

/// Lends the buffer of the request that is about to be handled, until [`collect`].
pub fn lend(entry: usize, buffer: Option<(NonNull<u8>, usize)>) {
    PRESENT.with_borrow_mut(|present| {
        if let Some(present) = present {
            present.lent = buffer.map(|(at, len)| (entry, at, len));
        }
    });
}

/// Moves the replies that this thread has given since the last call into `into`.
pub fn collect(into: &mut Vec<Answered>) {
    PRESENT.with_borrow_mut(|present| {
        if let Some(present) = present {
            present.lent = None;
            into.append(&mut present.answered);
        }
    });
}

/// The place of one request.
#[derive(Debug)]
pub struct Seat {
    mailbox: Arc<Mailbox>,
    entry: usize,
}

impl Seat {
    /// The request in `entry` of the ring behind `mailbox`.
    pub fn new(mailbox: Arc<Mailbox>, entry: usize) -> Self {
        Self { mailbox, entry }
    }

    /// The mount it belongs to.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.mailbox.connection
    }

    /// Answers it. `error` is 0 or an errno.
    pub fn answer(self, error: i32, payload: Payload) {
        let answered = Answered { entry: self.entry, error, payload };
        let elsewhere = PRESENT.with_borrow_mut(|present| match present {
            Some(present) if present.mailbox == Arc::as_ptr(&self.mailbox) => {
                present.answered.push(answered);
                None
            }
            _ => Some(answered),
        });
        if let Some(answered) = elsewhere {
            self.mailbox.post(Letter::Answered(answered));
        }
    }

    /// The first `size` bytes of the request's own buffer, if this thread handles it now and nothing
    /// of the request is in them. Taken once.
    pub fn borrow_buffer(&self, size: usize) -> Option<Lent<'_>> {
        PRESENT.with_borrow_mut(|present| {
            let present = present.as_mut().filter(|p| p.mailbox == Arc::as_ptr(&self.mailbox))?;
            let (_, at, len) =
                present.lent.take_if(|(entry, _, len)| *entry == self.entry && *len >= size)?;
            debug_assert!(len >= size);
            Some(Lent { at, size, seat: std::marker::PhantomData })
        })
    }
}

/// A buffer that the kernel takes the reply from.
#[derive(Debug)]
pub struct Lent<'a> {
    at: NonNull<u8>,
    size: usize,
    seat: std::marker::PhantomData<&'a Seat>,
}

impl std::ops::Deref for Lent<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as below.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.size) }
    }
}

impl std::ops::DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the entry is with us until its seat is given up, which this borrows; its payload was
        // lent because nothing of the request lies in it, and it was taken out of `PRESENT`, so nobody
        // else has it. It is initialised: anonymous memory, or what the kernel wrote.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.size) }
    }
}
