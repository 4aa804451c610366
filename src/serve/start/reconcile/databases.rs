//! [`Databases`]: those of SQLite stay whole, as they are here or as the version has them.
//!
//! Whoever opens a database replays the log beside it, so half of one and half of another is damage. What counts is the
//! name: an encrypted one tells nothing of itself.
use super::local::Local;
use super::{is_below, is_marked_within};
use crate::path::RelPath;
use crate::state::backing::Backing;
use crate::state::record::Records;
use crate::state::walindex::{database_of, is_log};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// See the module.
pub(super) struct Databases {
    pub(super) records: Arc<Records>,
    pub(super) root: OwnedFd,
    /// What was changed here; without records that is all that stands here.
    pub(super) local: Option<Arc<Local>>,
}

impl Databases {
    /// Whether a path stays what it is here, or nothing, because another file of its database was changed here and that
    /// stays.
    pub(super) fn holds(&self, path: &RelPath) -> bool {
        let Some((database, files)) = database_of(path) else { return false };
        files.iter().filter(|file| *file != path).any(|file| self.is_changed(file)) && self.is_ours(&database)
    }

    /// Whether what stands at a path is the log of a database that is not here.
    pub(super) fn is_stray_log(&self, path: &RelPath) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return false };
        if database_of(path).is_none_or(|(database, _)| database == *path || self.is_ours(&database)) {
            return false;
        }
        let mut backing = Backing::new(self.root.as_fd(), None);
        backing.directory(&parent).ok().flatten().is_some_and(|dir| is_log(dir, name))
    }

    fn is_changed(&self, path: &RelPath) -> bool {
        if let Some(local) = &self.local
            && !is_marked_within(&local.marks, path)
            && !is_below(&local.marks, path)
        {
            return false;
        }
        let here = Backing::new(self.root.as_fd(), None).stat(path).ok().flatten();
        let here = here.filter(|here| here.file_type().is_file());
        if self.local.is_none() {
            return here.is_some();
        }
        let record = self.records.get(path).ok().flatten().filter(|record| record.file_type().is_file());
        match (here, record) {
            (Some(here), Some(record)) => !here.unchanged_since(&record),
            (here, record) => here.is_some() || record.is_some(),
        }
    }

    /// Whether a database stands here, or did and was removed.
    fn is_ours(&self, database: &RelPath) -> bool {
        let here = Backing::new(self.root.as_fd(), None).stat(database).ok().flatten();
        let is_file = here.is_some_and(|here| here.file_type().is_file());
        let was = || self.local.is_some() && self.records.get(database).is_ok_and(|record| record.is_some());
        is_file || here.is_none() && was()
    }
}
