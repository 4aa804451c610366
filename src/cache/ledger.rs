//! [`Ledger`]: what goes into the journal, gathered and written by a thread of its own.
//!
//! Whoever changes something leaves a record here and goes on. The thread wakes with the first one, waits
//! for [`flush_interval`](super::Config::flush_interval), and writes and flushes all there are: a kill costs
//! no more than that, and what it costs comes back by its witnesses.
use super::error::CacheError;
use crate::journal::{Batch, Journal, JournalError};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// As many records are written without waiting for the interval.
const RECORDS_SOON: usize = 4096;
/// With as many not yet written, whoever brings another one waits.
const RECORDS_MAX: usize = 65_536;

/// Adds what was used to a batch; `true` if it was called because everything ends.
pub type Recency = Box<dyn Fn(&mut Batch, bool) + Send>;

/// Writes the journal.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    interval: Duration,
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    batch: Batch,
    /// Somebody waits for a flush: the number of the last one asked for, and of the last one done.
    asked: u64,
    done: u64,
    failure: Option<Arc<JournalError>>,
    failures: u64,
    ending: bool,
    ended: bool,
}

impl Ledger {
    /// Writes to `journal`. `recency` is called before each write.
    pub fn new(journal: Arc<dyn Journal>, interval: Duration, recency: Recency) -> Result<Self, CacheError> {
        let shared = Shared { interval, desk: Mutex::default(), changed: Condvar::new() };
        let shared = Arc::new(shared);
        let writing = shared.clone();
        let thread = thread::Builder::new()
            .name("cache-journal".into())
            .spawn(move || writing.run(&*journal, &recency))
            .map_err(|e| CacheError::io("start the thread of", "journal", e))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Leaves records.
    pub fn record(&self, add: impl FnOnce(&mut Batch)) {
        let mut desk = self.shared.desk.lock();
        // The writer takes no lock that a caller could hold here.
        while desk.batch.len() >= RECORDS_MAX && !desk.ended {
            self.shared.changed.wait(&mut desk);
        }
        if desk.ended {
            return;
        }
        let before = desk.batch.len();
        add(&mut desk.batch);
        if before == 0 || desk.batch.len() >= RECORDS_SOON {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything recorded so far is on the disk. Blocks.
    pub fn flush(&self) -> Result<(), CacheError> {
        let mut desk = self.shared.desk.lock();
        desk.asked += 1;
        let number = desk.asked;
        self.shared.changed.notify_all();
        while desk.done < number && !desk.ended {
            self.shared.changed.wait(&mut desk);
        }
        match &desk.failure {
            Some(failure) => Err(CacheError::Journal(failure.clone())),
            None if desk.done < number => Err(CacheError::Closed),
            None => Ok(()),
        }
    }

    /// How often writing failed.
    pub fn failures(&self) -> u64 {
        self.shared.desk.lock().failures
    }

    /// Writes what is left, ends the thread and lets go of the journal. Blocks.
    pub fn end(&self) -> Result<(), CacheError> {
        self.shared.desk.lock().ending = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _panicked = thread.join();
        }
        match &self.shared.desk.lock().failure {
            Some(failure) => Err(CacheError::Journal(failure.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _logged = self.end();
    }
}

impl Shared {
    fn run(&self, journal: &dyn Journal, recency: &Recency) {
        let mut desk = self.desk.lock();
        loop {
            while desk.batch.is_empty() && desk.asked == desk.done && !desk.ending {
                self.changed.wait(&mut desk);
            }
            // Not while somebody waits; else for the interval, so that much is written at once.
            let gather = |d: &mut Desk| d.asked == d.done && !d.ending && d.batch.len() < RECORDS_SOON;
            self.changed.wait_while_for(&mut desk, gather, self.interval);
            let (number, ending) = (desk.asked, desk.ending);
            let mut batch = std::mem::take(&mut desk.batch);
            let result = crate::sync::MutexGuard::unlocked(&mut desk, || {
                recency(&mut batch, ending);
                journal.apply(batch)?;
                journal.flush()
            });
            desk.done = number;
            if let Err(error) = result {
                // The next process finds what is missing by its witness.
                tracing::warn!(%error, "the journal of the cache cannot be written");
                desk.failures += 1;
                desk.failure = Some(Arc::new(error));
            } else {
                desk.failure = None;
            }
            if ending && desk.batch.is_empty() {
                desk.ended = true;
                self.changed.notify_all();
                return;
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::journal::{MemoryJournal, Tree};

    #[test]
    fn what_was_flushed_survives_and_the_end_flushes() {
        let journal = Arc::new(MemoryJournal::new());
        let quiet: Recency = Box::new(|_, _| {});
        let ledger = Ledger::new(journal.clone(), Duration::from_secs(3600), quiet).expect("starts");
        ledger.record(|batch| batch.put(Tree("t"), b"a", b"1"));
        assert_eq!(journal.get(Tree("t"), b"a").expect("reads"), None, "it waits for more");
        ledger.flush().expect("flushes");
        assert!(journal.crashed().get(Tree("t"), b"a").expect("reads").is_some());
        ledger.record(|batch| batch.put(Tree("t"), b"b", b"2"));
        drop(ledger);
        assert!(journal.crashed().get(Tree("t"), b"b").expect("reads").is_some());
    }
}
