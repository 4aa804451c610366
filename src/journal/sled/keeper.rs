//! [`Keeper`]: the open database, and how it comes to rest.
//!
//! A while after its last use the threads of sled are sent to sleep and its memory is given back. What was
//! read and written stays in sled's cache in a form several times as large as a freshly opened one, so
//! after much of it the database is closed and opened anew.
use super::database::{Missing, fenced, open_patiently};
use super::garbage;
use super::room;
use super::threads::{self, Shift};
use crate::journal::JournalError;
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// When to rest.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// So long after the last use.
    pub rest_after: Duration,
    /// So many pairs read and written make it worth opening the database anew.
    pub renew_after: u64,
}

/// 8192 pairs are some 6 MB of memory, against tens of milliseconds.
pub const MANNERS: Manners = Manners { rest_after: Duration::from_secs(2), renew_after: 8192 };

/// How long a renewal waits for sled's own lock, which tasks of its threads may hold a moment longer.
const RENEW_PATIENCE: Duration = Duration::from_secs(1);

/// Keeps a database. Dropping it closes the database.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    manners: Manners,
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Debug)]
struct Desk {
    /// `None` only after a renewal that failed: the next use tries again.
    db: Option<::sled::Db>,
    /// Uses that last, and how many there were.
    users: usize,
    uses: u64,
    last: Instant,
    /// Pairs read and written since it was opened.
    touched: u64,
    renewals: u64,
    resting: bool,
    ending: bool,
}

impl Keeper {
    /// Keeps `db`, which is open in the directory `path`.
    pub fn new(db: ::sled::Db, path: &Path, manners: Manners) -> std::io::Result<Self> {
        let desk = Desk {
            db: Some(db),
            users: 0,
            uses: 0,
            last: Instant::now(),
            touched: 0,
            renewals: 0,
            resting: false,
            ending: false,
        };
        let shared = Shared { path: path.into(), manners, desk: Mutex::new(desk), changed: Condvar::new() };
        let shared = Arc::new(shared);
        let keeping = shared.clone();
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || keeping.keep())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The database, awake and open for as long as this is held.
    pub fn enter(&self) -> Result<Use<'_>, JournalError> {
        let shift = Shift::begin();
        let mut desk = self.shared.desk.lock();
        let db = match &desk.db {
            Some(db) => db.clone(),
            None => desk.db.insert(self.shared.reopen()?).clone(),
        };
        desk.users += 1;
        desk.uses += 1;
        if std::mem::take(&mut desk.resting) {
            self.shared.changed.notify_all();
        }
        Ok(Use { db, shared: &self.shared, touched: Cell::new(0), _shift: shift })
    }

    /// Closes the database and opens it anew: after an error of the disk sled answers everything with that error. What
    /// was not flushed is lost. Not while the disk has no room for so many bytes and what sled writes by itself.
    pub fn recover(&self, bytes: usize) -> Result<(), JournalError> {
        let _shift = Shift::begin();
        let mut desk = self.shared.desk.lock();
        if desk.users > 0 {
            return Ok(()); // another time
        }
        room::require(&self.shared.path, bytes)?;
        if let Some(db) = desk.db.take() {
            fenced("close", || {
                drop(db);
                Ok(())
            })?;
            garbage::collect();
        }
        desk.touched = 0;
        desk.db = Some(self.shared.reopen()?);
        desk.renewals += 1;
        Ok(())
    }

    /// Waits until it rests, at most for `patience`: whether it does, and how often it was opened anew.
    pub fn wait_rest(&self, patience: Duration) -> (bool, u64) {
        let mut desk = self.shared.desk.lock();
        self.shared.changed.wait_while_for(&mut desk, |d| !d.resting, patience);
        (desk.resting, desk.renewals)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.desk.lock().ending = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
        let _shift = Shift::begin(); // closing may write
        drop(self.shared.desk.lock().db.take());
    }
}

/// One use of the database.
#[derive(Debug)]
pub struct Use<'a> {
    db: ::sled::Db,
    shared: &'a Shared,
    touched: Cell<u64>,
    _shift: Shift,
}

impl Use<'_> {
    /// Counts pairs that were read or written.
    pub fn touch(&self, pairs: usize) {
        self.touched.set(self.touched.get() + pairs as u64);
    }
}

impl std::ops::Deref for Use<'_> {
    type Target = ::sled::Db;

    fn deref(&self) -> &::sled::Db {
        &self.db
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut desk = self.shared.desk.lock();
        desk.users -= 1;
        desk.last = Instant::now();
        desk.touched += self.touched.get();
    }
}

impl Shared {
    fn keep(&self) {
        let mut desk = self.desk.lock();
        while !desk.ending {
            let rest_after = self.manners.rest_after;
            // Nobody says when the last user leaves: that would wake this thread at each call.
            let due = if desk.users > 0 { None } else { Some(desk.last + rest_after) };
            let left = due.map_or(rest_after, |due| due.saturating_duration_since(Instant::now()));
            if desk.resting {
                self.changed.wait(&mut desk);
            } else if desk.users > 0 || !left.is_zero() {
                self.changed.wait_for(&mut desk, left);
            } else {
                self.rest(&mut desk);
            }
        }
    }

    /// Nobody uses it now; who comes meanwhile waits for the renewal, and for nothing else.
    fn rest(&self, desk: &mut MutexGuard<'_, Desk>) {
        if desk.touched >= self.manners.renew_after {
            self.renew(desk);
        }
        let uses = desk.uses;
        let db = desk.db.clone();
        let asleep = MutexGuard::unlocked(desk, || {
            let asleep = db.as_ref().is_none_or(threads::sleep);
            drop(db);
            garbage::collect();
            crate::memory::give_back();
            asleep
        });
        if asleep && desk.uses == uses {
            desk.resting = true;
            self.changed.notify_all();
        } else {
            desk.last = Instant::now();
        }
    }

    /// What was written is durable before anything is closed, and a failure leaves the next use to try.
    fn renew(&self, desk: &mut Desk) {
        let _shift = Shift::begin();
        desk.touched = 0;
        let Some(db) = desk.db.take() else { return };
        if let Err(error) = fenced("flush", || db.flush()) {
            tracing::warn!(%error, "the journal cannot be flushed");
            desk.db = Some(db);
            return;
        }
        if room::require(&self.path, 0).is_err() {
            desk.db = Some(db); // it takes memory, and no harm
            return;
        }
        drop(db);
        garbage::collect(); // before the new one needs room
        match self.reopen() {
            Ok(db) => {
                desk.db = Some(db);
                desk.renewals += 1;
            }
            Err(error) => tracing::warn!(%error, "the journal cannot be opened anew"),
        }
    }

    fn reopen(&self) -> Result<::sled::Db, JournalError> {
        room::require(&self.path, 0)?;
        open_patiently(&self.path, Missing::Lost, Instant::now() + RENEW_PATIENCE)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)] // a test may panic
mod tests;
