//! [`Look`]: one pass over marked paths that brings a [`Plan`] up to date.
use super::{Captured, Change, LookOptions, Plan, PlanError};
use crate::clock::Timestamp;
use crate::path::RelPath;
use crate::state::backing::{Backing, is_closed_to_all_but_root};
use crate::state::dirty::{Extent, Marks};
use crate::state::identity::Identity;
use crate::state::record::{Records, is_linked};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::BorrowedFd;

mod names;

pub(super) struct Look<'a> {
    plan: &'a mut Plan,
    backing: Backing<'a>,
    records: &'a Records,
    options: &'a LookOptions,
    /// Directories whose times change with their content, and that may be new themselves.
    parents: BTreeSet<RelPath>,
    /// Inodes of which a name came, went or moved.
    inodes: Vec<(u64, u64)>,
    /// The last path found gone; marks below it need no look.
    gone: Option<RelPath>,
    /// The last directory found standing above one that was gone.
    standing: Option<RelPath>,
}

impl<'a> Look<'a> {
    pub(super) fn new(
        plan: &'a mut Plan,
        root: BorrowedFd<'a>,
        records: &'a Records,
        options: &'a LookOptions,
    ) -> Self {
        let backing = Backing::new(root, options.exclude.as_ref());
        Self {
            plan,
            backing,
            records,
            options,
            parents: BTreeSet::new(),
            inodes: Vec::new(),
            gone: None,
            standing: None,
        }
    }

    pub(super) fn run(mut self, marks: &Marks) -> Result<(), PlanError> {
        self.backing.stat(&RelPath::root()).map_err(PlanError::Backing)?;
        let mut subtree: Option<&RelPath> = None;
        for (path, extent) in marks {
            if self.gone.as_ref().is_some_and(|top| path.starts_with(top)) {
                continue;
            }
            if subtree.is_some_and(|top| path.starts_with(top)) {
                continue; // the walk was there
            }
            self.look(path, *extent)?;
            self.parents.extend(path.parent());
            if *extent == Extent::Subtree {
                subtree = Some(path);
            }
        }
        self.gone = None;
        self.absent_removals(marks)?;
        let mut settled = HashSet::new();
        loop {
            while let Some(dir) = self.parents.pop_last() {
                // One that was planned before this pass is looked at again: its times may have moved.
                let fresh = marks.contains_key(&dir) && matches!(self.plan.get(&dir), Some(Change::Put(_)));
                if !fresh {
                    self.look(&dir, Extent::Entry)?;
                }
            }
            let Some(inode) = self.inodes.pop() else { return Ok(()) };
            if settled.insert(inode) {
                self.gather(inode)?;
            }
            if self.inodes.is_empty() {
                for inode in &settled {
                    self.name_leader(*inode);
                }
            }
        }
    }

    /// What was removed before it was ever on the disk: no record tells a walk of it.
    fn absent_removals(&mut self, marks: &Marks) -> Result<(), PlanError> {
        let tops: Vec<&RelPath> =
            marks.iter().filter(|(_, e)| **e == Extent::Subtree).map(|(path, _)| path).collect();
        let Some(absent) = self.records.absent().filter(|_| !tops.is_empty()) else { return Ok(()) };
        for path in absent.unsaved_removals() {
            if tops.iter().any(|top| path.starts_with(top)) {
                self.look(&path, Extent::Entry)?;
            }
        }
        self.gone = None;
        Ok(())
    }

    /// What stands at a path. Not in the middle of what a lazy restore does there: that sets times back.
    fn stat(&mut self, path: &RelPath) -> io::Result<Option<Identity>> {
        let absent = self.records.absent();
        let _naming = absent.as_ref().map(|absent| absent.naming());
        self.backing.stat(path)
    }

    fn look(&mut self, path: &RelPath, extent: Extent) -> Result<(), PlanError> {
        match self.stat(path) {
            Ok(Some(ident)) => {
                self.plan.unreadable.remove(path);
                self.present(path, &ident, extent)
            }
            Ok(None) => {
                self.plan.unreadable.remove(path);
                self.absent(path)
            }
            Err(e) => self.unreadable(path, e),
        }
    }

    fn unreadable(&mut self, path: &RelPath, e: io::Error) -> Result<(), PlanError> {
        if path.is_root() {
            return Err(PlanError::Backing(e));
        }
        if is_closed_to_all_but_root(path, &e) {
            return Ok(());
        }
        self.plan.unreadable.insert(path.clone(), e);
        Ok(())
    }

