//! Daemons that were killed and are not gone yet.
use crate::serve::registry::Registered;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// So long the end of one is waited for: the kernel gives its memory back first.
const DYING_MAX: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Whether a daemon that was killed has ended by now: the kernel may take a moment, which is waited for.
pub(super) fn has_died(daemon: &Registered) -> bool {
    let Some(pid) = i32::try_from(daemon.pid).ok().and_then(Pid::from_raw) else { return false };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) if is_dying(daemon.pid) => {
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&DYING_MAX)).is_ok_and(|number| number > 0)
        }
        Ok(_) => false,
        Err(e) => e == Errno::SRCH,
    }
}

/// Whether nothing can keep a process alive any more: it is on its way out, or a SIGKILL waits for it.
fn is_dying(pid: u32) -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    is_exiting(&read("stat")) || is_killed(&read("status"))
}

/// By `/proc/PID/stat`: the flag PF_EXITING, field 9, proc_pid_stat(5) and linux/sched.h.
fn is_exiting(stat: &str) -> bool {
    // The second field is a name and may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let flags = fields.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & 4 != 0)
}

/// By `/proc/PID/status`, proc_pid_status(5).
fn is_killed(status: &str) -> bool {
    let pending = status.lines().filter_map(|line| line.split_once(":\t"));
    pending.filter(|(name, _)| matches!(*name, "SigPnd" | "ShdPnd")).any(|(_, mask)| {
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_on_the_way_out_is_told_from_who_lives() {
        let me = std::process::id();
        assert!(!is_dying(me));
        assert!(
            is_exiting("7 (a) b) R 1 7 7 0 -1 4194316 1 0")
                && !is_exiting("7 (a) 4 4 R 1 7 7 0 -1 4194304 1 0")
        );
        assert!(!is_exiting(""));
        assert!(is_killed("Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_killed(
            "Name:\tx\nSigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\nSigIgn:\t0000000000000100\n"
        ));
    }
}
