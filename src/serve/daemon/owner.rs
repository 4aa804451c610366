//! The process that a mount is for: when it is gone, however it ended, the mount ends in good order.
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};

/// Calls `end` once the process `owner`, which has started this one, is gone.
///
/// Not by the signal that the kernel sends to children at the death of a parent: it comes when the *thread* ends that
/// has started them.
pub fn watch(owner: u32, end: impl FnOnce() + Send + 'static) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("cannot watch the process that the mount is for", e);
    let pid = i32::try_from(owner).ok().and_then(Pid::from_raw);
    let watched = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(watched)) => Some(watched),
        None | Some(Err(Errno::SRCH)) => None,
        Some(Err(e)) => return Err(failed(e.into())),
    };
    // Another process may have got the number meanwhile, but not have become our parent by that.
    let watched = watched.filter(|_| getppid() == pid);
    let thread = std::thread::Builder::new().name("owner".into()).spawn(move || {
        if let Some(watched) = watched {
            while poll(&mut [PollFd::new(&watched, PollFlags::IN)], None) == Err(Errno::INTR) {}
        }
        tracing::warn!(owner, "the process that the mount is for is gone: ending");
        end();
    });
    thread.map(drop).map_err(failed)
}
