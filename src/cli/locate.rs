//! From the DIR that was typed to the daemon behind it.
use super::{Context, safe_bytes};
use crate::config::place::canonical_dir;
use crate::serve::control::Client;
use crate::serve::registry::{Found, Registered, Registry};
use crate::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The canonical directory. Asks the registry for the path through its parent first, so that a daemon
/// that hangs cannot hang the verb that asks for it.
pub fn canonical(dir: &Path, registry: &Registry) -> Result<PathBuf> {
    let absolute = std::path::absolute(dir).map_err(|e| Error::io("cannot tell the working directory", e))?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(parent) = std::fs::canonicalize(parent)
    {
        let candidate = parent.join(name);
        if !matches!(registry.find(&candidate), Found::Unknown) {
            return Ok(candidate);
        }
    }
    let shown = || format!("cannot find directory: {}", safe_bytes(dir.as_os_str().as_bytes()));
    canonical_dir(dir).map_err(|e| Error::io(shown(), e))
}

/// The daemon of a directory.
pub fn daemon(dir: &Path, context: &Context) -> Result<(Registered, Client)> {
    let registry = Registry::of(&context.environment);
    registry.client(&canonical(dir, &registry)?)
}

/// Whether a dead daemon's mount lies over a directory. Ask only when no daemon is known to live: it is
/// the question that the kernel never answers from a cache. If the daemon has died this moment, the
/// kernel takes it back when the last of its rings is gone, so it is waited for.
pub fn is_dead_mount(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_err_and(|e| is_of_dead_mount(&e.into()))
}

/// Whether a call failed because the daemon behind a mount is gone.
pub fn is_of_dead_mount(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NOTCONN, Errno::CONNABORTED].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|e| gone.contains(&e))
}

/// Takes a dead daemon's mount away; what is underneath is then visible again.
pub fn detach_dead_mount(dir: &Path) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let Err(refused) = unmount(dir, flags) else { return Ok(()) };
    // An ordinary user's mount is taken away by the set-user-id helper that made it.
    let helped = Command::new("fusermount3").arg("-u").arg("-z").arg("--").arg(dir).output();
    if helped.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "cannot detach the dead mount")
        .with_source(std::io::Error::from(refused)))
}
