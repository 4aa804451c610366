//! [`Redo`]: a journal that outlasts a moment in which its disk fails.
//!
//! A database answers everything with the first error of its disk until it is opened anew, and then it has lost what
//! was not flushed. Whoever applied that was told that it is done. So what was applied since the last flush is kept
//! here, and after a failure it is applied once more, in its order, before anybody is answered again.
use super::{Batch, Journal, JournalError, Pairs, Tree};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::time::Duration;

/// So many bytes are kept; before more are applied what is there is flushed. One batch may be larger.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// What an operation takes beside its key and value, about.
const OPERATION_BYTES: usize = 64;
/// A scan takes as many pairs at once: few at first, since many a scan wants no more.
const PAGE_MIN: usize = 4;
const PAGE_MAX: usize = 256;
/// So long whoever begins anew waits for those who use the journal. One of them may wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
///
/// An [`apply`](Journal::apply) that fails for its disk may be undone, or take effect later; then it takes effect as a
/// whole, before anything that is applied or read after it.
#[derive(Debug)]
pub struct Redo<J> {
    inner: J,
    /// Held by who applies: what is kept has the order in which it was applied.
    turn: Mutex<()>,
    desk: Mutex<Desk>,
    left: Condvar,
    /// `inner` has failed, and has not all that was applied.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Desk {
    /// Who uses `inner` now.
    users: usize,
    /// What was applied since the last flush, and at the end perhaps what is being applied; with their sizes.
    kept: VecDeque<(Batch, usize)>,
    bytes: usize,
    /// How many were ever applied, and how many of them were flushed and are not kept any more.
    applied: u64,
    flushed: u64,
    /// How often it was begun anew.
    times: u64,
}

/// One who uses `inner`.
struct User<'a, J>(&'a Redo<J>);

impl<J> Drop for User<'_, J> {
    fn drop(&mut self) {
        self.0.desk.lock().users -= 1;
        if self.0.failing.load(Ordering::Acquire) {
            self.0.left.notify_all();
        }
    }
}

impl<J: Journal> Redo<J> {
    /// Keeps what is applied to `inner`.
    pub fn new(inner: J) -> Self {
        let (turn, desk, left) = (Mutex::default(), Mutex::default(), Condvar::new());
        Self { inner, turn, desk, left, failing: AtomicBool::new(false) }
    }

    /// The journal itself.
    pub fn inner(&self) -> &J {
        &self.inner
    }

    /// From now on `inner` is used; before, it is begun anew if it has failed. Also tells how much was applied by then.
    fn begin(&self) -> Result<(User<'_, J>, u64), JournalError> {
        let mut desk = self.desk.lock();
        if self.failing.load(Ordering::Acquire) {
            self.mend(&mut desk)?;
        }
        desk.users += 1;
        Ok((User(self), desk.applied))
    }

    /// Begins anew and applies again what that has lost. Nobody else gets an answer meanwhile.
    fn mend(&self, desk: &mut MutexGuard<'_, Desk>) -> Result<(), JournalError> {
        if self.left.wait_while_for(desk, |desk| desk.users > 0, PATIENCE).timed_out() {
            let source = std::io::Error::new(std::io::ErrorKind::ResourceBusy, "it is in use");
            return Err(JournalError::Io { action: "begin anew the", source });
        }
        if !self.failing.load(Ordering::Acquire) {
            return Ok(()); // somebody else did
        }
        self.inner.recover(desk.bytes)?;
        // As one: whoever is killed meanwhile finds none of them, or all.
        let mut all = Batch::new();
        desk.kept.iter().for_each(|(batch, _)| all.append(batch.clone()));
        self.inner.apply(all)?;
        desk.applied = desk.flushed + desk.kept.len() as u64;
        desk.times += 1;
        self.failing.store(false, Ordering::Release);
        tracing::info!(batches = desk.kept.len(), "the journal goes on after its disk has failed");
        Ok(())
    }

