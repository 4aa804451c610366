//! The next version of a table: what it has that the one before has not, found while it is written.
use super::listed::{Leaves, Listed};
use super::live::{LiveFile, live_file};
use super::progress::{Halt, Progress};
use super::writer::{Draft, blocking};
use super::{Place, Publication, ended};
use crate::error::TableError;
use crate::manifest::Entry;
use crate::metadata::{Snapshot, View};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

/// So many manifests of one version are read at once.
const READ_AT_ONCE: usize = 4;

/// What one version has that another has not: files that are shown as they are.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    pub added: Vec<LiveFile>,
    pub removed: Vec<LiveFile>,
}

/// A version of which as much is known as its metadata and the list of its current snapshot say.
pub(super) struct Begun {
    /// `None`: it is there.
    listed: Option<Listed>,
    /// The same.
    metadata: Option<Draft>,
}

impl Publication {
    /// The list is fetched, and meanwhile the metadata is on its way to the disk.
    pub(super) async fn begin(&self) -> Result<Begun, TableError> {
        let current = self.metadata.current_snapshot.map(|id| self.find(id)).transpose()?;
        let listed = async {
            match current {
                Some(snapshot) => self.writer.listed(snapshot).await,
                None => Ok(None),
            }
        };
        let none = BTreeSet::new();
        let (listed, metadata) =
            futures::try_join!(listed, self.draft_version("", View::Current, &none, self.number))?;
        Ok(Begun { listed, metadata })
    }

    pub(super) async fn leaves(
        &self,
        begun: &Begun,
        keep: bool,
        progress: &Progress<'_>,
    ) -> Result<Leaves, Halt> {
        match &begun.listed {
            Some(listed) => self.writer.manifests(listed, keep, progress).await,
            None => Ok(Leaves::default()),
        }
    }

    /// Lists, then the metadata.
    pub(super) async fn finish(
        &self,
        begun: Begun,
        leaves: Leaves,
        progress: &Progress<'_>,
    ) -> Result<(), Halt> {
        if let Some(listed) = begun.listed {
            self.writer.list(listed, leaves, progress).await?;
        }
        // Before the metadata was there all that it needs was, as far as it could be had.
        let Some(metadata) = begun.metadata else { return Ok(()) };
        let mut ids: Vec<i64> = self.metadata.refs.values().map(|reference| reference.snapshot).collect();
        ids.sort_unstable();
        ids.dedup();
        let snapshots = ids.into_iter().map(|id| self.find(id)).collect::<Result<Vec<_>, _>>()?;
        self.others(&snapshots, progress).await?;
        self.writer.place(metadata, progress).await
    }

    /// What branches and tags need. Of what cannot be had the others do without.
    async fn others(&self, snapshots: &[&Snapshot], progress: &Progress<'_>) -> Result<(), Halt> {
        let all: Vec<&Snapshot> =
            snapshots.iter().copied().filter(|one| self.broken.of(one.id).is_none()).collect();
        let mut left = vec![&*all];
        while let Some(some) = left.pop() {
            match (self.writer.snapshots(some, progress).await, some) {
                (Err(Halt::Error(error)), [one]) if error.is_of_a_file() => {
                    self.broken.note(one.id, &Err::<(), _>(error));
                }
                // One of them is to blame; what is there by now is not asked for again.
                (Err(Halt::Error(error)), _) if error.is_of_a_file() => {
                    let (first, second) = some.split_at(some.len() / 2);
                    left.extend([second, first]);
                }
                (done, _) => done?,
            }
        }
        Ok(())
    }

    /// What could not be had for the version before is not asked for again, until somebody looks.
    pub(crate) fn take_faults(&self, old: &Self) {
        let all = old.broken.all().into_iter();
        self.broken.take(all.filter(|(id, _)| self.metadata.has_still(&old.metadata, Some(*id))));
    }

