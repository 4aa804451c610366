//! [`View`]: what stands at each path below the mount.
//!
//! A path never changes its bytes but for `version-hint.text`, `ERROR` and listings; how long an answer stays true
//! is [`Stays`].
use super::lake::Lake;
use super::names::is_own;
use super::objects::Seen;
use super::past::list_past;
use super::slot::{Shown, Slot};
use bytes::Bytes;
use icecache_iceberg::mapping::{OBJECTS, TABLES};
use icecache_iceberg::{Location, ObjectError, TableError};
use std::path::PathBuf;
use std::sync::Arc;

/// The one file whose bytes change: the number of the current version.
const HINT: &str = "version-hint.text";
/// Stands in the folder of a table that cannot be shown, and says why.
pub(super) const ERROR: &str = "ERROR";
/// What an engine may look for beside a file, in vain: Hadoop's checksums.
const CHECKSUM_SUFFIX: &str = ".crc";
/// The folders of a table.
const FOLDERS: [&str; 4] = ["data", "metadata", "refs", "snapshots"];

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A folder.
    Folder,
    /// A file of this machine, whole.
    Local(PathBuf),
    /// An object, and its size in bytes.
    Object {
        /// Where it is.
        location: Location,
        /// How many bytes it has.
        size: u64,
        /// The size is what a table states, and to be checked when it is opened.
        stated: bool,
    },
    /// These bytes.
    Text(Bytes),
    /// A symbolic link.
    Link(String),
}

impl Found {
    /// Whether nothing else will ever stand there.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Folder | Self::Link(_) | Self::Object { stated: false, .. })
    }
}

/// How long an answer stays true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// For ever.
    Ever,
    /// Until the next question.
    Now,
    /// Until the view says otherwise, or a moment has passed.
    Moment,
}

/// What a name in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

/// A name in a folder.
pub type Listed = (String, Kind);

/// Why a path cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A file of a table, or the table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A catalog that would know does not answer.
    #[error("a catalog does not answer: {why}")]
    Catalog {
        /// Which, and why.
        why: String,
    },
    /// A file of this machine.
    #[error("cannot look at what is published: {0}")]
    Io(#[from] std::io::Error),
    /// A folder of a bucket that no table names.
    #[error(
        "a folder of more than {most} objects is not listed: {folder} (open its files by name, as a table does, or list folders below it)"
    )]
    TooMany {
        /// Which.
        folder: Location,
        /// How many would be.
        most: usize,
    },
}

impl ViewError {
    /// What a program is told.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Object(ObjectError::Denied { .. })
            | Self::Table(TableError::Object(ObjectError::Denied { .. })) => libc::EACCES,
            Self::Io(e) => e.raw_os_error().unwrap_or(libc::EIO),
            Self::TooMany { .. } => libc::EFBIG,
            Self::Object(_) | Self::Table(_) | Self::Catalog { .. } => libc::EIO,
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    lake: Arc<Lake>,
    /// Folders of buckets that somebody has just seen in a listing.
    pub(super) seen: Arc<Seen>,
}

impl View {
    /// Of these tables.
    pub fn new(lake: Arc<Lake>) -> Self {
        Self { lake, seen: Arc::default() }
    }

    /// The tables.
    pub fn lake(&self) -> &Arc<Lake> {
        &self.lake
    }

    /// Whether a name is nowhere, whoever asks.
    pub fn is_nowhere(name: &str) -> bool {
        name.starts_with('.') && name.ends_with(CHECKSUM_SUFFIX)
    }

