//! [`Recorder`]: what programs read first since the mount.
use super::Absent;
use super::trace::{ENTRIES_MAX, Trace, Traced, UNIT_BYTES};
use crate::sync::Mutex;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files that were looked at, whether they are of the version or not; with more it is over.
const LOOKED_MAX: usize = 64 * 1024;

/// A file by its number, and which unit of it; `None`: all of it.
type Item = (u32, Option<u32>);

#[derive(Debug, Default)]
struct State {
    looked: HashSet<u64>,
    seen: HashSet<Item>,
    order: Vec<Item>,
}

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub struct Recorder {
    over: AtomicBool,
    state: Mutex<State>,
}

impl Recorder {
    /// `over`: it records nothing.
    pub(super) fn new(over: bool) -> Self {
        Self { over: AtomicBool::new(over), state: Mutex::default() }
    }

    /// A file was opened whose content matters. `file` is called once for each `inode`, and says which
    /// file of the version it is.
    pub fn opened(&self, inode: u64, file: impl FnOnce() -> Option<u32>) {
        if self.over.load(Ordering::Relaxed) || !self.state.lock().looked.insert(inode) {
            return;
        }
        let file = file();
        let mut state = self.state.lock();
        if let Some(file) = file {
            add(&mut state, (file, None));
        }
        self.end(&state);
    }

    /// A range of a large file was read.
    pub(super) fn read(&self, file: u32, range: &Range<u64>) {
        if self.over.load(Ordering::Relaxed) || range.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for unit in range.start / UNIT_BYTES..range.end.div_ceil(UNIT_BYTES) {
            if let Ok(unit) = u32::try_from(unit) {
                add(&mut state, (file, Some(unit)));
            }
        }
        self.end(&state);
    }

    fn end(&self, state: &State) {
        if state.order.len() >= ENTRIES_MAX || state.looked.len() >= LOOKED_MAX {
            self.over.store(true, Ordering::Relaxed);
        }
    }

    /// How much was recorded.
    pub(super) fn len(&self) -> usize {
        self.state.lock().order.len()
    }

    /// The files of which all was recorded, by their numbers.
    pub(super) fn files(&self) -> HashSet<u32> {
        let state = self.state.lock();
        state.order.iter().filter(|(_, unit)| unit.is_none()).map(|(file, _)| *file).collect()
    }

    /// What was recorded.
    pub(super) fn trace(&self, absent: &Absent) -> Trace {
        let mut entries: Vec<Traced> = Vec::new();
        let mut last: Option<u32> = None;
        for (file, unit) in self.state.lock().order.iter().take(ENTRIES_MAX) {
            let Some(path) = absent.path_of_file(*file) else { continue };
            let units = unit.map(|unit| unit..unit.saturating_add(1));
            match (entries.last_mut(), &units) {
                // Who reads on reads one range.
                (Some(Traced { units: Some(before), .. }), Some(units))
                    if last == Some(*file) && before.end == units.start =>
                {
                    before.end = units.end;
                }
                _ => entries.push(Traced { path, units, age: 0 }),
            }
            last = Some(*file);
        }
        Trace { entries }
    }
}

fn add(state: &mut State, item: Item) {
    if state.order.len() < ENTRIES_MAX && state.seen.insert(item) {
        state.order.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_and_unit_is_recorded_once_and_in_order() {
        let recorder = Recorder::new(false);
        recorder.opened(100, || Some(7));
        recorder.opened(100, || unreachable!("asked twice"));
        recorder.opened(101, || None);
        recorder.read(3, &(0..10));
        recorder.read(3, &(5..UNIT_BYTES + 1));
        recorder.read(3, &(9..9));
        recorder.opened(102, || Some(7));
        assert_eq!(recorder.state.lock().order, [(7, None), (3, Some(0)), (3, Some(1))]);
        let recorder = Recorder::new(true);
        recorder.opened(1, || unreachable!("it is over"));
        assert_eq!(recorder.len(), 0);
    }

    #[test]
    fn it_ends() {
        let recorder = Recorder::new(false);
        recorder.read(0, &(0..UNIT_BYTES * 2 * ENTRIES_MAX as u64));
        assert_eq!(recorder.len(), ENTRIES_MAX);
        recorder.opened(1, || unreachable!("it is over"));
    }
}
