//! Which processes are ours, and the end of them.
use super::lab::BIN;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sends a signal.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process is the program under test.
pub fn is_ours(pid: u32) -> bool {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe == Path::new(BIN) || exe.to_string_lossy().starts_with(&format!("{BIN} (deleted)"))
}

/// Processes of the program (daemons, their helpers, hung verbs) that were started for this lab.
/// A daemon is told everything through a pipe, so its command line names no path. But it inherits
/// the HOME that every command of a lab gets, and its TMPDIR lies in the state directory.
pub fn processes(root: &Path) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| is_ours(*pid) && is_of(root, *pid)).collect()
}

fn is_of(root: &Path, pid: u32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|b| *b == 0).any(|entry| {
        let dir = entry.strip_prefix(b"HOME=").or_else(|| entry.strip_prefix(b"TMPDIR="));
        dir.is_some_and(|dir| Path::new(OsStr::from_bytes(dir)).starts_with(root))
    })
}
