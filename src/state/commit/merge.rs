//! Two writers built on the same version: whoever comes second puts its layer on top of the other's.
//!
//! A layer says what changed, path by path. So where both changed different paths, the layer of the second on top
//! of those of the first is both. Where they changed the same path the second is newer, and the version of the
//! first gets a tag, by which its side can be restored. What cannot be put together so goes to a fork: a file of ours
//! in a directory that the first removed, and half of a database.
//!
//! The tree of the second does not have what the first changed. So it remembers its *line*: the version its tree
//! was made from and its own layers since. Each further commit is merged again, by what others have on top of the
//! line; and the records go on to say that the tree was made from the older version, so that the next start brings
//! the rest.
use super::*;
use crate::layer::{LayerIndex, Metadata, Row};
use crate::state::plan::Change;
use bytes::Bytes;
use std::collections::HashSet;

/// How often others may be faster while one commit is merged.
pub(super) const MERGE_ATTEMPTS: u32 = 64;
/// How many tags of versions that were overlapped are kept: the newest.
const OVERLAP_TAGS_MAX: usize = 100;
/// How these tags begin; the number of the version follows.
const OVERLAP_TAG: &str = "before-merge-";
/// What SQLite appends to the name of a database: for the file itself nothing, its log, its journal.
const DATABASE_FILES: [&[u8]; 3] = [b"", b"-wal", b"-journal"];
/// How many overlapping paths are listed.
const PATHS_LISTED_MAX: usize = 100;

/// How many of them a sentence names.
const PATHS_TOLD: usize = 5;

/// What a merge did besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The version of another writer that this one was put on.
    pub onto: VersionId,
    /// Paths that both changed, some of them; here they are as this writer has them.
    pub overlapping: Vec<RelPath>,
    /// The tag of the version that has them as the other writer does; `None` if there are no such paths.
    pub tag: Option<String>,
}

impl std::fmt::Display for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "another writer was faster: this version is on top of its version {}", self.onto)?;
        let Some(tag) = &self.tag else { return Ok(()) };
        write!(f, "; what both changed is as it is here, the version with tag {tag} has it otherwise:")?;
        for path in self.overlapping.iter().take(PATHS_TOLD) {
            write!(f, " {path}")?;
        }
        match self.overlapping.len().saturating_sub(PATHS_TOLD) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What others did to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Theirs {
    Removed,
    /// With these attributes.
    Directory(Metadata),
    Other,
}

/// What others changed since the version that our tree was made from.
#[derive(Debug, Default)]
struct Foreign(BTreeMap<RelPath, Theirs>);

impl Foreign {
    fn add(&mut self, row: Row) {
        let theirs = match row.entry.kind {
            Kind::Whiteout => Theirs::Removed,
            Kind::Directory => Theirs::Directory(row.entry.meta),
            _ => Theirs::Other,
        };
        self.0.insert(row.entry.path, theirs);
    }

    /// A later layer of ours has decided this.
    fn settle(&mut self, row: &Row) {
        let path = &row.entry.path;
        self.0.remove(path);
        if !matches!(row.entry.kind, Kind::Directory) {
            let below: Vec<RelPath> = self.below(path).cloned().collect();
            for path in below {
                self.0.remove(&path);
            }
        }
    }

