//! How large a file this process may write: as large as it gets, whatever the shell that mounts may do.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lifts the limit as far as we may. Beyond that a write fails and ends nobody, as a signal would.
pub(super) fn lift() {
    // SAFETY: to ignore a signal runs no code in its place.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let now = getrlimit(Resource::Fsize);
    // Above the hard limit needs privileges; up to it does not.
    if setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None }).is_err() {
        let _kept = setrlimit(Resource::Fsize, Rlimit { current: now.maximum, maximum: now.maximum });
    }
}
