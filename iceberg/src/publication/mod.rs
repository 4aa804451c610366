//! [`Publication`]: one version of a table, rewritten into a folder so that it can be read by path.
//!
//! The folder is what the mount shows as the folder of the table:
//!
//! ```text
//!  metadata/version-hint.text            the number of the version, without a newline; the only file that changes
//!  metadata/v<N>.metadata.json           every location in it is a file:/// URI below the mount
//!  metadata/<name>.<digest>.avro         manifest lists and manifests, each written once
//!  deletes/<name>.<digest>.<ext>         position deletes and deletion vectors, which name data files inside
//!  snapshots/<id>/metadata/…             the table as of that snapshot        (once it is asked for)
//!  refs/<name>/metadata/…                the table as a branch or tag has it  (once it is asked for)
//! ```
//!
//! Sizes flow upward (a manifest states those of the deletes it lists, a list those of its manifests), so files
//! are written from the leaves up: deletes, manifests, lists, metadata, and the hint last. Whoever reads at any
//! moment, or after a crash at any moment, finds the old version or the new one. A file is written aside, synced
//! and renamed, and never again: its name is made from where its original is.
//!
//! What is there is believed after a start, whole as it was found by its name. So a file is synced before it gets its
//! name, and the names in a folder before a file gets its name that leads to them. Only the hint is not synced: whoever
//! is shown a table has had [`publish`](Publication::publish) compare it with the version, and written anew. While one
//! file is on its way to the disk the next are made: what a disk takes for each adds up for those alone that name
//! others.
//!
//! ```text
//!  metadata ──► aside, synced ─────────────────────────────────────────────────┐
//!  list ──► which manifests are new ──► rewritten, aside ──► synced, renamed ─┐ │
//!                     │                      └─► sizes ──► list, aside ───────┴─┴─► names synced, list renamed,
//!                     └─► what only the old version has ──► difference              names synced, metadata renamed,
//!                                                                                   names synced, hint renamed
//! ```
mod broken;
mod folder;
#[cfg(test)]
mod kills;
mod listed;
mod live;
mod manifest;
mod next;
mod progress;
mod reach;
mod step;
mod sweep;
#[cfg(test)]
mod tests;
mod underway;
mod version;
mod views;
mod writer;

pub use broken::Fault;
pub use live::{Content, LiveFile};
pub(crate) use next::Sides;
pub use reach::{Reach, Retention};
pub use step::{Step, StepKind};
pub use sweep::Swept;

use crate::error::TableError;
use crate::location::Location;
use crate::mapping::{Mapping, escape_key, unescape_key};
use crate::metadata::{Manifests, Metadata, Paths, Snapshot, View};
use crate::objects::{Apart, Objects};
use crate::table::Table;
use broken::Broken;
use folder::Folder;
use parking_lot::Mutex;
use progress::{Halt, Progress};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use version::{HINT, metadata_name};
use writer::{Draft, Writer, blocking, list_path};

/// Where the folder of a table is, and what it is called below the mount.
#[derive(Debug, Clone)]
pub struct Place {
    /// The rules by which locations become paths.
    pub mapping: Mapping,
    /// The path of the table below the mount ([`Mapping::table_path`]).
    pub path: String,
    /// The folder that is shown there. Whoever changes the mapping or the path takes another one.
    pub folder: PathBuf,
}

impl Place {
    /// The path below the folder that a URI of rewritten metadata names; `None` if that is elsewhere.
    fn own_path<'a>(&self, uri: &'a str) -> Option<&'a str> {
        self.mapping.path_of(uri)?.strip_prefix(&self.path)?.strip_prefix('/')
    }
}

/// One version of a table and the folder it is published in.
#[derive(Debug)]
pub struct Publication {
    writer: Writer,
    /// Where its metadata is.
    from: Location,
    metadata: Metadata,
    /// What it is made from: the path of the metadata, and a digest of it.
    source: String,
    number: u64,
    /// Which snapshot has which list, by the path of the list; made when first needed.
    lists: OnceLock<HashMap<String, usize>>,
    /// The snapshots whose folders are known to be of this version.
    views: Mutex<HashSet<i64>>,
    /// The snapshots that cannot be had.
    broken: Broken,
}

/// The folder that is made for a view, below that of the table; empty for the table itself.
struct Views<'a> {
    publication: &'a Publication,
    folder: &'a str,
}

impl Paths for Views<'_> {
    fn folder(&self) -> String {
        self.publication.writer.uri(self.folder).trim_end_matches('/').to_owned()
    }

    fn list(&self, snapshot: i64, manifests: &Manifests) -> String {
        self.publication.writer.uri(&list_path(snapshot, manifests))
    }

    fn object(&self, location: &Location) -> String {
        self.publication.place().mapping.object_uri(location)
    }

    fn source(&self) -> String {
        self.publication.source.clone()
    }
}

