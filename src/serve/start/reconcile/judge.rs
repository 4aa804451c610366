//! [`Judge`]: what becomes of each thing that the disk holds where the version has an entry.
use super::is_marked_within;
use super::kept::Kept;
use super::local::{Local, is_alike};
use crate::layer::{Entry, Kind};
use crate::path::RelPath;
use crate::state::backing::Backing;
use crate::state::identity::Identity;
use crate::state::record::{Records, is_linked};
use crate::state::restore::Standing;
use crate::state::walindex;
use crate::sync::Mutex;
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
    /// What is local wins.
    pub(super) keeps: bool,
    /// Layers (newest first) before this one are newer than the version that the records describe.
    pub(super) newer: usize,
    /// What stays against the remote. Owner of its lock.
    pub(super) kept: Arc<Mutex<Kept>>,
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
        if is_clean || !self.keeps || is_since {
            return if is_clean { Standing::Saved } else { Standing::Unknown };
        }
        if self.is_back(path, entry, here) {
            return Standing::Saved;
        }
        let record = self.records.get(path).ok().flatten();
        // A directory is not changed by what was put into it.
        let is_dir = matches!(entry.kind, Kind::Directory) && here.file_type().is_dir();
        if is_dir && record.is_some_and(|record| is_alike(&record, here)) {
            return Standing::Saved;
        }
        if let Some(local) = &self.local {
            local.keeps(path, (entry, layer < self.newer), record.as_ref(), here);
        }
        if is_file && here.file_type().is_file() {
            self.kept.lock().may_stay(path, entry);
            return Standing::Wins;
        }
        self.kept.lock().stay(path, entry);
        Standing::Stays
    }

    /// Whether it was removed here before an earlier start broke off, and is what that has placed. The content of a file
    /// tells; a directory may not have its attributes yet.
    fn is_back(&self, path: &RelPath, entry: &Entry, here: &Identity) -> bool {
        if self.then.as_ref().and_then(|then| then.get(path)) != Some(&true) {
            return false;
        }
        match &entry.kind {
            Kind::File { .. } => false,
            Kind::Directory => here.file_type().is_dir(),
            Kind::HardLink { target } => {
                let target = Backing::new(self.root.as_fd(), None).stat(target).ok().flatten();
                target.is_some_and(|target| target.id() == here.id())
            }
            _ => here.may_be(entry),
        }
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
