//! Translates each FUSE request into one call of the volume, and its result into one reply.
//!
//! Operations that change the tree pass the gate first; at a closed gate they are parked together
//! with their reply (`gated`). Whatever may wait for a disk goes to the pool. The one trait
//! implementation must stand in one place, so everything that is no translation stands elsewhere.
mod convert;
mod durable;
mod gated;
mod handshake;
mod list;
mod open;
mod reply;

pub use durable::Durable;

use super::pool::Pool;
use crate::fs::{Caller, SetAttr, Volume};
use convert::{absent, caller, name, set_time};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use gated::{NONE, by_name};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Nobody changes the tree but through us, so what the kernel knows stays true.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The FUSE side of a volume.
pub struct Adapter {
    volume: Arc<Volume>,
    pool: Arc<Pool>,
    /// Stack depth to ask for: 2 where the backing is itself stacked (overlayfs).
    depth: u32,
    /// Withholds FSYNC replies until a flush is committed (`--fsync remote`).
    durable: Option<Arc<dyn Durable>>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl Adapter {
    /// Serves `volume`; `depth` as in [`probe`](super::mount::Backing).
    pub fn new(volume: Arc<Volume>, depth: u32, durable: Option<Arc<dyn Durable>>) -> Self {
        Self { volume, pool: Arc::default(), depth, durable }
    }

    /// The volume it serves.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        handshake::handshake(config, self.volume.options(), self.depth)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(parent.0, &name(child)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                reply.entry(&TTL, &absent(), Generation(0));
            }
            result => reply::entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.volume.forget(inode.0, count);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply::attr(reply, inode.0, self.volume.getattr(inode.0));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        let (caller, handle) = (caller(request), fh.map(|h| h.0));
        self.gated(reply, &(), &|_| vec![inode.0], move |volume, reply, ()| {
            reply::attr(reply, inode.0, volume.setattr(caller, inode.0, handle, set));
        });
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        reply::data(reply, self.volume.readlink(inode.0));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let caller = Caller { umask, ..caller(request) };
        self.gated(reply, &*name(child), NONE, move |volume, reply, child| {
            reply::entry(reply, volume.mknod(caller, parent.0, child, mode, rdev));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let caller = Caller { umask, ..caller(request) };
        self.gated(reply, &*name(child), NONE, move |volume, reply, child| {
            reply::entry(reply, volume.mkdir(caller, parent.0, child, mode));
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let child = &*name(child);
        let locked = |volume: &Volume| by_name(volume, parent.0, child).into_iter().collect();
        self.gated(reply, child, &locked, move |volume, reply, child| {
            reply::empty(reply, volume.unlink(parent.0, child));
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        self.gated(reply, &*name(child), NONE, move |volume, reply, child| {
            reply::empty(reply, volume.rmdir(parent.0, child));
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, child: &OsStr, target: &Path, reply: ReplyEntry) {
        let caller = caller(request);
        let names = (name(child), name(target.as_os_str()));
        self.gated(reply, &names, NONE, move |volume, reply, (child, target)| {
            reply::entry(reply, volume.symlink(caller, parent.0, child, target));
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        child: &OsStr,
        new_parent: INodeNo,
        new_child: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let names = (name(child), name(new_child));
        let locked = |volume: &Volume| {
            let both = [by_name(volume, parent.0, &names.0), by_name(volume, new_parent.0, &names.1)];
            both.into_iter().flatten().collect()
        };
        self.gated(reply, &names, &locked, move |volume, reply, (from, to)| {
            reply::empty(reply, volume.rename(parent.0, from, new_parent.0, to, flags.bits()));
        });
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        self.gated(reply, &*name(child), &|_| vec![inode.0], move |volume, reply, child| {
            reply::entry(reply, volume.link(inode.0, parent.0, child));
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, flags) = (caller(request), OFlags::from_bits_retain(flags.0 as u32));
        if !Volume::open_changes(flags) {
            open::open(&self.volume, caller, inode.0, flags, reply);
            return;
        }
        self.gated(reply, &(), NONE, move |volume, reply, ()| {
            open::open(volume, caller, inode.0, flags, reply);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = OFlags::from_bits_retain(flags as u32);
        let what =
            open::Creation { caller: Caller { umask, ..caller(request) }, parent: parent.0, mode, flags };
        self.gated(reply, &*name(child), NONE, move |volume, reply, child| {
            open::create(volume, what, child, reply);
        });
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let read = self.volume.read(fh.0, offset, &mut buffer[..size]);
            reply::data(reply, read.map(|n| &buffer[..n]));
        });
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.gated(reply, data, &|_| vec![inode.0], move |volume, reply, data| {
            let result = volume.write(fh.0, offset, data, kill);
            reply::written(reply, result.map(|()| data.len() as u32));
        });
    }

    fn flush(&self, _r: &Request, _inode: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS); // close(2) has nothing to wait for
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.release(inode.0, fh.0, OFlags::from_bits_retain(flags.0 as u32));
        reply.ok();
        self.volume.after_release(inode.0);
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.sync_file(inode.0, fh.0, data_only, reply);
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS); // directories need no handle, and the kernel may keep listings
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        list::readdir(&self.volume, inode.0, offset, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        list::readdirplus(&self.volume, inode.0, offset, reply);
    }

    fn fsyncdir(&self, _r: &Request, inode: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        self.sync_dir(inode.0, reply);
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        reply::statfs(reply, self.volume.statfs());
    }

    fn setxattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let borrowed = (name(key), value.to_vec()); // small: at most 64 KiB
        self.gated(reply, &borrowed, &|_| vec![inode.0], move |volume, reply, (key, value)| {
            reply::empty(reply, volume.setxattr(inode.0, key, value, flags));
        });
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        reply::xattr(reply, self.volume.getxattr(inode.0, &name(key), size as usize));
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        reply::xattr(reply, self.volume.listxattr(inode.0, size as usize));
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        self.gated(reply, &*name(key), &|_| vec![inode.0], move |volume, reply, key| {
            reply::empty(reply, volume.removexattr(inode.0, key));
        });
    }

    fn access(&self, _r: &Request, _inode: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS); // the kernel decides by the attributes it has
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.gated(reply, &(), &|_| vec![inode.0], move |volume, reply, ()| {
            reply::empty(reply, volume.fallocate(caller, inode.0, fh.0, (offset, length), mode));
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        inode: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        reply::offset(reply, self.volume.lseek(inode.0, fh.0, offset, whence));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        inode_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        inode_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((inode_in.0, fh_in.0, offset_in), (inode_out.0, fh_out.0, offset_out));
        // The reply carries 32 bits; a longer copy is continued by the caller.
        let length = length.min(u64::from(u32::MAX) & !0xfff);
        self.gated(reply, &(), &|_| vec![inode_out.0], move |volume, reply, ()| {
            let copied = volume.copy_file_range(from, to, length);
            reply::written(reply, copied.map(|n| n as u32));
        });
    }
}
