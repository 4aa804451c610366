//! What a mount shows: the backing directory, seen through inodes and handles. No FUSE types here,
//! so every operation can be tested without a mount.
//!
//! [`Volume`] composes the parts; each operation family is a file in `ops`. An operation that
//! changes the tree runs inside the [`gate`], marks what it touched in the dirty set, and lets the
//! [`shelter`] copy what a flush still needs.
pub mod absent;
pub mod attr;
pub mod counters;
pub mod gate;
pub mod hold;
pub mod inode;
mod links;
pub mod listing;
mod live;
mod name;
pub mod open;
mod ops;
mod owners;
mod rare;
mod restate;
pub mod shelter;
mod sys;

use crate::path::RelPath;
use crate::state::absent::Absent;
use crate::state::backing::is_overlayfs;
use crate::state::dirty::{DirtySet, Extent};
use crate::state::staging::Staging;
use crate::sync::Mutex;
use attr::Attr;
use counters::{Counters, Op};
use gate::Gate;
use hold::Holds;
use inode::{Inode, InodeTable};
use open::{Handles, Registrations, Writable};
use owners::Owners;
use shelter::Shelter;
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

pub use ops::data::read_whole;
pub use ops::setattr::{SetAttr, SetTime};
pub use ops::xattr::Value;
pub use restate::NotHere;

/// The handle number of files that the cut's helper opened: an FSYNC with it asks for no disk flush.
pub const CUT_HANDLE: u64 = 1;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Thread, in our pid namespace; 0 if it is not visible there.
    pub pid: u32,
    /// Permission bits that a new file of this caller must not have, unless the directory has a
    /// default ACL. Zero for operations that make nothing.
    pub umask: u32,
}

/// How a volume behaves; fixed at mount.
#[derive(Debug, Clone, Copy)]
pub struct VolumeOptions {
    /// Serve file data by the kernel. Decided once: the kernel refuses a mixture.
    pub passthrough: bool,
    /// Answer extended attributes; off saves a request per new file.
    pub xattr: bool,
    /// Let the kernel judge by POSIX ACLs.
    pub acl: bool,
    /// The kernel knows SELinux labels. Where it does not, who asks a file for its label is told that there are none
    /// here at all, and does not ask each (`ls -l` does).
    pub labels: bool,
    /// Do copy_file_range ourselves: worth a request only where the backing shares extents or the
    /// data passes us anyway.
    pub copy_file_range: bool,
    /// Change nothing. The kernel refuses for us, but root can tell it not to.
    pub read_only: bool,
}

/// What the kernel can be told. Implemented by the transport; but for the last, calls do not block.
pub trait Kernel: Send + Sync {
    /// Drops the cached listing of a directory, so that the next one brings fresh attributes.
    fn forget_listing(&self, dir: u64);
    /// Drops cached attributes of an inode.
    fn forget_attr(&self, inode: u64);
    /// Has a name in a directory looked up anew. May wait for requests that are under way, so it is not called by a
    /// thread that serves them, or that one of them waits for.
    fn forget_name(&self, dir: u64, name: &CStr);
    /// So many requests may soon wait for their answers at once: others must still get through. May
    /// wait for threads that serve requests, so it is not called by one.
    fn expect_held(&self, count: usize);
}

