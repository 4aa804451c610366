//! Large files that are not on the disk: open at once, and read by range.
use super::Adapter;
use super::absent::{Unbrought, while_it_comes};
use super::open::told;
use crate::fs::counters::Op;
use crate::fs::open::Opening;
use crate::fuse::abi::answer::{Offset, Opened};
use crate::fuse::transport::Reply;
use crate::state::absent::Hydrator;
use crate::state::absent::ranges::Reader;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

impl Adapter {
    /// Opens it for reading, or to be written later. If it cannot be read by range, or is here by now, as any other.
    pub(super) fn open_absent(
        &self,
        hydrator: &Arc<Hydrator>,
        file: u32,
        id: u64,
        how: Opening,
        reply: Reply<Opened>,
    ) {
        let (this, own) = (self.clone(), hydrator.clone());
        // Directories on the way to it may have to be made.
        hydrator.handle().spawn_blocking(move || {
            let opened = match own.reader(file) {
                Some(Ok(reader)) => this.volume.open_absent(id, how, reader),
                None | Some(Err(_)) => Ok(None),
            };
            match opened {
                Ok(Some(opened)) => reply.send(told(&opened, 0)),
                Ok(None) => {
                    let need = this.volume.need(id, None);
                    this.open_here(id, how, need, reply);
                }
                Err(e) => reply.send(Err(e)),
            }
        });
    }

    /// Who reads by this handle what may still have to be brought.
    pub(super) fn reader(&self, handle: u64) -> Option<(&Arc<Hydrator>, Arc<Reader>)> {
        Some((self.hydrator.as_ref()?, self.volume.reader(handle)?))
    }

    /// Reads what is here on this thread, and waits for the rest elsewhere.
    pub(super) fn read_absent(
        &self,
        hydrator: &Arc<Hydrator>,
        reader: Arc<Reader>,
        offset: u64,
        size: u32,
        reply: Reply<Vec<u8>>,
    ) {
        self.volume.counters().add(Op::Read);
        let range = offset..offset.saturating_add(u64::from(size));
        let mut buffer = vec![0; size as usize];
        match reader.read(&mut buffer, offset) {
            Ok(Some(length)) => {
                hydrator.ranges().was_read(&reader, &range);
                buffer.truncate(length);
                return reply.send(Ok(buffer));
            }
            Ok(None) => {}
            Err(e) => return reply.send(Err(e)),
        }
        let own = hydrator.clone();
        hydrator.handle().spawn(async move {
            let read = async { own.read(&reader, range).await.map_err(|e| Unbrought::of(&*e)) };
            match while_it_comes(&own, reply.interruptible(), read).await {
                Ok(bytes) => reply.send(Ok(bytes)),
                Err(unbrought) => reply.error(unbrought.told()),
            }
        });
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    pub(super) fn seek_absent(
        &self,
        hydrator: &Arc<Hydrator>,
        reader: Arc<Reader>,
        (id, handle): (u64, u64),
        (offset, whence): (u64, u32),
        reply: Reply<Offset>,
    ) {
        let (own, volume) = (hydrator.clone(), self.volume.clone());
        hydrator.handle().spawn(async move {
            let hole = whence == libc::SEEK_HOLE as u32;
            let sought =
                async { own.ranges().seek(&reader, offset, hole).await.map_err(|e| Unbrought::of(&*e)) };
            match while_it_comes(&own, reply.interruptible(), sought).await {
                Ok(Some(found)) => {
                    let found = found.map(|at| Offset(at as i64));
                    reply.send(found.ok_or_else(|| io::Error::from(Errno::NXIO)));
                }
                Ok(None) => drop(tokio::task::spawn_blocking(move || {
                    let sought = volume.lseek(id, handle, offset as i64, whence as i32);
                    reply.send(sought.map(Offset));
                })),
                Err(unbrought) => reply.error(unbrought.told()),
            }
        });
    }
}
