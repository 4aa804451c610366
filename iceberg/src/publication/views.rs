//! Views: the table as of a snapshot, or as a branch or a tag has it; written once somebody asks.
use super::folder::Folder;
use super::progress::Progress;
use super::sweep::numbers;
use super::version::{hinted, metadata_name};
use super::writer::{blocking, list_path};
use super::{Fault, Publication, ended};
use crate::document::Object;
use crate::error::TableError;
use crate::manifest::read_list;
use crate::mapping::escape_name;
use crate::metadata::{Reference, Snapshot, View, read_properties, spec_ids};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

impl Publication {
    /// Publishes `snapshots/<id>/`, the table as of that snapshot, with the schema it had then; returns its path
    /// below the folder. Once it is there it changes only if the table has moved, or has other properties that say how it
    /// is read: then there is another version of it.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such snapshot (any more).
    pub async fn snapshot(&self, id: i64) -> Result<String, TableError> {
        let snapshot = self.find(id)?;
        let path = format!("snapshots/{id}");
        if self.views.lock().contains(&id) {
            return Ok(path);
        }
        let wanted = Wanted {
            id,
            list: self.writer.uri(&list_path(id, &snapshot.manifests)),
            specs: self.metadata.own_specs(self.specs_of(snapshot).await?),
            properties: self.metadata.read_properties(),
        };
        let (folder, metadata) = (self.writer.folder.clone(), format!("{path}/metadata"));
        let (number, is_shown) = blocking(move || standing(&folder, &metadata, &wanted)).await?;
        if !is_shown {
            self.view(snapshot, &path, View::Snapshot(id), number).await?;
        }
        self.views.lock().insert(id);
        Ok(path)
    }

    /// Publishes `refs/<name>/`, the table as a branch or tag has it; returns its path below the folder. A branch
    /// has the schema of the table, a tag that of its snapshot. It is of this version: call it again after the
    /// next one is published.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such branch or tag (any more).
    pub async fn reference(&self, name: &str) -> Result<String, TableError> {
        let reference = match (self.metadata.refs.get(name), self.metadata.dangling.get(name)) {
            (Some(reference), _) => reference,
            (None, Some(dangling)) => return Err(dangles(name, dangling)),
            (None, None) => {
                return Err(TableError::NoSuch { what: format!("branch or tag '{name}'") });
            }
        };
        let path = format!("refs/{}", escape_name(name));
        self.view(self.find(reference.snapshot)?, &path, View::Reference(name), self.number).await?;
        Ok(path)
    }

    /// Why a snapshot cannot be shown, nor what is of it, as far as somebody has tried.
    pub fn fault(&self, snapshot: i64) -> Option<Fault> {
        self.broken.of(snapshot)
    }

    /// What cannot be shown of this version, as far as somebody has tried, by its path below the folder, and why.
    pub fn faults(&self) -> BTreeMap<String, String> {
        let broken = self.broken.all();
        let path = |name: &str| format!("refs/{}", escape_name(name));
        let snapshots = broken.iter().map(|(id, fault)| (format!("snapshots/{id}"), fault.why.clone()));
        let refs = self.metadata.refs.iter();
        let refs = refs.filter_map(|(name, is)| Some((path(name), broken.get(&is.snapshot)?.why.clone())));
        let dangling = self.metadata.dangling.iter();
        let dangling = dangling.map(|(name, was)| (path(name), dangles(name, was).to_string()));
        snapshots.chain(refs).chain(dangling).collect()
    }

    async fn view(
        &self,
        snapshot: &Snapshot,
        path: &str,
        view: View<'_>,
        number: u64,
    ) -> Result<(), TableError> {
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        let all = async {
            let there = ended(self.writer.snapshot(snapshot, &progress).await);
            self.broken.note(snapshot.id, &there);
            there?;
            let specs = self.specs_of(snapshot).await?;
            if let Some(metadata) = self.draft_version(path, view, &specs, number).await? {
                self.writer.place(metadata, &progress).await?;
            }
            self.hint(path, number, &progress).await
        };
        ended(all.await)
    }

