//! The locks of this crate come from here, so that a test build can replace them in one place.
//! No guard is held across an await; each lock has one owner, named where it is declared.
//!
//! With the feature `model` the unit tests have locks, atomics and threads whose order a scheduler chooses
//! (shuttle), so that a test can try thousands of orders. Nothing else is built differently.
#[cfg(all(test, feature = "model"))]
mod model;

#[cfg(all(test, feature = "model"))]
pub use self::model::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(all(test, feature = "model")))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Atomics whose order matters to more than a count.
pub mod atomic {
    #[cfg(all(test, feature = "model"))]
    pub use shuttle::sync::atomic::*;
    #[cfg(not(all(test, feature = "model")))]
    pub use std::sync::atomic::*;
}

/// Threads that belong to what is modelled.
pub mod thread {
    #[cfg(all(test, feature = "model"))]
    pub use shuttle::thread::{Builder, JoinHandle};
    #[cfg(not(all(test, feature = "model")))]
    pub use std::thread::{Builder, JoinHandle};
}