    /// [Writes](Self::write) this version, and says in what its current snapshot differs from that of `old`. Reads the
    /// manifests that only one of them has: those of `old` while the new ones are fetched, and of these what was read in
    /// order to rewrite them.
    pub(crate) async fn write_after(&self, old: &Self) -> Result<Sides, TableError> {
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        let mut sides = Sides::default();
        let all = async {
            let (begun, before) = futures::try_join!(self.begin(), old.current_manifests())?;
            let after = match &begun.listed {
                Some(listed) => listed.paths(),
                None => self.current_manifests().await?,
            };
            // A rewritten manifest has one path for all versions, unless the folder is another.
            let same_folder = old.place().folder == self.place().folder;
            let (gone, came) = if same_folder { apart(&before, &after) } else { (before, after) };
            let old_side = async { Ok::<_, Halt>(old.entries(gone).await?) };
            let (mut leaves, gone) = futures::try_join!(self.leaves(&begun, true, &progress), old_side)?;
            let (mut here, mut there) = (Vec::new(), Vec::new());
            for path in came {
                match leaves.entries.remove(&path) {
                    Some(entries) => here.extend(entries),
                    None => there.push(path),
                }
            }
            here.extend(self.entries(there).await?);
            let (places, one) = ((old.writer.place.clone(), self.writer.place.clone()), &mut sides);
            let compared = async {
                *one = blocking(move || Ok(compare((&places.0, gone), (&places.1, here)))).await?;
                Ok::<_, Halt>(())
            };
            futures::try_join!(self.finish(begun, leaves, &progress), compared)?;
            Ok(())
        };
        ended(all.await)?;
        Ok(sides)
    }

    async fn current_manifests(&self) -> Result<Vec<String>, TableError> {
        match self.metadata.current_snapshot {
            Some(snapshot) => self.manifests(snapshot).await,
            None => Ok(Vec::new()),
        }
    }

    /// The entries of rewritten manifests whose files are shown as they are.
    async fn entries(&self, manifests: Vec<String>) -> Result<Vec<Entry>, TableError> {
        let found = manifests.into_iter().map(|manifest| async move { self.entries_of(&manifest).await });
        stream::iter(found).buffered(READ_AT_ONCE).try_concat().await
    }
}

/// Of two lists what only one of them has, each once.
fn apart(before: &[String], after: &[String]) -> (Vec<String>, Vec<String>) {
    let only = |all: &[String], but: &[String]| {
        let mut seen: HashSet<&String> = but.iter().collect();
        all.iter().filter(|path| seen.insert(path)).cloned().collect()
    };
    (only(before, after), only(after, before))
}

/// What only one of two versions has, by the path of the object below the mount; of one path both, where the file is another
/// one by now: it has another size, or it was removed and has come again. Most of it both have, as a rule: only what is left
/// is made a file of.
fn compare((old, before): (&Place, Vec<Entry>), (new, after): (&Place, Vec<Entry>)) -> Sides {
    fn by_path<'a>(place: &Place, all: &'a [Entry]) -> HashMap<&'a str, &'a Entry> {
        all.iter().filter_map(|entry| Some((place.mapping.path_of(&entry.path)?, entry))).collect()
    }
    let (was, is) = (by_path(old, &before), by_path(new, &after));
    // An entry that both have is of a manifest that was made for both.
    let is_same_folder = old.folder == new.folder;
    let is_another = |was: &Entry, is: &Entry| was.size != is.size || is_same_folder && is.came;
    let added = after.iter().filter(|is| {
        new.mapping.path_of(&is.path).is_some_and(|path| was.get(path).is_none_or(|was| is_another(was, is)))
    });
    let removed = before.iter().filter(|was| {
        old.mapping.path_of(&was.path).is_some_and(|path| is.get(path).is_none_or(|is| is_another(was, is)))
    });
    Sides {
        added: added.filter_map(|entry| live_file(&new.mapping, entry)).collect(),
        removed: removed.filter_map(|entry| live_file(&old.mapping, entry)).collect(),
    }
}
