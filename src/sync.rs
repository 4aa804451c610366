//! The locks of this crate come from here, so that a test build can replace them in one place.
//! No guard is held across an await; each lock has one owner, named where it is declared.
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
