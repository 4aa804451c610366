//! [`Forwarding`]: Ctrl-C ends the start of a mount. The daemon lives in a session of its own and would not hear of it.
use crate::serve::run::is_ignored;
use crate::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// See the module. It ends with its owner, who must not have waited for the child by then: until that happens the number
/// of the process is nobody else's.
pub(super) struct Forwarding {
    interrupted: Arc<AtomicBool>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Forwarding {
    /// From now on SIGINT and SIGTERM end the child, but for those that whoever started us wants ignored.
    pub(super) fn to(child: &Child) -> Result<Self> {
        let failed = |e| Error::io("cannot watch for signals", e);
        let interrupted = Arc::new(AtomicBool::new(false));
        let (seen, pid) = (Arc::clone(&interrupted), Pid::from_child(child));
        let heard = [SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(*signal));
        let mut signals = Signals::new(heard).map_err(failed)?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                seen.store(true, Ordering::Release);
                let _gone = kill_process(pid, Signal::TERM);
            }
        });
        Ok(Self { interrupted, handle, thread: Some(thread.map_err(failed)?) })
    }

    /// Whether there was a signal.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.handle.close();
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// In a process of its own: what becomes of a signal holds for all of one.
    #[test]
    fn it_heeds_what_is_ignored_and_ends_with_its_owner() {
        const HERE: &str = "ICECACHE_TEST_FORWARDING";
        if std::env::var_os(HERE).is_none() {
            let test = std::env::current_exe().expect("known");
            let name = std::thread::current().name().expect("that of the test").to_owned();
            let mut here = Command::new(test);
            let here = here.args(["--exact", &name, "--test-threads=1"]).env(HERE, "1");
            let output = here.output().expect("runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let sleeper = || Command::new("sleep").arg("60").spawn().expect("starts");
        let raise = |signal| {
            kill_process(rustix::process::getpid(), signal).expect("sent");
        };
        // SAFETY: nothing here handles it.
        unsafe { libc::signal(SIGINT, libc::SIG_IGN) };
        let mut first = sleeper();
        let forwarding = Forwarding::to(&first).expect("watches");
        assert!(is_ignored(SIGINT), "the command after the start would hear it");
        raise(Signal::INT);
        assert!(!forwarding.interrupted());
        raise(Signal::TERM);
        assert_eq!(first.wait().expect("ends").signal(), Some(SIGTERM));
        assert!(forwarding.interrupted());
        drop(forwarding);

        let mut second = sleeper();
        drop(Forwarding::to(&second).expect("watches"));
        raise(Signal::TERM);
        second.kill().expect("killed");
        assert_eq!(
            second.wait().expect("ends").signal(),
            Some(libc::SIGKILL),
            "it was forwarded after the start"
        );
    }
}
