//! [`Writer`]: rewrites lists, manifests and deletes into the folder, from the leaves up.
use super::folder::Folder;
use super::progress::{Halt, Progress};
use super::{Content, Place, Step, StepKind};
use crate::deletes::{DELETES_MAX_BYTES, Facts, facts, new_format, rewrite_deletes};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::{
    Bounds, Entry, EntryChange, MANIFEST_MAX_BYTES, MetricsChange, Status, inline_list, read_list,
    read_manifest, rewrite_list, rewrite_manifest,
};
use crate::mapping::{Mapping, rewritten_name, rewritten_name_as};
use crate::metadata::{Manifests, Snapshot};
use crate::objects::Objects;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// So many manifests of a list are rewritten at once.
const MANIFESTS_AT_ONCE: usize = 16;
/// So many files of deletes are in memory at once.
const DELETES_AT_ONCE: usize = 4;

/// Rewrites files of one table into its folder. Clones share the bounds on what is done at once.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub objects: Arc<dyn Objects>,
    pub place: Arc<Place>,
    pub folder: Folder,
    deletes: Arc<Semaphore>,
}

/// The path of a manifest list below the folder.
pub(super) fn list_path(snapshot: i64, manifests: &Manifests) -> String {
    match manifests {
        Manifests::List(location) => format!("metadata/{}", rewritten_name(location)),
        Manifests::Inline(locations) => {
            let mut hasher = blake3::Hasher::new();
            for location in locations {
                hasher.update(location.as_str().as_bytes()).update(&[0]);
            }
            format!("metadata/snap-{snapshot}.{}.avro", &hasher.finalize().to_hex()[..16])
        }
    }
}

/// The path of a rewritten manifest below the folder.
fn manifest_path(location: &Location) -> String {
    format!("metadata/{}", rewritten_name(location))
}

/// The path of a rewritten file of deletes below the folder. `format` is the one it has before that.
fn deletes_path(location: &Location, format: &str) -> String {
    let name = match new_format(format) {
        Some(format) => rewritten_name_as(location, &format.to_ascii_lowercase()),
        None => rewritten_name(location),
    };
    format!("deletes/{name}")
}

/// A location in a file of the table.
fn location(text: &str, file: &str) -> Result<Location, TableError> {
    text.parse::<Location>().map_err(|error| TableError::malformed(file, error.to_string()))
}

/// Runs `work` where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(TableError::malformed("folder of the table", "the program is ending")),
    }
}

impl Writer {
    pub fn new(objects: Arc<dyn Objects>, place: Arc<Place>, folder: Folder) -> Self {
        Self { objects, place, folder, deletes: Arc::new(Semaphore::new(DELETES_AT_ONCE)) }
    }

    /// The URI of a path below the folder.
    pub fn uri(&self, path: &str) -> String {
        self.place.mapping.uri(&format!("{}/{path}", self.place.path))
    }

    /// Makes sure that the list of a snapshot is there, and before it whatever it names.
    pub async fn list(&self, snapshot: &Snapshot, progress: &Progress<'_>) -> Result<(), Halt> {
        let path = list_path(snapshot.id, &snapshot.manifests);
        if self.size(&path).await?.is_some() {
            return Ok(());
        }
        let bytes = match &snapshot.manifests {
            Manifests::List(from) => {
                let raw = self.objects.get(from, MANIFEST_MAX_BYTES).await.map_err(TableError::from)?;
                let listed = read_list(&raw, from.name())?;
                let froms: Result<Vec<_>, _> =
                    listed.iter().map(|manifest| location(&manifest.path, from.as_str())).collect();
                rewrite_list(&raw, from.name(), &self.manifests(froms?, progress).await?)?
            }
            Manifests::Inline(froms) => {
                let written = self.manifests(froms.clone(), progress).await?;
                let mut listed = Vec::with_capacity(written.len());
                for (from, (uri, size)) in froms.iter().zip(written) {
                    listed.push((uri, size, self.spec_of(&manifest_path(from)).await?));
                }
                inline_list(snapshot.id, &listed)
            }
        };
        self.write(StepKind::ManifestList, path, bytes, progress).await
    }

