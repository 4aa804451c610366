//! What an fsync waits for: the disk always, the remote where the mount promises it.
use super::Adapter;
use crate::fs::Volume;
use crate::fuse::transport::Reply;
use std::io;

/// Makes an fsync wait for the remote.
pub trait Durable: Send + Sync {
    /// Calls `done` when everything written before this call is committed, or with the reason why
    /// it is not. Until then the FSYNC of `inode` is unanswered and its writers stand still.
    fn when_durable(&self, inode: u64, done: Box<dyn FnOnce(io::Result<()>) + Send>);
}

impl Adapter {
    pub(super) fn sync_file(&self, inode: u64, handle: u64, data_only: bool, reply: Reply<()>) {
        let answer: Box<dyn FnOnce() + Send> = if self.volume.is_cut_handle(handle) {
            Box::new(move || reply.send(Ok(())))
        } else {
            Box::new(self.synced(inode, reply, move |volume| volume.fsync(inode, handle, data_only)))
        };
        if let Some(answer) = self.volume.holds().intercept(inode, answer) {
            answer();
        }
    }

    pub(super) fn sync_dir(&self, inode: u64, reply: Reply<()>) {
        self.synced(inode, reply, move |volume| volume.fsyncdir(inode))();
    }

    /// Lets the pool call `sync`, then whatever makes it durable, then replies.
    fn synced<F>(&self, inode: u64, reply: Reply<()>, sync: F) -> impl FnOnce() + Send + use<F>
    where
        F: FnOnce(&Volume) -> io::Result<()> + Send + 'static,
    {
        let (volume, pool, durable) = (self.volume.clone(), self.pool.clone(), self.durable.clone());
        move || {
            pool.run(move || match (sync(&volume), durable) {
                (Ok(()), Some(durable)) => {
                    durable.when_durable(inode, Box::new(move |result| reply.send(result)));
                }
                (result, _) => reply.send(result),
            });
        }
    }
}
