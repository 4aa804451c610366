//! [`Handles`]: open files, by the numbers that the kernel reads them by.
use super::nodes::Node;
use crate::cache::{Blob, File as CacheFile};
use crate::fuse::connection::Backing;
use crate::sync::Mutex;
use crate::tables::Ahead;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

/// What an open file is read from.
#[derive(Debug)]
pub enum Content {
    /// A file of this machine.
    Local(File),
    /// An object, through the cache; and what fetches ahead for who reads it, if it has columns.
    Object(Blob, Option<Ahead>),
    /// These bytes.
    Text(Bytes),
    /// The kernel reads it.
    Kernel {
        /// Kept as long as it is open.
        _passed: Arc<Passed>,
    },
}

/// A file that the kernel reads. The cache keeps it until the last who has it open closes it.
#[derive(Debug)]
pub struct Passed {
    /// Its registration.
    pub backing: Backing,
    /// Keeps it in the cache.
    pub _pinned: Option<CacheFile>,
}

/// An open file.
#[derive(Debug)]
pub struct Handle {
    /// Of which node.
    pub node: Arc<Node>,
    /// What it is read from.
    pub content: Content,
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.content {
            Content::Kernel { .. } => {}
            Content::Local(_) | Content::Object(..) | Content::Text(_) => {
                self.node.opened.lock().classic -= 1;
            }
        }
    }
}

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub struct Handles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Handle>>,
    last: u64,
}

impl Handles {
    /// Adds an open file, which the node counts already; its number.
    pub fn add(&self, node: Arc<Node>, content: Content) -> u64 {
        let mut table = self.0.lock();
        table.last += 1;
        let number = table.last;
        table.open.insert(number, Arc::new(Handle { node, content }));
        number
    }

    /// The file of a number.
    pub fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.0.lock().open.get(&number).cloned()
    }

    /// Closes it, once nobody reads it any more.
    pub fn remove(&self, number: u64) {
        let closed = self.0.lock().open.remove(&number);
        drop(closed); // the lock is free by then
    }
}
