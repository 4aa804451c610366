//! What a start finds on the disk and in the remote becomes one tree: restored, kept, or both.
mod behind;
mod bring;
mod databases;
mod held;
mod judge;
mod kept;
mod lazily;
mod local;
mod restored;
mod torn;
mod under_way;

use super::lock::Locks;
use super::store_check::StoreCheck;
use crate::config::{MountSettings, OnConflict, OnExisting, Restore, Scan};
use crate::error::{Error, ErrorKind, Result};
use crate::path::RelPath;
use crate::remote::{Store, Tag};
use crate::serve::startup::StatusPipe;
use crate::state::absent::{Absent, Source};
use crate::state::commit::{Committer, Opening, Relation};
use crate::state::dirty::{Extent, Marks};
use crate::state::held::Holders;
use crate::state::plan::{LookOptions, change_tick};
use crate::state::record::{Base, Records, Restoring};
use crate::state::scan::scan;
use crate::state::walindex;
use databases::Databases;
use local::Local;
use restored::Restored;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;

/// The parts of a start that this needs.
pub struct Start<'a> {
    /// What the mount was told.
    pub settings: &'a MountSettings,
    /// Where versions are.
    pub store: &'a Store,
    /// What is known of the disk.
    pub records: &'a Arc<Records>,
    /// Whom to tell.
    pub status: &'a StatusPipe,
    /// Whether the store will do.
    pub check: &'a StoreCheck<'a>,
    /// Where local files go that the remote has otherwise.
    pub aside: PathBuf,
    /// When bytes of the remote are not waited for any longer.
    pub limit: Option<Instant>,
    /// Whose open files nothing may take the place of; a mount is looked at through what it shows.
    pub heeds: Option<Holders>,
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Found {
    /// What the first flush has to look at.
    pub marks: Marks,
    /// What is not on the disk yet.
    pub absent: Option<Arc<Absent>>,
}

impl From<Marks> for Found {
    fn from(marks: Marks) -> Self {
        Self { marks, absent: None }
    }
}

