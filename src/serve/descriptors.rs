//! How many files a process may have open.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes what we can get: directories that the kernel knows keep a descriptor each, and so do files and clients.
pub fn raise() {
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
