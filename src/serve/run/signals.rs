//! [`Signals`]: signals as something that can be waited for, with a time limit.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What is caught. Who sends any other one to us means us, or the kernel acts on it by itself.
const CAUGHT: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGCHLD,
];

/// Of these, who starts us may want that neither we nor the command hear: `nohup`, a shell's `&`.
const PERHAPS_IGNORED: [i32; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// One signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caught {
    /// Its number.
    pub(super) number: i32,
    /// The kernel sent it: a terminal's key goes to every process in its foreground.
    pub(super) from_kernel: bool,
}

/// Signals that are blocked in this process and read from a descriptor. Processes that it starts inherit that, so
/// each has to [unblock] them.
#[derive(Debug)]
pub(super) struct Signals {
    descriptor: OwnedFd,
}

impl Signals {
    /// Blocks them, but those that are ignored already. Call it before any thread is started, so that none has them open.
    pub(super) fn catch() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset makes the set, and the calls after it take only valid signal numbers.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in CAUGHT {
                if !(PERHAPS_IGNORED.contains(&signal) && is_ignored(signal)) {
                    libc::sigaddset(set.as_mut_ptr(), signal);
                }
            }
            // If it is ignored nobody is told of the end of a child.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            set.assume_init()
        };
        // SAFETY: the set is made, and nobody asks for the one of before.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: the set is made.
        let descriptor = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) } })
    }

    /// The next signal; `None` once `until` has passed, or `other` can be read.
    pub(super) fn next(&self, until: Option<Instant>, other: Option<&OwnedFd>) -> io::Result<Option<Caught>> {
        loop {
            if let Some(caught) = self.read()? {
                return Ok(Some(caught));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let mut watched = vec![PollFd::new(&self.descriptor, PollFlags::IN)];
            watched.extend(other.map(|other| PollFd::new(other, PollFlags::IN)));
            match poll(&mut watched, left.map(timespec).as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if watched.get(1).is_some_and(|other| !other.revents().is_empty()) {
                return Ok(None);
            }
        }
    }

    fn read(&self) -> io::Result<Option<Caught>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has this size; the kernel writes one whole record or none.
        let read = unsafe { libc::read(self.descriptor.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read != size as isize {
            return match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                e => Err(e),
            };
        }
        // SAFETY: the kernel has written all of it.
        let info = unsafe { info.assume_init() };
        let from_kernel = info.ssi_code == libc::SI_KERNEL;
        Ok(Some(Caught { number: info.ssi_signo as i32, from_kernel }))
    }
}

/// Whether whoever started us wants that we do not hear it, unless we have said otherwise since.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: it only asks, and what it says is read where it was written.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// No signal is blocked in this thread any more. May be called between fork and exec.
pub fn unblock() -> io::Result<()> {
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset makes the set, and nobody asks for the one of before.
    let done = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(done)) }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}