    /// What stands at a path, without slashes at its ends; the empty one is the mount itself.
    ///
    /// # Errors
    /// Nobody can tell now.
    pub async fn find(&self, path: &str) -> Result<Option<(Found, Stays)>, ViewError> {
        if matches!(path, "" | TABLES | OBJECTS) {
            return Ok(Some((Found::Folder, Stays::Ever)));
        }
        if path.strip_prefix(OBJECTS).is_some_and(|rest| rest.starts_with('/')) {
            return self.find_object(path).await;
        }
        if path.strip_prefix(TABLES).is_none_or(|rest| !rest.starts_with('/')) {
            return Ok(None);
        }
        if !self.lake.is_known(path) {
            self.lake.look_around(path).await; // it may be new
        }
        match self.lake.table(path) {
            // Who lists the folder above it, and looks at each name, has not looked into it.
            Some((_, "")) => Ok(Some((Found::Folder, Stays::Moment))),
            Some((_, rest)) if !is_own(rest) && self.lake.is_folder(path) => {
                Ok(Some((Found::Folder, Stays::Moment)))
            }
            Some((slot, rest)) if is_own(rest) || !self.lake.is_folder(&slot.path) => {
                self.find_in_table(&slot, path, rest).await
            }
            None if self.lake.is_folder(path) => Ok(Some((Found::Folder, Stays::Moment))),
            _ => match self.lake.doubt(path) {
                // That there is no such table would be taken for certain.
                Some(why) => Err(ViewError::Catalog { why }),
                None => Ok(None),
            },
        }
    }

    async fn find_in_table(
        &self,
        slot: &Slot,
        path: &str,
        rest: &str,
    ) -> Result<Option<(Found, Stays)>, ViewError> {
        let shown = match self.lake.open(slot).await {
            Ok(shown) => shown,
            Err(why) if rest == ERROR => {
                return Ok(Some((Found::Text(format!("{why}\n").into()), Stays::Now)));
            }
            Err(_) => return Ok(None),
        };
        let publication = &shown.publication;
        let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
        match first {
            _ if FOLDERS.contains(&rest) => Ok(Some((Found::Folder, Stays::Moment))),
            "data" => match publication.data_location(rest) {
                Some(location) => self.data(slot, &shown, path, location).await,
                None => Ok(None),
            },
            "snapshots" => self.find_in_snapshots(slot, &shown, rest, below).await,
            "refs" => self.find_in_references(slot, &shown, rest, below).await,
            _ if is_own(first) => self.published(slot, &shown, rest).await,
            _ => Ok(None),
        }
    }

    async fn data(
        &self,
        slot: &Slot,
        shown: &Shown,
        path: &str,
        location: Location,
    ) -> Result<Option<(Found, Stays)>, ViewError> {
        let found = self.object(path, location.clone()).await?;
        if found.is_some() || !location.file_path().is_some_and(|file| std::path::Path::new(file).exists()) {
            return Ok(found);
        }
        // An older snapshot may name it that nobody has looked into since others were expired.
        let _older = slot.writing.older.read().await;
        let mut untold = None;
        for snapshot in &shown.publication.metadata().snapshots {
            untold = self.learn(shown, Some(snapshot.id)).await.err().or(untold);
        }
        match (self.object(path, location).await?, untold) {
            (None, Some(error)) => Err(error), // one of those that cannot be had may name it
            (found, _) => Ok(found),
        }
    }