    fn present(&mut self, path: &RelPath, ident: &Identity, extent: Extent) -> Result<(), PlanError> {
        if self.returned_with_parent(path)? {
            return Ok(());
        }
        let is_dir = ident.file_type().is_dir();
        let returned = is_dir
            && match self.plan.get(path) {
                Some(Change::Remove) => true,
                Some(Change::Put(captured)) => !captured.ident.file_type().is_dir(),
                None => false,
            };
        if extent == Extent::Subtree || returned || !is_dir {
            self.drop_within(path);
        }
        self.compare(path, ident)?;
        if is_dir && (extent == Extent::Subtree || returned) {
            self.walk(path)?;
        }
        Ok(())
    }

    /// A directory above the path was gone when the plan was made and is back: what it had must be
    /// looked at name by name, since the removal of the whole no longer holds.
    fn returned_with_parent(&mut self, path: &RelPath) -> Result<bool, PlanError> {
        if self.plan.removes == 0 {
            return Ok(false);
        }
        let hidden = path.ancestors().find(|p| matches!(self.plan.get(p), Some(Change::Remove)));
        match hidden {
            Some(top) => self.look(&top, Extent::Subtree).map(|()| true),
            None => Ok(false),
        }
    }

    /// Puts one path that stands into the plan if it differs from its record.
    fn compare(&mut self, path: &RelPath, ident: &Identity) -> Result<(), PlanError> {
        let record = self.records.get(path)?;
        if let Some(old) = record.filter(is_linked)
            && old.ino != ident.ino
        {
            self.inodes.push((ident.dev, old.ino));
        }
        let racy = self.is_racy(ident);
        let changed = racy || !record.is_some_and(|r| ident.unchanged_since(&r));
        if !changed && !self.options.whole {
            let touched = self.plan.take(path);
            self.inodes.extend(touched);
            return Ok(());
        }
        self.put(path, ident, record.as_ref(), changed)?;
        if record.is_none()
            && let Some(parent) = path.parent()
            && self.plan.get(&parent).is_none()
        {
            self.parents.insert(parent);
        }
        Ok(())
    }

    fn put(
        &mut self,
        path: &RelPath,
        ident: &Identity,
        record: Option<&Identity>,
        changed: bool,
    ) -> Result<(), PlanError> {
        let racy = self.is_racy(ident);
        let hides = !ident.file_type().is_dir() && record.is_some_and(|r| r.file_type().is_dir());
        if hides {
            let records = self.records;
            for item in records.below(path) {
                self.lost_name(&item?.1);
            }
        }
        match self.backing.describe(path, ident) {
            Ok(Some((kind, meta))) => {
                let captured = Captured { ident: *ident, kind, meta, link: None, changed, racy, hides };
                self.insert(path, captured);
                Ok(())
            }
            // Replaced between two system calls: whoever did that marks it, and it is looked at again.
            Ok(None) => self.unreadable(path, io::Error::other("it changed while it was looked at")),
            Err(e) => self.unreadable(path, e),
        }
    }

    fn insert(&mut self, path: &RelPath, captured: Captured) {
        let ident = captured.ident;
        let touched = self.plan.insert(path.clone(), Change::Put(captured));
        self.inodes.extend(touched);
        if is_linked(&ident) {
            self.inodes.push((ident.dev, ident.ino));
        }
    }

    fn is_racy(&self, ident: &Identity) -> bool {
        if self.options.tick.is_zero() {
            return false;
        }
        let nanos = |t: Timestamp| i128::from(t.sec) * 1_000_000_000 + i128::from(t.nsec);
        nanos(Timestamp::now()) - nanos(ident.ctime) < self.options.tick.as_nanos() as i128
    }

    /// Removes a path that is gone, at its topmost gone ancestor.
    fn absent(&mut self, path: &RelPath) -> Result<(), PlanError> {
        if let Some(absent) = self.records.absent() {
            if absent.is_virtual(path) {
                // It stands, as the last version has it; other names of files that changed may stand in it.
                let touched = self.plan.take(path);
                self.inodes.extend(touched);
                return Ok(());
            }
            if let Some(file) = absent.restated_file(path) {
                self.drop_within(path);
                return self.refer(path, file);
            }
        }
        if self.has_come(path)? {
            return Ok(());
        }
        let mut top = path.clone();
        while let Some(parent) = top.parent() {
            if self.standing.as_ref() == Some(&parent) {
                break;
            }
            match self.backing.stat(&parent) {
                Ok(None) => top = parent,
                Ok(Some(ident)) if ident.file_type().is_dir() => {
                    self.standing = Some(parent);
                    break;
                }
                // A non-directory took the place of a directory: it hides all that was below.
                Ok(Some(ident)) => {
                    self.parents.extend(parent.parent());
                    return self.present(&parent, &ident, Extent::Entry);
                }
                Err(e) => return self.unreadable(path, e),
            }
        }
        self.remove(&top)
    }