    /// The snapshot that was the current one at a time: milliseconds since 1970, or `2026-01-31T12:00:00Z` (UTC as well
    /// without a zone), or `2026-01-31` (its first instant, UTC). `None` before the first, and if it has been expired.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] for what is no time.
    pub fn snapshot_at(&self, time: &str) -> Result<Option<i64>, TableError> {
        let ms = milliseconds(time).ok_or_else(|| TableError::NoSuch { what: format!("time '{time}'") })?;
        Ok(self.metadata.snapshot_at(ms))
    }

    /// Makes sure that a file below the folder which metadata names, but nobody has asked for yet (the list of an
    /// older snapshot), is there, and what it names.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if no metadata names it.
    pub async fn materialise(&self, path: &str) -> Result<(), TableError> {
        if self.writer.size(path).await?.is_some() {
            return Ok(());
        }
        match self.lists().get(path) {
            Some(n) => self.ensure(&self.metadata.snapshots[*n]).await,
            None => self.repair(self.names(path).await?).await,
        }
    }

    /// The snapshot whose list is the file of this path; `None` if it is no such list.
    pub fn snapshot_of(&self, path: &str) -> Option<i64> {
        self.lists().get(path).map(|n| self.metadata.snapshots[*n].id)
    }

    fn lists(&self) -> &HashMap<String, usize> {
        self.lists.get_or_init(|| {
            let lists = self.metadata.snapshots.iter().enumerate();
            lists.map(|(n, snapshot)| (list_path(snapshot.id, &snapshot.manifests), n)).collect()
        })
    }

    /// Whether the folder of a branch or tag that `old` has written is the one that this version would write.
    pub fn has_still(&self, old: &Self, name: &str) -> bool {
        let (was, is) = (old.metadata.refs.get(name), self.metadata.refs.get(name));
        was == is
            && is.is_some_and(|is| {
                self.metadata.has_still(&old.metadata, Some(is.snapshot))
                    && match is.is_branch {
                        true => self.metadata.is_read_as(&old.metadata),
                        // Its schema is that of the snapshot; what says how to read it is of the table.
                        false => self.metadata.read_properties() == old.metadata.read_properties(),
                    }
            })
    }

