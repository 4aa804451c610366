//! [`Listed`]: a manifest list that is not there yet, and what it names.
use super::progress::{Halt, Progress};
use super::underway::Underway;
use super::writer::{Writer, blocking, list_path, location};
use super::{Step, StepKind};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::{Entry, MANIFEST_MAX_BYTES, inline_list, read_list, read_manifest, rewrite_list};
use crate::mapping::rewritten_name;
use crate::metadata::{Manifests, Snapshot};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashMap;

/// So many manifests of a list are fetched and rewritten at once.
const MANIFESTS_AT_ONCE: usize = 16;
/// So many lists are fetched, or written, at once.
const LISTS_AT_ONCE: usize = 16;
/// So many lists of branches and tags are in memory at once.
const LISTS_IN_MEMORY: usize = 64;

/// A manifest list that is not there yet, and what it names.
#[derive(Debug)]
pub(super) struct Listed {
    /// Its path below the folder.
    path: String,
    manifests: Vec<Named>,
    source: Source,
}

/// A manifest, as a list names it.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// Where it is.
    pub from: Location,
    /// What it becomes: a path below the folder.
    pub path: String,
    /// Whether it lists deletes, as the list says.
    pub deletes: bool,
    /// What it has become is there, and has so many bytes.
    size: Option<u64>,
}

/// What a list is made from.
#[derive(Debug)]
enum Source {
    /// The list of the table, and its name.
    List(Bytes, String),
    /// Metadata that names the manifests of this snapshot itself.
    Inline(i64),
}

/// The manifests of a list: all are there or on their way.
#[derive(Default)]
pub(super) struct Leaves {
    /// In the order of the list.
    sizes: Vec<u64>,
    /// Of those that were rewritten, by their paths, the entries of files that are shown as they are.
    pub entries: HashMap<String, Vec<Entry>>,
    underway: Underway,
}

impl Listed {
    /// The paths of the rewritten manifests, below the folder.
    pub fn paths(&self) -> Vec<String> {
        self.manifests.iter().map(|manifest| manifest.path.clone()).collect()
    }
}

impl Writer {
    /// Makes sure that the list of a snapshot is there, and before it whatever it names.
    pub async fn snapshot(&self, snapshot: &Snapshot, progress: &Progress<'_>) -> Result<(), Halt> {
        let Some(listed) = self.listed(snapshot).await? else { return Ok(()) };
        let leaves = self.manifests(&listed, false, progress).await?;
        self.list(listed, leaves, progress).await
    }