    /// Whether what was not on the disk a moment ago is there now, because a lazy restore has brought it since: that is no
    /// removal. It was looked at, then.
    fn has_come(&mut self, path: &RelPath) -> Result<bool, PlanError> {
        if self.records.absent().is_none() {
            return Ok(false);
        }
        // By a directory that has moved away since it would stand there for ever, and never be found when it is walked.
        self.backing.look_anew();
        match self.stat(path) {
            Ok(Some(ident)) => self.present(path, &ident, Extent::Subtree).map(|()| true),
            Ok(None) => Ok(false),
            Err(e) => self.unreadable(path, e).map(|()| true),
        }
    }

    fn remove(&mut self, top: &RelPath) -> Result<(), PlanError> {
        self.drop_within(top);
        let mut known = false;
        if let Some(ident) = self.records.get(top)? {
            known = true;
            self.lost_name(&ident);
        }
        let records = self.records;
        for item in records.below(top) {
            known = true;
            self.lost_name(&item?.1);
        }
        known = known || self.records.absent().is_some_and(|absent| absent.knows(top));
        if known && !top.is_root() {
            self.plan.insert(top.clone(), Change::Remove);
        }
        self.parents.extend(top.parent());
        self.gone = Some(top.clone());
        Ok(())
    }

    /// Forgets what the plan says of a path and below it.
    fn drop_within(&mut self, path: &RelPath) {
        let within: Vec<RelPath> = self
            .plan
            .changes
            .range(path.clone()..)
            .map(|(p, _)| p)
            .take_while(|p| p.starts_with(path))
            .cloned()
            .collect();
        for path in within {
            let touched = self.plan.take(&path);
            self.inodes.extend(touched);
        }
    }

    /// Looks at all that stands below a directory, and at all that stood there.
    fn walk(&mut self, top: &RelPath) -> Result<(), PlanError> {
        let records = self.records;
        let mut stack = vec![top.clone()];
        while let Some(dir) = stack.pop() {
            let names = match self.backing.list(&dir) {
                Ok(Some(names)) => names,
                Ok(None) => {
                    self.absent(&dir)?;
                    continue;
                }
                Err(e) => {
                    self.unreadable(&dir, e)?;
                    continue;
                }
            };
            let absent = records.absent();
            let moved: BTreeMap<&[u8], u32> = absent
                .as_ref()
                .map(|absent| absent.restated_files(&dir))
                .unwrap_or_default()
                .into_iter()
                .collect();
            let mut recorded = records.children(&dir).peekable();
            for name in names {
                while let Some(old) = recorded.next_if(|r| !matches!(r, Ok((n, _)) if *n >= name)) {
                    self.gone_in(&dir, &old?.0, &moved)?;
                }
                let known = recorded.next_if(|r| matches!(r, Ok((n, _)) if *n == name)).is_some();
                let path = dir.join(&name);
                match self.stat(&path) {
                    Ok(Some(ident)) => {
                        self.plan.unreadable.remove(&path);
                        self.compare(&path, &ident)?;
                        if ident.file_type().is_dir() {
                            stack.push(path);
                        }
                    }
                    Ok(None) if known && !moved.contains_key(name.as_slice()) => self.remove(&path)?,
                    Ok(None) => {}
                    Err(e) => self.unreadable(&path, e)?,
                }
            }
            for old in recorded {
                self.gone_in(&dir, &old?.0, &moved)?;
            }
            for (name, file) in &moved {
                let path = dir.join(name);
                // It may have come meanwhile.
                if matches!(self.stat(&path), Ok(None)) {
                    self.refer(&path, *file)?;
                }
            }
        }
        Ok(())
    }

    /// A recorded name in a directory that is not on the disk: one of those that were `moved` may stand all
    /// the same.
    fn gone_in(&mut self, dir: &RelPath, name: &[u8], moved: &BTreeMap<&[u8], u32>) -> Result<(), PlanError> {
        let path = dir.join(name);
        if moved.contains_key(name) || self.has_come(&path)? { Ok(()) } else { self.remove(&path) }
    }
}
