//! Open files and their data. On the passthrough path only open, release and the calls below that
//! have no kernel road arrive here; on the classic path everything does.
use crate::fs::counters::Op;
use crate::fs::inode::Inode;
use crate::fs::open::{Data, Handle, Opened, Opening, Register, Registration, idle, reach, writes};
use crate::fs::{CUT_HANDLE, Caller, Volume, sys};
use crate::state::absent::ranges::Reader;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Volume {
    /// Opens a file. One that [`changes`](Opening::changes) the tree has passed the gate.
    pub fn open(&self, inode: u64, how: Opening, register: Register<'_>) -> io::Result<(Opened, u64)> {
        self.count(Op::Open);
        let inode = self.inode(inode)?;
        self.prepare(&inode, how)?;
        let flags = how.flags;
        let handle = if self.is_cut(how.caller) { CUT_HANDLE } else { 0 };
        let kernel = self.is_served_by_kernel(&inode, how)?;
        let opened = if kernel {
            self.open_passthrough(&inode, || reach(&inode, OFlags::RDONLY), register)
        } else {
            reach(&inode, flags & OFlags::RWMODE).map(|file| self.open_classic(&inode, how, file))
        };
        let opened = opened.inspect_err(|_| inode.uncount(flags, !kernel))?;
        if how.writes() {
            self.written_by(&inode, how.caller);
        }
        if !how.empties() && handle != CUT_HANDLE {
            self.record_open(&inode);
        }
        Ok((opened, handle))
    }

    /// Decides how a handle is served, and counts it: from then on others are served the same way.
    ///
    /// What the kernel writes to the backing it writes in our name, and a write by root leaves set-user-ID and
    /// set-group-ID bits alone. So a file that has them passes us while somebody writes it whose writes must
    /// take them. Where it is open already, and by the kernel, it is too late for that: then they go with the
    /// open, which a disk would do with the first write only.
    pub(super) fn is_served_by_kernel(&self, inode: &Arc<Inode>, how: Opening) -> io::Result<bool> {
        let can = self.options.passthrough && inode.native;
        let must_drop = can && how.writes() && how.caller.uid != 0 && self.has_privileges(inode)?;
        let classic = inode.open.lock().begin(how.flags, !can || must_drop);
        if must_drop && !classic {
            self.drop_privileges(inode).inspect_err(|_| inode.uncount(how.flags, false))?;
        }
        Ok(!classic)
    }

    /// What opening does to a file that was there before.
    pub(super) fn prepare(&self, inode: &Arc<Inode>, how: Opening) -> io::Result<()> {
        if how.empties() && inode.open.lock().running > 0 {
            // The kernel has us empty a file that is opened for reading before it looks whether the
            // file runs; the program would die of it, and the caller be told that it is busy.
            return Err(Errno::TXTBSY.into());
        }
        if how.changes() {
            self.shelter.before_write(inode)?;
            self.mark(inode);
        }
        if how.empties() {
            self.truncate(inode, 0)?;
            if how.kill_privileges {
                self.drop_privileges(inode)?;
            }
        }
        Ok(())
    }

    pub(super) fn open_passthrough(
        &self,
        inode: &Arc<Inode>,
        reach: impl FnOnce() -> io::Result<File>,
        register: Register<'_>,
    ) -> io::Result<Opened> {
        let mut fresh = false;
        let registration: Registration = inode.open.lock().register(|| {
            fresh = true;
            self.count(Op::BackingOpen);
            register(reach()?.as_fd())
        })?;
        if fresh {
            self.registrations.admit(inode);
        }
        Ok(Opened::Passthrough(registration))
    }

    /// Serves a file ourselves. The handle is counted already.
    pub(super) fn open_classic(&self, inode: &Arc<Inode>, how: Opening, file: File) -> Opened {
        let handle = Handle {
            data: Data::File(file),
            inode: inode.clone(),
            writable: how.writes(),
            cut: self.is_cut(how.caller),
        };
        Opened::Classic(self.handles.insert(handle))
    }

    /// Whether the helper of the cut has opened this handle: its FSYNC asks for nothing but that what was
    /// written reaches the backing, as it has when it arrives.
    pub fn is_cut_handle(&self, handle: u64) -> bool {
        handle == CUT_HANDLE || self.handles.get(handle).is_some_and(|handle| handle.cut)
    }

    /// Who reads a large file by this handle that is not whole yet.
    pub fn reader(&self, handle: u64) -> Option<Arc<Reader>> {
        match &self.handles.get(handle)?.data {
            Data::Reader(reader) | Data::Deferred(reader) if reader.file().is_none() => Some(reader.clone()),
            Data::Reader(_) | Data::Deferred(_) | Data::File(_) => None,
        }
    }

    /// The kernel closed a handle. `flags` are those it was opened with.
    pub fn release(&self, inode: u64, handle: u64, flags: OFlags) {
        self.count(Op::Release);
        let classic = self.handles.remove(handle);
        let inode = match &classic {
            Some(handle) => current(&handle.inode),
            None => match self.inode(inode) {
                Ok(inode) => inode,
                Err(_) => return,
            },
        };
        let wrote_nothing = classic.as_ref().is_some_and(|handle| matches!(handle.data, Data::Deferred(_)));
        let flags = if wrote_nothing { idle(flags) } else { flags };
        let ended = {
            let mut state = inode.open.lock();
            state.uncount(flags, classic.is_some());
            // The last handle of a file without a name: nothing can reach it any more.
            let ended = if state.handles == 0 && state.orphan.is_some() {
                (state.orphan.take(), state.registration.take())
            } else {
                (None, None)
            };
            state.tidy();
            ended
        };
        drop(ended);
        if writes(flags) {
            self.mark(&inode);
        }
    }

    /// After a release: reads and writes that passed us have changed attributes the kernel may have
    /// cached with a listing; without this, every file below would be asked for one by one.
    pub fn after_release(&self, inode: u64) {
        if !self.options.passthrough {
            return;
        }
        let Some(parent) = self.inode(inode).ok().and_then(|i| i.parent()) else { return };
        let Some(directory) = parent.directory() else { return };
        if directory.listed.load(Ordering::Relaxed)
            && directory.listed.swap(false, Ordering::Relaxed)
            && let Some(kernel) = self.kernel.get()
        {
            self.count(Op::ForgetListing);
            kernel.forget_listing(parent.id);
        }
    }

    /// A descriptor for what a handle asks for beside data.
    fn descriptor(&self, inode: u64, handle: u64, write: bool) -> io::Result<Descriptor> {
        let handle = if write { self.to_write(handle)? } else { self.handles.get(handle) };
        if let Some(handle) = handle {
            handle.file()?;
            return Ok(Descriptor::Classic(handle));
        }
        let inode = self.inode(inode)?;
        let orphan = inode.open.lock().orphan.clone();
        if let Some(fd) = orphan {
            return Ok(Descriptor::Orphan(fd));
        }
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        inode.at(|dir, name| {
            Ok(Descriptor::Opened(rustix::fs::openat(dir, name, flags, Mode::empty())?.into()))
        })
    }

    /// Reads on the classic path into `buffer`.
    pub fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.count(Op::Read);
        let handle = self.handles.get(handle).ok_or(Errno::BADF)?;
        let file = match &handle.data {
            Data::File(file) => file,
            Data::Reader(reader) | Data::Deferred(reader) => {
                return reader.read(buffer, offset)?.ok_or_else(|| Errno::AGAIN.into());
            }
        };
        read_whole(file, buffer, offset)
    }

    /// Writes on the classic path. `kill` drops privilege bits. The caller has passed the gate.
    pub fn write(&self, handle: u64, offset: u64, data: &[u8], kill: bool) -> io::Result<()> {
        self.count(Op::Write);
        let handle = self.to_write(handle)?.ok_or(Errno::BADF)?;
        handle.file()?.write_all_at(data, offset)?;
        if kill {
            self.drop_privileges(&handle.inode)?;
        }
        self.mark(&handle.inode);
        Ok(())
    }

    /// Makes a file durable on the backing.
    pub fn fsync(&self, inode: u64, handle: u64, data_only: bool) -> io::Result<()> {
        self.count(Op::Fsync);
        if self.reader(handle).is_some() {
            return Ok(()); // nobody has written it
        }
        let file = self.descriptor(inode, handle, false)?;
        let done = if data_only { rustix::fs::fdatasync(&file) } else { rustix::fs::fsync(&file) };
        Ok(done?)
    }

    /// Allocates, zeroes or punches; `mode` as in fallocate(2). The caller has passed the gate.
    pub fn fallocate(
        &self,
        caller: Caller,
        inode: u64,
        handle: u64,
        range: (u64, u64),
        mode: i32,
    ) -> io::Result<()> {
        self.count(Op::Fallocate);
        let file = self.descriptor(inode, handle, true)?;
        sys::fallocate(&file, mode, range.0, range.1)?;
        let inode = self.inode(inode)?;
        if caller.uid != 0 {
            self.drop_privileges(&inode)?;
        }
        self.mark(&inode);
        Ok(())
    }

    /// `SEEK_HOLE` and `SEEK_DATA`.
    pub fn lseek(&self, inode: u64, handle: u64, offset: i64, whence: i32) -> io::Result<i64> {
        self.count(Op::Lseek);
        sys::seek(&self.descriptor(inode, handle, false)?, offset, whence)
    }

    /// Copies between two open files (inode, handle, offset). The caller has passed the gate.
    pub fn copy_file_range(
        &self,
        caller: Caller,
        from: (u64, u64, u64),
        to: (u64, u64, u64),
        length: u64,
    ) -> io::Result<usize> {
        self.count(Op::CopyFileRange);
        if !self.options.copy_file_range {
            return Err(Errno::NOSYS.into());
        }
        let source = self.descriptor(from.0, from.1, false)?;
        let target = self.descriptor(to.0, to.1, true)?;
        let (mut read_at, mut write_at) = (from.2, to.2);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let copied =
            rustix::fs::copy_file_range(&source, Some(&mut read_at), &target, Some(&mut write_at), length)?;
        let inode = self.inode(to.0)?;
        if caller.uid != 0 {
            self.drop_privileges(&inode)?;
        }
        self.mark(&inode);
        Ok(copied)
    }
}

/// Fills `buffer` from a file, from `offset` on; less only at its end.
pub fn read_whole(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// The inode that stands for a file now, which may have come to the disk since it was opened.
pub(super) fn current(inode: &Arc<Inode>) -> Arc<Inode> {
    let arrived = inode.open.lock().arrived.clone();
    arrived.unwrap_or_else(|| inode.clone())
}

/// A descriptor of the backing, wherever it comes from.
#[derive(Debug)]
enum Descriptor {
    Classic(Arc<Handle>),
    Orphan(Arc<std::os::fd::OwnedFd>),
    Opened(File),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Classic(handle) => match &handle.data {
                Data::File(file) => file.as_fd(),
                Data::Reader(reader) | Data::Deferred(reader) => reader.partial().file().as_fd(),
            },
            Self::Orphan(fd) => fd.as_fd(),
            Self::Opened(file) => file.as_fd(),
        }
    }
}
