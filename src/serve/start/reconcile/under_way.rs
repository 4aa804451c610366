//! A start that finds the directory half way to another version, because an earlier one broke off.
use super::local::{Was, all_within};
use super::{Locks, Start};
use crate::config::OnExisting;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::LayerError;
use crate::layer::extract::is_left_over;
use crate::path::RelPath;
use crate::state::absent::{Absent, Referred, Source};
use crate::state::backing::Backing;
use crate::state::commit::{Committer, Opening, Relation};
use crate::state::dirty::{Extent, Marks};
use crate::state::identity::Identity;
use crate::state::record::{Records, Restoring, is_linked};
use crate::state::restore::Begin;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use tokio::runtime::Runtime;

impl Start<'_> {
    /// What an earlier start has begun and not ended.
    pub(super) fn begun(&self) -> Result<Option<Restoring>> {
        let begun = self.records.restoring()?;
        if begun.as_ref().is_some_and(|begun| begun.settled) {
            self.settled()?;
            return Ok(None);
        }
        Ok(begun)
    }

    /// The restored version is the base: what never came was of the older one, and nothing is under way.
    pub(super) fn settled(&self) -> Result<()> {
        Source::forget(&self.absent_place());
        Ok(self.records.end_restore()?)
    }

    /// Goes on with what an earlier start has begun, or with what is the newest version by now.
    pub(super) fn go_on(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        begun: &Restoring,
    ) -> Result<Marks> {
        if matches!(opening.relation, Relation::Fresh | Relation::Lost) || opening.tag.is_none() {
            if self.settings.on_existing != OnExisting::Local {
                let message = format!(
                    "an earlier start broke off while version {} came to this directory, and the remote has none of \
                     this name now: bring the remote back, or use --on-existing local to save what is here",
                    begun.version
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            return self.lost(committer);
        }
        self.status.notice(format!(
            "an earlier start broke off while version {} came to this directory: this one goes on with it",
            begun.version
        ));
        self.remove_left_over(locks)?;
        if self.records.meta().base.is_none() {
            let empty = super::is_empty(locks)?;
            let (found, kept) = self.restore(runtime, opening, locks, empty, None, Some(begun))?;
            self.adopt(committer, opening, found, kept)?;
            self.settled()?;
            return self.look(locks);
        }
        self.again(runtime, committer, opening, locks, begun)
    }

    /// What an earlier start was about to put in the place of something else.
    pub(super) fn remove_left_over(&self, locks: &Locks) -> Result<()> {
        let is_left_over = |path: &&RelPath| path.name().is_some_and(is_left_over);
        for path in self.look(locks)?.keys().filter(is_left_over) {
            super::restored::remove(locks, path);
        }
        Ok(())
    }

    /// What is not here yet stands where it may not stay: none of the versions that are kept needs some of these layers.
    /// It comes whole from those of the newest version. `None` if it is not so, or if that does not know what became of
    /// it here.
    pub(super) fn newest_instead(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        absent: &Absent,
    ) -> Result<Option<Marks>> {
        let Some(head) = opening.head.as_ref().filter(|_| opening.relation == Relation::Same) else {
            return Ok(None);
        };
        if absent.needed_layers().iter().all(|key| head.layer(key).is_some()) {
            return Ok(None);
        }
        if !absent.unsaved_edits().is_empty() || !absent.moved_incomplete().is_empty() {
            self.status.notice(
                "what is not here yet stands in layers that no version needs any more, and was moved here since: \
                 'icecache hydrate' brings it while they last",
            );
            return Ok(None);
        }
        self.status.notice(
            "what is not here yet stands in layers that no version needs any more: it comes from the newest version",
        );
        let removed = absent.unsaved_removals().into_iter().map(|path| (path, Extent::Subtree));
        let local = removed.chain(self.look(locks)?).collect();
        let local = each(locks.backing().as_fd(), self.records, &local)?;
        self.records.begin_restore(head.version, true, local.clone())?;
        let begun = Restoring { version: head.version, keeps: true, settled: false, local };
        self.again(runtime, committer, opening, locks, &begun).map(Some)
    }

    fn again(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        begun: &Restoring,
    ) -> Result<Marks> {
        let local = begun.local.keys().map(|path| (path.clone(), Extent::Entry)).collect();
        self.catch_up(runtime, committer, opening, locks, &local, Some(begun))
    }

    /// What is marked and was removed here, and what our version has of it. A start that broke off may have placed a
    /// directory anew since; anything else somebody has put there.
    pub(super) fn removed_here(
        &self,
        locks: &Locks,
        local: &Marks,
        begun: Option<&Restoring>,
    ) -> Result<BTreeMap<RelPath, Was>> {
        let mut backing = Backing::new(locks.backing().as_fd(), None);
        let mut removed = BTreeMap::new();
        for path in local.keys() {
            let here = backing.stat(path);
            let record = self.records.get(path)?;
            match begun {
                // With what was below it; a start that broke off has listed that.
                None if matches!(here, Ok(None)) && !is_only_there(self.records, path, record.as_ref()) => {
                    removed.extend(all_within(self.records, path)?);
                }
                Some(begun)
                    if begun.local.get(path) == Some(&true)
                        && here.is_ok_and(|here| here.is_none_or(|here| here.file_type().is_dir())) =>
                {
                    removed.insert(path.clone(), record.map_or(Was::Unknown, Was::Recorded));
                }
                None | Some(_) => {}
            }
        }
        Ok(removed)
    }

    /// To be called before the restore of a version changes anything. With `keeps` what is local wins: what is marked,
    /// or if nothing is recorded whatever is there.
    pub(super) fn beginning(
        &self,
        locks: &Locks,
        version: u64,
        keeps: bool,
        local: Option<&Marks>,
    ) -> Result<Box<Begin>> {
        let everything =
            || if keeps { Marks::from([(RelPath::root(), Extent::Subtree)]) } else { Marks::new() };
        let local = local.cloned().unwrap_or_else(everything);
        let (records, root) = (self.records.clone(), locks.backing_fd()?);
        Ok(Box::new(move || {
            let local = each(root.as_fd(), &records, &local);
            let begun = local.and_then(|local| Ok(records.begin_restore(version, keeps, local)?));
            begun.map_err(|e| LayerError::io("cannot note that a restore begins", io::Error::other(e)))
        }))
    }
}

/// All that is marked and differs from the records, each path by itself, and whether nothing stands there: what comes to a
/// place below a mark later is not marked.
fn each(root: BorrowedFd<'_>, records: &Records, marks: &Marks) -> Result<BTreeMap<RelPath, bool>> {
    let mut found = BTreeMap::new();
    let mut backing = Backing::new(root, None);
    for path in marks.keys() {
        let record = records.get(path)?;
        let now = backing.stat(path);
        let gone = matches!(now, Ok(None)) && !is_only_there(records, path, record.as_ref());
        if now.ok().flatten().zip(record).is_none_or(|(now, record)| !now.unchanged_since(&record)) {
            found.insert(path.clone(), gone);
        }
        if gone {
            found.extend(all_within(records, path)?.into_keys().map(|path| (path, true)));
        }
    }
    let trees = marks.iter().filter(|(_, extent)| **extent == Extent::Subtree);
    let mut todo: Vec<RelPath> = trees.map(|(path, _)| path.clone()).collect();
    while let Some(dir) = todo.pop() {
        // Where nobody can look nothing is placed either.
        for name in backing.list(&dir).ok().flatten().unwrap_or_default() {
            let path = dir.join(&name);
            if backing.stat(&path).ok().flatten().is_some_and(|ident| ident.file_type().is_dir()) {
                todo.push(path.clone());
            }
            found.insert(path, false);
        }
    }
    Ok(found)
}

/// Whether a file that is not on the disk was saved without ever having been here, and nobody has removed it since.
fn is_only_there(records: &Records, path: &RelPath, record: Option<&Identity>) -> bool {
    record.is_some_and(Referred::is_record)
        && records.absent().is_none_or(|absent| absent.restated_file(path).is_some())
}

/// Whether what stands at a path is what its record says, or would be if not for other names of it that come and go; or
/// is a directory.
pub(super) fn is_recorded(root: BorrowedFd<'_>, records: &Records, path: &RelPath) -> Result<bool> {
    let Some(record) = records.get(path)? else { return Ok(false) };
    Ok(match Backing::new(root, None).stat(path) {
        Ok(Some(now)) if now.file_type().is_dir() => true,
        Ok(Some(now)) if is_linked(&record) => {
            Identity { ctime: record.ctime, ..now }.unchanged_since(&record)
        }
        Ok(Some(now)) => now.unchanged_since(&record),
        Ok(None) | Err(_) => false,
    })
}
