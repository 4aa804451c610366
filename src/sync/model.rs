//! Locks as parking_lot's, whose order a scheduler of shuttle chooses. Times never pass here: whoever waits with
//! a limit waits until he is told.
#![allow(missing_docs, clippy::expect_used)] // only tests are built with it
use shuttle::sync as model;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, TryLockError};
use std::time::{Duration, Instant};

pub use model::{RwLockReadGuard, RwLockWriteGuard};

/// A panic under a lock fails the test by itself.
fn whole<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn tried<T>(locked: Result<T, TryLockError<T>>) -> Option<T> {
    match locked {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(model::Mutex<T>);

/// As parking_lot's.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while it is let go for a moment.
    held: Option<model::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(model::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(whole(self.0.lock())) }
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        tried(self.0.try_lock()).map(|held| MutexGuard { mutex: self, held: Some(held) })
    }

    pub fn get_mut(&mut self) -> &mut T {
        whole(self.0.get_mut())
    }

    pub fn into_inner(self) -> T {
        whole(self.0.into_inner())
    }
}

impl<T> MutexGuard<'_, T> {
    pub fn unlocked<R>(guard: &mut Self, work: impl FnOnce() -> R) -> R {
        guard.held = None;
        let done = work();
        guard.held = Some(whole(guard.mutex.0.lock()));
        done
    }
}

impl<T: std::fmt::Display> std::fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held")
    }
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(model::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> Self {
        Self(model::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        whole(self.0.read())
    }

    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        tried(self.0.try_read())
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        whole(self.0.write())
    }
}

/// As parking_lot's.
#[derive(Debug, Default)]
pub struct Condvar(model::Condvar);

/// Never so.
#[derive(Debug, Clone, Copy)]
pub struct TimedOut;

impl TimedOut {
    pub fn timed_out(self) -> bool {
        false
    }
}

impl Condvar {
    pub const fn new() -> Self {
        Self(model::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held");
        guard.held = Some(whole(self.0.wait(held)));
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) -> TimedOut {
        self.wait(guard);
        TimedOut
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Instant) -> TimedOut {
        self.wait(guard);
        TimedOut
    }

    pub fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        _limit: Duration,
    ) -> TimedOut {
        while condition(guard) {
            self.wait(guard);
        }
        TimedOut
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
