//! What we tell the kernel unasked. A notification may wait for locks that a request of ours holds,
//! so all of them leave from a thread of their own.
use crate::fs::Kernel;
use fuser::{INodeNo, Notifier};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// Notifications waiting at most; they only refresh caches, so more are dropped.
const QUEUE_MAX: usize = 1024;

enum Notice {
    Listing(u64),
    Attr(u64),
}

/// The sending side, for the volume.
#[derive(Debug)]
pub struct NotifyThread {
    queue: SyncSender<Notice>,
}

impl NotifyThread {
    /// Starts the thread; it ends when the volume is dropped.
    pub fn start(notifier: Notifier) -> std::io::Result<Self> {
        let (queue, notices) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            for notice in notices {
                // An error means that the kernel does not know the inode any more: as good.
                let _done = match notice {
                    Notice::Listing(dir) => notifier.inval_inode(INodeNo(dir), 0, 0),
                    Notice::Attr(inode) => notifier.inval_inode(INodeNo(inode), -1, 0),
                };
            }
        })?;
        Ok(Self { queue })
    }

    fn send(&self, notice: Notice) {
        match self.queue.try_send(notice) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Kernel for NotifyThread {
    fn forget_listing(&self, dir: u64) {
        self.send(Notice::Listing(dir));
    }

    fn forget_attr(&self, inode: u64) {
        self.send(Notice::Attr(inode));
    }
}