    /// The partition specs that the manifests of a snapshot are written by; none while its list is not there.
    async fn specs_of(&self, snapshot: &Snapshot) -> Result<BTreeSet<i64>, TableError> {
        let path = list_path(snapshot.id, &snapshot.manifests);
        match self.written(&path).await {
            Ok(list) => Ok(read_list(&list, &path)?.iter().map(|manifest| manifest.spec).collect()),
            Err(TableError::NoSuch { .. }) => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    /// A snapshot with a list that is there, and that names a manifest which is not.
    async fn names(&self, path: &str) -> Result<&Snapshot, TableError> {
        let none = || TableError::NoSuch { what: format!("file {path}") };
        if !path.starts_with("metadata/") || !path.ends_with(".avro") {
            return Err(none());
        }
        let lists: Vec<String> = self.lists().keys().cloned().collect();
        let (writer, manifest) = (self.writer.clone(), path.to_owned());
        let found = blocking(move || {
            for list in lists {
                let Some(bytes) = writer.folder.read(&list)? else { continue };
                let all = read_list(&bytes, &list)?;
                if all.iter().any(|named| writer.place.own_path(&named.path) == Some(&*manifest)) {
                    return Ok(Some(list));
                }
            }
            Ok(None)
        });
        let list = found.await?.ok_or_else(none)?;
        self.lists().get(&list).map(|n| &self.metadata.snapshots[*n]).ok_or_else(none)
    }

    /// Writes manifests that have gone anew.
    pub(super) async fn repair(&self, snapshot: &Snapshot) -> Result<(), TableError> {
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        let there = ended(self.writer.repair(snapshot, &progress).await);
        self.broken.note(snapshot.id, &there);
        there?;
        let folder = self.writer.folder.clone();
        blocking(move || folder.sync("metadata")).await
    }

    pub(super) async fn ensure(&self, snapshot: &Snapshot) -> Result<(), TableError> {
        if self.writer.size(&list_path(snapshot.id, &snapshot.manifests)).await?.is_some() {
            return Ok(());
        }
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        let there = ended(self.writer.snapshot(snapshot, &progress).await);
        self.broken.note(snapshot.id, &there);
        there?;
        // Published metadata names it already.
        let folder = self.writer.folder.clone();
        blocking(move || folder.sync("metadata")).await
    }
}

fn dangles(name: &str, reference: &Reference) -> TableError {
    let (kind, id) = (if reference.is_branch { "branch" } else { "tag" }, reference.snapshot);
    TableError::malformed(format!("{kind} '{name}'"), format!("the table has no snapshot {id}"))
}

/// What the metadata in the folder of a snapshot must have, so that the snapshot is read as the table has it now.
struct Wanted {
    id: i64,
    list: String,
    specs: BTreeSet<i64>,
    properties: BTreeMap<String, Value>,
}

impl Wanted {
    fn is_met(&self, object: &Object) -> Result<bool, String> {
        let snapshots: Vec<Object> = object.get("snapshots")?.unwrap_or_default();
        let own = snapshots.iter().find(|own| own.need("snapshot-id") == Ok(self.id));
        let own = own.ok_or("it has not the snapshot")?;
        Ok(own.need::<String>("manifest-list")? == self.list
            && spec_ids(object)?.is_superset(&self.specs)
            && read_properties(object)? == self.properties)
    }
}

/// The number that the folder of a snapshot should have, and whether it has, and shows, that version: of metadata that has
/// what is wanted. After a loss of power the hint may be there, but not what it said.
fn standing(folder: &Folder, metadata: &str, wanted: &Wanted) -> Result<(u64, bool), TableError> {
    let Some(newest) = numbers(folder, metadata)?.pop_last() else { return Ok((1, false)) };
    let is_met = || -> Result<bool, TableError> {
        let path = format!("{metadata}/{}", metadata_name(newest));
        let Some(bytes) = folder.read(&path)? else { return Ok(false) };
        let object: Result<Object, _> = serde_json::from_slice(&bytes);
        Ok(object.is_ok_and(|object| wanted.is_met(&object).unwrap_or(false)))
    };
    if !is_met()? {
        return Ok((newest + 1, false));
    }
    Ok((newest, hinted(folder, metadata)? == Some(newest)))
}

/// Milliseconds since 1970, of a number, an instant, or a time of day or a day without a zone, which is of UTC.
fn milliseconds(time: &str) -> Option<i64> {
    if let Ok(ms) = time.parse::<i64>() {
        return Some(ms);
    }
    if let Ok(at) = time.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    // Of what follows a day or a time of day, as a zone that it cannot do without, the parser says nothing.
    let (day, clock) = time.split_once(['T', 't', ' ']).unwrap_or((time, "00:00"));
    let is_day = matches!(day.len(), 8 | 10) && day.chars().all(|c| c.is_ascii_digit() || c == '-');
    let is_clock = clock.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'));
    let local: jiff::civil::DateTime = if is_day && is_clock { time.parse().ok()? } else { return None };
    Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn a_time_is_what_it_says_or_none() {
        let noon = 1_769_860_800_000;
        let midnight = noon - 12 * 3_600_000;
        for (text, ms) in [
            ("1769860800000", noon),
            ("-5", -5),
            ("2026-01-31T12:00:00Z", noon),
            ("2026-01-31T14:00:00+02:00", noon),
            ("2026-01-31T13:00+01:00[Europe/Rome]", noon),
            // Without a zone: UTC.
            ("2026-01-31T12:00:00", noon),
            ("2026-01-31 12:00:00", noon),
            ("2026-01-31t12:00", noon),
            ("2026-01-31T12", noon),
            ("20260131T120000", noon),
            ("2026-01-31T12:00:00.5", noon + 500),
            ("2026-01-31T23:59", midnight + (23 * 60 + 59) * 60_000),
            ("2026-01-31T00:00", midnight),
            ("2026-01-31", midnight),
        ] {
            assert_eq!(milliseconds(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "x",
            "yesterday",
            "2026-01-31T",
            "2026-01-31 ",
            "2026-01-31-08",
            "2026-01-32",
            "2026-02-29T12:00",
            "2026-01-31T25:00",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:00 UTC",
            "2026-01-31T12:00:00\u{2212}01:00",
            "2026-01-31T14:00[Europe/Rome]",
            "2026-01-31[Pacific/Auckland]",
            "2026-01-31Z",
            "2026-W05-6",
            "Sat, 31 Jan 2026 12:00:00 GMT",
            "99999999999999999999",
        ] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }
}
