//! [`Ahead`]: fetches what a reader of a Parquet file is about to read, before it asks.
//!
//! The footer comes when the file is opened. Where it says that a read lies is a column chunk, and who jumps into one
//! reads on in it, but seldom beyond it: the next chunk is another column. So the chunk is fetched ahead up to its
//! end, and in each further row group the chunks of all columns that were read before, as soon as one of them is.
//! Who goes on beyond the end of a chunk reads everything, and is served like any other who reads forward.
use super::footer::columns;
use crate::cache::{Blob, CacheError};
use crate::sync::Mutex;
use icecache_iceberg::columns::{Chunk, Columns};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// How the names of such files end.
const SUFFIX: &str = ".parquet";
/// So far ahead of a reader its chunk is fetched.
const WINDOW_BYTES: u64 = 16 << 20;
/// So much is fetched at once of other columns when a row group is begun.
const GROUP_BYTES: u64 = 32 << 20;
/// The kernel asks for so much more than a program that reads forward, in any order.
const NEAR_BYTES: u64 = 1 << 20;
/// The pages of the kernel.
const PAGE_BYTES: u64 = 4096;
/// So many reads are remembered that come before the footer.
const EARLY_MAX: usize = 64;

/// What is known of one file, by all who have it open.
#[derive(Debug, Default)]
pub struct Known {
    /// `None`: it has no footer that can be read.
    columns: OnceLock<Option<Columns>>,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Columns that somebody has read.
    columns: BTreeSet<u32>,
    /// Row groups that somebody has read in.
    groups: BTreeSet<u32>,
    /// Where somebody has read before the footer was there.
    early: Vec<u64>,
}

/// One who reads it.
#[derive(Debug)]
pub struct Ahead {
    known: Arc<Known>,
    at: Mutex<Position>,
}

#[derive(Debug, Default)]
struct Position {
    /// Where the last read ended; `None` before the first that could be told where it is.
    next: Option<u64>,
    /// Where the chunk ends; `None` outside of chunks.
    end: Option<u64>,
    /// Up to here it was fetched ahead.
    fetched: u64,
}

impl Known {
    /// Whether a file of this name can be expected to be one.
    pub fn is_of(name: &str) -> bool {
        name.ends_with(SUFFIX)
    }

    /// Reads the footer, and fetches what was read of meanwhile.
    ///
    /// # Errors
    /// It cannot be read: nothing is known of the file then.
    pub async fn learn(&self, blob: &Blob) -> Result<(), CacheError> {
        let columns = columns(blob, |_, _| true).await?;
        let early = {
            // Under the lock: who reads now finds the columns, or is remembered.
            let mut asked = self.asked.lock();
            let _known = self.columns.set(columns);
            std::mem::take(&mut asked.early)
        };
        if let Some(Some(columns)) = self.columns.get() {
            for chunk in early.iter().filter_map(|offset| columns.at(*offset)) {
                self.enter(blob, columns, chunk);
            }
        }
        Ok(())
    }

    /// Somebody reads in a chunk.
    fn enter(&self, blob: &Blob, columns: &Columns, chunk: &Chunk) {
        let others = {
            let mut asked = self.asked.lock();
            asked.columns.insert(chunk.column);
            if asked.groups.insert(chunk.group) { asked.columns.clone() } else { BTreeSet::new() }
        };
        let window = |bytes: &Range<u64>| bytes.start..bytes.end.min(bytes.start + WINDOW_BYTES);
        blob.fetch_ahead_of(window(&chunk.bytes));
        let mut left = GROUP_BYTES;
        for other in columns.of_group(chunk.group) {
            if other.column != chunk.column && others.contains(&other.column) {
                let bytes = window(&other.bytes);
                left = match left.checked_sub(bytes.end - bytes.start) {
                    Some(left) => left,
                    None => return,
                };
                blob.fetch_ahead_of(bytes);
            }
        }
    }
}

impl Ahead {
    /// One more who reads it, from nowhere so far.
    pub fn new(known: Arc<Known>) -> Self {
        Self { known, at: Mutex::default() }
    }

    /// It is about to read these bytes. Never waits.
    pub fn read(&self, blob: &Blob, offset: u64, length: u64) {
        let columns = match self.known.columns.get() {
            Some(Some(columns)) => columns,
            Some(None) => return,
            None => {
                let offset = meant(offset, offset.saturating_add(length));
                let mut asked = self.known.asked.lock();
                if self.known.columns.get().is_none() && asked.early.len() < EARLY_MAX {
                    asked.early.push(offset);
                }
                return;
            }
        };
        let end = offset.saturating_add(length);
        let mut at = self.at.lock();
        if let Some(next) = at.next.filter(|next| next.abs_diff(offset) <= NEAR_BYTES) {
            at.next = Some(next.max(end));
            at.go_on(blob, end);
            return;
        }
        let chunk = columns.at(meant(offset, end));
        *at = Position { next: Some(end), end: chunk.map(|chunk| chunk.bytes.end), fetched: offset };
        blob.read_ahead_until(at.end);
        at.go_on(blob, end);
        drop(at);
        if let Some(chunk) = chunk {
            self.known.enter(blob, columns, chunk);
        }
    }
}

/// The kernel asks for whole pages: who jumps to the beginning of a chunk seems to begin in the one before.
fn meant(offset: u64, end: u64) -> u64 {
    (offset | (PAGE_BYTES - 1)).min(end.saturating_sub(1)).max(offset)
}

impl Position {
    /// The reader has come to a byte of its chunk, or beyond it.
    fn go_on(&mut self, blob: &Blob, to: u64) {
        let Some(end) = self.end else { return };
        if to > end + NEAR_BYTES {
            // Not what the kernel asks for in advance: it reads everything.
            self.end = None;
            blob.read_ahead_until(None);
            return;
        }
        let wanted = end.min(to + WINDOW_BYTES);
        if wanted > self.fetched {
            blob.fetch_ahead_of(self.fetched..wanted);
            self.fetched = wanted;
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