    /// Rewrites manifests, several at once; their URIs and sizes in the same order. One that is there is not read: a
    /// commit costs what it has changed.
    async fn manifests(
        &self,
        froms: Vec<Location>,
        progress: &Progress<'_>,
    ) -> Result<Vec<(String, u64)>, Halt> {
        // Owned, so that the stream borrows nothing that it hands on.
        stream::iter(froms.into_iter().map(|from| async move { self.manifest(&from, progress).await }))
            .buffered(MANIFESTS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn manifest(&self, from: &Location, progress: &Progress<'_>) -> Result<(String, u64), Halt> {
        let path = manifest_path(from);
        let uri = self.uri(&path);
        if let Some(size) = self.size(&path).await? {
            return Ok((uri, size));
        }
        let raw = self.objects.get(from, MANIFEST_MAX_BYTES).await.map_err(TableError::from)?;
        let (raw, name) = (raw, from.name().to_owned());
        let (raw, name, entries) = blocking(move || {
            let (_, entries) = read_manifest(&raw, &name)?;
            Ok((raw, name, entries))
        })
        .await?;
        let mut known = HashMap::new();
        for entry in
            entries.iter().filter(|e| e.status == Status::Live && e.content == Content::PositionDeletes)
        {
            if !known.contains_key(&entry.path) {
                known.insert(entry.path.clone(), self.deletes(entry, from, progress).await?);
            }
        }
        let (place, file) = (self.place.clone(), from.clone());
        let bytes = blocking(move || {
            let changes: Result<Vec<_>, _> = entries
                .iter()
                .map(|entry| change(&place, entry, known.get(&entry.path), file.as_str()))
                .collect();
            rewrite_manifest(&raw, &name, &changes?)
        })
        .await?;
        let size = bytes.len() as u64;
        self.write(StepKind::Manifest, path, bytes, progress).await?;
        Ok((uri, size))
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

    /// Makes sure that a file of deletes is there; its size, and what manifests say of it.
    async fn deletes(
        &self,
        entry: &Entry,
        manifest: &Location,
        progress: &Progress<'_>,
    ) -> Result<(u64, Facts), Halt> {
        let from = location(&entry.path, manifest.as_str())?;
        let path = deletes_path(&from, &entry.format);
        let becomes = new_format(&entry.format).map_or_else(|| entry.format.clone(), str::to_owned);
        let _turn = self.deletes.acquire().await;
        let (folder, own, format) = (self.folder.clone(), path.clone(), becomes.clone());
        let there = blocking(move || {
            let Some(bytes) = folder.read(&own)? else { return Ok(None) };
            Ok(Some((bytes.len() as u64, facts(&format, bytes, &own)?)))
        })
        .await?;
        if let Some(there) = there {
            return Ok(there);
        }
        let raw = self.objects.get(&from, DELETES_MAX_BYTES).await.map_err(TableError::from)?;
        let (mapping, name) = (self.place.mapping.clone(), from.as_str().to_owned());
        let (format, rows) = (entry.format.clone(), entry.rows);
        let (bytes, facts) = blocking(move || {
            let map = |path: &str| object_uri(&mapping, path).map_err(|error| error.to_string());
            let bytes = bytes::Bytes::from(rewrite_deletes(&format, &raw, rows, &name, map)?);
            let facts = facts(&becomes, bytes.clone(), &name)?;
            Ok((bytes, facts))
        })
        .await?;
        let size = bytes.len() as u64;
        self.write(StepKind::Deletes, path, bytes, progress).await?;
        Ok((size, facts))
    }

    pub async fn size(&self, path: &str) -> Result<Option<u64>, TableError> {
        let (folder, path) = (self.folder.clone(), path.to_owned());
        blocking(move || folder.size(&path)).await
    }

    pub async fn write(
        &self,
        kind: StepKind,
        path: String,
        bytes: impl Into<bytes::Bytes>,
        progress: &Progress<'_>,
    ) -> Result<(), Halt> {
        progress.check()?;
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        let (folder, own) = (self.folder.clone(), path.clone());
        blocking(move || folder.write(&own, &bytes)).await?;
        progress.done(Step { kind, path, size })
    }
}

fn object_uri(mapping: &Mapping, path: &str) -> Result<String, crate::location::LocationError> {
    Ok(mapping.object_uri(&path.parse()?))
}

/// What becomes of an entry; `deletes` is there for live position deletes.
fn change(
    place: &Place,
    entry: &Entry,
    deletes: Option<&(u64, Facts)>,
    file: &str,
) -> Result<EntryChange, TableError> {
    let own = location(&entry.path, file)?;
    let fault = |error: crate::location::LocationError| TableError::malformed(file, error.to_string());
    let referenced = entry
        .referenced
        .as_deref()
        .map(|path| object_uri(&place.mapping, path))
        .transpose()
        .map_err(fault)?;
    if entry.content != Content::PositionDeletes {
        let (path, metrics) = (place.mapping.object_uri(&own), MetricsChange::default());
        return Ok(EntryChange { path, size: None, format: None, referenced, splits: None, metrics });
    }
    let path = place.mapping.uri(&format!("{}/{}", place.path, deletes_path(&own, &entry.format)));
    let format = new_format(&entry.format);
    Ok(match deletes {
        Some((size, facts)) => {
            let bounds = facts.bounds.clone().map_or(Bounds::Drop, |(low, high)| Bounds::Set(low, high));
            let metrics = MetricsChange { bounds, sizes: facts.sizes.clone(), fewer: format.is_some() };
            EntryChange { path, size: Some(*size), format, referenced, splits: facts.splits.clone(), metrics }
        }
        // It is gone, and its file may be: nobody opens it.
        None => {
            let metrics = MetricsChange { bounds: Bounds::Drop, ..MetricsChange::default() };
            EntryChange { path, size: None, format, referenced, splits: None, metrics }
        }
    })
}
