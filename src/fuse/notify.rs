//! What we tell the kernel unasked. A notification about cached data may wait for locks that a request of
//! ours holds, so those leave from a thread of their own.
use super::connection::Connection;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// Notifications waiting at most; they only refresh caches, so more are dropped.
const QUEUE_MAX: usize = 1024;

/// A directory whose cached listing is out of date.
struct Listing(u64);

/// The sending side.
#[derive(Debug)]
pub struct NotifyThread {
    queue: SyncSender<Listing>,
    connection: Arc<Connection>,
}

impl NotifyThread {
    /// Starts the thread; it ends when this is dropped.
    pub fn start(connection: Arc<Connection>) -> std::io::Result<Self> {
        let (queue, listings) = sync_channel(QUEUE_MAX);
        let own = connection.clone();
        std::thread::Builder::new().name("notify".into()).spawn(move || {
            for Listing(dir) in listings {
                // An error means that the kernel does not know the inode any more: as good.
                let _done = own.invalidate(dir, 0, 0);
            }
        })?;
        Ok(Self { queue, connection })
    }

    /// Drops the cached listing of a directory.
    pub fn listing(&self, dir: u64) {
        match self.queue.try_send(Listing(dir)) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Has a name in a directory looked up anew. Waits for locks that a request of ours may hold.
    pub fn name(&self, dir: u64, name: &CStr) {
        // An error means that the kernel does not know the name any more: as good.
        let _forgotten = self.connection.invalidate_name(dir, name);
    }

    /// Drops cached attributes of an inode that a request under way is about, at once: whoever is answered
    /// next sees the new ones. Attributes alone take no lock in the kernel, so this waits for nobody.
    pub fn attr(&self, inode: u64) {
        let _forgotten = self.connection.invalidate(inode, -1, 0);
    }
}