    /// What stands in the folder of a publication.
    pub(super) async fn published(
        &self,
        slot: &Slot,
        shown: &Shown,
        rest: &str,
    ) -> Result<Option<(Found, Stays)>, ViewError> {
        let publication = &shown.publication;
        if rest.split('/').any(|name| name.starts_with('.')) || is_to_come(shown, rest) {
            return Ok(None);
        }
        let file = publication.place().folder.join(rest);
        let look = || match std::fs::metadata(&file) {
            Ok(there) if there.is_dir() => Ok(Some((Found::Folder, Stays::Moment))),
            Ok(_) if rest.ends_with(HINT) => Ok(Some((Found::Local(file.clone()), Stays::Now))),
            Ok(_) => Ok(Some((Found::Local(file.clone()), Stays::Ever))),
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        };
        // Who reads a list reads the files that it leads to. Those of this machine are found only if they are known.
        let list = publication.is_here().then(|| publication.snapshot_of(rest)).flatten();
        let has_learned = list.is_none_or(|id| shown.learned.lock().contains(&id));
        if has_learned && let Some(found) = look()? {
            return Ok(Some(found));
        }
        let _older = slot.writing.older.read().await;
        match publication.materialise(rest).await {
            Ok(()) => {
                self.learn(shown, list).await?;
                Ok(look()?)
            }
            Err(TableError::NoSuch { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What stands in a folder, in the order of the names.
    ///
    /// # Errors
    /// Nobody can tell now.
    pub async fn list(&self, path: &str) -> Result<Vec<Listed>, ViewError> {
        let folders = |names: Vec<String>| names.into_iter().map(|name| (name, Kind::Folder)).collect();
        if path.is_empty() {
            return Ok(vec![(TABLES.to_owned(), Kind::Folder), (OBJECTS.to_owned(), Kind::Folder)]);
        }
        if path == OBJECTS || path.starts_with(&format!("{OBJECTS}/")) {
            return self.list_objects(path).await;
        }
        let is_above = |rest: &str| !is_own(rest) && self.lake.is_folder(path);
        if self.lake.table(path).is_none_or(|(_, rest)| is_above(rest)) {
            self.lake.look_around(path).await;
        }
        let (slot, rest) = match self.lake.table(path) {
            Some((slot, rest)) if rest.is_empty() || !is_above(rest) => (slot, rest),
            _ => return Ok(folders(self.lake.children(path))),
        };
        // Of a namespace that has the table's name.
        let has_any = rest.is_empty() && self.lake.is_folder(path);
        let beside = || {
            let names = if has_any { self.lake.children(path) } else { Vec::new() };
            names.into_iter().filter(|name| !is_own(name))
        };
        let shown = match self.lake.open(&slot).await {
            Ok(shown) => shown,
            Err(_) if rest.is_empty() => {
                let mut names = folders(beside().collect());
                names.push((ERROR.to_owned(), Kind::File));
                names.sort();
                return Ok(names);
            }
            Err(_) => return Ok(Vec::new()),
        };
        let publication = &shown.publication;
        if let Some(names) = list_past(&shown, rest) {
            return Ok(names);
        }
        match rest {
            _ if rest == "data" || rest.starts_with("data/") => return Ok(self.known(path)),
            _ => {}
        }
        if !rest.is_empty() && !is_own(rest) {
            return Ok(Vec::new()); // of a namespace that has gone
        }
        let mut names = local(&publication.place().folder.join(rest))?;
        names.retain(|(name, _)| !is_to_come(&shown, &format!("{rest}/{name}")));
        if rest.is_empty() {
            names.retain(|(name, _)| is_own(name));
            names.extend(FOLDERS.map(|name| (name.to_owned(), Kind::Folder)));
            names.extend(folders(beside().collect()));
            names.sort();
            names.dedup();
        }
        Ok(names)
    }

    pub(super) fn known(&self, path: &str) -> Vec<Listed> {
        let kind = |is_folder| if is_folder { Kind::Folder } else { Kind::File };
        let known = self.lake.known().children(path);
        known.into_iter().map(|(name, is_folder)| (name, kind(is_folder))).collect()
    }
}

/// Whether a path below the folder of a table is a version that is newer than the one that is shown: it is there before the
/// hint names it, and some look for the next one beside the hint. What it leads to may not be known yet.
fn is_to_come(shown: &Shown, rest: &str) -> bool {
    let number = rest.strip_prefix("metadata/v").and_then(|name| name.strip_suffix(".metadata.json"));
    let number = number.and_then(|number| number.parse::<u64>().ok());
    number.is_some_and(|number| number > shown.publication.number())
}

/// The names in a folder of this machine, hidden ones left out.
fn local(folder: &std::path::Path) -> Result<Vec<Listed>, std::io::Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push((name, if entry.file_type()?.is_dir() { Kind::Folder } else { Kind::File }));
        }
    }
    names.sort();
    Ok(names)
}
