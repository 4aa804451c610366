//! The question "can we mount here?", asked step by step.
use super::mount::{MountOptions, Mounted, Restrictions, detach_dead, mount, mount_directly, mounted_device};
use crate::error::Error;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The device of FUSE: character device 10:229.
const DEVICE: (u32, u32) = (10, 229);

fn errno(e: Errno) -> String {
    io::Error::from(e).to_string()
}

/// Whether `/dev/fuse` is the device.
pub fn device() -> Result<String, String> {
    let stat = rustix::fs::stat("/dev/fuse").map_err(errno)?;
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if (major, minor) == DEVICE => Ok(format!("{major}:{minor}")),
        FileType::CharacterDevice => Err(format!("it is device {major}:{minor}, not 10:229")),
        _ => Err("it is no device".to_owned()),
    }
}

/// Whether it can be opened.
pub fn try_open() -> Result<String, String> {
    let opened = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    opened.map(|_| "for reading and writing".to_owned()).map_err(errno)
}

/// Mounts on an empty directory for a moment: by ourselves, or by `fusermount3`. One that was killed meanwhile has left its
/// mount there.
pub fn try_mount(place: &Path) -> Result<String, String> {
    detach_dead(place).map_err(|e| e.to_string())?;
    match try_mount_directly(place) {
        Err(refused) => {
            let (device, mounted) = mount(place, &options()).map_err(|e: Error| format!("{refused}; {e}"))?;
            end(device, &mounted, "by fusermount3")
        }
        worked => worked,
    }
}

/// Mounts on an empty directory for a moment, by ourselves.
pub fn try_mount_directly(place: &Path) -> Result<String, String> {
    let device = mount_directly(place, &options()).map_err(errno)?;
    let mounted = Mounted::directly(place, mounted_device(place).unwrap_or_default());
    end(device, &mounted, "by itself")
}

fn options() -> MountOptions {
    MountOptions { source: "icecache-probe".into(), allow_other: false, flags: Restrictions::default() }
}

fn end(device: OwnedFd, mounted: &Mounted, by: &str) -> Result<String, String> {
    let unmounted = mounted.unmount(true);
    drop(device);
    unmounted.map(|()| by.to_owned()).map_err(|e| format!("mounted, but cannot be unmounted: {e}"))
}
