//! Translates each FUSE request into one call of the volume, and its result into one reply.
//!
//! Operations that change the tree pass the gate first; at a closed gate they are parked together
//! with their reply. Whatever may wait for a disk goes to the pool.
use super::errno::errno;
use super::pool::Pool;
use crate::clock::Timestamp;
use crate::fs::attr::Attr;
use crate::fs::open::{Opened, Registration};
use crate::fs::{CUT_HANDLE, Caller, SetAttr, SetTime, Volume};
use fuser::{
    BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Nobody changes the tree but through us, so what the kernel knows stays true.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of one WRITE on the classic path, and of read-ahead.
const IO_BYTES: u32 = 1 << 20;

/// What the kernel offered and accepted at the handshake.
pub type OnInit = Box<dyn FnOnce(InitFlags) + Send + Sync>;

/// The FUSE side of a volume.
pub struct Adapter {
    volume: Arc<Volume>,
    pool: Arc<Pool>,
    /// Stack depth to ask for: 2 where the backing is itself stacked (overlayfs).
    depth: u32,
    /// Withholds FSYNC replies until a flush is committed (`--fsync remote`).
    durable: Option<Arc<dyn Durable>>,
}

/// Makes an fsync wait for the remote.
pub trait Durable: Send + Sync {
    /// Calls `done` when everything written before this call is committed, or with the reason why
    /// it is not. Until then the FSYNC of `inode` is unanswered and its writers stand still.
    fn when_durable(&self, inode: u64, done: Box<dyn FnOnce(io::Result<()>) + Send>);
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

    /// Runs `op` inside the gate, or parks what `later` makes of it. `locked` says which inodes the
    /// caller holds locked in the kernel meanwhile.
    fn gated<R: Send + 'static>(
        &self,
        reply: R,
        op: impl FnOnce(&Volume, R),
        locked: impl FnOnce(&Volume) -> Vec<u64>,
        later: impl FnOnce() -> Box<dyn FnOnce(&Volume, R) + Send>,
    ) {
        if let Some(_pass) = self.volume.gate().enter() {
            op(&self.volume, reply);
            return;
        }
        let (volume, later) = (self.volume.clone(), later());
        let locked = locked(&self.volume);
        self.volume.gate().park(
            &locked,
            Box::new(move || {
                // The gate is open now, or closing again: a pass keeps it from closing under us.
                match volume.gate().enter() {
                    Some(_pass) => later(&volume, reply),
                    None => later(&volume, reply),
                }
            }),
        );
        self.volume.holds().poke();
    }
}

