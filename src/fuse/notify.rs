//! What we tell the kernel unasked. A notification may wait for locks that a request of ours holds,
//! so all of them leave from a thread of their own.
use super::connection::Connection;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// Notifications waiting at most; they only refresh caches, so more are dropped.
const QUEUE_MAX: usize = 1024;

enum Notice {
    Listing(u64),
    Attr(u64),
}

/// The sending side.
#[derive(Debug)]
pub struct NotifyThread {
    queue: SyncSender<Notice>,
}

impl NotifyThread {
    /// Starts the thread; it ends when this is dropped.
    pub fn start(connection: Arc<Connection>) -> std::io::Result<Self> {
        let (queue, notices) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            for notice in notices {
                // An error means that the kernel does not know the inode any more: as good.
                let _done = match notice {
                    Notice::Listing(dir) => connection.invalidate(dir, 0, 0),
                    Notice::Attr(inode) => connection.invalidate(inode, -1, 0),
                };
            }
        })?;
        Ok(Self { queue })
    }

    /// Drops the cached listing of a directory.
    pub fn listing(&self, dir: u64) {
        self.send(Notice::Listing(dir));
    }

    /// Drops cached attributes of an inode.
    pub fn attr(&self, inode: u64) {
        self.send(Notice::Attr(inode));
    }

    fn send(&self, notice: Notice) {
        match self.queue.try_send(notice) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}
