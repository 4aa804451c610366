//! Names of one file: whatever is said of one, the same layer says all.
use super::Look;
use crate::path::RelPath;
use crate::state::absent::Referred;
use crate::state::dirty::Extent;
use crate::state::identity::Identity;
use crate::state::plan::{Captured, Change, PlanError};
use crate::state::record::is_linked;
use std::collections::BTreeSet;

impl Look<'_> {
    /// Puts an absent file that is not as the restored version has it into the plan, under all its names,
    /// unless the last version has it so.
    pub(super) fn refer(&mut self, path: &RelPath, file: u32) -> Result<(), PlanError> {
        let Some(absent) = self.records.absent() else { return Ok(()) };
        let Some(referred) = absent.referred(file) else { return Ok(()) }; // it is brought
        let mut paths = vec![path.clone()];
        if is_linked(&referred.ident) {
            paths.extend(absent.other_paths(file, path));
        }
        // Names of one file stay names of one file only if the same layer has all of them.
        let same = |path: &RelPath| Ok(self.records.get(path)? == Some(referred.ident));
        if paths.iter().map(same).collect::<Result<Vec<bool>, PlanError>>()?.into_iter().all(|same| same) {
            for path in paths {
                let touched = self.plan.take(&path);
                self.inodes.extend(touched);
            }
            return Ok(());
        }
        for path in paths {
            self.put_referred(&path, referred.clone())?;
        }
        Ok(())
    }

    fn put_referred(&mut self, path: &RelPath, referred: Referred) -> Result<(), PlanError> {
        let Referred { ident, kind, meta } = referred;
        let record = self.records.get(path)?;
        let hides = record.is_some_and(|record| record.file_type().is_dir());
        if let Some(record) = record {
            self.lost_name(&record);
        }
        self.insert(path, Captured { ident, kind, meta, link: None, changed: true, racy: false, hides });
        self.parents.extend(path.parent().filter(|parent| self.plan.get(parent).is_none()));
        Ok(())
    }

    /// The other names of a file that lost one are looked at.
    pub(super) fn lost_name(&mut self, record: &Identity) {
        if is_linked(record) {
            self.inodes.push((record.dev, record.ino));
        }
    }

    /// Looks at every known name of an inode, so that all that still stand are in the plan.
    pub(super) fn gather(&mut self, inode: (u64, u64)) -> Result<(), PlanError> {
        let mut names: BTreeSet<RelPath> = self.records.links(inode.1)?.into_iter().collect();
        if let Some(planned) = self.plan.linked.get(&inode) {
            names.extend(planned.iter().cloned());
        }
        for path in names {
            match self.backing.stat(&path) {
                Ok(Some(ident)) if (ident.dev, ident.ino) == inode => {
                    if self.returned_with_parent(&path)? {
                        continue;
                    }
                    let record = self.records.get(&path)?;
                    let changed = !record.is_some_and(|r| ident.unchanged_since(&r));
                    self.put(&path, &ident, record.as_ref(), changed || !self.options.whole)?;
                }
                Ok(Some(ident)) => self.present(&path, &ident, Extent::Entry)?,
                Ok(None) => self.absent(&path)?,
                Err(e) => self.unreadable(&path, e)?,
            }
        }
        Ok(())
    }

    /// The first name in path order is the file, the others are links to it.
    pub(super) fn name_leader(&mut self, inode: (u64, u64)) {
        let Some(names) = self.plan.linked.get(&inode) else { return };
        let leader = names.first().cloned();
        for path in names {
            if let Some(Change::Put(captured)) = self.plan.changes.get_mut(path) {
                captured.link = leader.clone().filter(|leader| leader != path);
            }
        }
    }
}