fn name(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap_or_default() // the kernel sends no NUL inside a name
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn file_type(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn file_attr(id: u64, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// An entry that says "no such name", and for how long.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(Timestamp::from(t)),
    }
}

fn entry(reply: ReplyEntry, result: io::Result<(u64, Attr)>) {
    match result {
        Ok((id, attr)) => reply.entry(&TTL, &file_attr(id, &attr), Generation(attr.generation)),
        Err(e) => reply.error(errno(&e)),
    }
}

fn empty(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

fn attr(reply: ReplyAttr, id: u64, result: io::Result<Attr>) {
    match result {
        Ok(attr) => reply.attr(&TTL, &file_attr(id, &attr)),
        Err(e) => reply.error(errno(&e)),
    }
}

fn backing(registration: &Registration) -> Option<&BackingId> {
    registration.0.downcast_ref()
}

fn open(volume: &Volume, caller: Caller, inode: u64, flags: OFlags, reply: ReplyOpen) {
    let register = |fd: std::os::fd::BorrowedFd<'_>| Ok(Registration(Arc::new(reply.open_backing(fd)?)));
    match volume.open(caller, inode, flags, &register) {
        Ok((Opened::Passthrough(registration), handle)) => match backing(&registration) {
            Some(id) => reply.opened_passthrough(FileHandle(handle), FopenFlags::FOPEN_NOFLUSH, id),
            None => reply.error(Errno::EIO),
        },
        Ok((Opened::Classic(handle), _)) => {
            let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            reply.opened(FileHandle(handle), keep);
        }
        Err(e) => reply.error(errno(&e)),
    }
}

#[derive(Clone, Copy)]
struct Creation {
    caller: Caller,
    parent: u64,
    mode: u32,
    flags: OFlags,
}

fn create(volume: &Volume, what: Creation, name: &std::ffi::CStr, reply: ReplyCreate) {
    let register = |fd: std::os::fd::BorrowedFd<'_>| Ok(Registration(Arc::new(reply.open_backing(fd)?)));
    match volume.create(what.caller, what.parent, name, what.mode, what.flags, &register) {
        Ok((id, attr, opened)) => {
            let (found, generation) = (file_attr(id, &attr), Generation(attr.generation));
            match opened {
                Opened::Passthrough(registration) => match backing(&registration) {
                    Some(id) => reply.created_passthrough(
                        &TTL,
                        &found,
                        generation,
                        FileHandle(0),
                        FopenFlags::FOPEN_NOFLUSH,
                        id,
                    ),
                    None => reply.error(Errno::EIO),
                },
                Opened::Classic(handle) => {
                    let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                    reply.created(&TTL, &found, generation, FileHandle(handle), keep);
                }
            }
        }
        Err(e) => reply.error(errno(&e)),
    }
}

/// The inode behind a name, for what a parked operation may have locked.
fn locked_by_name(volume: &Volume, parent: u64, name: &std::ffi::CStr) -> Option<u64> {
    volume.peek(parent, name)
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_MAX_PAGES,
        ];
        if self.volume.options().passthrough {
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(|_| {
                io::Error::new(io::ErrorKind::Unsupported, "this kernel does not offer FUSE passthrough")
            })?;
            config.set_max_stack_depth(self.depth).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        // Each is a refinement: a kernel that lacks one serves the mount without it.
        wanted.retain(|flag| config.add_capabilities(*flag).is_err());
        tracing::debug!(missing = ?wanted, kernel = ?config.kernel_abi(), "fuse handshake");
        let _max = (config.set_max_write(IO_BYTES), config.set_max_readahead(IO_BYTES));
        let _max = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(parent.0, &name(child)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                reply.entry(&TTL, &absent(), Generation(0));
            }
            result => entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.volume.forget(inode.0, count);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        attr(reply, inode.0, self.volume.getattr(inode.0));
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
        let op = move |volume: &Volume, reply: ReplyAttr| {
            attr(reply, inode.0, volume.setattr(caller, inode.0, handle, set));
        };
        self.gated(reply, op, |_| vec![inode.0], || Box::new(op));
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.volume.readlink(inode.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, child) = (caller(request), name(child));
        let op = move |volume: &Volume, reply, child: &CString| {
            entry(reply, volume.mknod(caller, parent.0, child, mode, rdev));
        };
        let now = |volume: &Volume, reply| op(volume, reply, &child);
        let later = child.clone();
        self.gated(reply, now, |_| vec![], move || Box::new(move |v: &Volume, r| op(v, r, &later)));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, child) = (caller(request), name(child));
        let op = move |volume: &Volume, reply, child: &CString| {
            entry(reply, volume.mkdir(caller, parent.0, child, mode));
        };
        self.gated(
            reply,
            |v, r| op(v, r, &child),
            |_| vec![],
            || {
                let child = child.clone();
                Box::new(move |v: &Volume, r| op(v, r, &child))
            },
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let child = name(child);
        let op = move |volume: &Volume, reply, child: &CString| {
            empty(reply, volume.unlink(parent.0, child));
        };
        let locked = |volume: &Volume| locked_by_name(volume, parent.0, &child).into_iter().collect();
        self.gated(
            reply,
            |v, r| op(v, r, &child),
            locked,
            || {
                let child = child.clone();
                Box::new(move |v: &Volume, r| op(v, r, &child))
            },
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let child = name(child);
        let op = move |volume: &Volume, reply, child: &CString| {
            empty(reply, volume.rmdir(parent.0, child));
        };
        self.gated(
            reply,
            |v, r| op(v, r, &child),
            |_| vec![],
            || {
                let child = child.clone();
                Box::new(move |v: &Volume, r| op(v, r, &child))
            },
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, child: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, child, target) = (caller(request), name(child), name(target.as_os_str()));
        let op = move |volume: &Volume, reply, child: &CString, target: &CString| {
            entry(reply, volume.symlink(caller, parent.0, child, target));
        };
        self.gated(
            reply,
            |v, r| op(v, r, &child, &target),
            |_| vec![],
            || {
                let (child, target) = (child.clone(), target.clone());
                Box::new(move |v: &Volume, r| op(v, r, &child, &target))
            },
        );
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
        let (from, to) = (name(child), name(new_child));
        let op = move |volume: &Volume, reply, from: &CString, to: &CString| {
            empty(reply, volume.rename(parent.0, from, new_parent.0, to, flags.bits()));
        };
        let locked = |volume: &Volume| {
            let both = [locked_by_name(volume, parent.0, &from), locked_by_name(volume, new_parent.0, &to)];
            both.into_iter().flatten().collect()
        };
        self.gated(
            reply,
            |v, r| op(v, r, &from, &to),
            locked,
            || {
                let (from, to) = (from.clone(), to.clone());
                Box::new(move |v: &Volume, r| op(v, r, &from, &to))
            },
        );
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let child = name(child);
        let op = move |volume: &Volume, reply, child: &CString| {
            entry(reply, volume.link(inode.0, parent.0, child));
        };
        self.gated(
            reply,
            |v, r| op(v, r, &child),
            |_| vec![inode.0],
            || {
                let child = child.clone();
                Box::new(move |v: &Volume, r| op(v, r, &child))
            },
        );
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, flags) = (caller(request), OFlags::from_bits_retain(flags.0 as u32));
        if !Volume::open_changes(flags) {
            open(&self.volume, caller, inode.0, flags, reply);
            return;
        }
        let op = move |volume: &Volume, reply| open(volume, caller, inode.0, flags, reply);
        self.gated(reply, op, |_| vec![], || Box::new(op));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = OFlags::from_bits_retain(flags as u32);
        let what = Creation { caller: caller(request), parent: parent.0, mode, flags };
        let child = name(child);
        self.gated(
            reply,
            |v, r| create(v, what, &child, r),
            |_| vec![],
            || {
                let child = child.clone();
                Box::new(move |v: &Volume, r| create(v, what, &child, r))
            },
        );
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
            match self.volume.read(fh.0, offset, &mut buffer[..size]) {
                Ok(n) => reply.data(&buffer[..n]),
                Err(e) => reply.error(errno(&e)),
            }
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
        let op = move |volume: &Volume, reply: ReplyWrite, data: &[u8]| match volume
            .write(fh.0, offset, data, kill)
        {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(errno(&e)),
        };
        self.gated(
            reply,
            |v, r| op(v, r, data),
            |_| vec![inode.0],
            || {
                let data = data.to_vec();
                Box::new(move |v: &Volume, r| op(v, r, &data))
            },
        );
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
        let (volume, pool) = (self.volume.clone(), self.pool.clone());
        let durable = self.durable.clone().filter(|_| fh.0 != CUT_HANDLE);
        let answer = move || {
            if fh.0 == CUT_HANDLE {
                reply.ok();
                return;
            }
            pool.run(move || match (volume.fsync(inode.0, fh.0, data_only), durable) {
                (Ok(()), Some(durable)) => {
                    durable.when_durable(inode.0, Box::new(move |result| empty(reply, result)));
                }
                (result, _) => empty(reply, result),
            });
        };
        if let Some(answer) = self.volume.holds().intercept(inode.0, Box::new(answer)) {
            answer();
        }
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
        mut reply: ReplyDirectory,
    ) {
        let listed = self.volume.readdir(inode.0, offset, |name, entry| {
            let kind = file_type(entry.file_type.as_raw_mode());
            !reply.add(INodeNo(entry.ino), entry.next, kind, OsStr::from_bytes(name.to_bytes()))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.volume.readdirplus(inode.0, offset, |name, entry, found| {
            let name = OsStr::from_bytes(name.to_bytes());
            !match found {
                Some((id, attr)) => {
                    let generation = Generation(attr.generation);
                    reply.add(INodeNo(id), entry.next, name, &TTL, &file_attr(id, attr), generation)
                }
                None => {
                    let mut itself = absent();
                    itself.kind = FileType::Directory;
                    itself.ino = INodeNo(entry.ino);
                    reply.add(INodeNo(0), entry.next, name, &Duration::ZERO, &itself, Generation(0))
                }
            }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn fsyncdir(&self, _r: &Request, inode: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        let (volume, durable) = (self.volume.clone(), self.durable.clone());
        self.pool.run(move || match (volume.fsyncdir(inode.0), durable) {
            (Ok(()), Some(durable)) => {
                durable.when_durable(inode.0, Box::new(move |result| empty(reply, result)));
            }
            (result, _) => empty(reply, result),
        });
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        match self.volume.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(e) => reply.error(errno(&e)),
        }
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
        let key = name(key);
        let op = move |volume: &Volume, reply, key: &CString, value: &[u8]| {
            empty(reply, volume.setxattr(inode.0, key, value, flags));
        };
        self.gated(
            reply,
            |v, r| op(v, r, &key, value),
            |_| vec![inode.0],
            || {
                let (key, value) = (key.clone(), value.to_vec());
                Box::new(move |v: &Volume, r| op(v, r, &key, &value))
            },
        );
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(reply, self.volume.getxattr(inode.0, &name(key), size as usize));
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(reply, self.volume.listxattr(inode.0, size as usize));
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        let key = name(key);
        let op = move |volume: &Volume, reply, key: &CString| {
            empty(reply, volume.removexattr(inode.0, key));
        };
        self.gated(
            reply,
            |v, r| op(v, r, &key),
            |_| vec![inode.0],
            || {
                let key = key.clone();
                Box::new(move |v: &Volume, r| op(v, r, &key))
            },
        );
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
        let op = move |volume: &Volume, reply| {
            empty(reply, volume.fallocate(caller, inode.0, fh.0, (offset, length), mode));
        };
        self.gated(reply, op, |_| vec![inode.0], || Box::new(op));
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
        match self.volume.lseek(inode.0, fh.0, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(errno(&e)),
        }
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
        let op = move |volume: &Volume, reply: ReplyWrite| match volume.copy_file_range(from, to, length) {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(errno(&e)),
        };
        self.gated(reply, op, |_| vec![inode_out.0], || Box::new(op));
    }
}

fn xattr(reply: ReplyXattr, result: io::Result<crate::fs::Value>) {
    match result {
        Ok(crate::fs::Value::Length(length)) => reply.size(length as u32),
        Ok(crate::fs::Value::Bytes(bytes)) => reply.data(&bytes),
        Err(e) => reply.error(errno(&e)),
    }
}
