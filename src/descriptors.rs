//! How many descriptors a process may have.
use rustix::process::{Resource, getrlimit};
#[cfg(any(feature = "fuse", feature = "http"))]
use rustix::process::{Rlimit, setrlimit};

/// How many this process may have.
pub(crate) fn limit() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// Takes what we can get: directories that are in use keep a descriptor each, and so do files and clients.
#[cfg(any(feature = "fuse", feature = "http"))]
pub(crate) fn raise() {
    let wanted =
        std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|n| n.trim().parse::<u64>().ok());
    let now = getrlimit(Resource::Nofile);
    let most = wanted.unwrap_or(1 << 20).min(1 << 20);
    // Above the hard limit needs privileges; up to it does not.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) });
    if raised.is_err() {
        let _kept = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
}
