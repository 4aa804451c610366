//! A mount namespace for the command alone, in a user namespace in which we may mount.
use crate::error::{Error, ErrorKind, Result};
use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};
use std::io;

/// Moves this process into a user and a mount namespace of its own. Who it is stays the same there, but it may
/// mount; processes that it starts may as well, until they [give that up](give_up). Call it while there is one
/// thread. What is mounted is seen by those processes only.
pub fn enter() -> Result<()> {
    let failed =
        |what: &'static str| move |e: io::Error| Error::new(ErrorKind::Denied, format!("cannot {what}: {e}"));
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: descriptors are not unshared.
    let moved = unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) };
    moved.map_err(|e| failed("make a user namespace")(e.into()))?;
    let map = |file: &str, text: String| std::fs::write(format!("/proc/self/{file}"), text);
    map("setgroups", "deny".into()).map_err(failed("set up the user namespace"))?;
    map("uid_map", format!("{uid} {uid} 1")).map_err(failed("set up the user namespace"))?;
    map("gid_map", format!("{gid} {gid} 1")).map_err(failed("set up the user namespace"))?;
    if uid != 0 {
        keep_across_exec().map_err(failed("keep the right to mount"))?;
    }
    Ok(())
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
