//! Withheld FSYNC replies: the cut's way to stop writers that never pass through us.
//!
//! The kernel keeps an inode locked while an fsync(2) on it waits for our reply, and every
//! write(2)-like call, passthrough included, takes that lock. So whoever calls fsync on a file that
//! [`Holds`] wants is answered only when the cut has copied that file.
use crate::sync::{Condvar, Mutex};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Answers one withheld FSYNC.
pub type Answer = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    wanted: HashSet<u64>,
    held: HashMap<u64, Vec<Answer>>,
    /// Inodes whose fsync callers wait for something else, and how many do.
    locked: HashMap<u64, u32>,
}

/// The set of withheld replies. Owner of its lock.
#[derive(Default)]
pub struct Holds {
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holds").field("wanted", &self.state.lock().wanted.len()).finish_non_exhaustive()
    }
}

impl Holds {
    /// From now on FSYNC replies for these inodes are withheld.
    pub fn want(&self, inodes: impl IntoIterator<Item = u64>) {
        self.state.lock().wanted.extend(inodes);
    }

    /// Withholds `answer` if the inode is wanted, else gives it back to be run.
    pub fn intercept(&self, inode: u64, answer: Answer) -> Option<Answer> {
        let mut state = self.state.lock();
        if !state.wanted.contains(&inode) {
            return Some(answer);
        }
        state.held.entry(inode).or_default().push(answer);
        self.changed.notify_all();
        None
    }

    /// Whether an FSYNC of this inode would be withheld; cheap enough for every fsync.
    pub fn wants(&self, inode: u64) -> bool {
        self.state.lock().wanted.contains(&inode)
    }

    /// Somebody's fsync of this inode waits for other reasons: that holds it as well.
    pub fn lock(&self, inode: u64) {
        *self.state.lock().locked.entry(inode).or_default() += 1;
        self.changed.notify_all();
    }

    /// That fsync is about to be answered.
    pub fn unlock(&self, inode: u64) {
        let mut state = self.state.lock();
        if let Some(count) = state.locked.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                state.locked.remove(&inode);
            }
        }
    }

    /// Wakes [`wait`](Self::wait) to ask `locked` again.
    pub fn poke(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// Waits until every wanted inode is held, or locked otherwise as `locked` says. Returns the
    /// inodes still free at the deadline; empty means that the cut stands.
    pub fn wait(&self, deadline: Instant, locked: impl Fn() -> HashSet<u64>) -> Vec<u64> {
        let mut state = self.state.lock();
        loop {
            let stands = |id: &&u64| state.held.contains_key(id) || state.locked.contains_key(id);
            let mut free: Vec<u64> = state.wanted.iter().filter(|id| !stands(id)).copied().collect();
            if !free.is_empty() {
                let locked = locked();
                free.retain(|id| !locked.contains(id));
            }
            if free.is_empty() || self.changed.wait_until(&mut state, deadline).timed_out() {
                return free;
            }
        }
    }

    /// Answers everybody who waits for this inode and withholds no more.
    pub fn release(&self, inode: u64) {
        let answers = {
            let mut state = self.state.lock();
            state.wanted.remove(&inode);
            state.held.remove(&inode)
        };
        for answer in answers.into_iter().flatten() {
            answer();
        }
    }

    /// Releases every inode.
    pub fn release_all(&self) {
        let held = {
            let mut state = self.state.lock();
            state.wanted.clear();
            std::mem::take(&mut state.held)
        };
        for answer in held.into_values().flatten() {
            answer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    #[test]
    fn answers_wait_for_their_release() {
        let holds = Holds::default();
        let answered = Arc::new(AtomicU32::new(0));
        let answer = || {
            let answered = answered.clone();
            Box::new(move || {
                let _before = answered.fetch_add(1, Ordering::SeqCst);
            }) as Answer
        };
        assert!(holds.intercept(1, answer()).is_some(), "nobody wants it yet");
        holds.want([1, 2, 3]);
        assert!(holds.intercept(1, answer()).is_none());
        assert!(holds.intercept(1, answer()).is_none());
        assert_eq!(holds.wait(Instant::now(), || HashSet::from([3])), [2]);
        assert!(holds.intercept(2, answer()).is_none());
        assert!(holds.wait(Instant::now() + Duration::from_secs(5), || HashSet::from([3])).is_empty());
        holds.release(1);
        assert_eq!(answered.load(Ordering::SeqCst), 2);
        holds.release_all();
        assert_eq!(answered.load(Ordering::SeqCst), 3);
        assert!(!holds.wants(2));
    }
}
