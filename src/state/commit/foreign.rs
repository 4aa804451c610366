//! [`Foreign`]: what other writers changed since the version that our tree was made from.
use super::*;
use crate::layer::{Metadata, Row};
use crate::state::plan::Change as Planned;
use crate::state::walindex::database_of;
use std::ops::Bound;

/// What SQLite appends to the name of a database: for the file itself nothing, its log, its journal.
/// What others changed is remembered from one commit to the next if it is not more than so many paths (some 200 bytes
/// each). If it is, it is found out anew each time.
const REMEMBERED_MAX: usize = 100_000;

/// What others did to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Theirs {
    Removed,
    /// With these attributes.
    Directory(Box<Metadata>),
    /// It is as our tree has it, but for these extended attributes, perhaps, which no record tells.
    Attributes(Box<Metadata>),
    Other,
}

/// What is known of a path.
#[derive(Debug, Clone)]
struct Change {
    theirs: Theirs,
    /// A layer of another writer's says so. Else it only differs from what we have in one that was merged, and may be
    /// what we had before.
    certain: bool,
}

/// Path by path; what is below a path that is no directory any more is not listed.
#[derive(Debug, Clone, Default)]
pub(super) struct Foreign(BTreeMap<RelPath, Change>);

impl Foreign {
    /// Another writer's layer says this.
    pub(super) fn add(&mut self, row: Row) {
        self.insert(row, true);
    }

    /// A merged layer says this, which is not as we have it.
    pub(super) fn differs(&mut self, row: Row) {
        self.insert(row, false);
    }

    /// After a merged layer there is nothing at a path, where we have something.
    pub(super) fn lacks(&mut self, path: RelPath) {
        self.put(path, Theirs::Removed, false);
    }

    /// A merged layer has this as we have it.
    pub(super) fn is_same(&mut self, path: &RelPath) {
        if self.0.get(path).is_some_and(|change| !change.certain) {
            self.0.remove(path);
        }
    }

    /// The same, but perhaps for extended attributes.
    pub(super) fn is_alike(&mut self, path: RelPath, meta: Metadata) {
        self.is_same(&path);
        let theirs = Theirs::Attributes(Box::new(meta));
        self.0.entry(path).or_insert(Change { theirs, certain: false });
    }

    fn insert(&mut self, row: Row, certain: bool) {
        let theirs = match row.entry.kind {
            Kind::Whiteout => Theirs::Removed,
            Kind::Directory => Theirs::Directory(Box::new(row.entry.meta)),
            _ => Theirs::Other,
        };
        self.put(row.entry.path, theirs, certain);
    }

    fn put(&mut self, path: RelPath, theirs: Theirs, certain: bool) {
        if !matches!(theirs, Theirs::Directory(_)) {
            self.forget_below(&path);
        }
        let certain = certain || self.0.get(&path).is_some_and(|change| change.certain);
        self.0.insert(path, Change { theirs, certain });
    }

    fn get(&self, path: &RelPath) -> Option<&Theirs> {
        self.0.get(path).map(|change| &change.theirs)
    }

    /// A later layer of ours has decided this.
    pub(super) fn settle(&mut self, row: &Row) {
        self.settled(&row.entry.path, row.entry.kind == Kind::Directory);
    }

    /// So does the layer that is made of a plan, but for what was left out of it.
    pub(super) fn settle_plan(&mut self, plan: &Plan, skipped: &BTreeMap<RelPath, String>) {
        for (path, change) in plan.changes().filter(|(path, _)| !skipped.contains_key(*path)) {
            self.settled(path, directory(change).is_some());
        }
    }

    fn settled(&mut self, path: &RelPath, is_dir: bool) {
        self.0.remove(path);
        if !is_dir {
            self.forget_below(path);
        }
    }

    fn forget_below(&mut self, path: &RelPath) {
        let below: Vec<RelPath> = self.below(path).cloned().collect();
        for path in below {
            self.0.remove(&path);
        }
    }

    fn below<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
        let after = (Bound::Excluded(path), Bound::Unbounded);
        self.0.range::<RelPath, _>(after).map(|(p, _)| p).take_while(move |p| p.starts_with(path))
    }

    /// Whether it is little enough to be remembered.
    pub(super) fn is_small(&self) -> bool {
        self.0.len() <= REMEMBERED_MAX
    }

    /// Whether a plan would put files of a database of ours beside such of others: these are one thing.
    fn mixes(&self, plan: &Plan, path: &RelPath) -> bool {
        let Some((_, files)) = database_of(path) else { return false };
        files.iter().any(|file| {
            matches!(self.get(file), Some(Theirs::Removed | Theirs::Other)) && plan.get(file).is_none()
        })
    }

    /// The paths of a plan that others changed as well; `None` if what the plan sets would stand in nothing, or be half
    /// of a database.
    pub(super) fn overlap(&self, plan: &Plan) -> Option<Vec<RelPath>> {
        let mut both = Vec::new();
        for (path, change) in plan.changes() {
            if self.mixes(plan, path) {
                return None;
            }
            let (ours, removed) = (directory(change), matches!(change, Planned::Remove));
            let same = match self.get(path) {
                None => true,
                // Whoever adds or removes a name in it changes its times, and means nothing by that.
                Some(Theirs::Directory(theirs)) => {
                    ours.is_some_and(|ours| ours.meta.is_but_for_times(theirs))
                }
                Some(Theirs::Attributes(theirs)) => {
                    matches!(change, Planned::Put(ours) if ours.meta.xattrs == theirs.xattrs)
                }
                Some(Theirs::Removed) => removed,
                Some(Theirs::Other) => false,
            };
            let hides = ours.is_none() && self.changed_below(path);
            let mut undone = false;
            for above in path.ancestors().filter(|above| !above.is_root()) {
                if !matches!(self.get(&above), Some(Theirs::Removed | Theirs::Other)) || removed {
                    continue;
                }
                // Our layer must say that there is a directory again.
                let again = plan.get(&above).is_some_and(|change| directory(change).is_some());
                if !again {
                    return None;
                }
                undone = true;
            }
            if !same || hides || undone {
                both.push(path.clone());
            }
        }
        Some(both)
    }

    fn changed_below(&self, path: &RelPath) -> bool {
        self.below(path).any(|below| !matches!(self.get(below), Some(Theirs::Attributes(_))))
    }
}

/// What a plan makes of a path, if that is a directory.
fn directory(change: &Planned) -> Option<&Captured> {
    match change {
        Planned::Put(captured) if captured.ident.file_type().is_dir() => Some(captured),
        _ => None,
    }
}
