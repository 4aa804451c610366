//! [`Observed`]: a look between cuts at files that may be written unseen.
use super::Cutter;
use super::copies::{open_writer, write_back};
use crate::state::backing::Backing;
use crate::state::identity::Identity;
use crate::state::live::Writer;
use crate::state::mapped::mapped_inodes;
use crate::state::record::Records;
use std::collections::HashSet;

/// What a look at files that may be written unseen found.
#[derive(Debug, Default)]
pub struct Observed {
    /// How many such files there are.
    pub open: usize,
    /// Those that differ from their record, as they are now.
    pub changed: Vec<(Writer, Identity)>,
}

impl Cutter {
    /// Looks at the files that may be written unseen: returns those that differ from their record.
    /// `deep` also brings stores through mappings to light, which costs a write-back.
    pub fn observe(&self, records: &Records, deep: bool) -> Observed {
        let writers = self.writers(records);
        if writers.is_empty() {
            return Observed::default();
        }
        let open = writers.len();
        let mapped = if deep { mapped_inodes(self.options.mount_dev) } else { HashSet::new() };
        let mut backing = Backing::new(self.live.root(), self.options.look.exclude.as_ref());
        let changed = |writer: Writer| {
            let mut ident = backing.stat(&writer.path).ok()??; // what is never stored does not count
            if mapped.contains(&writer.ino)
                && let Ok(file) = open_writer(self.live.root(), &writer)
            {
                write_back(&file);
                ident = backing.stat(&writer.path).ok()??;
            }
            let record = records.get(&writer.path).ok()?;
            let clean = record.is_some_and(|record| ident.unchanged_since(&record));
            (!clean).then_some((writer, ident))
        };
        Observed { open, changed: writers.into_iter().filter_map(changed).collect() }
    }
}
