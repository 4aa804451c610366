//! What happens to entries, for whoever subscribes.
use super::key::{Key, ObjectId};
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many events a slow subscriber may be behind before it loses the oldest (and is told how many).
pub const EVENTS_MAX: usize = 4096;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A file.
    File(Key),
    /// A block of an object, by its number.
    Block(Arc<ObjectId>, u32),
}

/// Why something left the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Cause {
    /// `max_bytes` was reached.
    Bytes,
    /// `max_entries` was reached.
    Entries,
    /// The disk had too little room left.
    Free,
    /// Its time to live was over.
    Expired,
    /// Somebody asked for room.
    Asked,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It is in the cache from now on.
    Insert {
        /// What.
        subject: Subject,
        /// Its length.
        bytes: u64,
    },
    /// It was asked for and there.
    Hit(Subject),
    /// It was asked for and not there.
    Miss(Subject),
    /// It was thrown out.
    Evict {
        /// What.
        subject: Subject,
        /// Its length.
        bytes: u64,
        /// Why.
        cause: Cause,
    },
    /// Its bytes were not those that had been written, and were dropped.
    Corrupt(Subject),
    /// It was deleted.
    Delete(Subject),
}

/// Sends events; costs nothing while nobody listens.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(EVENTS_MAX) }
    }
}

impl Events {
    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Tells the subscribers, if there are any.
    pub fn send(&self, event: impl FnOnce() -> Event) {
        if self.sender.receiver_count() > 0 {
            let _nobody = self.sender.send(event());
        }
    }
}
