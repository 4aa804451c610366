//! Changes of files that are not on the disk yet and need not come for it: names and attributes.
use super::Volume;
use super::absent::Need;
use super::attr::Attr;
use super::inode::Inode;
use super::ops::setattr::{SetAttr, SetTime, without_privileges};
use crate::clock::Timestamp;
use crate::state::absent::tree::{Look, Node, What};
use crate::state::absent::{Absent, Restated};
use crate::state::dirty::Extent;
use rustix::fs::{Access, AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// What the kernel checks and forgets by itself is left to it, when the file is here.
const PLAIN: &[u8] = b"user.";
/// So many bytes of attributes fit everywhere.
const XATTRS_MAX: usize = 1024;

/// A name that is to be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) dir: &'a Arc<Inode>,
    pub(super) name: &'a CStr,
}

/// It must be on the disk for that. Never told to a program.
#[derive(Debug, thiserror::Error)]
#[error("its content is needed")]
pub struct NotHere;

impl NotHere {
    /// Whether that is why something failed.
    pub fn is(e: &io::Error) -> bool {
        e.get_ref().is_some_and(|e| e.is::<Self>())
    }
}

impl Volume {
    /// The file, if it is absent and can be changed without its content.
    fn restatable(&self, inode: &Inode) -> Option<(&Arc<Absent>, u32)> {
        let found = self.absent.as_ref().zip(inode.absent_file())?;
        found.0.can_restate(found.1).then_some(found)
    }

    /// What a change of attributes needs.
    pub fn need_to_set(&self, id: u64, set: &SetAttr) -> Need {
        let overlaid = |inode: &Arc<Inode>| {
            let (absent, file) = self.restatable(inode)?;
            let look = absent.look(file);
            // With an ACL a mode is more than its bits, and who is not root may not do as he likes.
            let plain =
                set.mode.is_none() || !look.xattrs.iter().any(|(name, _)| name.starts_with(b"system."));
            let own = set.uid.is_none() && set.gid.is_none() && set.mode.unwrap_or(0) & 0o6000 == 0;
            (plain && (own || rustix::process::geteuid().is_root())).then_some(())
        };
        match set.size {
            None if self.inodes.get(id).ok().as_ref().and_then(overlaid).is_some() => Need::Nothing,
            size => self.need(id, size),
        }
    }

    /// What a change of an extended attribute to a value needs.
    pub fn need_to_set_xattr(&self, id: u64, attr: &CStr, value: &[u8]) -> Need {
        let overlaid = |inode: &Arc<Inode>| {
            let (absent, file) = self.restatable(inode)?;
            let there: usize =
                absent.look(file).xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            let fits = there + attr.to_bytes().len() + value.len() <= XATTRS_MAX;
            (attr.to_bytes().starts_with(PLAIN) && fits && self.keeps_xattrs()).then_some(())
        };
        match self.inodes.get(id).ok().as_ref().and_then(overlaid) {
            Some(()) => Need::Nothing,
            None => self.need(id, None),
        }
    }

    /// What another name for an inode needs.
    pub fn need_to_link(&self, id: u64) -> Need {
        match self.inodes.get(id).ok().as_ref().and_then(|inode| self.restatable(inode)) {
            Some(_) => Need::Disk,
            None => self.need(id, None),
        }
    }

    /// Whether the disk keeps such attributes of programs at all.
    fn keeps_xattrs(&self) -> bool {
        let asked =
            self.inodes.root().at(|dir, name| super::sys::get_xattr(&dir, name, c"user.icecache", &mut []));
        !asked.is_err_and(|e| e.raw_os_error() == Some(libc::ENOTSUP))
    }

    /// Changes attributes of an absent file. `None`: it is on the disk.
    pub(super) fn set_absent(&self, inode: &Inode, set: &SetAttr) -> io::Result<Option<Attr>> {
        if set.size.is_some() {
            return Ok(None);
        }
        self.change_look(inode, |look| {
            apply(look, set);
            Ok(())
        })
    }

    /// Sets or removes an extended attribute of an absent file. `None`: it is on the disk.
    pub(super) fn set_absent_xattr(
        &self,
        inode: &Inode,
        attr: &CStr,
        value: Option<&[u8]>,
        flags: i32,
    ) -> io::Result<Option<Attr>> {
        self.change_look(inode, |look| {
            let found = look.xattrs.binary_search_by(|(name, _)| name.as_slice().cmp(attr.to_bytes()));
            match (found, value) {
                (Ok(_), Some(_)) if flags & libc::XATTR_CREATE != 0 => return Err(Errno::EXIST.into()),
                (Err(_), Some(_)) if flags & libc::XATTR_REPLACE != 0 => return Err(Errno::NODATA.into()),
                (Err(_), None) => return Err(Errno::NODATA.into()),
                (Ok(at), Some(value)) => look.xattrs[at].1 = value.to_vec(),
                (Err(at), Some(value)) => look.xattrs.insert(at, (attr.to_bytes().to_vec(), value.to_vec())),
                (Ok(at), None) => drop(look.xattrs.remove(at)),
            }
            look.ctime = Timestamp::now();
            Ok(())
        })
    }

    fn change_look(
        &self,
        inode: &Inode,
        change: impl FnOnce(&mut Look) -> io::Result<()>,
    ) -> io::Result<Option<Attr>> {
        let Some((absent, file)) = self.absent.as_ref().zip(inode.absent_file()) else { return Ok(None) };
        match absent.change_look(file, change)? {
            Restated::Impossible => Ok(None),
            Restated::Done(_) => {
                self.mark(inode);
                self.attr_of(inode).map(Some)
            }
        }
    }

