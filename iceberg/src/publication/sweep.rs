//! What may go from the folder: everything that no version which is kept leads to.
use super::folder::Folder;
use super::version::metadata_name;
use super::{Content, HINT, Place};
use crate::document::Object;
use crate::error::TableError;
use crate::manifest::{Status, read_list, read_manifest};
use crate::mapping::escape_name;
use std::collections::{BTreeSet, HashSet};

/// What a sweep has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many files.
    pub files: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// What stays.
struct Kept {
    files: HashSet<String>,
    snapshots: HashSet<String>,
    /// The oldest version that stays.
    oldest: u64,
}

/// Removes what none of the newest `versions` versions leads to; `refs` are the branches and tags there are.
pub(super) fn sweep<'a>(
    folder: &Folder,
    place: &Place,
    versions: usize,
    refs: impl Iterator<Item = &'a String>,
) -> Result<Swept, TableError> {
    let kept = keep(folder, place, versions.max(1))?;
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
    for name in folder.names("refs")? {
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

fn keep(folder: &Folder, place: &Place, versions: usize) -> Result<Kept, TableError> {
    let numbers: Vec<u64> = numbers(folder, "metadata")?.into_iter().rev().take(versions).collect();
    let mut kept = Kept { files: HashSet::new(), snapshots: HashSet::new(), oldest: 0 };
    for number in numbers {
        kept.oldest = number;
        let path = format!("metadata/{}", metadata_name(number));
        let Some(bytes) = folder.read(&path)? else { continue };
        kept.files.insert(path.clone());
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

/// A list, if it is there yet, and what it leads to.
fn keep_list(folder: &Folder, place: &Place, uri: &str, kept: &mut Kept) -> Result<(), TableError> {
    let Some(path) = place.own_path(uri) else { return Ok(()) };
    if !kept.files.insert(path.to_owned()) {
        return Ok(());
    }
    let Some(bytes) = folder.read(path)? else { return Ok(()) };
    for manifest in read_list(&bytes, path)? {
        let Some(path) = place.own_path(&manifest.path) else { continue };
        if !kept.files.insert(path.to_owned()) || !manifest.deletes {
            continue;
        }
        let Some(bytes) = folder.read(path)? else { continue };
        for entry in read_manifest(&bytes, path)?.1 {
            if entry.status == Status::Live && entry.content == Content::PositionDeletes {
                kept.files.extend(place.own_path(&entry.path).map(str::to_owned));
            }
        }
    }
    Ok(())
}