impl Start<'_> {
    /// Brings disk and remote together. `journal_lost`: the records of before are gone, so nothing is known of the disk.
    pub fn reconcile(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        journal_lost: bool,
    ) -> Result<Found> {
        let begun = self.begun()?;
        if matches!(opening.relation, Relation::Behind | Relation::Other) {
            return Ok(self.behind(runtime, committer, opening, locks, begun.is_some())?.into());
        }
        if opening.relation == Relation::Moved && self.records.meta().base.is_none() {
            let (empty, lazy) = (is_empty(locks)?, self.settings.restore == Restore::Lazy);
            if let Some(head) = opening.head.as_ref().filter(|head| empty && lazy && Source::can_read(head)) {
                return self.lazily(runtime, committer, opening, head, locks);
            }
        }
        if let Some(begun) = begun {
            return Ok(self.go_on(runtime, committer, opening, locks, &begun)?.into());
        }
        let (absent, left) = self.resume(runtime, locks, opening.relation)?;
        self.mend_torn(runtime, opening, locks)?;
        if let Some(absent) = &absent
            && let Some(marks) = self.newest_instead(runtime, committer, opening, locks, absent)?
        {
            return Ok(marks.into());
        }
        let removed = |marks: Marks| match &absent {
            Some(absent) => {
                let gone = if self.needs_scan() { absent.unsaved_removals() } else { left.clone() };
                // What the newest version has put in the place of something else is as it says.
                let is_saved = |path: &RelPath| {
                    under_way::is_recorded(locks.backing().as_fd(), self.records, path).unwrap_or(false)
                };
                let gone = gone.into_iter().filter(|path| !is_saved(path)).chain(absent.unsaved_edits());
                gone.map(|path| (path, Extent::Subtree)).chain(marks).collect()
            }
            None => marks,
        };
        let marks = match opening.relation {
            Relation::Fresh => self.fresh(locks)?,
            Relation::Same if self.needs_scan() => removed(self.look_everywhere(locks)?),
            Relation::Same => removed(Marks::new()),
            Relation::Lost => self.lost(committer)?,
            Relation::Behind | Relation::Other | Relation::Moved => {
                self.moved(runtime, committer, opening, locks, journal_lost, &removed)?
            }
        };
        let absent = absent.filter(|_| Source::is_left(&self.absent_place()));
        // What comes to a directory that was moved is found by the next flush only if that looks there.
        let moved = absent.iter().flat_map(|absent| absent.moved_paths());
        let marks = marks.into_iter().chain(moved.map(|path| (path, Extent::Subtree))).collect();
        Ok(Found { marks, absent })
    }

    fn needs_scan(&self) -> bool {
        !self.records.was_clean() || self.settings.scan == Scan::Always
    }

    fn look_options(&self, locks: &Locks) -> LookOptions {
        LookOptions { tick: change_tick(locks.backing().as_fd()), ..LookOptions::default() }
    }

    /// No version yet: what is there becomes the first.
    fn fresh(&self, locks: &Locks) -> Result<Marks> {
        let empty = is_empty(locks)?;
        Ok(if empty { Marks::new() } else { Marks::from([(RelPath::root(), Extent::Subtree)]) })
    }

    /// What differs from the records.
    fn look(&self, locks: &Locks) -> Result<Marks> {
        Ok(self.scanned(locks)?.marks)
    }

    /// The same, and what cannot be looked at: nobody knows what changed there, and the next flush tells of it.
    fn look_everywhere(&self, locks: &Locks) -> Result<Marks> {
        let found = self.scanned(locks)?;
        let unknown = found.unreadable.into_keys().map(|path| (path, Extent::Subtree));
        Ok(found.marks.into_iter().chain(unknown).collect())
    }

    fn scanned(&self, locks: &Locks) -> Result<crate::state::scan::Scan> {
        let found = scan(locks.backing().as_fd(), self.records, &self.look_options(locks))?;
        tracing::info!(looked = found.looked, changed = found.marks.len(), "scanned the backing");
        for (path, e) in &found.unreadable {
            tracing::warn!(%path, error = %e, "cannot look at entry");
        }
        Ok(found)
    }

    /// The remote has forgotten what we have committed to it.
    fn lost(&self, committer: &Committer) -> Result<Marks> {
        if self.settings.on_existing != OnExisting::Local {
            let message = "the remote has no version of this name, but this directory was saved there before: \
                           bring the remote back, or use --on-existing local to save everything anew";
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.status.notice("the remote has lost its versions; everything here is saved anew");
        self.records.forget_base()?;
        committer.adopt(None, None);
        Ok(Marks::from([(RelPath::root(), Extent::Subtree)]))
    }

    /// The remote has a version that the records do not describe.
    fn moved(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        journal_lost: bool,
        removed: &dyn Fn(Marks) -> Marks,
    ) -> Result<Marks> {
        if self.records.meta().base.is_none() {
            let empty = is_empty(locks)?;
            if !empty && !journal_lost && self.settings.on_existing == OnExisting::Fail {
                let message = format!(
                    "both the directory and the remote have content: {} (--on-existing merge or local decides)",
                    self.settings.dir.display()
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            let (found, kept) = self.restore(runtime, opening, locks, empty, None, None)?;
            self.adopt(committer, opening, found, kept)?;
            self.settled()?;
            // The union: whatever only the disk has is new.
            return if empty { Ok(Marks::new()) } else { self.look(locks) };
        }
        let local = removed(self.look(locks)?);
        if !local.is_empty() {
            if self.settings.on_conflict == OnConflict::Merge
                && let Some(head) = &opening.head
            {
                self.status.notice(format!(
                    "another machine has saved newer versions, and there are unsaved changes here: both are brought \
                     together; what both changed stays as it is here, version {} has it otherwise",
                    head.version
                ));
                self.bring_databases(runtime, &local)?;
            } else if let Some(head) = &opening.head
                && committer.keep(head)
            {
                let fate = match self.settings.on_conflict {
                    OnConflict::Fork => "they will be saved as a fork",
                    _ => "they stay unsaved, --on-conflict fork saves them as a fork",
                };
                self.status.notice(format!(
                    "another machine has saved newer versions, and there are unsaved changes here: {fate}"
                ));
                return Ok(local);
            } else {
                self.status.notice("another history stands in the remote; what only this disk has is kept");
            }
        }
        self.catch_up(runtime, committer, opening, locks, &local, None)
    }

    /// Nothing was changed here (or cannot be told apart): take the newer version, and take away
    /// what it no longer has.
    fn catch_up(
        &self,
        runtime: &Runtime,
        committer: &Committer,
        opening: &Opening,
        locks: &Locks,
        local: &Marks,
        begun: Option<&Restoring>,
    ) -> Result<Marks> {
        let before: Vec<RelPath> = self
            .records
            .below(&RelPath::root())
            .map(|r| r.map(|(path, _)| path))
            .collect::<Result<_, _>>()?;
        let merges = self.merges(begun);
        let removed = if merges { self.removed_here(locks, local, begun)? } else { BTreeMap::new() };
        let changed = Arc::new(Local::new(local.clone(), removed));
        let (mut found, kept) = self.restore(runtime, opening, locks, false, Some(&changed), begun)?;
        if merges {
            changed.compare(locks, self.records, &before, (&found, &kept))?;
        }
        let databases = Databases {
            records: self.records.clone(),
            root: locks.backing_fd()?,
            local: Some(changed.clone()),
        };
        let mut gone = Vec::new();
        for path in before.iter().rev() {
            let ours = local.contains_key(path) || is_below(local, path) || merges && databases.holds(path);
            // Since an earlier start broke off somebody may have changed it.
            let is_saved = || {
                begun.is_none()
                    || under_way::is_recorded(locks.backing().as_fd(), self.records, path).unwrap_or(false)
            };
            // An index goes with its database, not because versions have none.
            let is_index = |path: &RelPath| walindex::is_at(locks.backing().as_fd(), path);
            let has = found.contains_key(path) || kept.contains_key(path);
            if !has && !ours && !is_index(path) && is_saved() {
                let index = walindex::beside(path).filter(is_index);
                gone.push(path.clone());
                gone.extend(index);
            }
        }
        restored::remove_all(locks, &gone, &mut found);
        restored::look_at_linked(locks, &mut found);
        // Directories came for what the version has below. Recorded as it has them, so that the next one says that they are
        // gone.
        changed.removed.keys().rev().for_each(|path| restored::remove(locks, path));
        self.adopt(committer, opening, found, kept)?;
        if changed.overlaps() {
            committer.overlaps();
        }
        self.settled()?;
        self.look(locks)
    }

    /// Whether what is local stays as it is where the version has it otherwise.
    fn merges(&self, begun: Option<&Restoring>) -> bool {
        self.settings.on_conflict == OnConflict::Merge || begun.is_some_and(|begun| begun.keeps)
    }

    fn adopt(&self, committer: &Committer, opening: &Opening, found: Restored, kept: Restored) -> Result<()> {
        self.check.passed(self.limit)?;
        let version = opening.head.as_ref().map_or(1, |head| head.version);
        let tag = opening.tag.clone().unwrap_or_else(|| Tag(String::new()));
        self.records.restored(
            found.into_iter().chain(kept),
            Base { version, tag: tag.clone(), history: opening.head.as_ref().and_then(|head| head.history) },
            true,
        )?;
        committer.adopt(opening.head.clone(), Some(tag));
        Ok(())
    }
}

fn is_empty(locks: &Locks) -> Result<bool> {
    let failed = |e: rustix::io::Errno| Error::io("cannot read the directory", e.into());
    let dir = rustix::fs::Dir::read_from(locks.backing()).map_err(failed)?;
    for entry in dir {
        let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." && name != b"lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether something at a path or below it, or all of it, is marked.
fn is_marked_within(marks: &Marks, path: &RelPath) -> bool {
    // What is below a path follows it.
    let next = marks.range::<RelPath, _>(path..).next();
    next.is_some_and(|(mark, _)| mark.starts_with(path)) || is_below(marks, path)
}

/// Whether all below something above a path is marked.
fn is_below(marks: &Marks, path: &RelPath) -> bool {
    path.ancestors().any(|above| marks.get(&above) == Some(&Extent::Subtree))
}
