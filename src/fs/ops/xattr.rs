//! Extended attributes, as the backing has them.
use crate::fs::counters::Op;
use crate::fs::inode::Inode;
use crate::fs::{Volume, sys};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The largest value or list the kernel passes on (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 64 * 1024;
/// The list that a mode goes with (`XATTR_NAME_POSIX_ACL_ACCESS`).
const ACL: &CStr = c"system.posix_acl_access";
/// An SELinux label (`XATTR_NAME_SELINUX`).
const LABEL: &CStr = c"security.selinux";

impl Volume {
    /// Whether extended attributes are answered; `ENOSYS` makes the kernel stop asking.
    fn xattrs(&self) -> io::Result<()> {
        if self.options.xattr { Ok(()) } else { Err(Errno::NOSYS.into()) }
    }

    /// A value; `size` 0 asks for its length only.
    pub fn getxattr(&self, inode: u64, attr: &CStr, size: usize) -> io::Result<Value> {
        self.count(Op::Getxattr);
        self.xattrs()?;
        let inode = self.inode(inode)?;
        if let Some(all) = self.absent_xattrs(&inode) {
            let found = all.iter().find(|(name, _)| name == attr.to_bytes());
            let (_, value) = found.ok_or_else(|| self.none_of(attr))?;
            return read(size, |buffer| fill(buffer, value));
        }
        let got = read(size, |buffer| reached(&inode, |dir, name| sys::get_xattr(&dir, name, attr, buffer)));
        got.map_err(|e| {
            if Errno::from_io_error(&e) == Some(Errno::NODATA) { self.none_of(attr).into() } else { e }
        })
    }

    /// What is told where there is no such attribute.
    fn none_of(&self, attr: &CStr) -> Errno {
        if attr == LABEL && !self.options.labels { Errno::OPNOTSUPP } else { Errno::NODATA }
    }

    /// The names, each ended by a NUL; `size` 0 asks for their length only.
    pub fn listxattr(&self, inode: u64, size: usize) -> io::Result<Value> {
        self.count(Op::Listxattr);
        self.xattrs()?;
        let inode = self.inode(inode)?;
        if let Some(all) = self.absent_xattrs(&inode) {
            let names: Vec<u8> = all.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect();
            return read(size, |buffer| fill(buffer, &names));
        }
        read(size, |buffer| reached(&inode, |dir, name| sys::list_xattr(&dir, name, buffer)))
    }

    /// Sets a value; `flags` as in setxattr(2). With `kill_setgid` the caller may not keep the set-group-id bit of what he
    /// gives an ACL to: he is not in its group. The caller has passed the gate.
    pub fn setxattr(
        &self,
        inode: u64,
        attr: &CStr,
        value: &[u8],
        flags: i32,
        kill_setgid: bool,
    ) -> io::Result<()> {
        self.count(Op::Setxattr);
        self.xattrs()?;
        if self.set_absent_xattr(&*self.inode(inode)?, attr, Some(value), flags)?.is_some() {
            return Ok(());
        }
        let inode = self.inode(inode)?;
        self.naming(|| reached(&inode, |dir, name| sys::set_xattr(&dir, name, attr, value, flags)))?;
        if kill_setgid && attr == ACL {
            // The disk saw us set it, who may keep the bit.
            self.drop_setgid(&inode)?;
        }
        inode.forget_default_acl();
        self.mark(&inode);
        // An ACL changes the mode the kernel has cached.
        if let (true, Some(kernel)) = (attr.to_bytes().starts_with(b"system.posix_acl"), self.kernel.get()) {
            kernel.forget_attr(inode.id);
        }
        Ok(())
    }

    /// Removes an attribute. The caller has passed the gate.
    pub fn removexattr(&self, inode: u64, attr: &CStr) -> io::Result<()> {
        self.count(Op::Removexattr);
        self.xattrs()?;
        if self.set_absent_xattr(&*self.inode(inode)?, attr, None, 0)?.is_some() {
            return Ok(());
        }
        let inode = self.inode(inode)?;
        self.naming(|| reached(&inode, |dir, name| sys::remove_xattr(&dir, name, attr)))?;
        inode.forget_default_acl();
        self.mark(&inode);
        Ok(())
    }
}

/// As [`Inode::at`]; a file that lost its last name while it was open is reached by its descriptor, without a name.
fn reached<T>(inode: &Inode, f: impl FnOnce(BorrowedFd<'_>, &CStr) -> io::Result<T>) -> io::Result<T> {
    let orphan = inode.open.lock().orphan.clone();
    match orphan {
        Some(fd) => f(fd.as_fd(), c""),
        None => inode.at(f),
    }
}

/// An answer to a question about extended attributes.
#[derive(Debug)]
pub enum Value {
    /// Only the length was asked for.
    Length(usize),
    /// The bytes.
    Bytes(Vec<u8>),
}

/// As the system calls do: an empty buffer asks for the length only.
fn fill(buffer: &mut [u8], value: &[u8]) -> io::Result<usize> {
    if !buffer.is_empty() {
        buffer.get_mut(..value.len()).ok_or(Errno::RANGE)?.copy_from_slice(value);
    }
    Ok(value.len())
}

fn read(size: usize, get: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Value> {
    if size == 0 {
        return get(&mut []).map(Value::Length);
    }
    let mut bytes = vec![0; size.min(XATTR_BYTES_MAX)];
    let length = get(&mut bytes)?;
    bytes.truncate(length);
    Ok(Value::Bytes(bytes))
}
