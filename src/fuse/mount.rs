//! Attaching a directory to the kernel: our own mount call, so that nothing but we unmounts it.
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// `f_type` of overlayfs: a backing there is already one level of stacking.
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
/// `f_type` of file systems on which a copy shares extents.
const REFLINK_MAGICS: [i64; 3] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e]; // btrfs, xfs, bcachefs

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What `mount(8)` shows as the source.
    pub source: String,
    /// Other users may enter.
    pub allow_other: bool,
    /// Restrictions.
    pub flags: Restrictions,
}

/// What the kernel shall not do on the mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restrictions {
    /// Honour set-user-id bits.
    pub nosuid: bool,
    /// Open device nodes.
    pub nodev: bool,
    /// Execute programs.
    pub noexec: bool,
    /// Change anything.
    pub read_only: bool,
}

impl Restrictions {
    fn flags(self) -> MountFlags {
        let flag = |on, flag| if on { flag } else { MountFlags::empty() };
        // Access times are the backing's; the kernel need not report them to us.
        MountFlags::NOATIME
            | flag(self.nosuid, MountFlags::NOSUID)
            | flag(self.nodev, MountFlags::NODEV)
            | flag(self.noexec, MountFlags::NOEXEC)
            | flag(self.read_only, MountFlags::RDONLY)
    }

    fn words(self) -> String {
        let word = |on, word: &'static str| if on { word } else { "" };
        let restricted =
            [word(self.nosuid, ",nosuid"), word(self.nodev, ",nodev"), word(self.noexec, ",noexec")];
        restricted.concat() + word(self.read_only, ",ro")
    }
}

/// What the backing allows.
#[derive(Debug, Clone, Copy)]
pub struct Backing {
    /// Stack depth passthrough needs.
    pub depth: u32,
    /// Whether copies share extents there.
    pub reflink: bool,
}

impl Backing {
    /// Looks at the file system behind a directory.
    pub fn probe(dir: impl AsFd) -> io::Result<Self> {
        let magic = rustix::fs::fstatfs(dir)?.f_type;
        Ok(Self {
            depth: if magic == OVERLAYFS_SUPER_MAGIC { 2 } else { 1 },
            reflink: REFLINK_MAGICS.contains(&magic),
        })
    }
}

/// Why file data passes us instead of going straight to the backing.
#[derive(Debug, Clone)]
pub enum NoPassthrough {
    /// The user asked for it.
    TurnedOff,
    /// The kernel did not offer or do it.
    Refused(String),
}

impl std::fmt::Display for NoPassthrough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TurnedOff => f.write_str("turned off"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// A mounted directory. Unmount it; dropping it leaves the mount in place.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
    /// Device number of the mount, as stat shows it: tells ours from one mounted over it.
    dev: u64,
    by_helper: bool,
}

/// The kernel judges by owner, group, mode and access list, also where nobody but the owner enters: else
/// access(2) would be answered with yes, and a file that is not here yet could be emptied against its mode.
const JUDGED: &str = "default_permissions";

/// Opens the device and mounts it on `dir`. As an ordinary user the mount is made by `fusermount3`.
pub fn mount(dir: &Path, options: &MountOptions) -> Result<(OwnedFd, Mounted)> {
    let (device, by_helper) = match mount_directly(dir, options) {
        Ok(device) => (device, false),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => (mount_by_helper(dir, options)?, true),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => {
            let message = "cannot open /dev/fuse: load the kernel module (modprobe fuse) or pass the \
                           device into the container";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Err(e) => return Err(Error::io(format!("cannot mount on {}", dir.display()), e.into())),
    };
    let dev = mounted_device(dir).unwrap_or_default();
    Ok((device, Mounted { dir: dir.to_owned(), dev, by_helper }))
}

pub(super) fn mount_directly(dir: &Path, options: &MountOptions) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let mode = rustix::fs::stat(dir)?.st_mode & 0o170_000;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},max_read=1048576,{JUDGED}",
        device.as_raw_fd(),
        uid.as_raw(),
        gid.as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    let source = CString::new(options.source.as_bytes()).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount(&source, dir, c"fuse.icecache", options.flags.flags(), Some(data.as_c_str()))?;
    Ok(device)
}

/// Asks `fusermount3` to mount and to send the device over a socket.
fn mount_by_helper(dir: &Path, options: &MountOptions) -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let failed = |e: io::Error| Error::io(format!("cannot mount on {}", dir.display()), e);
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|e| failed(e.into()))?;
    let mut how = format!(
        "fsname={},subtype=icecache,noatime,max_read=1048576,{JUDGED}",
        options.source.replace(',', "\\,")
    );
    how.push_str(&options.flags.words());
    if options.allow_other {
        how.push_str(",allow_other");
    }
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-o").arg(how).arg("--").arg(dir);
    let number = theirs.as_raw_fd();
    command.env("_FUSE_COMMFD", number.to_string());
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let output = command.stdin(std::process::Stdio::null()).output().map_err(|e| {
        let message = "cannot run fusermount3: install the package fuse3, or mount as root";
        Error::new(ErrorKind::Unsupported, message).with_source(e)
    })?;
    drop(theirs);
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said.contains("/dev/fuse") {
            said.push_str(" (ordinary users need read and write permission for it: chmod 666 /dev/fuse)");
        }
        return Err(Error::new(ErrorKind::Denied, format!("fusermount3 refused to mount: {said}")));
    }
    receive_device(&ours).map_err(failed)
}

