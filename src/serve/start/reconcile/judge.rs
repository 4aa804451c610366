//! [`Judge`]: what becomes of each thing that the disk holds where the version has an entry.
use super::databases::Databases;
use super::is_marked_within;
use super::local::{Local, is_alike};
use crate::layer::{Entry, Kind};
use crate::path::RelPath;
use crate::state::backing::Backing;
use crate::state::identity::Identity;
use crate::state::record::{Records, is_linked};
use crate::state::restore::Standing;
use crate::state::walindex;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// See the module.
pub(super) struct Judge {
    pub(super) records: Arc<Records>,
    pub(super) root: OwnedFd,
    /// What differs from the records, where these describe an older version.
    pub(super) local: Option<Arc<Local>>,
    /// What differed when an earlier start began, which broke off.
    pub(super) then: Option<BTreeMap<RelPath, bool>>,
    pub(super) databases: Arc<Databases>,
    /// What is local wins.
    pub(super) keeps: bool,
    /// Layers (newest first) before this one are newer than the version that the records describe.
    pub(super) newer: usize,
}

impl Judge {
    /// `layer`: the index of the one that has the entry. What is `here` stands at its path.
    pub(super) fn standing(&self, path: &RelPath, entry: &Entry, here: &Identity, layer: usize) -> Standing {
        let is_file = matches!(entry.kind, Kind::File { .. });
        // Programs may be using it; only versions of before it was left out have one.
        if is_file && walindex::is_at(self.root.as_fd(), path) {
            return Standing::Stays;
        }
        let is_clean = self.is_clean(path, entry, here);
        // What broke off was never proven.
        let is_proven = self.then.is_none() && layer >= self.newer;
        // A clean record says that it is what our version had there. Size and time alone say nothing.
        if is_same(entry, here) && (!is_file || is_clean && is_proven) {
            return Standing::Stays;
        }
        // What differs and did not when the restore began may be what that had placed.
        let is_since = self.then.as_ref().is_some_and(|then| !then.contains_key(path));
        let record = self.records.get(path).ok().flatten();
        if self.keeps && self.databases.holds(path) {
            if let Some(local) = &self.local {
                local.holds((entry, layer < self.newer), record.as_ref());
            }
            return Standing::Wins { changed: false };
        }
        if is_clean || !self.keeps || is_since {
            return if is_clean { Standing::Saved } else { Standing::Unknown };
        }
        if self.is_back(path, entry, here) {
            return Standing::Saved;
        }
        if self.databases.is_stray_log(path) {
            return Standing::Unknown;
        }
        if record.is_some_and(|record| self.has_only_other_names(path, entry, here, &record)) {
            return Standing::Unknown;
        }
        // A directory is not changed by what was put into it.
        let is_dir = matches!(entry.kind, Kind::Directory) && here.file_type().is_dir();
        if is_dir && record.is_some_and(|record| is_alike(&record, here)) {
            return Standing::Saved;
        }
        if let Some(local) = &self.local {
            local.keeps(path, (entry, layer < self.newer), record.as_ref(), here);
        }
        Standing::Wins { changed: record.is_some_and(|record| record.id() == here.id()) }
    }

    /// Whether it is a directory that was removed here before an earlier start broke off, which has placed it for what the
    /// version has below: it may not have its attributes yet.
    fn is_back(&self, path: &RelPath, entry: &Entry, here: &Identity) -> bool {
        let was_removed = self.then.as_ref().and_then(|then| then.get(path)) == Some(&true);
        was_removed && matches!(entry.kind, Kind::Directory) && here.file_type().is_dir()
    }

    /// Whether nothing tells of another change than that it lost or got a name. What its extended attributes were no record
    /// says: they are to be those of the entry.
    fn has_only_other_names(
        &self,
        path: &RelPath,
        entry: &Entry,
        here: &Identity,
        record: &Identity,
    ) -> bool {
        let unchanged = Identity { ctime: record.ctime, ..*here }.unchanged_since(record);
        if here.nlink == record.nlink || here.file_type().is_dir() || !unchanged {
            return false;
        }
        let described = Backing::new(self.root.as_fd(), None).describe(path, here);
        matches!(described, Ok(Some((_, meta))) if meta.xattrs == entry.meta.xattrs)
    }

    /// Whether nothing may come to where nothing stands.
    pub(super) fn is_gone(&self, entry: &Entry, layer: usize) -> bool {
        let path = &entry.path;
        if self.local.as_ref().is_some_and(|local| local.removed.contains_key(path)) {
            return true;
        }
        let held = self.keeps && self.databases.holds(path);
        if held && let Some(local) = &self.local {
            let record = self.records.get(path).ok().flatten();
            local.holds((entry, layer < self.newer), record.as_ref());
        }
        held
    }

    /// Whether the records say that it is what the version has that they describe.
    fn is_clean(&self, path: &RelPath, entry: &Entry, here: &Identity) -> bool {
        let untouched = self.local.as_ref().is_some_and(|local| !is_marked_within(&local.marks, path));
        if here.file_type().is_dir() {
            // What came into it since an earlier start broke off is not listed.
            let may_go = self.then.is_none() || matches!(entry.kind, Kind::Directory);
            return may_go && untouched;
        }
        // Other names of a file lose it to what comes, which moves its change time: there the scan before has to do.
        let unchanged = |record: &Identity| {
            let ctime = if untouched && is_linked(record) { record.ctime } else { here.ctime };
            Identity { ctime, ..*here }.unchanged_since(record)
        };
        self.records.get(path).is_ok_and(|record| record.as_ref().is_some_and(unchanged))
    }
}

/// Whether what stands on the disk may be the entry: type, size, time and attributes of a file, which prove
/// nothing of its content; type and attributes of a directory.
fn is_same(entry: &Entry, ident: &Identity) -> bool {
    let file_type = ident.file_type();
    let attributes =
        ident.mode & 0o7777 == entry.meta.mode && ident.uid == entry.meta.uid && ident.gid == entry.meta.gid;
    match &entry.kind {
        Kind::File { size, .. } => {
            file_type == FileType::RegularFile
                && ident.size == *size
                && ident.mtime == entry.meta.mtime
                && attributes
        }
        Kind::Directory => file_type == FileType::Directory && attributes,
        _ => false,
    }
}
