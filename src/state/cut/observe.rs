//! [`Observed`]: a look between cuts at files that may be written unseen.
use super::Cutter;
use super::copies::{open_writer, write_back};
use crate::path::RelPath;
use crate::state::backing::Backing;
use crate::state::identity::{FileId, Identity};
use crate::state::live::Writer;
use crate::state::record::Records;
use crate::sync::Mutex;
use std::collections::{HashMap, HashSet};

/// What a look at files that may be written unseen found.
#[derive(Debug, Default)]
pub struct Observed {
    /// How many such files there are.
    pub open: usize,
    /// Those that differ from their record, as they are now.
    pub changed: Vec<(Writer, Identity)>,
}

/// What the records said of files that may be written unseen. They are looked at once a second, and
/// mostly neither they nor their records have changed.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The file as it was, whether its record was the same, and as of which
    /// [`Records::changes`].
    same: Mutex<HashMap<FileId, (RelPath, Identity, bool, u64)>>,
    /// Files that had no name, likewise.
    nameless: Mutex<HashMap<FileId, u64>>,
}

impl Told {
    /// The recorded names of a file that has lost every name the mount knows, unless none of them led
    /// to it when asked before.
    pub(super) fn names(
        &self,
        records: &Records,
        file: FileId,
        leads: impl Fn(&RelPath) -> bool,
    ) -> Option<RelPath> {
        let changes = records.changes();
        if self.nameless.lock().get(&file) == Some(&changes) {
            return None;
        }
        let found = records.links(file.1).ok()?.into_iter().find(leads);
        let mut nameless = self.nameless.lock();
        nameless.retain(|_, asked| *asked == changes);
        if found.is_none() {
            nameless.insert(file, changes);
        }
        found
    }
}

impl Cutter {
    /// Looks at the files that may be written unseen: returns those that differ from their record.
    /// `deep` also brings stores through mappings to light, which costs a write-back.
    pub fn observe(&self, records: &Records, deep: bool) -> Observed {
        let writers = self.writers(records);
        if writers.is_empty() {
            self.told.same.lock().clear();
            return Observed::default();
        }
        let open = writers.len();
        let mapped = if deep { self.mapped(&writers) } else { HashSet::new() };
        let changes = records.changes();
        let before = std::mem::take(&mut *self.told.same.lock());
        let mut now = HashMap::with_capacity(open);
        let mut backing = Backing::new(self.live.root(), self.options.look.exclude.as_ref());
        let mut changed = |writer: Writer| {
            let mut ident = backing.stat(&writer.path).ok()??; // what is never stored does not count
            if mapped.contains(&writer.id.1)
                && let Ok(file) = open_writer(self.live.root(), &writer)
            {
                write_back(&file);
                ident = backing.stat(&writer.path).ok()??;
            }
            let told = before.get(&writer.id).filter(|(path, earlier, _, asked)| {
                *asked == changes && *path == writer.path && ident == *earlier
            });
            let clean = match told {
                Some((_, _, clean, _)) => *clean,
                None => {
                    let record = records.get(&writer.path).ok()?;
                    record.is_some_and(|record| ident.unchanged_since(&record))
                }
            };
            now.insert(writer.id, (writer.path.clone(), ident, clean, changes));
            (!clean).then_some((writer, ident))
        };
        let observed = Observed { open, changed: writers.into_iter().filter_map(&mut changed).collect() };
        *self.told.same.lock() = now;
        observed
    }
}