impl Publication {
    /// Reads the metadata of a version and what the folder holds already. Publishes nothing.
    ///
    /// # Errors
    /// [`TableError::Encrypted`], [`TableError::Unsupported`] and [`TableError::Malformed`] say that this table
    /// cannot be shown; the folder keeps the version it has.
    pub async fn prepare(objects: Arc<dyn Objects>, place: Place, table: &Table) -> Result<Self, TableError> {
        let prepared = Self::read(objects, place, table, |folder, source, from, predecessors| {
            version::number(folder, source, version::wish(from, predecessors)).map(Some)
        });
        prepared.await?.ok_or_else(|| TableError::malformed("folder of the table", "no number is left"))
    }

    /// The same of a version that the folder has already, as the newest or as the one that is shown; `None` if it has it
    /// not, or not as one of these.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub async fn resume(
        objects: Arc<dyn Objects>,
        place: Place,
        table: &Table,
    ) -> Result<Option<Self>, TableError> {
        Self::read(objects, place, table, |folder, source, _, _| version::number_again(folder, source)).await
    }

    async fn read(
        objects: Arc<dyn Objects>,
        place: Place,
        table: &Table,
        number: impl FnOnce(&Folder, &str, &Location, u64) -> Result<Option<u64>, TableError> + Send + 'static,
    ) -> Result<Option<Self>, TableError> {
        let bytes = table.clone().with_metadata(&*objects).await?.metadata.unwrap_or_default();
        let from = table.metadata_location.clone();
        let objects = Apart::from(&from, objects);
        blocking(move || {
            let metadata = Metadata::parse(&bytes, from.name())?;
            // A table that was dropped and made again may have its metadata at the same place.
            let digest = blake3::hash(&bytes).to_hex();
            let source = format!("{}#{}", place.mapping.object_path(&from), &digest[..16]);
            let folder = Folder::open(&place.folder)?;
            let Some(number) = number(&folder, &source, &from, metadata.log_length)? else { return Ok(None) };
            let writer = Writer::new(objects, Arc::new(place), folder);
            let (lists, views, broken) = (OnceLock::new(), Mutex::default(), Broken::default());
            Ok(Some(Self { writer, from, metadata, source, number, lists, views, broken }))
        })
        .await
    }

    /// The `N` of `v<N>.metadata.json`: greater than that of every version published before in this folder, and
    /// the same again if this very version is the newest there.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether this very version is the newest in its folder, whole, whether the hint names it or not.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn is_there(&self) -> Result<bool, TableError> {
        Ok(self.writer.size(&format!("metadata/{}", metadata_name(self.number))).await?.is_some())
    }

    /// Whether another one is of the very same version: of metadata that lies at the same place, and is the same.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.source == other.source
    }

    /// Where it is published.
    pub fn place(&self) -> &Place {
        &self.writer.place
    }

    /// Whether its metadata lies on this machine: then it may name files of it, whatever it says of itself.
    pub fn is_here(&self) -> bool {
        self.from.file_path().is_some()
    }

    /// What the table says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Writes whatever is not there yet, the hint last, and returns what was written. Only what the current
    /// snapshot, the branches and the tags need; older snapshots follow when somebody asks for them. A branch or a tag that
    /// cannot be had for a fault of its own files is left out, and [told](Self::fault).
    ///
    /// # Errors
    /// The hint is as it was. Another attempt goes on with what is there.
    pub async fn publish(&self) -> Result<Vec<Step>, TableError> {
        self.publish_while(|_| ControlFlow::Continue(())).await
    }

    /// The same, asking after each step whether to go on. What was begun at the same time may still be finished.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_while(
        &self,
        go_on: impl FnMut(&Step) -> ControlFlow<()> + Send,
    ) -> Result<Vec<Step>, TableError> {
        let progress = Progress::new(go_on);
        match self.publish_all(&progress).await {
            Ok(()) | Err(Halt::Stopped) => Ok(progress.steps()),
            Err(Halt::Error(error)) => Err(error),
        }
    }

    /// The first half of [`publish`](Self::publish): everything but the hint, so that the old version is still the
    /// current one, and this one can be opened by its number.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn write(&self) -> Result<(), TableError> {
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        ended(self.write_all(&progress).await)
    }

    /// The second half: from now on this version is the current one.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn flip(&self) -> Result<(), TableError> {
        let progress = Progress::new(|_| ControlFlow::Continue(()));
        ended(self.hint("", self.number, &progress).await)
    }

    async fn publish_all(&self, progress: &Progress<'_>) -> Result<(), Halt> {
        self.write_all(progress).await?;
        self.hint("", self.number, progress).await
    }

    async fn write_all(&self, progress: &Progress<'_>) -> Result<(), Halt> {
        let begun = self.begin().await?;
        let leaves = self.leaves(&begun, false, progress).await?;
        self.finish(begun, leaves, progress).await
    }

    /// The metadata of a view, written aside; `None` if it is there. It may be placed when everything that it names is.
    /// `specs`: those that the manifests of the view are written by.
    async fn draft_version(
        &self,
        folder: &str,
        view: View<'_>,
        specs: &BTreeSet<i64>,
        number: u64,
    ) -> Result<Option<Draft>, TableError> {
        let path = below(folder, &format!("metadata/{}", metadata_name(number)));
        if self.writer.size(&path).await?.is_some() {
            return Ok(None);
        }
        let bytes = self.metadata.rewrite(view, specs, &Views { publication: self, folder })?;
        self.writer.draft(StepKind::Metadata, path, move || Ok(bytes)).await.map(Some)
    }

    /// Makes a version of a view, whose metadata is there, the current one. That it is may be forgotten after a loss of
    /// power: nobody is shown a view before this was called again.
    async fn hint(&self, folder: &str, number: u64, progress: &Progress<'_>) -> Result<(), Halt> {
        progress.check()?;
        let metadata = below(folder, "metadata");
        let (path, hint) = (format!("{metadata}/{HINT}"), number.to_string());
        let step = Step { kind: StepKind::Hint, path: path.clone(), size: hint.len() as u64 };
        let own = self.writer.folder.clone();
        let is_new = blocking(move || {
            if own.read(&path)?.as_deref() == Some(hint.as_bytes()) {
                return Ok(false);
            }
            // Its number must not be taken by another version later.
            own.sync(&metadata)?;
            own.stage(&path, hint.as_bytes())?.place()?;
            Ok(true)
        });
        if is_new.await? { progress.done(step) } else { Ok(()) }
    }

    fn find(&self, id: i64) -> Result<&Snapshot, TableError> {
        self.metadata.snapshot(id).ok_or_else(|| TableError::NoSuch { what: format!("snapshot {id}") })
    }

    /// Removes from the folder what no version that `retention` keeps leads to (this one, which is shown, is always
    /// kept): rewritten files of snapshots that were expired, views of them, older versions. Whoever has a file open goes
    /// on reading. Not while another version of the table is being published, or an older snapshot written. `reach` is
    /// that of the sweeps of this folder before.
    ///
    /// # Errors
    /// [`TableError::Io`]; what was removed by then is gone, and nothing that is needed.
    pub async fn sweep(&self, retention: Retention, reach: &Arc<Reach>) -> Result<Swept, TableError> {
        let (folder, place) = (self.writer.folder.clone(), self.writer.place.clone());
        let refs: Vec<String> = self.metadata.refs.keys().cloned().collect();
        let (shown, reach) = (self.number, reach.clone());
        blocking(move || {
            let kept = reach.keep(&folder, &place, retention, shown)?;
            sweep::sweep(&folder, &kept, refs.iter())
        })
        .await
    }

    /// Whether the folder may have more versions than `retention` keeps: then it is worth a [sweep](Self::sweep). Looks at
    /// names alone.
    ///
    /// # Errors
    /// [`TableError::Io`].
    pub async fn may_exceed(&self, retention: Retention) -> Result<bool, TableError> {
        let folder = self.writer.folder.clone();
        let is_counted = retention.age.is_none() && retention.bytes.is_none();
        let most = if is_counted { retention.versions.max(1) } else { 1 };
        blocking(move || Ok(sweep::numbers(&folder, "metadata")?.len() > most)).await
    }

    /// The path of a file below the folder: `data/…`, if it lies in the folder `data` of the table's location.
    pub fn data_path(&self, location: &Location) -> Option<String> {
        let below = location.below(&self.metadata.location)?.strip_prefix("data/")?;
        Some(format!("data/{}", escape_key(below)))
    }

    /// The location that has the path `data/…` below the folder, the reverse of [`data_path`](Self::data_path).
    pub fn data_location(&self, path: &str) -> Option<Location> {
        let below = unescape_key(path.strip_prefix("data/")?)?;
        self.metadata.location.join(&format!("data/{below}")).ok()
    }
}

/// A path below the folder of a view; that of the table itself is empty.
fn below(folder: &str, path: &str) -> String {
    if folder.is_empty() { path.to_owned() } else { format!("{folder}/{path}") }
}

/// Nobody stops what nobody watches.
fn ended(outcome: Result<(), Halt>) -> Result<(), TableError> {
    match outcome {
        Ok(()) | Err(Halt::Stopped) => Ok(()),
        Err(Halt::Error(error)) => Err(error),
    }
}
