//! The gate every operation that changes the tree passes. The cut closes it.
//!
//! A closed gate never blocks a FUSE thread: the operation, its reply included, is parked and runs
//! when the gate opens. A parked operation's caller sits in the kernel and may hold inode locks
//! there, so the inodes it may have locked are recorded: for the cut they are as good as held.
use crate::sync::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// An operation waiting for the gate.
pub type Parked = Box<dyn FnOnce() + Send>;

/// Set in the counter while the gate is closed.
const CLOSED: u64 = 1 << 63;

#[derive(Default)]
struct Queue {
    parked: Vec<Parked>,
    locked: HashSet<u64>,
}

/// The gate. Owner of its lock.
#[derive(Default)]
pub struct Gate {
    /// Operations inside, and [`CLOSED`].
    inside: AtomicU64,
    queue: Mutex<Queue>,
    drained: Condvar,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("inside", &self.inside.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

/// Leave to change the tree; lives as long as the operation.
#[derive(Debug)]
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let before = self.0.inside.fetch_sub(1, Ordering::AcqRel);
        if before == CLOSED + 1 {
            let _queue = self.0.queue.lock();
            self.0.drained.notify_all();
        }
    }
}

impl Gate {
    /// Enters, or `None` if the gate is closed; then [`park`](Self::park).
    pub fn enter(&self) -> Option<Pass<'_>> {
        if self.inside.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            return Some(Pass(self));
        }
        drop(Pass(self));
        None
    }

    /// Runs `op` when the gate opens, or now if it has opened meanwhile. `locked` are the inodes
    /// whose locks the caller may hold in the kernel.
    pub fn park(&self, locked: &[u64], op: Parked) {
        {
            let mut queue = self.queue.lock();
            if self.inside.load(Ordering::Acquire) & CLOSED != 0 {
                queue.locked.extend(locked);
                queue.parked.push(op);
                self.drained.notify_all();
                return;
            }
        }
        op();
    }

    /// Closes the gate and waits until every operation inside has left. `false`: they did not by
    /// the deadline, and the gate is open again.
    pub fn close(&self, deadline: Instant) -> bool {
        self.inside.fetch_or(CLOSED, Ordering::AcqRel);
        let mut queue = self.queue.lock();
        while self.inside.load(Ordering::Acquire) != CLOSED {
            if self.drained.wait_until(&mut queue, deadline).timed_out() {
                drop(queue);
                self.open();
                return false;
            }
        }
        true
    }

    /// Opens the gate and runs what was parked, in order of arrival, on the calling thread.
    pub fn open(&self) {
        let queue = {
            let mut queue = self.queue.lock();
            self.inside.fetch_and(!CLOSED, Ordering::AcqRel);
            std::mem::take(&mut *queue)
        };
        for op in queue.parked {
            op();
        }
    }

    /// The inodes that parked operations may have locked.
    pub fn locked(&self) -> HashSet<u64> {
        self.queue.lock().locked.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn close_waits_for_those_inside_and_parks_the_rest() {
        let gate = Arc::new(Gate::default());
        let ran = Arc::new(AtomicU32::new(0));
        let pass = gate.enter().expect("open gate");
        let closer = std::thread::spawn({
            let gate = gate.clone();
            move || gate.close(soon())
        });
        while gate.inside.load(Ordering::Acquire) & CLOSED == 0 {
            std::thread::yield_now();
        }
        assert!(gate.enter().is_none());
        gate.park(
            &[7],
            Box::new({
                let ran = ran.clone();
                move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                }
            }),
        );
        assert_eq!(gate.locked(), HashSet::from([7]));
        drop(pass);
        assert!(closer.join().expect("no panic"));
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        gate.open();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn a_gate_that_does_not_drain_opens_again() {
        let gate = Gate::default();
        let _pass = gate.enter();
        assert!(!gate.close(Instant::now()));
        assert!(gate.enter().is_some());
    }

    #[test]
    fn parking_at_an_open_gate_runs_at_once() {
        let gate = Gate::default();
        let ran = Arc::new(AtomicU32::new(0));
        let seen = ran.clone();
        gate.park(
            &[],
            Box::new(move || {
                let _before = seen.fetch_add(1, Ordering::SeqCst);
            }),
        );
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }
}
