//! Finding inodes and looking at them.
use crate::fs::attr::Attr;
use crate::fs::counters::Op;
use crate::fs::{Caller, Volume};
use rustix::fs::{AtFlags, FileType, Mode, StatVfs};
use std::ffi::CStr;
use std::io;

impl Volume {
    /// Looks `name` up in a directory; counts one reference of the kernel.
    pub fn lookup(&self, parent: u64, name: &CStr) -> io::Result<(u64, Attr)> {
        self.count(Op::Lookup);
        let parent = self.inode(parent)?;
        let (inode, attr) = self.find(&parent, name)?;
        Ok((inode.id, attr))
    }

    /// The kernel dropped `count` references.
    pub fn forget(&self, inode: u64, count: u64) {
        self.count(Op::Forget);
        self.inodes.forget(inode, count);
    }

    /// Attributes of an inode.
    pub fn getattr(&self, inode: u64) -> io::Result<Attr> {
        self.count(Op::Getattr);
        self.attr_of(&*self.inode(inode)?)
    }

    /// The number of the inode behind a name, if the kernel knows it; counts nothing.
    pub fn peek(&self, parent: u64, name: &CStr) -> Option<u64> {
        let parent = self.inode(parent).ok()?;
        let attr = Attr::at(parent.dir().ok()?, name).ok()?;
        self.inodes.find(&attr).map(|inode| inode.id)
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, inode: u64) -> io::Result<Vec<u8>> {
        self.count(Op::Readlink);
        let target = self.inode(inode)?.at(|dir, name| Ok(rustix::fs::readlinkat(dir, name, Vec::new())?))?;
        Ok(target.into_bytes())
    }

    /// Space and limits of the backing.
    pub fn statfs(&self) -> io::Result<StatVfs> {
        self.count(Op::Statfs);
        Ok(rustix::fs::fstatvfs(self.inodes.root_dir())?)
    }

    /// Gives a new file to its creator. The backing has made it ours; a directory with the setgid
    /// bit has already given it its group.
    pub(super) fn give(
        &self,
        caller: Caller,
        parent: &crate::fs::inode::Inode,
        name: &CStr,
    ) -> io::Result<()> {
        if (caller.uid == 0 && caller.gid == 0) || !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let dir = parent.dir()?;
        let inherits = Attr::at(&dir, c"")?.mode & 0o2000 != 0;
        let gid = (!inherits).then(|| rustix::fs::Gid::from_raw(caller.gid));
        let uid = Some(rustix::fs::Uid::from_raw(caller.uid));
        let made = Attr::at(&dir, name)?;
        rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        // Another owner loses these, and the kernel has looked whether the caller may give them.
        if made.mode & 0o6000 != 0 && made.file_type() != FileType::Directory {
            rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(made.mode & 0o7777), AtFlags::empty())?;
        }
        Ok(())
    }
}
