//! The threads of sled, awake while somebody uses a database and asleep otherwise.
//!
//! sled starts seven threads with the first database of a process. They are never ended, and each wakes
//! once a second to see that there is nothing to do, whatever is configured. But the thread that has done
//! a task runs the waker of who awaits it, and a waker may take its time: here it returns when there is
//! work again. The task is a `flush_async` of an idle database: a thread that sleeps has left everything
//! but the lock of that one answer, and nobody asks for the answer.
//!
//! Threads that sleep do no work, and a call into sled may wait for theirs: every such call is made within
//! a [`Shift`], whichever database of the process it is for.
use super::garbage;
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

/// What sled calls its threads, followed by a number.
const NAME: &str = "sled-io-";
/// How long a task may wait for a thread before the threads are counted again: one beyond the seven ends
/// after a while, and nobody is told.
const RECOUNT: Duration = Duration::from_millis(100);
/// A pause after a task that was done before its waker was known: on a busy machine the thread that is
/// woken runs first, until whoever wakes it has rested as well.
const PAUSE: Duration = Duration::from_millis(1);
/// Tasks that may be done too early, or find no thread, before the attempt is given up.
const MISSES_MAX: u32 = 256;

static STATE: Mutex<State> = Mutex::new(State { shifts: 0, asleep: false, sleepers: 0 });
static CHANGED: Condvar = Condvar::new();

struct State {
    /// Shifts that last.
    shifts: usize,
    /// Whether threads that have done a task go to sleep.
    asleep: bool,
    /// How many do.
    sleepers: usize,
}

/// While one lives, the threads are awake.
#[derive(Debug)]
pub struct Shift(());

impl Shift {
    /// Wakes the threads if they sleep.
    pub fn begin() -> Self {
        let mut state = STATE.lock();
        state.shifts += 1;
        if std::mem::take(&mut state.asleep) {
            CHANGED.notify_all();
        }
        Self(())
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        STATE.lock().shifts -= 1;
    }
}

/// Sends all threads to sleep by tasks for `db`; the first one flushes what is left to flush. Says whether
/// they sleep: not if a shift lasts, or begins meanwhile.
pub fn sleep(db: &::sled::Db) -> bool {
    let mut state = STATE.lock();
    if state.shifts > 0 {
        return false;
    }
    if state.asleep {
        return true; // or somebody else is at it
    }
    state.asleep = true;
    let mut misses = 0;
    while state.asleep {
        // Counted each time: those beyond the seven end when they like.
        let Some(threads) = MutexGuard::unlocked(&mut state, count) else { break };
        if state.sleepers >= threads {
            return state.asleep;
        }
        let sleepers = state.sleepers;
        let arranged = MutexGuard::unlocked(&mut state, || send_one(db));
        let limit = if arranged { RECOUNT } else { PAUSE };
        let idle = |s: &mut State| s.asleep && s.sleepers <= sleepers;
        if CHANGED.wait_while_for(&mut state, idle, limit).timed_out() {
            misses += 1;
            if misses > MISSES_MAX {
                break;
            }
        }
    }
    // Half asleep would be the worst of both.
    if std::mem::take(&mut state.asleep) {
        CHANGED.notify_all();
    }
    false
}

/// Gives the threads a task whose end sends one to sleep; `false` if it ended before that was arranged.
fn send_one(db: &::sled::Db) -> bool {
    let answer = pin!(db.flush_async());
    answer.poll(&mut Context::from_waker(&Waker::from(Arc::new(Bed)))).is_pending()
}

/// Where a thread sleeps.
struct Bed;

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        garbage::hand_over();
        let mut state = STATE.lock();
        if !state.asleep {
            return;
        }
        state.sleepers += 1;
        CHANGED.notify_all();
        while state.asleep {
            CHANGED.wait(&mut state);
        }
        state.sleepers -= 1;
    }
}

/// How many threads of sled there are; `None` where the system does not say.
fn count() -> Option<usize> {
    let named = |task: std::io::Result<std::fs::DirEntry>| {
        let name = std::fs::read(task.ok()?.path().join("comm")).ok()?;
        name.starts_with(NAME.as_bytes()).then_some(())
    };
    Some(std::fs::read_dir("/proc/self/task").ok()?.filter_map(named).count())
}
