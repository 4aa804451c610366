//! [`Orphan`]: a daemon whose `exec` is gone: it was killed, or its time was up (`--grace`). It saves what there is, and ends by itself.
use crate::Result;
use crate::cli::Context;
use crate::serve::registry::Registered;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;

/// So long its end is waited for.
const ORPHAN_MAX: Timespec = Timespec { tv_sec: 300, tv_nsec: 0 };

/// See the module.
#[derive(Debug)]
pub(in crate::cli) struct Orphan(OwnedFd);

/// Waits for the end of one; whether it has come.
pub(in crate::cli) type Waiting<'a> = &'a mut dyn FnMut(Orphan) -> Result<bool>;

impl Orphan {
    /// Whether `daemon`, which is one, ends, by `waiting`.
    pub(super) fn ends(daemon: &Registered, waiting: Waiting<'_>, context: &Context) -> Result<bool> {
        let Some(pid) = i32::try_from(daemon.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(e) => return Ok(e == Errno::SRCH),
        };
        context.output.say(&format!(
            "the exec that mounted this has ended before its daemon (pid {}), which saves what there is and ends",
            daemon.pid
        ));
        // It would wait for whoever is in there, us among them. Who has no way back stays.
        let here = std::env::current_dir().ok();
        let _elsewhere = here.as_ref().map(|_| std::env::set_current_dir("/"));
        let ended = waiting(Self(process));
        let _back = here.map(std::env::set_current_dir);
        ended
    }

    /// Waits for its end; whether it has come.
    pub(in crate::cli) fn wait(&self) -> bool {
        let ended = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&ORPHAN_MAX));
        ended.is_ok_and(|number| number > 0)
    }
}
