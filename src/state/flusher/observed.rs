//! [`Observed`]: files that are open for writing, looked at once a second.
use crate::state::cut::Cutter;
use crate::state::identity::{FileId, Identity};
use crate::state::record::Records;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often files that are open for writing are looked at: nothing else says that they change.
pub(super) const OBSERVE_EVERY: Duration = Duration::from_secs(1);
/// Every how many looks stores through mappings are brought to light, which costs a write-back.
const DEEP_EVERY: u32 = 10;

/// What the last look at files open for writing saw.
pub(super) struct Observed {
    pub(super) next: Instant,
    /// Whether there were any.
    pub(super) any: bool,
    looks: u32,
    seen: HashMap<FileId, Identity>,
}

impl Default for Observed {
    fn default() -> Self {
        Self { next: Instant::now(), any: true, looks: 0, seen: HashMap::new() }
    }
}

impl Observed {
    /// Looks again; says whether something differs both from its record and from the last look.
    pub(super) fn look(&mut self, cutter: &Cutter, records: &Records) -> bool {
        self.next = Instant::now() + OBSERVE_EVERY;
        self.looks = self.looks.wrapping_add(1);
        let writers = cutter.observe(records, self.looks.is_multiple_of(DEEP_EVERY));
        self.any = writers.open > 0;
        let mut moved = false;
        let mut seen = HashMap::with_capacity(writers.changed.len());
        for (writer, ident) in writers.changed {
            moved |= self.seen.get(&writer.id).is_none_or(|last| !ident.unchanged_since(last));
            seen.insert(writer.id, ident);
        }
        self.seen = seen;
        moved
    }
}
