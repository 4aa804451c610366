//! Large files that are not on the disk, opened at once. One that is opened to be written comes with what is
//! written first, not with the open: who opens it to empty it needs nothing of it.
use super::data::current;
use crate::fs::Volume;
use crate::fs::attr::Attr;
use crate::fs::counters::Op;
use crate::fs::inode::Inode;
use crate::fs::open::{Data, Handle, Opened, Opening, idle, reach};
use crate::state::absent::ranges::Reader;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
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

    /// Who brings the file that this handle is about to write for the first time.
    pub fn deferred(&self, handle: u64) -> Option<Arc<Reader>> {
        match &self.handles.get(handle)?.data {
            Data::Deferred(reader) => Some(reader.clone()),
            Data::Reader(_) | Data::File(_) => None,
        }
    }

    /// A file that was opened before it was here is whole and about to be written: its handle is as any other from
    /// now on. The caller has passed the gate.
    pub fn begin_writing(&self, number: u64) -> io::Result<()> {
        let Some(handle) = self.handles.get(number) else { return Ok(()) };
        let Data::Deferred(reader) = &handle.data else { return Ok(()) };
        let inode = current(&handle.inode);
        let file = self.written(&inode, reader.file().ok_or(Errno::AGAIN)?)?;
        self.shelter.before_write(&inode)?;
        let now = Handle { data: Data::File(file), inode: inode.clone(), writable: true, cut: handle.cut };
        if self.handles.replace(number, &handle, now) {
            inode.open.lock().writers += 1;
        }
        self.writable.insert(&inode);
        self.mark(&inode);
        Ok(())
    }

    /// What is written: the file that came, or what stands in its place if somebody put that there beneath.
    fn written(&self, inode: &Inode, came: &File) -> io::Result<File> {
        if inode.is_linked() {
            let here = rustix::fs::fstat(came)?.st_ino;
            return match inode.at(|dir, name| Attr::at(dir, name)) {
                Ok(attr) if attr.key.ino != here => reach(inode, OFlags::WRONLY),
                _ => came.try_clone(),
            };
        }
        // By this its other handles find it.
        let own = Arc::new(came.try_clone()?.into());
        inode.open.lock().orphan.get_or_insert(own);
        came.try_clone()
    }
}
