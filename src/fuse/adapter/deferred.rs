//! What is done by handles that were opened to write large files before those were here: it begins when they are.
use super::Adapter;
use super::absent::{Unbrought, while_it_comes};
use crate::fs::absent::Need;
use crate::fs::{SetAttr, Volume};
use crate::fuse::abi::answer::{Answer, Attributes};
use crate::fuse::transport::Reply;
use std::io;

impl Adapter {
    /// Runs `op` when all of what a handle is about to write is here, or as much of it as a cut to `length` leaves; at
    /// once, on this thread, unless the handle was opened before its file was here.
    pub(super) fn when_settled<T: Send + 'static>(
        &self,
        handle: u64,
        length: Option<u64>,
        reply: Reply<T>,
        op: impl FnOnce(&Self, Reply<T>) + Send + 'static,
    ) {
        let Some((hydrator, reader)) = self.hydrator.clone().zip(self.volume.deferred(handle)) else {
            return op(self, reply);
        };
        let this = self.clone();
        hydrator.handle().clone().spawn(async move {
            let settled = async { hydrator.settle(&reader, length).await.map_err(|e| Unbrought::of(&*e)) };
            match while_it_comes(&hydrator, reply.interruptible(), settled).await {
                Ok(()) => drop(tokio::task::spawn_blocking(move || op(&this, reply))),
                Err(unbrought) => reply.error(unbrought.told()),
            }
        });
    }

    /// The first write by such a handle.
    pub(super) fn write_deferred<T: Answer + Send + 'static>(
        &self,
        inode: u64,
        handle: u64,
        reply: Reply<T>,
        op: impl FnOnce(&Volume) -> io::Result<T> + Send + 'static,
    ) {
        self.when_settled(handle, None, reply, move |this, reply| {
            this.gated_copying(inode, move |volume| {
                reply.send(volume.begin_writing(handle).and_then(|()| op(volume)));
            });
        });
    }

    /// A change of attributes by such a handle, of which the length may be one.
    pub(super) fn set_deferred(
        &self,
        inode: u64,
        handle: u64,
        set: SetAttr,
        need: &Need,
        reply: Reply<Attributes>,
    ) {
        let length = match need {
            Need::Shortened(_, length) => Some(*length),
            Need::Nothing | Need::Disk | Need::Files(_) => None,
        };
        self.when_settled(handle, length, reply, move |this, reply| {
            this.gated_copying(inode, move |volume| {
                let set =
                    volume.begin_writing(handle).and_then(|()| volume.setattr(inode, Some(handle), set));
                reply.send(set.map(|attr| Attributes(inode, attr)));
            });
        });
    }
}
