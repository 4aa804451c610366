//! Two writers built on the same version: whoever comes second puts its layer on top of the other's.
//!
//! A layer says what changed, path by path. So where both changed different paths, the layer of the second on top
//! of those of the first is both. Where they changed the same path the second is newer, and the version of the
//! first gets a tag, by which its side can be restored. What cannot be put together so goes to a fork: a file of ours
//! in a directory that the first removed, and half of a database.
//!
//! The tree of the second does not have what the first changed. So it remembers its *line*: the version its tree
//! was made from and its own layers since. Each further commit is merged again, by what others have on top of the
//! line (`line`); and the records go on to say that the tree was made from the older version, so that the next start
//! brings the rest. What is in HEAD is kept short by whoever commits, on a line or not (`tidy`).
use super::foreign::Foreign;
use super::line::Since;
use super::*;

/// How often others may be faster while one commit is merged.
pub(super) const MERGE_ATTEMPTS: u32 = 64;
/// How many tags of versions that were overlapped are kept: the newest.
const OVERLAP_TAGS_MAX: usize = 100;
/// How these tags begin; the number of the version follows.
const OVERLAP_TAG: &str = "before-merge-";
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

/// A merge that is to be swapped in.
pub(super) struct Merging {
    /// What our layer goes on top of.
    pub(super) base: Head,
    pub(super) told: Merge,
    /// What others have changed by then.
    pub(super) foreign: Foreign,
}

impl Committer {
    /// What `layer` is to go on top of in `theirs`; `None` if the two do not go together.
    pub(super) async fn merge(
        &self,
        (line, since): (&Head, &Since),
        plan: &Plan,
        (theirs, stored): (&Head, &Tag),
        layer: &LayerRef,
    ) -> Result<Option<Merging>, CommitError> {
        if theirs.log != line.log && line.version > 0 || !theirs.lends(&layer.refers) {
            return Ok(None);
        }
        let foreign = match self.foreign(line, since, theirs).await {
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
            if !make_room(&mut base) {
                return Ok(None); // it could not be found again
            }
            base = base.tagged(tag, Some(theirs.version), stored.clone());
        }
        let mut overlapping = overlapping;
        overlapping.truncate(PATHS_LISTED_MAX);
        let told = Merge { onto: theirs.version, overlapping, tag };
        Ok(Some(Merging { base, told, foreign }))
    }
}

/// Gives a version that the next one overlaps its tag, if there is room for one.
pub(super) fn tag_overlapped(next: &mut Head, overlapped: Option<VersionId>) {
    if let Some(version) = overlapped.filter(|version| *version < next.version)
        && make_room(next)
    {
        next.tags.insert(format!("{OVERLAP_TAG}{version}"), version);
    }
}

/// The oldest of our own tags go: each keeps a version. Whether there is room for one more.
fn make_room(head: &mut Head) -> bool {
    let ours =
        |tag: &String| tag.strip_prefix(OVERLAP_TAG).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let mut tags: Vec<(VersionId, String)> =
        head.tags.iter().filter(|(tag, _)| ours(tag)).map(|(tag, version)| (*version, tag.clone())).collect();
    tags.sort_unstable();
    let excess = (tags.len() + 1).saturating_sub(OVERLAP_TAGS_MAX);
    for (_, tag) in tags.drain(..excess) {
        head.tags.remove(&tag);
    }
    head.tags.len() < head::TAGS_MAX
}
