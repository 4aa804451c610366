//! [`Broken`]: snapshots that cannot be had, while the table can.
use crate::error::TableError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Instant;

/// Why a snapshot, and with it the branches and tags of it, cannot be shown.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What is wrong.
    pub why: String,
    /// When somebody tried last.
    pub at: Instant,
}

/// See the module. Owner of its lock; bounded by the snapshots and references of the table.
#[derive(Debug, Default)]
pub(super) struct Broken(Mutex<BTreeMap<i64, Fault>>);

impl Broken {
    /// What somebody has made of a snapshot. What the moment is to blame for says nothing of it.
    pub fn note<T>(&self, snapshot: i64, made: &Result<T, TableError>) {
        match made {
            Ok(_) => drop(self.0.lock().remove(&snapshot)),
            Err(error) if error.is_of_a_file() => {
                let fault = Fault { why: error.to_string(), at: Instant::now() };
                self.0.lock().insert(snapshot, fault);
            }
            Err(_) => {}
        }
    }

    /// These are known to be.
    pub fn take(&self, faults: impl Iterator<Item = (i64, Fault)>) {
        self.0.lock().extend(faults);
    }

    /// What is wrong with a snapshot, as far as anybody has tried.
    pub fn of(&self, snapshot: i64) -> Option<Fault> {
        self.0.lock().get(&snapshot).cloned()
    }

    /// All that are.
    pub fn all(&self) -> BTreeMap<i64, Fault> {
        self.0.lock().clone()
    }
}
