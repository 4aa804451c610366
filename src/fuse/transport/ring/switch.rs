//! [`Switch`]: the kernel's own switch for FUSE over io_uring.
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;

/// A parameter of the kernel module: `Y` or `N`, `N` unless an administrator or a distribution says
/// otherwise. The kernel looks at it at a mount and at the handshake, and never again for that mount.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// The first kernel (major, minor) on which we turn it on ourselves: it is the one this was tested with,
/// and earlier ones had faults in ending a mount.
const TRUSTED_SINCE: (u32, u32) = (6, 18);

/// The switch, on while this lives. It is set back to what it was; no other mount is changed by it.
#[derive(Debug)]
pub struct Switch {
    /// Locked, so that two mounts that begin at once do not set it back under each other.
    parameter: OwnedFd,
    was_off: bool,
}

impl Switch {
    /// Turns it on if it is off and may be turned on.
    pub fn hold() -> Result<Self, String> {
        let missing = |_| "this kernel has no FUSE over io_uring (Linux 6.14 or later does)".to_owned();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let parameter = rustix::fs::open(PARAMETER, flags, Mode::empty()).map_err(missing)?;
        let failed = |e: rustix::io::Errno| format!("cannot use {PARAMETER}: {e}");
        rustix::fs::flock(&parameter, FlockOperation::LockExclusive).map_err(failed)?;
        let mut value = [0];
        rustix::io::read(&parameter, &mut value).map_err(failed)?;
        let was_off = value != *b"Y";
        if was_off {
            if !is_trusted() {
                return Err(format!("{PARAMETER} is off"));
            }
            set(b"Y").map_err(|_| format!("{PARAMETER} is off, and only root can turn it on"))?;
        }
        Ok(Self { parameter, was_off })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if self.was_off
            && let Err(error) = set(b"N")
        {
            tracing::warn!(%error, "cannot turn {PARAMETER} off again");
        }
        let _unlocked = rustix::fs::flock(&self.parameter, FlockOperation::Unlock);
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
