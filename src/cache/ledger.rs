//! [`Ledger`]: what goes into the journal, gathered and written by a thread of its own.
//!
//! Whoever changes something leaves a record here and goes on. The thread wakes with the first one, waits
//! for [`flush_interval`](super::Config::flush_interval), and writes and flushes all there are: a kill costs
//! no more than that, and what it costs comes back by its witnesses.
use super::error::CacheError;
use crate::journal::{Batch, Journal, JournalError};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As many records are written without waiting for the interval.
const RECORDS_SOON: usize = 4096;
/// With as many not yet written, whoever brings another one waits.
const RECORDS_MAX: usize = 65_536;
/// As many are kept while the journal cannot be written; the next start finds what is beyond by its witness.
const RECORDS_KEPT: usize = RECORDS_MAX / 2;
/// So long a journal that cannot be written is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Adds what was used to a batch. Told whether everything ends, and whether the journal knows all that was recorded.
pub type Recency = Box<dyn Fn(&mut Batch, bool, bool) + Send>;

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
    /// Why the journal cannot be written, and when it is tried again.
    failure: Option<Arc<JournalError>>,
    retry: Option<Instant>,
    failures: u64,
    /// There was more than could be kept meanwhile.
    incomplete: bool,
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
        if desk.failure.is_some() && desk.batch.len() >= RECORDS_KEPT {
            desk.forget();
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

impl Desk {
    /// Nothing of it was flushed: it is tried again.
    fn failed(&mut self, error: JournalError, mut batch: Batch) {
        self.failures += 1;
        if self.failure.is_none() {
            tracing::warn!(%error, "the journal of the cache cannot be written");
        }
        self.failure = Some(Arc::new(error));
        self.retry = Some(Instant::now() + RETRY_AFTER);
        batch.append(std::mem::take(&mut self.batch));
        self.batch = batch;
        if self.batch.len() > RECORDS_KEPT {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.batch = Batch::new();
        self.incomplete = true;
    }
}

impl Shared {
    /// After a failure it is not tried again at once; those who wait for a flush are told why there is none.
    fn pause(&self, desk: &mut MutexGuard<'_, Desk>) {
        while let Some(retry) = desk.retry.filter(|_| !desk.ending) {
            let left = retry.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if desk.done != desk.asked {
                desk.done = desk.asked;
                self.changed.notify_all();
            }
            self.changed.wait_for(desk, left);
        }
    }

    fn run(&self, journal: &dyn Journal, recency: &Recency) {
        let mut desk = self.desk.lock();
        loop {
            while desk.batch.is_empty() && desk.asked == desk.done && !desk.ending {
                self.changed.wait(&mut desk);
            }
            // Not while somebody waits; else for the interval, so that much is written at once.
            let gather = |d: &mut Desk| d.asked == d.done && !d.ending && d.batch.len() < RECORDS_SOON;
            self.changed.wait_while_for(&mut desk, gather, self.interval);
            self.pause(&mut desk);
            let (number, ending, failing) = (desk.asked, desk.ending, desk.failure.is_some());
            let (mut batch, complete) = (std::mem::take(&mut desk.batch), !desk.incomplete);
            let result = MutexGuard::unlocked(&mut desk, || {
                recency(&mut batch, ending, complete);
                if failing {
                    journal.recover(0)?;
                }
                journal.apply(batch.clone())?;
                journal.flush()
            });
            desk.done = number;
            match result {
                Ok(()) if failing => {
                    tracing::info!("the journal of the cache can be written again");
                    (desk.failure, desk.retry) = (None, None);
                }
                Ok(()) => {}
                Err(error) => desk.failed(error, batch),
            }
            let given_up = ending && desk.failure.is_some();
            if given_up {
                desk.forget(); // the next process finds it by its witness
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
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn what_was_flushed_survives_and_the_end_flushes() {
        let journal = Arc::new(MemoryJournal::new());
        let quiet: Recency = Box::new(|_, _, _| {});
        let ledger = Ledger::new(journal.clone(), Duration::from_secs(3600), quiet).expect("starts");
        ledger.record(|batch| batch.put(Tree("t"), b"a", b"1"));
        assert_eq!(journal.get(Tree("t"), b"a").expect("reads"), None, "it waits for more");
        ledger.flush().expect("flushes");
        assert!(journal.crashed().get(Tree("t"), b"a").expect("reads").is_some());
        ledger.record(|batch| batch.put(Tree("t"), b"b", b"2"));
        drop(ledger);
        assert!(journal.crashed().get(Tree("t"), b"b").expect("reads").is_some());
    }

    /// Like sled on a full disk: after the first failure all fail, until it is opened anew.
    #[derive(Debug, Default)]
    struct Full {
        journal: MemoryJournal,
        is_full: AtomicBool,
        is_stuck: AtomicBool,
    }

    impl Journal for Full {
        fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
            self.journal.get(tree, key)
        }

        fn apply(&self, batch: Batch) -> Result<(), JournalError> {
            if self.is_full.load(SeqCst) {
                self.is_stuck.store(true, SeqCst);
            }
            match self.is_stuck.load(SeqCst) {
                true => Err(JournalError::Io { action: "write", source: rustix::io::Errno::NOSPC.into() }),
                false => self.journal.apply(batch),
            }
        }

        fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> crate::journal::Pairs<'_> {
            self.journal.scan(tree, prefix, from)
        }

        fn flush(&self) -> Result<(), JournalError> {
            self.journal.flush()
        }

        fn recover(&self, _: usize) -> Result<(), JournalError> {
            self.is_stuck.store(false, SeqCst);
            Ok(())
        }
    }

    /// A ledger with one record that could not be written, and where it says at its end whether it has written all.
    fn on_a_full_disk(complete: bool) -> (Arc<Full>, Ledger, Arc<AtomicBool>) {
        let journal = Arc::new(Full::default());
        let complete = Arc::new(AtomicBool::new(complete));
        let told = complete.clone();
        let recency: Recency = Box::new(move |_, _, complete| told.store(complete, SeqCst));
        let ledger = Ledger::new(journal.clone(), Duration::from_millis(1), recency).expect("starts");
        journal.is_full.store(true, SeqCst);
        ledger.record(|batch| batch.put(Tree("t"), b"a", b"1"));
        ledger.flush().expect_err("the disk is full");
        (journal, ledger, complete)
    }

    #[test]
    fn a_full_disk_delays_and_loses_nothing() {
        let (journal, ledger, complete) = on_a_full_disk(false);
        ledger.record(|batch| batch.delete(Tree("t"), b"a"));
        ledger.record(|batch| batch.put(Tree("t"), b"b", b"2"));
        ledger.flush().expect_err("it is still full");
        assert!(ledger.failures() > 0);
        journal.is_full.store(false, SeqCst);
        ledger.end().expect("all is written at the end");
        let kept = journal.journal.crashed();
        assert_eq!(kept.get(Tree("t"), b"a").expect("reads"), None);
        assert!(kept.get(Tree("t"), b"b").expect("reads").is_some());
        assert!(complete.load(SeqCst), "the journal knows everything");
    }

    #[test]
    fn what_is_too_much_to_keep_makes_no_good_end() {
        let (journal, ledger, complete) = on_a_full_disk(true);
        for n in 0..=RECORDS_KEPT as u32 {
            ledger.record(|batch| batch.put(Tree("t"), &n.to_be_bytes(), b"1"));
        }
        journal.is_full.store(false, SeqCst);
        ledger.end().expect("what is left is written");
        assert!(!complete.load(SeqCst));
    }
}
