//! New entries: files, directories, nodes, symbolic and hard links. The caller has passed the gate.
use crate::fs::attr::{Attr, decode_dev};
use crate::fs::counters::Op;
use crate::fs::inode::{ACL_UNKNOWN, Inode};
use crate::fs::open::{Opened, Opening, Register, reach};
use crate::fs::restate::Place;
use crate::fs::{Caller, Volume, sys};
use crate::state::dirty::Extent;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Volume {
    /// Creates and opens a file (open(2) with `O_CREAT` on a name the kernel believes absent).
    pub fn create(
        &self,
        parent: u64,
        name: &CStr,
        mode: u32,
        opening: Opening,
        register: Register<'_>,
    ) -> io::Result<(u64, Attr, Opened)> {
        self.count(Op::Create);
        let parent = self.inode(parent)?;
        let dir = parent.dir()?;
        let Opening { caller, flags, .. } = opening;
        let mode = self.masked(caller, &parent, mode);
        let access = flags & OFlags::RWMODE;
        // Passthrough needs no descriptor of ours that can write: the kernel opens its own.
        let access = if self.options.passthrough && parent.native { OFlags::RDONLY } else { access };
        let how = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let how = how | access | (flags & OFlags::EXCL);
        let mode = Mode::from_raw_mode(mode);
        let made = self.naming(|| Ok(rustix::fs::openat(&dir, name, how | OFlags::EXCL, mode)));
        let (file, fresh) = match made? {
            Ok(fd) => (File::from(fd), true),
            // The backing was changed beneath the mount, or the kernel's negative entry was stale.
            Err(rustix::io::Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                (File::from(rustix::fs::openat(&dir, name, how, mode)?), false)
            }
            Err(e) => return Err(e.into()),
        };
        if fresh {
            self.give(caller, &parent, name)?;
        }
        let attr = Attr::at(&file, c"")?;
        let inode = self.inodes.intern(&parent, name, &attr);
        let opened = if fresh { Ok(()) } else { self.prepare(&inode, opening) };
        let opened = opened.and_then(|()| self.open_created(&inode, (file, access), opening, register));
        let opened = opened.inspect_err(|_| self.inodes.forget(inode.id, 1))?;
        self.mark(&inode);
        let attr = if fresh { attr } else { self.attr_of(&inode)? };
        Ok((inode.id, inode.told(attr), opened))
    }

    fn open_created(
        &self,
        inode: &Arc<Inode>,
        (file, access): (File, OFlags),
        how: Opening,
        register: Register<'_>,
    ) -> io::Result<Opened> {
        let kernel = self.is_served_by_kernel(inode, how)?;
        let opened = if kernel {
            self.open_passthrough(inode, || Ok(file), register)
        } else {
            // The one at hand may have been opened for passthrough, which needs no access of ours.
            let wanted = how.flags & OFlags::RWMODE;
            let file = if access == wanted { Ok(file) } else { reach(inode, wanted) };
            file.map(|file| self.open_classic(inode, how, file))
        };
        let opened = opened.inspect_err(|_| inode.uncount(how.flags, !kernel))?;
        if how.writes() {
            self.written_by(inode, how.caller);
        }
        Ok(opened)
    }

    /// Creates a file, fifo, socket or device node.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
    ) -> io::Result<(u64, Attr)> {
        self.count(Op::Mknod);
        self.make(caller, parent, name, |dir| {
            sys::mknod(&dir.dir()?, name, self.masked(caller, dir, mode), decode_dev(rdev))
        })
    }

    /// Creates a directory.
    pub fn mkdir(&self, caller: Caller, parent: u64, name: &CStr, mode: u32) -> io::Result<(u64, Attr)> {
        self.count(Op::Mkdir);
        self.make(caller, parent, name, |dir| {
            let mode = Mode::from_raw_mode(self.masked(caller, dir, mode));
            Ok(rustix::fs::mkdirat(dir.dir()?, name, mode)?)
        })
    }

    /// Creates a symbolic link.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        target: &CStr,
    ) -> io::Result<(u64, Attr)> {
        self.count(Op::Symlink);
        self.make(caller, parent, name, |dir| Ok(rustix::fs::symlinkat(target, dir.dir()?, name)?))
    }

    /// Gives an inode another name.
    pub fn link(&self, inode: u64, parent: u64, name: &CStr) -> io::Result<(u64, Attr)> {
        self.count(Op::Link);
        let parent = self.inode(parent)?;
        if let Some(linked) = self.link_absent(&*self.inode(inode)?, Place { dir: &parent, name })? {
            return Ok(linked);
        }
        let inode = self.inode(inode)?;
        self.naming(|| {
            inode.at(|dir, old| Ok(rustix::fs::linkat(dir, old, parent.dir()?, name, AtFlags::empty())?))
        })?;
        let attr = Attr::at(parent.dir()?, name)?;
        self.mark(&inode); // the earlier name: its file now has one more
        let inode = self.inodes.intern(&parent, name, &attr);
        self.mark_name(&parent, name, Extent::Entry);
        Ok((inode.id, inode.told(attr)))
    }

    /// The mode of a new file: the umask counts unless the directory has a default ACL, which the
    /// backing then applies itself (acl(5), umask(2)).
    fn masked(&self, caller: Caller, parent: &Inode, mode: u32) -> u32 {
        if self.options.xattr && caller.umask != 0 && has_default_acl(parent) {
            mode
        } else {
            mode & !caller.umask
        }
    }

    fn make(
        &self,
        caller: Caller,
        parent: u64,
        name: &CStr,
        make: impl FnOnce(&Inode) -> io::Result<()>,
    ) -> io::Result<(u64, Attr)> {
        let parent = self.inode(parent)?;
        self.naming(|| make(&parent))?;
        self.give(caller, &parent, name)?;
        let attr = Attr::at(parent.dir()?, name)?;
        let inode = self.inodes.intern(&parent, name, &attr);
        self.mark(&inode);
        Ok((inode.id, inode.told(attr)))
    }
}

/// Looked up once for each directory; an operation that changes it makes it unknown again.
fn has_default_acl(dir: &Inode) -> bool {
    let Some(directory) = dir.directory() else { return false };
    match directory.default_acl.load(Ordering::Relaxed) {
        ACL_UNKNOWN => {
            let found = dir.at(|fd, name| sys::get_xattr(&fd, name, c"system.posix_acl_default", &mut []));
            let has = found.is_ok_and(|length| length > 0);
            directory.default_acl.store(u8::from(has), Ordering::Relaxed);
            has
        }
        known => known == 1,
    }
}
