//! What must survive a restart, behind a small trait.
//!
//! A journal is a rebuildable index: user data never lives in it alone. Keys and values are bytes
//! in named trees; a batch over any trees is applied whole or not at all, and what was flushed
//! survives a crash of the process and of the machine.
#[cfg(test)]
pub(crate) mod failing;
mod memory;
mod redo;
mod sled;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;

pub use self::memory::MemoryJournal;
pub use self::redo::Redo;
pub use self::sled::{Damage, Opened, SledJournal, move_aside, moved_aside, remove_aside};

use std::path::PathBuf;

/// A named tree: a key space of its own. Names are short, ASCII, and without NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tree(pub &'static str);

/// Puts and deletes over any trees, applied together. For one key the last one counts.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Full keys (see [`full_key`]); `None` deletes.
    operations: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, tree: Tree, key: &[u8], value: impl Into<Vec<u8>>) {
        self.operations.push((full_key(tree, key), Some(value.into())));
    }

    /// Removes a key; it need not exist.
    pub fn delete(&mut self, tree: Tree, key: &[u8]) {
        self.operations.push((full_key(tree, key), None));
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// What comes later is done after what is there.
    pub fn append(&mut self, mut later: Self) {
        self.operations.append(&mut later.operations);
    }

    fn into_operations(self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.operations
    }
}

/// One key and its value, or why reading stopped.
pub type Pair = Result<(Vec<u8>, Vec<u8>), JournalError>;

/// Pairs in ascending byte order of their keys. After an error it ends.
pub type Pairs<'a> = Box<dyn Iterator<Item = Pair> + 'a>;

/// An ordered, transactional byte store. Calls may block on the disk.
pub trait Journal: Send + Sync + std::fmt::Debug {
    /// The value of a key.
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError>;

    /// Applies a batch atomically. It is visible at once, and durable after [`flush`](Self::flush).
    fn apply(&self, batch: Batch) -> Result<(), JournalError>;

    /// The pairs whose key starts with `prefix` and is not below `from`. It need not be one
    /// instant: changes made while it runs may or may not show.
    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_>;

    /// Hands every pair of a tree to `each`, in ascending order, until that says `false`. Like
    /// [`scan`](Self::scan), but where there are millions it spares a copy of each.
    fn visit(&self, tree: Tree, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), JournalError> {
        for pair in self.scan(tree, b"", b"") {
            let (key, value) = pair?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// Makes all that was applied survive a crash.
    fn flush(&self) -> Result<(), JournalError>;

    /// Begins anew after a write or a flush has failed; so many bytes are about to be applied. Without it whatever follows
    /// may go on failing. What was not flushed is lost, unless the journal keeps it itself ([`Redo`]). Fails without
    /// harm while the disk has no room.
    fn recover(&self, _bytes: usize) -> Result<(), JournalError> {
        Ok(())
    }

    /// All pairs whose key starts with `prefix`.
    fn scan_prefix(&self, tree: Tree, prefix: &[u8]) -> Pairs<'_> {
        self.scan(tree, prefix, b"")
    }
}

/// Why a journal did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process has it open.
    #[error("journal is in use by another process{}: {}", .pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), .path.display())]
    Busy {
        /// Where it is.
        path: PathBuf,
        /// The process, if it is known and alive.
        pid: Option<u32>,
    },
    /// It was written by a later icecache.
    #[error("journal has a format this version does not know: {found}: {}", .path.display())]
    Version {
        /// Where it is.
        path: PathBuf,
        /// The format number found.
        found: u32,
    },
    /// Its bytes are not what they should be.
    #[error("journal is damaged: {message}")]
    Corrupt {
        /// What was found.
        message: String,
    },
    /// The disk under it failed.
    #[error("cannot {action} journal: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl JournalError {
    /// A value that does not decode.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::Corrupt { message: message.into() }
    }
}

impl From<JournalError> for crate::Error {
    fn from(e: JournalError) -> Self {
        use crate::ErrorKind;
        let kind = match &e {
            JournalError::Busy { .. } => ErrorKind::Busy,
            JournalError::Version { .. } => ErrorKind::Unsupported,
            JournalError::Corrupt { .. } => ErrorKind::Corrupt,
            JournalError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorKind::Full
            }
            JournalError::Io { .. } => ErrorKind::Io,
        };
        Self::new(kind, e.to_string())
    }
}

/// All trees share one ordered key space, so that one batch can span them: name, NUL, key.
fn full_key(tree: Tree, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(tree.0.len() + 1 + key.len());
    full.extend_from_slice(tree.0.as_bytes());
    full.push(0);
    full.extend_from_slice(key);
    full
}