    /// The same for many snapshots: several lists are fetched at once, and a manifest that more than one of them names is
    /// rewritten once.
    pub async fn snapshots(&self, snapshots: &[&Snapshot], progress: &Progress<'_>) -> Result<(), Halt> {
        for some in snapshots.chunks(LISTS_IN_MEMORY) {
            let listed = some.iter().map(|snapshot| self.listed(snapshot)).collect::<Vec<_>>();
            let listed: Vec<_> = stream::iter(listed).buffered(LISTS_AT_ONCE).try_collect().await?;
            let listed: Vec<Listed> = listed.into_iter().flatten().collect();
            let (mut all, mut numbers) = (Vec::new(), HashMap::new());
            for named in listed.iter().flat_map(|listed| &listed.manifests) {
                numbers.entry(named.path.clone()).or_insert_with(|| {
                    all.push(named.clone());
                    all.len() - 1
                });
            }
            let Leaves { sizes, underway, .. } = self.all(&all, false, progress).await?;
            underway.ended(progress).await?;
            let written = listed.into_iter().map(|listed| {
                let sizes = listed.manifests.iter().map(|named| sizes[numbers[&named.path]]).collect();
                self.list(listed, Leaves { sizes, ..Leaves::default() }, progress)
            });
            let written = written.collect::<Vec<_>>();
            stream::iter(written).buffer_unordered(LISTS_AT_ONCE).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Makes sure that the manifests of a list that is there are there as well.
    pub async fn repair(&self, snapshot: &Snapshot, progress: &Progress<'_>) -> Result<(), Halt> {
        let listed = self.named(snapshot).await?;
        self.manifests(&listed, false, progress).await?.underway.ended(progress).await
    }

    /// What the list of a snapshot names; `None` if it is there.
    pub async fn listed(&self, snapshot: &Snapshot) -> Result<Option<Listed>, TableError> {
        match self.size(&list_path(snapshot.id, &snapshot.manifests)).await? {
            Some(_) => Ok(None),
            None => self.named(snapshot).await.map(Some),
        }
    }

    async fn named(&self, snapshot: &Snapshot) -> Result<Listed, TableError> {
        let path = list_path(snapshot.id, &snapshot.manifests);
        let (froms, source) = match &snapshot.manifests {
            Manifests::List(from) => {
                let raw = self.objects.get(from, MANIFEST_MAX_BYTES).await?;
                (Vec::new(), Source::List(raw, from.name().to_owned()))
            }
            Manifests::Inline(froms) => (froms.clone(), Source::Inline(snapshot.id)),
        };
        let folder = self.folder.clone();
        // All at once: a list may have thousands, of which a commit has changed few.
        blocking(move || {
            let mut named: Vec<_> = froms.into_iter().map(|from| (from, false)).collect();
            if let Source::List(raw, name) = &source {
                for manifest in read_list(raw, name)? {
                    named.push((location(&manifest.path, name)?, manifest.deletes));
                }
            }
            let mut manifests = Vec::with_capacity(named.len());
            for (from, deletes) in named {
                let path = format!("metadata/{}", rewritten_name(&from));
                let size = folder.size(&path)?;
                manifests.push(Named { from, path, deletes, size });
            }
            Ok(Listed { path, manifests, source })
        })
        .await
    }

    /// Rewrites the manifests of a list, several at once. One that is there is not read: a commit costs what it has
    /// changed. `keep`: whoever wants to know what has changed gets the entries of the others.
    pub async fn manifests(
        &self,
        listed: &Listed,
        keep: bool,
        progress: &Progress<'_>,
    ) -> Result<Leaves, Halt> {
        self.all(&listed.manifests, keep, progress).await
    }

    async fn all(&self, manifests: &[Named], keep: bool, progress: &Progress<'_>) -> Result<Leaves, Halt> {
        let mut leaves = Leaves::default();
        let made = self.rewrite_missing(manifests, keep, &mut leaves, progress).await;
        match made {
            Ok(()) => Ok(leaves),
            Err(halt) => {
                // What has begun is of use to another attempt.
                let _others = leaves.underway.ended(progress).await;
                Err(halt)
            }
        }
    }

    async fn rewrite_missing(
        &self,
        manifests: &[Named],
        keep: bool,
        leaves: &mut Leaves,
        progress: &Progress<'_>,
    ) -> Result<(), Halt> {
        leaves.sizes = manifests.iter().map(|manifest| manifest.size.unwrap_or(0)).collect();
        // Owned, so that the stream borrows nothing that it hands on.
        let all = manifests.iter().enumerate();
        let missing: Vec<_> =
            all.filter(|(_, one)| one.size.is_none()).map(|(n, one)| (n, one.clone())).collect();
        let made = missing.into_iter().map(|(n, named)| async move {
            let made = self.manifest(&named, keep, progress).await?;
            Ok::<_, Halt>((n, named.path, made))
        });
        let mut made = stream::iter(made).buffer_unordered(MANIFESTS_AT_ONCE);
        while let Some((n, path, made)) = made.try_next().await? {
            leaves.sizes[n] = made.size;
            leaves.entries.insert(path.clone(), made.entries);
            let (folder, staged, has_deletes) = (self.folder.clone(), made.staged, made.has_deletes);
            let place = move || {
                staged.sync()?;
                if has_deletes {
                    folder.sync("deletes")?; // it names what is there
                }
                staged.place()
            };
            let step = Step { kind: StepKind::Manifest, path, size: made.size };
            leaves.underway.add(step, place, progress).await?;
        }
        Ok(())
    }

    /// Writes a list of manifests that are on their way, as soon as they are there.
    pub async fn list(&self, listed: Listed, leaves: Leaves, progress: &Progress<'_>) -> Result<(), Halt> {
        let Listed { path, manifests, source } = listed;
        let Leaves { sizes, underway, .. } = leaves;
        let uris: Vec<String> = manifests.iter().map(|manifest| self.uri(&manifest.path)).collect();
        let draft = match source {
            Source::List(raw, name) => {
                let draft = self.draft(StepKind::ManifestList, path, move || {
                    let written: Vec<_> = uris.into_iter().zip(sizes).collect();
                    rewrite_list(&raw, &name, &written)
                });
                let (draft, ended) = futures::join!(draft, underway.ended(progress));
                ended?;
                draft?
            }
            Source::Inline(snapshot) => {
                underway.ended(progress).await?;
                let mut written = Vec::with_capacity(uris.len());
                for ((manifest, uri), size) in manifests.iter().zip(uris).zip(sizes) {
                    written.push((uri, size, self.spec_of(&manifest.path).await?));
                }
                let list = move || Ok(inline_list(snapshot, &written));
                self.draft(StepKind::ManifestList, path, list).await?
            }
        };
        self.place(draft, progress).await
    }

    /// The partition spec of a manifest that is there; only lists that we make ourselves need it.
    async fn spec_of(&self, path: &str) -> Result<i64, TableError> {
        let (folder, path) = (self.folder.clone(), path.to_owned());
        blocking(move || match folder.read(&path)? {
            Some(bytes) => Ok(read_manifest(&bytes, &path)?.0),
            None => Ok(0),
        })
        .await
    }
}