/// A mounted directory.
pub struct Volume {
    options: VolumeOptions,
    inodes: InodeTable,
    /// What is not on the disk yet.
    absent: Option<Arc<Absent>>,
    owners: Owners,
    handles: Handles,
    registrations: Registrations,
    writable: Writable,
    dirty: DirtySet,
    gate: Gate,
    holds: Holds,
    shelter: Shelter,
    counters: Counters,
    kernel: OnceLock<Box<dyn Kernel>>,
    /// Process whose opens are the cut's own, 0 if there is none.
    cut_pid: AtomicU32,
    /// Nothing is saved any more, so nothing is taken.
    closed: AtomicBool,
    /// Somebody may have mapped a file that he can write without our seeing it: on an overlayfs mappings have another
    /// device, and of processes in another pid namespace nothing is seen.
    maps_unseen: AtomicBool,
    /// On an overlayfs a mapping outlives all handles, and the file has no writer then: what was mapped at the last look.
    mapped: Option<Mutex<HashMap<RelPath, u64>>>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Volume {
    /// Shows the directory behind `root` (an `O_PATH` descriptor is enough), and what is `absent` from
    /// it so far.
    pub fn new(
        root: OwnedFd,
        staging: Staging,
        options: VolumeOptions,
        absent: Option<Arc<Absent>>,
    ) -> io::Result<Self> {
        let is_overlay = is_overlayfs(&root);
        let inodes = InodeTable::new(root, inode::open_max())?;
        if absent.is_some() {
            inodes.root().set_node(Some(crate::state::absent::tree::ROOT));
        }
        Ok(Self {
            options,
            inodes,
            absent,
            owners: Owners::of_this_process()?,
            handles: Handles::default(),
            registrations: Registrations::default(),
            writable: Writable::default(),
            dirty: DirtySet::new(),
            gate: Gate::default(),
            holds: Holds::default(),
            shelter: Shelter::new(staging),
            counters: Counters::default(),
            kernel: OnceLock::new(),
            cut_pid: AtomicU32::new(0),
            closed: AtomicBool::new(options.read_only),
            maps_unseen: AtomicBool::new(is_overlay),
            mapped: is_overlay.then(Mutex::default),
        })
    }

    /// How it behaves.
    pub fn options(&self) -> &VolumeOptions {
        &self.options
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// From now on changes are refused; writes to files that are open already may pass us by.
    pub fn close_for_changes(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// The gate that operations changing the tree pass.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The withheld FSYNC replies.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// What may differ from the last version.
    pub fn dirty(&self) -> &DirtySet {
        &self.dirty
    }

    /// What was asked since the mount.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many files a handle can write now.
    pub fn open_for_write(&self) -> usize {
        self.writable.count_open()
    }

    /// Whether changing the content of this inode would first copy it for the flush under way.
    pub fn must_copy(&self, inode: u64) -> bool {
        self.inodes.get(inode).is_ok_and(|inode| self.shelter.must_copy(&inode))
    }

    /// Connects the way back to the kernel; once.
    pub fn set_kernel(&self, kernel: Box<dyn Kernel>) {
        let _already = self.kernel.set(kernel);
    }

    /// Names the process whose opens are the cut's own (0: none).
    pub fn set_cut_pid(&self, pid: u32) {
        self.cut_pid.store(pid, Ordering::Relaxed);
    }

    fn is_cut(&self, caller: Caller) -> bool {
        caller.pid != 0 && caller.pid == self.cut_pid.load(Ordering::Relaxed)
    }

    /// From now on somebody can write a file.
    fn written_by(&self, inode: &Arc<Inode>, caller: Caller) {
        if caller.pid == 0 && !self.maps_unseen.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "processes of another pid namespace write: each flush takes their files for mapped"
            );
        }
        self.writable.insert(inode);
    }

    /// Marks the path of an inode, once per epoch.
    fn mark(&self, inode: &Inode) {
        let epoch = self.dirty.epoch() as u32;
        if inode.marked.load(Ordering::Acquire) == epoch {
            self.dirty.touch();
        } else if let Some(path) = inode.path() {
            self.dirty.mark(path, Extent::Entry);
            // Only now may others rely on it: a cut that begins before this line has no such mark.
            inode.marked.store(epoch, Ordering::Release);
        }
    }

    /// Marks a name in a directory.
    fn mark_name(&self, parent: &Inode, name: &CStr, extent: Extent) {
        if let Some(path) = parent.path() {
            self.dirty.mark(path.join(name.to_bytes()), extent);
        }
    }

    /// Attributes of an inode now, after its last name is gone too if it is open.
    fn attr_of(&self, inode: &Inode) -> io::Result<Attr> {
        if let Some(attr) = self.absent_attr(inode) {
            return Ok(attr);
        }
        let orphan = inode.open.lock().orphan.clone();
        let attr = match orphan {
            Some(fd) => Attr::at(&fd, c"")?,
            None => {
                self.naming(|| inode.at(|dir, name| Attr::at(dir, if inode.is_dir() { c"" } else { name })))?
            }
        };
        Ok(self.with_absent(inode, attr))
    }

    fn inode(&self, id: u64) -> io::Result<Arc<Inode>> {
        self.inodes.get(id)
    }

    fn count(&self, op: Op) {
        self.counters.add(op);
    }
}
