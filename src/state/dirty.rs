//! The dirty set: which paths may differ from the last version.
//!
//! A mark is a promise to look, not an observation: marking too much costs a stat at the next
//! flush, marking too little would lose data. Marks are paths as of the operation that made them;
//! a rename of a directory marks its new place as a whole subtree, so older marks below the old
//! place may go stale harmlessly.
use crate::path::RelPath;
use crate::sync::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Above this many single marks the set becomes one mark of the whole tree: a walk is then cheaper
/// than the memory.
pub const MARKS_MAX: usize = 500_000;

/// How much of a path is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The entry itself; if it is gone, everything the last version had below it.
    Entry,
    /// The entry and all that stands below it now.
    Subtree,
}

/// What one flush has to look at, ordered so that directories come before their content.
pub type Marks = BTreeMap<RelPath, Extent>;

#[derive(Debug, Default)]
struct State {
    marks: HashMap<RelPath, Extent>,
    /// What was taken, until it is known how that ended: it is in no version yet.
    taken: BTreeSet<RelPath>,
    woken: bool,
}

/// The set of marks since the last [`take`](DirtySet::take). Owner of its lock.
#[derive(Debug)]
pub struct DirtySet {
    state: Mutex<State>,
    /// Signalled when the set stops being empty, and by [`wake`](DirtySet::wake).
    filled: Condvar,
    /// Counts calls of `take`; a caller that marked a file in this epoch need not mark it again.
    epoch: AtomicU64,
    start: Instant,
    /// Milliseconds from `start` to the last change.
    changed_ms: AtomicU64,
}

impl Default for DirtySet {
    fn default() -> Self {
        Self::new()
    }
}

impl DirtySet {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            epoch: AtomicU64::new(1),
            start: Instant::now(),
            changed_ms: AtomicU64::new(0),
        }
    }

    /// Notes that something changed just now, for the debounce.
    pub fn touch(&self) {
        self.changed_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When something changed last.
    pub fn changed(&self) -> Instant {
        self.start + Duration::from_millis(self.changed_ms.load(Ordering::Relaxed))
    }

    /// Waits until something is marked or somebody calls [`wake`](Self::wake), at most for
    /// `timeout`. With `marked` marks do not end the wait: the caller knows of some already.
    pub fn wait(&self, timeout: Duration, marked: bool) {
        let mut state = self.state.lock();
        if !state.woken && (marked || state.marks.is_empty()) {
            self.filled.wait_for(&mut state, timeout);
        }
        state.woken = false;
    }

    /// Ends a [`wait`](Self::wait), or the next one.
    pub fn wake(&self) {
        self.state.lock().woken = true;
        self.filled.notify_all();
    }

    /// The current epoch. Read it before marking; see [`take`](Self::take).
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Marks a path.
    pub fn mark(&self, path: RelPath, extent: Extent) {
        self.touch();
        let mut state = self.state.lock();
        if state.marks.is_empty() {
            self.filled.notify_all();
        }
        if state.marks.len() >= MARKS_MAX {
            state.marks.clear();
            state.marks.insert(RelPath::root(), Extent::Subtree);
            return;
        }
        let slot = state.marks.entry(path).or_insert(extent);
        *slot = (*slot).max(extent);
    }

    /// Takes all marks and starts a new epoch: whoever skipped a mark because of the old epoch
    /// did so before this call, so its mark is in the result. It ends with [`saved`](Self::saved) or
    /// [`restore`](Self::restore).
    pub fn take(&self) -> Marks {
        let mut state = self.state.lock();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let marks: Marks = std::mem::take(&mut state.marks).into_iter().collect();
        state.taken.extend(marks.keys().cloned());
        marks
    }

    /// At most `limit` of the paths that are marked, or taken and not saved yet, and how many there are.
    pub fn peek(&self, limit: usize) -> (Vec<RelPath>, usize) {
        let state = self.state.lock();
        let taken = || state.taken.iter().filter(|path| !state.marks.contains_key(*path));
        let some = state.marks.keys().chain(taken()).take(limit).cloned().collect();
        (some, state.marks.len() + taken().count())
    }

    /// What was taken is in a version.
    pub fn saved(&self) {
        self.state.lock().taken.clear();
    }

    /// Puts marks back that could not be flushed.
    pub fn restore(&self, taken: Marks) {
        for (path, extent) in taken {
            self.mark(path, extent);
        }
        self.saved();
    }

    /// How many marks there are.
    pub fn len(&self) -> usize {
        self.state.lock().marks.len()
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(s: &str) -> RelPath {
        RelPath::new(s).expect("valid path")
    }

    #[test]
    fn the_larger_extent_wins_and_take_starts_an_epoch() {
        let set = DirtySet::new();
        let before = set.epoch();
        set.mark(path("d"), Extent::Subtree);
        set.mark(path("d"), Extent::Entry);
        let taken = set.take();
        assert_eq!(taken.get(&path("d")), Some(&Extent::Subtree));
        assert_eq!(set.epoch(), before + 1);
        assert!(set.is_empty());
        set.restore(taken);
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn what_was_taken_counts_until_it_is_saved() {
        let set = DirtySet::new();
        set.mark(path("a"), Extent::Entry);
        set.mark(path("b"), Extent::Entry);
        let taken = set.take();
        set.mark(path("b"), Extent::Entry);
        assert_eq!((set.len(), set.peek(9).1, set.peek(1).0.len()), (1, 2, 1));
        set.restore(taken);
        assert_eq!((set.len(), set.peek(9).1), (2, 2));
        set.take();
        set.mark(path("c"), Extent::Entry);
        set.saved();
        assert_eq!(set.peek(9), (vec![path("c")], 1));
    }
}