fn receive_device(socket: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut byte = [0; 1];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(device) = descriptors.next()
        {
            return Ok(device);
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fusermount3 sent no descriptor"))
}

/// The device number of what is mounted last on `dir`, without asking the file system there (which
/// may be dead, or us).
pub fn mounted_device(dir: &Path) -> Option<u64> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    let wanted = escape(dir);
    table.split(|b| *b == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let device = std::str::from_utf8(fields.nth(2)?).ok()?;
        if fields.nth(1)? != wanted {
            return None;
        }
        let (major, minor) = device.split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Whether a FUSE file system of ours is mounted last on `dir`, dead or alive.
pub fn is_ours(dir: &Path) -> bool {
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else { return false };
    let wanted = escape(dir);
    let last = table
        .split(|b| *b == b'\n')
        .rev()
        .find(|line| line.split(|b| *b == b' ').nth(4).is_some_and(|field| field == wanted));
    last.is_some_and(|line| line.windows(16).any(|w| w == b" - fuse.icecache"))
}

/// Whether an open directory lies on a FUSE file system of ours.
pub fn is_on_ours(dir: impl AsFd) -> Result<bool> {
    let failed = |e| Error::io("cannot look at the mounts", e);
    let dev = rustix::fs::fstat(dir).map_err(|e| failed(e.into()))?.st_dev;
    let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let table = std::fs::read("/proc/self/mountinfo").map_err(failed)?;
    Ok(table.split(|b| *b == b'\n').any(|line| {
        line.split(|b| *b == b' ').nth(2) == Some(device.as_bytes())
            && line.windows(16).any(|w| w == b" - fuse.icecache")
    }))
}

/// A path as mountinfo writes it.
fn escape(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().iter().fold(Vec::new(), |mut out, byte| {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{byte:03o}").bytes()),
            byte => out.push(*byte),
        }
        out
    })
}

impl Mounted {
    /// One that we made without help.
    pub(super) fn directly(dir: &Path, dev: u64) -> Self {
        Self { dir: dir.to_owned(), dev, by_helper: false }
    }

    /// Where.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Device number of the mount.
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// Whether `fusermount3` made it.
    pub fn by_helper(&self) -> bool {
        self.by_helper
    }

    /// Unmounts. `lazy` detaches even while it is in use. Already gone, or hidden by a later mount
    /// that is not ours, is a success.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if mounted_device(&self.dir) != Some(self.dev) {
            return Ok(());
        }
        if self.by_helper { unmount_by_helper(&self.dir, lazy) } else { unmount(&self.dir, lazy) }
    }
}

fn unmount(dir: &Path, lazy: bool) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(dir, flags)?)
}

fn unmount_by_helper(dir: &Path, lazy: bool) -> io::Result<()> {
    let mut command = std::process::Command::new("fusermount3");
    command.arg("-u").arg("-q");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(dir).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "fusermount3 could not unmount"))
}

/// Detaches a mount of ours whose daemon has died. Does nothing if there is none.
pub fn detach_dead(dir: &Path) -> Result<bool> {
    if !is_ours(dir) {
        return Ok(false);
    }
    // A living one answers; a dead one fails with ENOTCONN.
    match rustix::fs::statfs(dir) {
        Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED) => {}
        Ok(_) => {
            let message = format!("an icecache is already mounted on {}", dir.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        Err(e) => return Err(Error::io(format!("cannot look at {}", dir.display()), e.into())),
    }
    unmount(dir, true)
        .or_else(|_| unmount_by_helper(dir, true))
        .map_err(|e| Error::io(format!("cannot detach the dead mount on {}", dir.display()), e))?;
    Ok(true)
}

/// Finds out whether passthrough works for this backing, on a mount of its own that lives for a
/// moment: mode cannot change once a volume is served.
pub fn probe_passthrough(root: impl AsFd, probe_dir: &Path) -> std::result::Result<(), NoPassthrough> {
    let refused = |what: &str, e: &dyn std::fmt::Display| NoPassthrough::Refused(format!("{what}: {e}"));
    if !rustix::process::geteuid().is_root() {
        return Err(NoPassthrough::Refused("needs root (CAP_SYS_ADMIN)".into()));
    }
    let depth = Backing::probe(&root).map_err(|e| refused("cannot look at the backing", &e))?.depth;
    // One that was killed while it tried has left its mount there.
    detach_dead(probe_dir).map_err(|e| refused("cannot probe", &e))?;
    let mut private = std::fs::DirBuilder::new();
    let made = private.recursive(true).mode(0o700).create(probe_dir);
    made.map_err(|e| refused("cannot make a place to probe", &e))?;
    let options =
        MountOptions { source: "icecache-probe".into(), allow_other: false, flags: Restrictions::default() };
    let (device, mounted) = mount(probe_dir, &options).map_err(|e| refused("cannot mount", &e))?;
    let result = super::probe::try_passthrough(device, depth, &root);
    let unmounted = mounted.unmount(true);
    result.and_then(|()| unmounted.map_err(|e| refused("cannot unmount the probe", &e)))
}

/// A regular file on the backing's file system that exists only for the probe.
pub(super) fn nameless_file(root: impl AsFd) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(root, ".", flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_is_read_without_touching_the_mount() {
        assert!(mounted_device(Path::new("/proc")).is_some());
        assert_eq!(mounted_device(Path::new("/no such directory")), None);
        assert_eq!(escape(Path::new("/a b\\c")), b"/a\\040b\\134c");
        assert!(!is_ours(Path::new("/proc")));
    }
}
