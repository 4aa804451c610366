//! Changes of attributes and of length. The caller has passed the gate.
use crate::clock::Timestamp;
use crate::fs::Volume;
use crate::fs::attr::Attr;
use crate::fs::counters::Op;
use crate::fs::inode::Inode;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum SetTime {
    /// The backing's clock.
    Now,
    /// This one.
    At(Timestamp),
}

/// What to change; `None` leaves it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Drop setuid and setgid as a write by an ordinary user does.
    pub drop_privileges: bool,
}

impl SetAttr {
    /// Whether dropping setuid and setgid is all.
    fn only_drops(&self) -> bool {
        let Self { mode, uid, gid, size, atime, mtime, drop_privileges } = self;
        let changes = mode.or(*uid).or(*gid).is_some() || size.is_some() || atime.or(*mtime).is_some();
        *drop_privileges && !changes
    }
}

impl Volume {
    /// Changes attributes and returns them as they are then.
    pub fn setattr(&self, inode: u64, handle: Option<u64>, set: SetAttr) -> io::Result<Attr> {
        self.count(Op::Setattr);
        if let Some(attr) = self.set_absent(&*self.inode(inode)?, &set)? {
            return Ok(attr);
        }
        let inode = self.inode(inode)?;
        if let Some(size) = set.size {
            self.resize(&inode, handle, size)?;
        }
        if set.only_drops() {
            // The disk does it as for chown(2), and notes the time.
            self.chown(&inode, None, None)?;
        } else if set.drop_privileges {
            self.drop_privileges(&inode)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            self.chown(&inode, set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw))?;
        }
        if let Some(mode) = set.mode {
            self.chmod(&inode, mode)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            self.set_times(&inode, set)?;
        }
        self.mark(&inode);
        self.attr_of(&inode)
    }

    fn chmod(&self, inode: &Inode, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.change(
            inode,
            |fd| rustix::fs::fchmod(fd, mode),
            |path| rustix::fs::chmod(path, mode),
            |dir, name| rustix::fs::chmodat(dir, name, mode, AtFlags::empty()),
        )
    }

    fn chown(&self, inode: &Inode, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
        self.change(
            inode,
            |fd| rustix::fs::fchown(fd, uid, gid),
            |path| rustix::fs::chown(path, uid, gid),
            |dir, name| rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        )
    }

    fn set_times(&self, inode: &Inode, set: SetAttr) -> io::Result<()> {
        let spec = |time: Option<SetTime>| match time {
            None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            Some(SetTime::At(t)) => Timespec { tv_sec: t.sec, tv_nsec: i64::from(t.nsec) },
        };
        let times = Timestamps { last_access: spec(set.atime), last_modification: spec(set.mtime) };
        self.change(
            inode,
            |fd| rustix::fs::futimens(fd, &times),
            |path| rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()),
            |dir, name| rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW),
        )
    }

    /// Changes an inode: one that has lost its last name by the descriptor that is kept of it, a directory by a path to
    /// itself, anything else by a name.
    fn change(
        &self,
        inode: &Inode,
        by_descriptor: impl Fn(BorrowedFd<'_>) -> Result<(), Errno>,
        by_path: impl Fn(&str) -> Result<(), Errno>,
        by_name: impl Fn(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
    ) -> io::Result<()> {
        let orphan = inode.open.lock().orphan.clone();
        match orphan {
            Some(fd) => {
                let changed = match by_descriptor(fd.as_fd()) {
                    // That of a device or a symbolic link is one of its place alone (`O_PATH`).
                    Err(Errno::BADF) => by_path(&path_of(&fd)),
                    changed => changed,
                };
                Ok(changed?)
            }
            None => self.naming(|| match inode.dir() {
                Ok(dir) => Ok(by_path(&path_of(&dir))?),
                Err(_) => inode.at(|dir, name| Ok(by_name(dir, name)?)),
            }),
        }
    }

    fn resize(&self, inode: &Arc<Inode>, handle: Option<u64>, size: u64) -> io::Result<()> {
        // A handle opened for writing may truncate what its mode no longer allows to open.
        let classic = handle.map(|h| self.to_write(h)).transpose()?.flatten().filter(|h| h.writable);
        match classic {
            Some(handle) => {
                self.shelter.before_write(inode)?;
                handle.file()?.set_len(size)
            }
            None => self.truncate(inode, size),
        }
    }

    /// Sets the length of a file, by name or by its orphan descriptor.
    pub(super) fn truncate(&self, inode: &Arc<Inode>, size: u64) -> io::Result<()> {
        self.shelter.before_write(inode)?;
        let orphan = inode.open.lock().orphan.clone();
        match orphan {
            Some(fd) => Ok(rustix::fs::ftruncate(fd, size)?),
            None => inode.at(|dir, name| {
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                Ok(rustix::fs::ftruncate(rustix::fs::openat(dir, name, flags, Mode::empty())?, size)?)
            }),
        }
    }

    /// Drops setuid, and setgid where it means "run as group", as a write by an ordinary user must
    /// (the mount asked the kernel to leave that to us).
    pub(super) fn drop_privileges(&self, inode: &Inode) -> io::Result<()> {
        let attr = self.attr_of(inode)?;
        let mode = attr.mode & 0o7777;
        let left = without_privileges(mode);
        if !attr.is_file() || left == mode {
            return Ok(());
        }
        self.chmod(inode, left)?;
        // The answers to what drops them carry no mode.
        if let Some(kernel) = self.kernel.get() {
            kernel.forget_attr(inode.id);
        }
        Ok(())
    }

    /// Drops setgid, of a directory as well. The kernel forgets the mode by what follows.
    pub(super) fn drop_setgid(&self, inode: &Inode) -> io::Result<()> {
        let mode = self.attr_of(inode)?.mode & 0o7777;
        if mode & 0o2000 == 0 { Ok(()) } else { self.chmod(inode, mode & !0o2000) }
    }

    /// Whether [`drop_privileges`](Self::drop_privileges) would do anything.
    pub(super) fn has_privileges(&self, inode: &Inode) -> io::Result<bool> {
        let attr = self.attr_of(inode)?;
        let mode = attr.mode & 0o7777;
        Ok(attr.is_file() && without_privileges(mode) != mode)
    }
}

/// A path to what is open itself. In a directory, to find `.` in it takes the right to enter it, which its owner may have taken from
/// himself.
fn path_of(opened: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", opened.as_raw_fd())
}

/// A mode after a write by an ordinary user. Set-group-ID without the group's right to execute is no privilege.
pub(in crate::fs) fn without_privileges(mode: u32) -> u32 {
    let mode = mode & !0o4000;
    if mode & 0o010 != 0 { mode & !0o2000 } else { mode }
}