    /// Notes a failure of the disk; `true` if it was one.
    fn failed<T>(&self, result: &Result<T, JournalError>) -> bool {
        let failed = matches!(result, Err(JournalError::Io { .. }));
        if failed {
            self.failing.store(true, Ordering::Release);
        }
        failed
    }

    /// Asks `inner`; once more if its disk has failed.
    fn ask<T>(&self, mut call: impl FnMut(&J) -> Result<T, JournalError>) -> Result<T, JournalError> {
        let mut once = || {
            let (_user, _) = self.begin()?;
            let result = call(&self.inner);
            self.failed(&result);
            result
        };
        match once() {
            Err(JournalError::Io { .. }) => once(),
            other => other,
        }
    }

    /// How often it was begun anew.
    #[cfg(test)]
    pub fn times(&self) -> u64 {
        self.desk.lock().times
    }
}

impl<J: Journal> Journal for Redo<J> {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.ask(|inner| inner.get(tree, key))
    }

    fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        let _turn = self.turn.lock();
        let size = batch.bytes();
        let is_full = |desk: &Desk| !desk.kept.is_empty() && desk.bytes + size > KEPT_BYTES_MAX;
        let full = is_full(&self.desk.lock());
        if full {
            self.flush()?;
        }
        let result = {
            let _user = self.begin()?;
            {
                let mut desk = self.desk.lock();
                desk.kept.push_back((batch.clone(), size));
                desk.bytes += size;
            }
            let result = self.inner.apply(batch);
            let failed = self.failed(&result);
            let mut desk = self.desk.lock();
            match &result {
                Ok(()) => desk.applied += 1,
                Err(_) if failed => {}
                Err(_) => {
                    desk.kept.pop_back();
                    desk.bytes -= size;
                }
            }
            result
        };
        match result {
            // It is kept: with this it is applied.
            Err(JournalError::Io { .. }) => self.begin().map(drop),
            other => other,
        }
    }

    fn scan(&self, tree: Tree, prefix: &[u8], from: &[u8]) -> Pairs<'_> {
        let (prefix, mut from) = (prefix.to_vec(), from.to_vec());
        let (mut page, mut size, mut ended) = (Vec::new().into_iter(), PAGE_MIN, false);
        Box::new(std::iter::from_fn(move || {
            loop {
                if let Some(pair) = page.next() {
                    return Some(Ok(pair));
                }
                if ended {
                    return None;
                }
                let next = self.ask(|inner| {
                    inner.scan(tree, &prefix, &from).take(size).collect::<Result<Vec<_>, JournalError>>()
                });
                match next {
                    Ok(pairs) => {
                        ended = pairs.len() < size;
                        if let Some((last, _)) = pairs.last() {
                            from = [last, &[0][..]].concat();
                        }
                        size = (size * 4).min(PAGE_MAX);
                        page = pairs.into_iter();
                    }
                    Err(e) => {
                        ended = true;
                        return Some(Err(e));
                    }
                }
            }
        }))
    }

    fn visit(&self, tree: Tree, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), JournalError> {
        // Not twice: what was handed over is handed over.
        let (_user, _) = self.begin()?;
        let result = self.inner.visit(tree, each);
        self.failed(&result);
        result
    }

    fn flush(&self) -> Result<(), JournalError> {
        let once = || {
            let (_user, applied) = self.begin()?;
            let result = self.inner.flush();
            if !self.failed(&result) && result.is_ok() {
                let mut desk = self.desk.lock();
                while desk.flushed < applied {
                    desk.flushed += 1;
                    let size = desk.kept.pop_front().map_or(0, |(_, size)| size);
                    desk.bytes -= size;
                }
            }
            result
        };
        match once() {
            Err(JournalError::Io { .. }) => once(),
            other => other,
        }
    }

    fn recover(&self, _: usize) -> Result<(), JournalError> {
        self.begin().map(drop)
    }
}

impl Batch {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let value = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        self.operations.iter().map(|(key, v)| key.len() + value(v) + OPERATION_BYTES).sum()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests;