    fn below<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
        self.0
            .range(path.clone()..)
            .map(|(p, _)| p)
            .take_while(|p| p.starts_with(path))
            .filter(move |p| *p != path)
    }

    /// Whether a plan would put files of a database of ours beside such of others: these are one thing.
    fn mixes(&self, plan: &Plan, path: &RelPath) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return false };
        let database =
            DATABASE_FILES.iter().rev().find_map(|suffix| name.strip_suffix(*suffix)).unwrap_or(name);
        DATABASE_FILES.iter().any(|suffix| {
            let member = parent.join(&[database, suffix].concat());
            matches!(self.0.get(&member), Some(Theirs::Removed | Theirs::Other))
                && plan.get(&member).is_none()
        })
    }

    /// The paths of a plan that others changed as well; `None` if what the plan sets would stand in nothing, or be half
    /// of a database.
    fn overlap(&self, plan: &Plan) -> Option<Vec<RelPath>> {
        let mut both = Vec::new();
        for (path, change) in plan.changes() {
            if self.mixes(plan, path) {
                return None;
            }
            let theirs = self.0.get(path);
            let (ours, removed) = match change {
                Change::Put(captured) => (Some(captured).filter(|c| c.ident.file_type().is_dir()), false),
                Change::Remove => (None, true),
            };
            let is_dir = ours.is_some();
            let same = match theirs {
                None => true,
                // Whoever adds or removes a name in it changes its times, and means nothing by that.
                Some(Theirs::Directory(theirs)) => {
                    ours.is_some_and(|ours| ours.meta.is_but_for_times(theirs))
                }
                Some(Theirs::Removed) => removed,
                Some(Theirs::Other) => false,
            };
            let hides = !is_dir && self.below(path).next().is_some();
            let mut undone = false;
            for above in path.ancestors().filter(|above| !above.is_root()) {
                if !matches!(self.0.get(&above), Some(Theirs::Removed | Theirs::Other)) || removed {
                    continue;
                }
                // Our layer must say that there is a directory again.
                let again = matches!(plan.get(&above), Some(Change::Put(c)) if c.ident.file_type().is_dir());
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
}

impl Committer {
    /// The document that has `layer` on top of `theirs`; `None` if the two do not go together.
    pub(super) async fn merge(
        &self,
        line: &Head,
        plan: &Plan,
        (theirs, stored): (&Head, &Tag),
        layer: &LayerRef,
    ) -> Result<Option<(Head, Merge)>, CommitError> {
        if theirs.log != line.log && line.version > 0 || !theirs.lends(&layer.refers) {
            return Ok(None);
        }
        let foreign = match self.foreign(line, theirs).await {
            Ok(foreign) => foreign,
            // Layers that say nothing of themselves, as imported ones, cannot be compared.
            Err(CommitError::Layer(e)) => {
                tracing::warn!(error = %e, "the layers of another writer cannot be compared with ours");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let Some(overlapping) = foreign.overlap(plan) else { return Ok(None) };
        let mut base = theirs.clone();
        let tag = (!overlapping.is_empty()).then(|| format!("{OVERLAP_TAG}{}", theirs.version));
        if let Some(tag) = &tag {
            make_room(&mut base);
            if base.tags.len() >= head::TAGS_MAX {
                return Ok(None); // it could not be found again
            }
            base = base.tagged(tag, Some(theirs.version), stored.clone());
        }
        let mut overlapping = overlapping;
        overlapping.truncate(PATHS_LISTED_MAX);
        Ok(Some((base, Merge { onto: theirs.version, overlapping, tag })))
    }

    /// What `theirs` has on top of `line`.
    async fn foreign(&self, line: &Head, theirs: &Head) -> Result<Foreign, CommitError> {
        let ours: HashSet<&str> = line.layers.iter().map(|layer| layer.key.as_str()).collect();
        // From the first layer that is not ours on; before that both are the same.
        let first = theirs.layers.iter().position(|layer| !ours.contains(layer.key.as_str()));
        let mut foreign = Foreign::default();
        for layer in theirs.layers.iter().skip(first.unwrap_or(theirs.layers.len())) {
            let tail: Bytes = self.table(layer).await?;
            let is_ours = ours.contains(layer.key.as_str());
            let (_, rows) = LayerIndex::read(&tail, layer.bytes)?;
            for row in rows {
                match (is_ours, row?) {
                    (true, row) => foreign.settle(&row),
                    (false, row) => foreign.add(row),
                }
            }
        }
        Ok(foreign)
    }
}

/// The oldest of our own tags go: each keeps a version.
fn make_room(head: &mut Head) {
    let ours =
        |tag: &String| tag.strip_prefix(OVERLAP_TAG).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let mut tags: Vec<(VersionId, String)> =
        head.tags.iter().filter(|(tag, _)| ours(tag)).map(|(tag, version)| (*version, tag.clone())).collect();
    tags.sort_unstable();
    let excess = (tags.len() + 1).saturating_sub(OVERLAP_TAGS_MAX);
    for (_, tag) in tags.drain(..excess) {
        head.tags.remove(&tag);
    }
}
