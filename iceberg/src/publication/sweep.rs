//! What may go from the folder: everything that no version which is kept leads to.
use super::HINT;
use super::folder::Folder;
use super::reach::Kept;
use super::version::{hinted, metadata_name};
use crate::error::TableError;
use crate::mapping::{escape_name, split_name};
use std::collections::{BTreeSet, HashSet};

/// What a sweep has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many files.
    pub files: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// Removes all but what is kept; `refs` are the branches and tags there are.
pub(super) fn sweep<'a>(
    folder: &Folder,
    kept: &Kept,
    refs: impl Iterator<Item = &'a String>,
) -> Result<Swept, TableError> {
    let mut swept = Swept::default();
    for below in ["metadata", "deletes"] {
        for name in folder.names(below)? {
            let path = format!("{below}/{name}");
            if name != HINT && !kept.files.contains(&*path) {
                swept.add(folder.remove(&path)?);
            }
        }
    }
    for id in folder.names("snapshots")? {
        if id.parse().is_ok_and(|id| !kept.snapshots.contains(&id)) {
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
        // One that has not moved since is of a version that may be gone.
        let metadata = format!("{path}/metadata");
        let shown = hinted(folder, &metadata)?;
        for number in numbers(folder, &metadata)? {
            if number < kept.oldest && Some(number) != shown {
                swept.add(folder.remove(&format!("{metadata}/{}", metadata_name(number)))?);
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
