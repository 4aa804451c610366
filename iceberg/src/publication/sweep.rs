//! What may go from the folder: everything that no version which is kept leads to.
use super::folder::Folder;
use super::version::metadata_name;
use super::{Content, HINT, Place};
use crate::document::Object;
use crate::error::TableError;
use crate::manifest::{Status, read_list, read_manifest};
use crate::mapping::{escape_name, split_name};
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

/// What a sweep has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many files.
    pub files: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// Which versions stay readable for who has opened one: a version stays if all of these permit it. The newest
/// always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many.
    pub versions: usize,
    /// Those that were the current one less long ago.
    pub age: Option<Duration>,
    /// The newest, until their metadata, lists, manifests and deletes have so many bytes together.
    pub bytes: Option<u64>,
}

impl Default for Retention {
    /// The 16 newest.
    fn default() -> Self {
        Self { versions: 16, age: None, bytes: None }
    }
}

/// What stays.
#[derive(Default)]
struct Kept {
    files: HashSet<String>,
    /// The bytes of these.
    bytes: u64,
    snapshots: HashSet<String>,
    /// The oldest version that stays.
    oldest: u64,
}

impl Kept {
    /// A file stays; `false` if that is known already.
    fn file(&mut self, folder: &Folder, path: &str) -> Result<bool, TableError> {
        let new = self.files.insert(path.to_owned());
        if new {
            self.bytes += folder.size(path)?.unwrap_or(0);
        }
        Ok(new)
    }
}

/// Removes what no version that stays leads to; `refs` are the branches and tags there are.
pub(super) fn sweep<'a>(
    folder: &Folder,
    place: &Place,
    retention: Retention,
    refs: impl Iterator<Item = &'a String>,
) -> Result<Swept, TableError> {
    let kept = keep(folder, place, retention)?;
    let mut swept = Swept::default();
    for below in ["metadata", "deletes"] {
        for name in folder.names(below)? {
            let path = format!("{below}/{name}");
            if name != HINT && !kept.files.contains(&path) {
                swept.add(folder.remove(&path)?);
            }
        }
    }
    for id in folder.names("snapshots")? {
        if !kept.snapshots.contains(&id) {
            remove_view(folder, &format!("snapshots/{id}"), &mut swept)?;
        }
    }
    let refs: HashSet<String> = refs.map(|name| escape_name(name)).collect();
    for name in references(folder)? {
        let path = format!("refs/{name}");
        if !refs.contains(&name) {
            remove_view(folder, &path, &mut swept)?;
            continue;
        }
        for number in numbers(folder, &format!("{path}/metadata"))? {
            if number < kept.oldest {
                swept.add(folder.remove(&format!("{path}/metadata/{}", metadata_name(number)))?);
            }
        }
    }
    Ok(swept)
}

impl Swept {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// The branches and tags that are there, as their folders are called: a long name is a folder in a folder.
fn references(folder: &Folder) -> Result<Vec<String>, TableError> {
    let (mut found, mut parts) = (Vec::new(), vec![String::new()]);
    while let Some(part) = parts.pop() {
        for name in folder.names(&format!("refs/{part}"))? {
            let name = format!("{part}{name}");
            match split_name(&name) {
                Some(_) => found.push(name),
                None => parts.push(format!("{name}/")),
            }
        }
    }
    Ok(found)
}

/// The numbers of the versions in a folder `metadata`.
pub(super) fn numbers(folder: &Folder, path: &str) -> Result<BTreeSet<u64>, TableError> {
    let names = folder.names(path)?;
    Ok(names
        .iter()
        .filter_map(|name| name.strip_prefix('v')?.strip_suffix(".metadata.json")?.parse().ok())
        .collect())
}

/// A view goes hint first, as if it had never been published.
fn remove_view(folder: &Folder, path: &str, swept: &mut Swept) -> Result<(), TableError> {
    let metadata = format!("{path}/metadata");
    let mut names = folder.names(&metadata)?;
    names.sort_by_key(|name| name != HINT);
    for name in names {
        swept.add(folder.remove(&format!("{metadata}/{name}"))?);
    }
    folder.remove_folders(&metadata)
}

fn keep(folder: &Folder, place: &Place, retention: Retention) -> Result<Kept, TableError> {
    let numbers = numbers(folder, "metadata")?.into_iter().rev().take(retention.versions.max(1));
    let mut kept = Kept::default();
    // A version was the current one until the one after it came.
    let mut until = None;
    for number in numbers {
        let path = format!("metadata/{}", metadata_name(number));
        let too_old = until.zip(retention.age).is_some_and(|(until, age)| is_past(until, age));
        if kept.oldest > 0 && (too_old || retention.bytes.is_some_and(|most| kept.bytes >= most)) {
            break;
        }
        until = folder.written(&path)?;
        kept.oldest = number;
        let Some(bytes) = folder.read(&path)? else { continue };
        kept.file(folder, &path)?;
        let fault = |why: String| TableError::malformed(&path, why);
        let object: Object = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
        for snapshot in object.get::<Vec<Object>>("snapshots").map_err(fault)?.unwrap_or_default() {
            kept.snapshots.insert(snapshot.need::<i64>("snapshot-id").map_err(fault)?.to_string());
            let list: String = snapshot.need("manifest-list").map_err(fault)?;
            keep_list(folder, place, &list, &mut kept)?;
        }
    }
    Ok(kept)
}

/// Whether a moment is longer ago than that; one that is yet to come is not.
fn is_past(moment: SystemTime, age: Duration) -> bool {
    moment.elapsed().is_ok_and(|ago| ago >= age)
}

/// A list, if it is there yet, and what it leads to.
fn keep_list(folder: &Folder, place: &Place, uri: &str, kept: &mut Kept) -> Result<(), TableError> {
    let Some(path) = place.own_path(uri) else { return Ok(()) };
    if !kept.file(folder, path)? {
        return Ok(());
    }
    let Some(bytes) = folder.read(path)? else { return Ok(()) };
    for manifest in read_list(&bytes, path)? {
        let Some(path) = place.own_path(&manifest.path) else { continue };
        if !kept.file(folder, path)? || !manifest.deletes {
            continue;
        }
        let Some(bytes) = folder.read(path)? else { continue };
        for entry in read_manifest(&bytes, path)?.1 {
            if entry.status == Status::Live
                && entry.content == Content::PositionDeletes
                && let Some(path) = place.own_path(&entry.path)
            {
                kept.file(folder, path)?;
            }
        }
    }
    Ok(())
}
