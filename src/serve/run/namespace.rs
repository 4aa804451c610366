//! A mount namespace for the command alone, in a user namespace in which we may mount.
//!
//! An id that has no place in a user namespace is seen there as 65534, and no file can be given to it. So for root all
//! ids are mapped that there are, to themselves; only a process outside of the namespace may do that. Anybody else has
//! their own ids there and no others, which does for a tree that is all theirs.
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{WaitOptions, getegid, geteuid};
use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The two kinds of ids.
const MAPS: [&str; 2] = ["uid_map", "gid_map"];

/// Moves this process into a user and a mount namespace of its own. Who it is stays the same there, but it may
/// mount; processes that it starts may as well, until they [give that up](give_up). Call it while there is one
/// thread. What is mounted is seen by those processes only. Fails if root would not have all ids there.
pub fn enter() -> Result<()> {
    let failed =
        |what: &'static str| move |e: io::Error| Error::new(ErrorKind::Denied, format!("cannot {what}: {e}"));
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let helper = if uid == 0 { Some(Helper::start().map_err(failed("start a helper"))?) } else { None };
    // SAFETY: descriptors are not unshared.
    let moved = unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) };
    moved.map_err(|e| failed("make a user namespace")(e.into()))?;
    if let Some(helper) = helper {
        return helper.map().map_err(failed("give all users and groups a place in a user namespace"));
    }
    let map = |file: &str, text: String| std::fs::write(format!("/proc/self/{file}"), text);
    map("setgroups", "deny".into()).map_err(failed("set up the user namespace"))?;
    map("uid_map", format!("{uid} {uid} 1")).map_err(failed("set up the user namespace"))?;
    map("gid_map", format!("{gid} {gid} 1")).map_err(failed("set up the user namespace"))?;
    keep_across_exec().map_err(failed("keep the right to mount"))
}

/// An entry beneath `dir` whose owner or group would have no place in such a namespace.
pub fn displaced(dir: &Path) -> Option<PathBuf> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if uid == 0 {
        return None;
    }
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(there) = std::fs::symlink_metadata(&path) else { continue };
        if (there.uid(), there.gid()) != (uid, gid) {
            return Some(path);
        }
        if there.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path()));
        }
    }
    None
}

/// A process that stays outside, and maps our ids from there.
struct Helper {
    pid: rustix::process::Pid,
    go: OwnedFd,
}

impl Helper {
    fn start() -> io::Result<Self> {
        // Every id that we have, to itself. That of a namespace within another may be several pieces.
        let mut maps = Vec::new();
        for file in MAPS {
            maps.push((file, identity(&std::fs::read_to_string(format!("/proc/self/{file}"))?)));
        }
        // Its number may mean another process where `/proc` is of another namespace.
        let process: OwnedFd = File::open("/proc/self")?.into();
        let process =
            openat(&process, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let (told, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // SAFETY: there is one thread, so the child may do as any process.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(go);
                let done = File::from(told).read_exact(&mut [0]).and_then(|()| write(&process, &maps));
                let code = done.err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO));
                // SAFETY: nothing of the parent is cleaned up here.
                unsafe { libc::_exit(code) }
            }
            pid => {
                let pid = rustix::process::Pid::from_raw(pid);
                Ok(Self { pid: pid.ok_or(io::ErrorKind::InvalidData)?, go })
            }
        }
    }

    /// Has it done.
    fn map(self) -> io::Result<()> {
        File::from(self.go).write_all(&[0])?;
        let ended = rustix::process::waitpid(Some(self.pid), WaitOptions::empty())?;
        match ended.and_then(|(_, status)| status.exit_status()) {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

fn write(process: &OwnedFd, maps: &[(&str, String)]) -> io::Result<()> {
    for (file, map) in maps {
        let file = openat(process, *file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // The kernel takes a map in one write alone.
        File::from(file).write_all(map.as_bytes())?;
    }
    Ok(())
}

/// The ids of a map, each to itself.
fn identity(map: &str) -> String {
    let pieces = map.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (inside, _outside, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{inside} {inside} {count}\n"))
    });
    pieces.collect()
}

/// An ordinary user's rights end with the next program, unless that inherits them.
fn keep_across_exec() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable |= CapabilitySet::SYS_ADMIN;
    rustix::thread::set_capabilities(None, sets)?;
    Ok(rustix::thread::configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true)?)
}

/// The next program of this process does not inherit the right to mount.
pub fn give_up() -> io::Result<()> {
    Ok(rustix::thread::clear_ambient_capability_set()?)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn each_id_that_there_is_is_mapped_to_itself() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn what_belongs_to_others_is_found() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("d")).expect("makes");
        std::fs::write(dir.path().join("d/f"), "").expect("writes");
        assert_eq!(displaced(dir.path()), None);
        if !geteuid().is_root() {
            assert_eq!(displaced(Path::new("/proc/1")), Some(PathBuf::from("/proc/1")));
        }
    }
}
