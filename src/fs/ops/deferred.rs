//! Large files that are not on the disk, opened at once. One that is opened to be written comes with what is
//! written first, not with the open: who opens it to empty it needs nothing of it.
use super::data::current;
use crate::fs::Volume;
use crate::fs::absent::Need;
use crate::fs::counters::Op;
use crate::fs::open::{Data, Handle, Opened, Opening, idle};
use crate::state::absent::ranges::Reader;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

impl Volume {
    /// Opens a large file that is not on the disk. `None`: it is there by now.
    pub fn open_absent(&self, inode: u64, how: Opening, reader: Reader) -> io::Result<Option<Opened>> {
        let inode = self.inode(inode)?;
        {
            let mut state = inode.open.lock();
            if inode.absent_file() != Some(reader.file_number()) || state.arrived.is_some() {
                return Ok(None);
            }
            state.count(idle(how.flags), true);
        }
        self.count(Op::Open);
        let reader = Arc::new(reader);
        let data = if how.writes() { Data::Deferred(reader) } else { Data::Reader(reader) };
        let handle = Handle { data, inode, writable: false, cut: self.is_cut(how.caller) };
        Ok(Some(Opened::Classic(self.handles.insert(handle))))
    }

    /// Whether a handle was opened to write a file that was not here, and has written nothing yet.
    pub fn is_deferred(&self, handle: u64) -> bool {
        self.handles.get(handle).is_some_and(|handle| matches!(handle.data, Data::Deferred(_)))
    }

    /// What writing an inode by a handle needs.
    pub fn need_to_write(&self, inode: u64, handle: u64) -> Need {
        if self.is_deferred(handle) { self.need(inode, None) } else { Need::Nothing }
    }

    /// A handle that is about to write; `None` if it is the kernel's. One that was opened before its file was here
    /// is as any other from now on. The caller has passed the gate.
    pub(super) fn to_write(&self, number: u64) -> io::Result<Option<Arc<Handle>>> {
        let Some(handle) = self.handles.get(number) else { return Ok(None) };
        let Data::Deferred(reader) = &handle.data else { return Ok(Some(handle)) };
        // Always the file that came: another may have taken its name.
        reader.file().ok_or(Errno::IO)?;
        let inode = current(&handle.inode);
        self.shelter.before_write(&inode)?;
        let data = Data::Reader(reader.clone());
        let now = Arc::new(Handle { data, inode: inode.clone(), writable: true, cut: handle.cut });
        if self.handles.replace(number, &handle, &now) {
            inode.open.lock().writers += 1;
        }
        self.writable.insert(&inode);
        self.mark(&inode);
        Ok(Some(now))
    }
}