    /// Renames an absent file. `false`: it is on the disk.
    ///
    /// # Errors
    /// [`NotHere`] if that cannot be done without its content.
    pub(super) fn rename_absent(&self, from: Place<'_>, to: Place<'_>, flags: u32) -> io::Result<bool> {
        let Some((absent, node)) = self.in_tree(from.dir, from.name) else { return Ok(false) };
        let What::File(file) = absent.tree().what(node) else { return Ok(false) };
        if !absent.is_absent(node) {
            return Ok(false);
        }
        let replaces = flags & libc::RENAME_NOREPLACE == 0;
        let needed = || io::Error::other(NotHere);
        let dir = self.node_for(absent, to.dir)?.filter(|_| flags & !libc::RENAME_NOREPLACE == 0);
        let dir = dir.ok_or_else(needed)?;
        if !replaces && absent.stands_at(dir, to.name.to_bytes()) {
            // What came may have been removed on the disk since: no fate tells that.
            let over = absent.tree().child(dir, to.name.to_bytes());
            let gone = || match rustix::fs::statat(to.dir.dir()?, to.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Ok(false),
                Err(Errno::NOENT) => Ok(true),
                Err(e) => Err(io::Error::from(e)),
            };
            if over.is_some_and(|over| absent.is_absent(over)) || !gone()? {
                return Err(Errno::EXIST.into());
            }
        }
        self.may_change_names(from.dir)?;
        self.may_change_names(to.dir)?;
        match absent.rename_file(node, dir, to.name.to_bytes())? {
            Restated::Impossible if absent.is_absent(node) => return Err(needed()),
            Restated::Impossible => return Ok(false),
            Restated::Done(over) => {
                if let Some(inode) = over.and_then(|over| self.inodes.find_absent(over)) {
                    inode.remove_link(to.dir.id, to.name);
                }
            }
        }
        if let Some(inode) = self.inodes.find_absent(file) {
            inode.remove_link(from.dir.id, from.name);
            inode.add_link(to.dir, to.name);
        }
        for place in [to, from] {
            self.mark_name(place.dir, place.name, Extent::Entry);
            self.touch(place.dir);
        }
        Ok(true)
    }

    /// Gives an absent file one more name. `None`: it is on the disk.
    ///
    /// # Errors
    /// [`NotHere`] if that cannot be done without its content.
    pub(super) fn link_absent(&self, inode: &Inode, to: Place<'_>) -> io::Result<Option<(u64, Attr)>> {
        let Some((absent, file)) = self.absent.as_ref().zip(inode.absent_file()) else { return Ok(None) };
        if !absent.wants(file) {
            return Ok(None);
        }
        let needed = || io::Error::other(NotHere);
        let dir = self.node_for(absent, to.dir)?.ok_or_else(needed)?;
        self.may_change_names(to.dir)?;
        match absent.link_file(file, dir, to.name.to_bytes())? {
            Restated::Impossible if absent.wants(file) => return Err(needed()),
            Restated::Impossible => return Ok(None),
            Restated::Done(_) => {}
        }
        self.mark(inode);
        self.mark_name(to.dir, to.name, Extent::Entry);
        self.touch(to.dir);
        let attr = self.attr_of(inode)?;
        let inode = self.inodes.intern(to.dir, to.name, &attr);
        Ok(Some((inode.id, inode.told(attr))))
    }

    /// The node of a directory that an absent file comes to; one that no version has gets one.
    fn node_for(&self, absent: &Arc<Absent>, dir: &Inode) -> io::Result<Option<Node>> {
        if let Some(node) = dir.node().filter(|node| absent.leads_to(*node)) {
            return Ok(Some(node));
        }
        if !dir.native {
            return Ok(None);
        }
        let node = absent.adopt_directory(dir.dir()?.as_fd())?;
        dir.set_node(node);
        Ok(node)
    }

    /// A name came to a directory or left it, and the disk does not know of it. That has happened by then, so a time
    /// that we may not set is no failure.
    pub(super) fn touch(&self, dir: &Inode) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = |last_access| Timestamps { last_access, last_modification: now };
        let set = |times| {
            self.naming(|| {
                dir.at(|dir, name| Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::empty())?))
            })
        };
        // One time alone only the owner may set; both, anybody who may write.
        let touched = set(times(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT })).or_else(|_| set(times(now)));
        if let Err(error) = touched {
            tracing::debug!(%error, "a directory keeps its time though a name in it has changed");
        }
    }

    /// Fails where the disk would let nobody change the names in a directory: it is immutable, or the disk is read-only.
    /// Who may otherwise, the kernel has asked before.
    pub(super) fn may_change_names(&self, dir: &Inode) -> io::Result<()> {
        let asked =
            dir.at(|dir, name| Ok(rustix::fs::accessat(dir, name, Access::WRITE_OK, AtFlags::empty())));
        match asked? {
            Err(e @ (Errno::PERM | Errno::ROFS)) => Err(e.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// As the backing would.
fn apply(look: &mut Look, set: &SetAttr) {
    let now = Timestamp::now();
    let time = |time: Option<SetTime>, before| match time {
        None => before,
        Some(SetTime::Now) => now,
        Some(SetTime::At(time)) => time,
    };
    if set.uid.is_some() || set.gid.is_some() {
        (look.uid, look.gid) = (set.uid.unwrap_or(look.uid), set.gid.unwrap_or(look.gid));
    }
    if set.drop_privileges || set.uid.is_some() || set.gid.is_some() {
        look.mode = without_privileges(look.mode);
        look.xattrs.retain(|(name, _)| name != b"security.capability");
    }
    if let Some(mode) = set.mode {
        look.mode = mode & 0o7777;
    }
    look.atime = time(set.atime, look.atime);
    look.mtime = time(set.mtime, look.mtime);
    look.ctime = now;
}
