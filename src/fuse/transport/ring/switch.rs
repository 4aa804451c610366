//! [`Switch`]: the kernel's own switch for FUSE over io_uring.
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;

/// A parameter of the kernel module: `Y` or `N`, `N` unless an administrator or a distribution says
/// otherwise. The kernel looks at it at a mount and at the handshake; what was agreed then stays, unless
/// the kernel itself gives a connection's rings up.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// The first kernel (major, minor) on which we turn it on ourselves: it is the one this was tested with,
/// and earlier ones had faults in ending a mount.
const TRUSTED_SINCE: (u32, u32) = (6, 18);

/// Locked while we have turned it on, so that two mounts that begin at once do not set it back under
/// each other. For root alone: anybody could hold a lock on the parameter itself.
const LOCK: &str = "/run/icecache-uring.lock";

/// The switch, on while this lives. It is set back to what it was; no other mount is changed by it.
#[derive(Debug)]
pub struct Switch {
    /// Held if it was off and we have turned it on.
    turned_on: Option<OwnedFd>,
}

impl Switch {
    /// Turns it on if it is off and may be turned on.
    pub fn hold() -> Result<Self, String> {
        if is_on()? {
            return Ok(Self { turned_on: None });
        }
        if !is_trusted() {
            return Err(format!("{PARAMETER} is off"));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(format!("{PARAMETER} is off, and only root can turn it on"));
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |e: rustix::io::Errno| format!("cannot lock {LOCK}: {e}");
        let lock = rustix::fs::open(LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(failed)?;
        if is_on()? {
            return Ok(Self { turned_on: None }); // an administrator, meanwhile
        }
        set(b"Y").map_err(|e| format!("{PARAMETER} is off and cannot be turned on: {e}"))?;
        Ok(Self { turned_on: Some(lock) })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let Some(lock) = self.turned_on.take() else { return };
        if let Err(error) = set(b"N") {
            tracing::warn!(%error, "cannot turn {PARAMETER} off again");
        }
        let _unlocked = rustix::fs::flock(&lock, FlockOperation::Unlock);
    }
}

fn is_on() -> Result<bool, String> {
    match std::fs::read(PARAMETER) {
        Ok(value) => Ok(value.starts_with(b"Y")),
        Err(_) => Err("this kernel has no FUSE over io_uring (Linux 6.14 or later does)".to_owned()),
    }
}

fn set(value: &[u8]) -> rustix::io::Result<()> {
    let parameter = rustix::fs::open(PARAMETER, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&parameter, value).map(drop)
}

fn is_trusted() -> bool {
    let release = rustix::system::uname();
    version(&release.release().to_string_lossy()).is_some_and(|v| v >= TRUSTED_SINCE)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert!(version("6.9.0").expect("a version") < TRUSTED_SINCE);
        assert!(version("7.0-rc1").expect("a version") > TRUSTED_SINCE);
        assert_eq!(version("unknown"), None);
    }
}
