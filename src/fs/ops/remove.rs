//! Names that go. The caller has passed the gate.
use crate::fs::Volume;
use crate::fs::attr::Attr;
use crate::fs::counters::Op;
use crate::fs::inode::Inode;
use crate::state::dirty::Extent;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A file that is about to lose a name.
pub(super) struct Victim {
    pub inode: Arc<Inode>,
    /// It is the last one.
    dies: bool,
    /// A descriptor of it is kept from here on.
    kept: Option<Arc<OwnedFd>>,
}

impl Victim {
    /// The name is gone.
    pub fn is_gone(&self, parent: &Inode, name: &CStr) {
        self.inode.remove_link(parent.id, name);
        if self.dies {
            self.inode.dies();
        }
    }

    /// The name stays.
    pub fn stays(&self) {
        self.inode.keeps_name();
        let Some(kept) = &self.kept else { return };
        let mut state = self.inode.open.lock();
        let given_up = state.orphan.take_if(|orphan| Arc::ptr_eq(orphan, kept));
        state.tidy();
        drop(state);
        drop(given_up);
    }
}

impl Volume {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: u64, name: &CStr) -> io::Result<()> {
        self.count(Op::Unlink);
        let parent = self.inode(parent)?;
        if self.unlink_absent(&parent, name)? {
            self.mark_name(&parent, name, Extent::Entry);
            self.touch(&parent);
            return Ok(());
        }
        let victim = self.victim(&parent, name)?;
        let removed = self.naming(|| Ok(rustix::fs::unlinkat(parent.dir()?, name, AtFlags::empty())?));
        if let Some(victim) = victim {
            match removed {
                Ok(()) => victim.is_gone(&parent, name),
                Err(_) => victim.stays(),
            }
        }
        removed?;
        self.mark_name(&parent, name, Extent::Entry);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &CStr) -> io::Result<()> {
        self.count(Op::Rmdir);
        let parent = self.inode(parent)?;
        let node = self.emptied_directory(&parent, name)?;
        let victim = Attr::at(parent.dir()?, name).ok().and_then(|attr| self.inodes.find(&attr));
        if let Some(inode) = &victim {
            inode.loses_name();
        }
        let removed = self.naming(|| Ok(rustix::fs::unlinkat(parent.dir()?, name, AtFlags::REMOVEDIR)?));
        removed.inspect_err(|_| {
            if let Some(inode) = &victim {
                inode.keeps_name();
            }
        })?;
        self.left_tree(node, victim.as_deref())?;
        if let Some(inode) = victim {
            inode.remove_link(parent.id, name);
            inode.dies();
        }
        self.mark_name(&parent, name, Extent::Entry);
        Ok(())
    }

    /// Prepares for the loss of a name: keeps the content of an open file and of a sheltered one
    /// reachable. `None` if the kernel does not know the file.
    pub(super) fn victim(&self, parent: &Arc<Inode>, name: &CStr) -> io::Result<Option<Victim>> {
        let Ok(attr) = Attr::at(parent.dir()?, name) else { return Ok(None) };
        let Some(inode) = self.inodes.find(&attr) else { return Ok(None) };
        let mut kept = None;
        if attr.is_file() {
            self.shelter.before_unlink(&inode)?;
            // Other names that the kernel never asked for lead no handle of ours to the file.
            if attr.nlink == 1 || !inode.has_other_link(parent.id, name) {
                kept = keep_orphan(&inode, parent, name);
            }
        } else if attr.is_dir() {
            inode.loses_name();
        } else if !inode.has_other_link(parent.id, name) {
            kept = keep_special(&inode, parent, name, attr.file_type());
        }
        Ok(Some(Victim { inode, dies: attr.is_dir() || attr.nlink == 1, kept }))
    }
}

/// A file about to lose its last name: if it is open, keep a descriptor for what handles may
/// still ask (stat, truncate, fsync); else end its registration, which pins its blocks. Returns
/// the descriptor unless there was one.
fn keep_orphan(inode: &Inode, parent: &Inode, name: &CStr) -> Option<Arc<OwnedFd>> {
    let mut state = inode.open.lock();
    if state.handles == 0 {
        let ended = state.registration.is_some().then(|| state.registration.take());
        drop(state);
        drop(ended);
        return None;
    }
    let dir = if state.orphan.is_none() { parent.dir().ok()? } else { return None };
    let open = |access| {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&dir, name, flags, Mode::empty())
    };
    // A file being executed cannot be opened for writing; nobody will truncate it either.
    let kept = Arc::new(open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY)).ok()?);
    state.orphan = Some(kept.clone());
    Some(kept)
}

/// A fifo, socket, device or symbolic link about to lose its last name. Who has it open never told us,
/// and may still ask for its attributes; the descriptor, which is returned, goes when the kernel forgets the inode.
fn keep_special(inode: &Inode, parent: &Inode, name: &CStr, file_type: FileType) -> Option<Arc<OwnedFd>> {
    // A fifo of the backing has no other ends, so opening it wakes nobody; devices would notice.
    let access = if file_type == FileType::Fifo { OFlags::RDONLY | OFlags::NONBLOCK } else { OFlags::PATH };
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent.dir().ok()?, name, flags, Mode::empty());
    let kept = Arc::new(opened.ok()?);
    let before = inode.open.lock().orphan.replace(kept.clone());
    drop(before);
    Some(kept)
}
