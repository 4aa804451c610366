//! [`Partials`]: the large files of which parts are here.
use super::Partial;
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Files that nobody has open keep what was read of them, up to so many. Each keeps a descriptor.
pub(in crate::state::absent) const KEPT_MAX: usize = 64;

#[derive(Debug)]
struct Known {
    partial: Weak<Partial>,
    /// It is absent: what is here of it is kept for whoever opens it next.
    kept: Option<Arc<Partial>>,
}

/// See the module. Owner of its lock.
#[derive(Debug, Default)]
pub(in crate::state::absent) struct Partials {
    known: Mutex<HashMap<u32, Known>>,
}

impl Partials {
    /// The file of this number; also one that lost its names, while somebody has it open.
    pub(super) fn get(&self, file: u32) -> Option<Arc<Partial>> {
        self.known.lock().get(&file)?.partial.upgrade()
    }

    /// Keeps a file that is absent, or the one that somebody else has begun meanwhile. `None` if it is not absent any
    /// more: what is on the disk is another file by then.
    pub(super) fn keep(&self, partial: Partial, is_absent: impl FnOnce() -> bool) -> Option<Arc<Partial>> {
        let mut known = self.known.lock();
        if let Some(earlier) = known.get(&partial.number()).and_then(|known| known.partial.upgrade()) {
            return Some(earlier);
        }
        // Whoever ends it says so first, and lets go of it then.
        if !is_absent() {
            return None;
        }
        let mut pushed_out = Vec::new();
        if known.len() >= KEPT_MAX {
            let unused = |known: &mut Known| known.kept.take_if(|kept| Arc::strong_count(kept) == 1);
            pushed_out.extend(known.values_mut().filter_map(unused));
            known.retain(|_, known| known.kept.is_some() || known.partial.strong_count() > 0);
        }
        let partial = Arc::new(partial);
        let entry = Known { partial: Arc::downgrade(&partial), kept: Some(partial.clone()) };
        known.insert(partial.number(), entry);
        drop(known);
        drop(pushed_out); // closes files
        Some(partial)
    }

    /// A file came to its places or lost the last of them: only who has it open keeps it from now on, so that a
    /// disk gets back what a file without names takes with its last close.
    pub(in crate::state::absent) fn let_go(&self, file: u32) {
        let gone = self.known.lock().get_mut(&file).and_then(|known| known.kept.take());
        drop(gone);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::state::absent::tree::{FileRow, Place};

    fn partial(number: u32) -> Partial {
        let place = Place { layer: 0, offset: 0, length: 9 };
        let row = FileRow { place, size: 9, mode: 0o640, uid: 0, gid: 0, mtime: Timestamp::default() };
        Partial::new(number, row, tempfile::tempfile().expect("file"))
    }

    #[test]
    fn a_file_that_is_not_absent_lives_as_long_as_somebody_has_it_open() {
        let partials = Partials::default();
        let keep = |number| partials.keep(partial(number), || true).expect("it is absent");
        let open = keep(3);
        assert!(Arc::ptr_eq(&open, &keep(3)), "one for all");
        drop(open);
        let open = partials.get(3).expect("it is kept");
        partials.let_go(3);
        assert!(partials.get(3).is_some(), "it is open");
        drop(open);
        assert!(partials.get(3).is_none());
        partials.let_go(3);
        keep(3);
        assert!(partials.get(3).is_some());
    }

    #[test]
    fn none_is_begun_that_came_meanwhile() {
        let partials = Partials::default();
        assert!(partials.keep(partial(3), || false).is_none());
        assert!(partials.get(3).is_none());
        let open = partials.keep(partial(3), || true).expect("it is absent");
        let again = partials.keep(partial(3), || false).expect("somebody has it open");
        assert!(Arc::ptr_eq(&open, &again));
    }

    #[test]
    fn only_so_many_are_kept_that_nobody_has_open() {
        let partials = Partials::default();
        let keep = |number| partials.keep(partial(number), || true).expect("it is absent");
        let open = keep(0);
        (1..1000).for_each(|n| drop(keep(n)));
        assert!(partials.known.lock().len() <= KEPT_MAX);
        assert!(partials.get(999).is_some());
        assert!(Arc::ptr_eq(&open, &partials.get(0).expect("it is open")));
    }
}
