//! [`Failing`]: a journal on a disk that is full when it is told to, for tests.
use super::{Batch, Journal, JournalError, MemoryJournal, Pairs, Tree};
use crate::sync::Mutex;

/// Like sled: after the first failure everything fails, until it is begun anew; then what was not flushed is lost, and
/// of the batch that failed the half may be there.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    journal: MemoryJournal,
    /// So many writes still succeed; `None`: all.
    left: Option<usize>,
    is_stuck: bool,
}

impl Failing {
    /// From now on the disk is full, or has room.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.lock().left = full.then_some(0);
    }

    /// The disk is full after so many more writes.
    pub(crate) fn fail_after(&self, writes: usize) {
        self.0.lock().left = Some(writes);
    }

    /// Whether it has failed since it was begun last.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.lock().is_stuck
    }

    /// What a crash now would leave.
    pub(crate) fn crashed(&self) -> MemoryJournal {
        self.0.lock().journal.crashed()
    }
}

impl State {
    fn check(&self) -> Result<(), JournalError> {
        match self.is_stuck {
            true => Err(JournalError::Io { action: "write", source: rustix::io::Errno::NOSPC.into() }),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), JournalError> {
        match &mut self.left {
            Some(0) => self.is_stuck = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.check()
    }
}

impl Journal for Failing {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let state = self.0.lock();
        state.check()?;
        state.journal.get(tree, key)
    }

    fn apply(&self, mut batch: Batch) -> Result<(), JournalError> {
        let mut state = self.0.lock();
        state.check()?;
        if let Err(e) = state.write() {
            batch.operations.truncate(batch.operations.len() / 2);
            state.journal.apply(batch)?;
            state.journal.flush()?;
            return Err(e);
        }
        state.journal.apply(batch)
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        let state = self.0.lock();
        let pairs: Vec<_> = match state.check() {
            Err(e) => vec![Err(e)],
            Ok(()) => state.journal.scan(tree, prefix, from).collect(),
        };
        Box::new(pairs.into_iter())
    }

    fn flush(&self) -> Result<(), JournalError> {
        let mut state = self.0.lock();
        state.write()?;
        state.journal.flush()
    }

    fn recover(&self, _: usize) -> Result<(), JournalError> {
        let mut state = self.0.lock();
        if state.left == Some(0) && state.is_stuck {
            return state.check(); // it cannot even be opened
        }
        state.is_stuck = false;
        state.journal = state.journal.crashed();
        Ok(())
    }
}
