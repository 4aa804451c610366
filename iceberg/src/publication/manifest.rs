//! One manifest and what it lists: rewritten deletes, then the manifest that states their sizes.
use super::folder::Staged;
use super::listed::Named;
use super::progress::{Halt, Progress};
use super::writer::{Writer, blocking, location};
use super::{Content, Place, Step, StepKind};
use crate::deletes::{DELETES_MAX_BYTES, Facts, facts, new_format, rewrite_deletes};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::{
    Bounds, Entry, EntryChange, MANIFEST_MAX_BYTES, MetricsChange, Status, read_manifest, rewrite_manifest,
};
use crate::mapping::{Mapping, rewritten_name, rewritten_name_as};
use crate::objects::ObjectError;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// So many files of deletes of one manifest are asked for at once, as far as there is room for them.
const ASKED_AT_ONCE: usize = 16;
/// A file of deletes that has more bytes takes as much room as so many others.
const SMALL_MAX_BYTES: u64 = 8 << 20;
const LARGE_ONE: u32 = 4;

/// A manifest that is written aside.
pub(super) struct Made {
    pub staged: Staged,
    pub size: u64,
    /// Of files that are shown as they are, if somebody wants to know.
    pub entries: Vec<Entry>,
    /// Whether it names files of deletes.
    pub has_deletes: bool,
}

/// Files of deletes that are there, by where they come from: their sizes, and what manifests say of them.
type Deletes = HashMap<String, (u64, Facts)>;

/// The path of a rewritten file of deletes below the folder. `format` is the one it has before that.
fn deletes_path(location: &Location, format: &str) -> String {
    let name = match new_format(format) {
        Some(format) => rewritten_name_as(location, &format.to_ascii_lowercase()),
        None => rewritten_name(location),
    };
    format!("deletes/{name}")
}

/// Whether it is a file of deletes that must be there before its manifest is.
fn needs_deletes(entry: &Entry) -> bool {
    entry.status == Status::Live && entry.content == Content::PositionDeletes
}

/// Whether its file is there, and shown as it is.
pub(super) fn is_shown(entry: &Entry) -> bool {
    entry.status == Status::Live && entry.content != Content::PositionDeletes
}

impl Writer {
    /// Rewrites a manifest, and before it the deletes that it lists.
    pub(super) async fn manifest(
        &self,
        named: &Named,
        keep: bool,
        progress: &Progress<'_>,
    ) -> Result<Made, Halt> {
        let raw = self.objects.get(&named.from, MANIFEST_MAX_BYTES).await.map_err(TableError::from)?;
        let mut deletes = None;
        if named.deletes {
            deletes = Some(self.deletes_of(&raw, &named.from, progress).await?);
        }
        if let Some(made) = self.rewritten(&raw, named, deletes, keep).await? {
            return Ok(made);
        }
        // It has deletes, although its list does not say so.
        let deletes = self.deletes_of(&raw, &named.from, progress).await?;
        let made = self.rewritten(&raw, named, Some(deletes), keep).await?;
        let changed = || TableError::malformed(named.from.as_str(), "it has changed while it was read");
        Ok(made.ok_or_else(changed)?)
    }

    /// A manifest is read and rewritten in one go, but for `deletes`, which must be known before that. `None`: they are
    /// not, and it has some.
    async fn rewritten(
        &self,
        raw: &Bytes,
        named: &Named,
        deletes: Option<Deletes>,
        keep: bool,
    ) -> Result<Option<Made>, TableError> {
        let (place, folder, raw, named) =
            (self.place.clone(), self.folder.clone(), raw.clone(), named.clone());
        blocking(move || {
            let (file, lacks) = (named.from.as_str(), AtomicBool::new(false));
            let change = |entry: &Entry| {
                if deletes.is_none() && needs_deletes(entry) {
                    lacks.store(true, Relaxed);
                }
                change(&place, entry, deletes.as_ref().and_then(|known| known.get(&entry.path)), file)
            };
            let keep = |entry: &Entry| keep && is_shown(entry);
            let (bytes, entries) = rewrite_manifest(&raw, named.from.name(), change, keep)?;
            if lacks.load(Relaxed) {
                return Ok(None);
            }
            let staged = folder.stage(&named.path, &bytes)?;
            let has_deletes = deletes.is_some_and(|known| !known.is_empty());
            Ok(Some(Made { staged, size: bytes.len() as u64, entries, has_deletes }))
        })
        .await
    }

    /// Makes sure that the deletes which a manifest lists are there.
    async fn deletes_of(
        &self,
        raw: &Bytes,
        manifest: &Location,
        progress: &Progress<'_>,
    ) -> Result<Deletes, Halt> {
        let (raw, name) = (raw.clone(), manifest.name().to_owned());
        let entries = blocking(move || Ok(read_manifest(&raw, &name)?.1)).await?;
        // A file of deletion vectors is named by each of them.
        let mut seen = HashSet::new();
        let named = entries.iter().filter(|entry| needs_deletes(entry) && seen.insert(&entry.path));
        let made = named.map(|entry| async move {
            Ok::<_, Halt>((entry.path.clone(), self.deletes(entry, manifest, progress).await?))
        });
        stream::iter(made.collect::<Vec<_>>()).buffered(ASKED_AT_ONCE).try_collect().await
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
        let becomes = new_format(&entry.format).unwrap_or(&entry.format).to_owned();
        let is_small = entry.size <= SMALL_MAX_BYTES;
        let mut turn = self.deletes.acquire_many(if is_small { 1 } else { LARGE_ONE }).await;
        let (folder, own, format) = (self.folder.clone(), path.clone(), becomes.clone());
        let there = blocking(move || {
            let Some(bytes) = folder.read(&own)? else { return Ok(None) };
            Ok(Some((bytes.len() as u64, facts(&format, bytes, &own)?)))
        })
        .await?;
        if let Some(there) = there {
            return Ok(there);
        }
        let limit = if is_small { SMALL_MAX_BYTES } else { DELETES_MAX_BYTES };
        let raw = match self.objects.get(&from, limit).await {
            Err(ObjectError::TooLarge { .. }) if is_small => {
                // Its manifest is wrong about it.
                drop(turn);
                turn = self.deletes.acquire_many(LARGE_ONE).await;
                self.objects.get(&from, DELETES_MAX_BYTES).await
            }
            raw => raw,
        };
        let raw = raw.map_err(TableError::from)?;
        let (mapping, name) = (self.place.mapping.clone(), from.as_str().to_owned());
        let (format, rows) = (entry.format.clone(), entry.rows);
        let (bytes, facts) = blocking(move || {
            let map = |path: &str| object_uri(&mapping, path).map_err(|error| error.to_string());
            let bytes = Bytes::from(rewrite_deletes(&format, &raw, rows, &name, map)?);
            let facts = facts(&becomes, bytes.clone(), &name)?;
            Ok((bytes, facts))
        })
        .await?;
        progress.check()?;
        let step = Step { kind: StepKind::Deletes, path: path.clone(), size: bytes.len() as u64 };
        let (folder, size) = (self.folder.clone(), step.size);
        blocking(move || folder.write(&path, &bytes)).await?;
        progress.done(step)?;
        drop(turn);
        Ok((size, facts))
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
