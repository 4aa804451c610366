//! [`Reach`]: which versions stay, and what they lead to.
//!
//! No file changes once it is there, so what one leads to is read once: a sweep costs what is new.
use super::folder::Folder;
use super::sweep::numbers;
use super::version::metadata_name;
use super::{Content, Place};
use crate::document::Object;
use crate::error::TableError;
use crate::manifest::{Status, read_list, read_manifest};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// So many snapshots of versions are remembered, those of several versions each time anew.
const SNAPSHOTS_MAX: usize = 1 << 20;

/// Which versions stay readable for who has opened one: a version stays if all of these permit it. The one that is
/// shown always does.
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
pub(super) struct Kept {
    /// Paths below the folder.
    pub files: HashSet<Arc<str>>,
    /// The bytes of these, if they matter.
    bytes: u64,
    pub snapshots: HashSet<i64>,
    /// The oldest version that stays.
    pub oldest: u64,
}

/// What the files of one folder lead to, as far as sweeps have seen it. Owner of its lock.
#[derive(Debug, Default)]
pub struct Reach(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The snapshots of a version, and the lists of these.
    versions: HashMap<u64, Vec<(i64, Arc<str>)>>,
    /// The manifests of a list.
    lists: HashMap<Arc<str>, Arc<[Manifest]>>,
    /// The deletes of a manifest.
    deletes: HashMap<Arc<str>, Arc<[Arc<str>]>>,
    /// Paths, each once.
    names: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Manifest {
    path: Arc<str>,
    has_deletes: bool,
}

/// What is looked at by one sweep.
struct Sweep<'a> {
    folder: &'a Folder,
    place: &'a Place,
    /// The bytes of files matter.
    weighs: bool,
    kept: Kept,
}

impl Reach {
    /// What stays while the version `shown` is the current one. What is newer could not be shown yet.
    pub(super) fn keep(
        &self,
        folder: &Folder,
        place: &Place,
        retention: Retention,
        shown: u64,
    ) -> Result<Kept, TableError> {
        let mut seen = self.0.lock();
        let weighs = retention.bytes.is_some();
        let mut sweep = Sweep { folder, place, weighs, kept: Kept::default() };
        // A version was the current one until the one after it came.
        let (mut until, mut left) = (None, retention.versions.max(1));
        let mut stay = HashSet::new();
        for number in numbers(folder, "metadata")?.into_iter().rev() {
            let path = format!("metadata/{}", metadata_name(number));
            if number <= shown {
                let too_old = until.zip(retention.age).is_some_and(|(until, age)| is_past(until, age));
                let too_many = left == 0 || retention.bytes.is_some_and(|most| sweep.kept.bytes >= most);
                if left < retention.versions.max(1) && (too_old || too_many) {
                    break;
                }
                left -= 1;
                until = folder.written(&path)?;
            }
            sweep.kept.oldest = number;
            stay.insert(number);
            sweep.version(&mut seen, number, &path)?;
        }
        let kept = sweep.kept;
        seen.versions.retain(|number, _| stay.contains(number));
        seen.lists.retain(|path, _| kept.files.contains(path));
        seen.deletes.retain(|path, _| kept.files.contains(path));
        seen.names.retain(|name| Arc::strong_count(name) > 1);
        Ok(kept)
    }
}

impl Seen {
    fn name(&mut self, path: &str) -> Arc<str> {
        if let Some(name) = self.names.get(path) {
            return name.clone();
        }
        let name: Arc<str> = path.into();
        self.names.insert(name.clone());
        name
    }
}

impl Sweep<'_> {
    /// A file stays; `false` if that is known already.
    fn file(&mut self, path: &Arc<str>) -> Result<bool, TableError> {
        let new = self.kept.files.insert(path.clone());
        if new && self.weighs {
            self.kept.bytes += self.folder.size(path)?.unwrap_or(0);
        }
        Ok(new)
    }

    fn version(&mut self, seen: &mut Seen, number: u64, path: &str) -> Result<(), TableError> {
        let name = seen.name(path);
        let snapshots = match seen.versions.remove(&number) {
            Some(snapshots) => snapshots,
            None => {
                let Some(bytes) = self.folder.read(path)? else { return Ok(()) };
                let fault = |why: String| TableError::malformed(path, why);
                let object: Object =
                    serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
                let mut snapshots = Vec::new();
                for snapshot in object.get::<Vec<Object>>("snapshots").map_err(fault)?.unwrap_or_default() {
                    let list: String = snapshot.need("manifest-list").map_err(fault)?;
                    let list = seen.name(self.place.own_path(&list).unwrap_or_default());
                    snapshots.push((snapshot.need("snapshot-id").map_err(fault)?, list));
                }
                snapshots
            }
        };
        self.file(&name)?;
        for (id, list) in &snapshots {
            self.kept.snapshots.insert(*id);
            if !list.is_empty() {
                self.list(seen, list)?;
            }
        }
        if seen.versions.values().map(Vec::len).sum::<usize>() + snapshots.len() <= SNAPSHOTS_MAX {
            seen.versions.insert(number, snapshots);
        }
        Ok(())
    }

    /// A list, if it is there yet, and what it leads to.
    fn list(&mut self, seen: &mut Seen, path: &Arc<str>) -> Result<(), TableError> {
        if !self.file(path)? {
            return Ok(());
        }
        let manifests = match seen.lists.get(path) {
            Some(manifests) => manifests.clone(),
            None => {
                let Some(bytes) = self.folder.read(path)? else { return Ok(()) };
                let mut manifests = Vec::new();
                for manifest in read_list(&bytes, path)? {
                    let Some(own) = self.place.own_path(&manifest.path) else { continue };
                    manifests.push(Manifest { path: seen.name(own), has_deletes: manifest.deletes });
                }
                let manifests: Arc<[Manifest]> = manifests.into();
                seen.lists.insert(path.clone(), manifests.clone());
                manifests
            }
        };
        for manifest in manifests.iter() {
            if self.file(&manifest.path)? && manifest.has_deletes {
                self.deletes(seen, &manifest.path)?;
            }
        }
        Ok(())
    }

    fn deletes(&mut self, seen: &mut Seen, manifest: &Arc<str>) -> Result<(), TableError> {
        let deletes = match seen.deletes.get(manifest) {
            Some(deletes) => deletes.clone(),
            None => {
                let Some(bytes) = self.folder.read(manifest)? else { return Ok(()) };
                let mut deletes = Vec::new();
                for entry in read_manifest(&bytes, manifest)?.1 {
                    if entry.status == Status::Live
                        && entry.content == Content::PositionDeletes
                        && let Some(path) = self.place.own_path(&entry.path)
                    {
                        deletes.push(seen.name(path));
                    }
                }
                let deletes: Arc<[Arc<str>]> = deletes.into();
                seen.deletes.insert(manifest.clone(), deletes.clone());
                deletes
            }
        };
        deletes.iter().try_for_each(|path| self.file(path).map(drop))
    }
}

/// Whether a moment is longer ago than that; one that is yet to come is not.
fn is_past(moment: SystemTime, age: Duration) -> bool {
    moment.elapsed().is_ok_and(|ago| ago >= age)
}
