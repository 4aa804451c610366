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
use crate::error::TableError;
use crate::location::Location;
use crate::mapping::Mapping;
use crate::objects::Objects;
use crate::table::Table;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

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

/// What one step of publishing writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// A file of position deletes, or a Puffin file of deletion vectors.
    Deletes,
    /// A manifest.
    Manifest,
    /// A manifest list.
    ManifestList,
    /// `v<N>.metadata.json`: from now on there is the new version.
    Metadata,
    /// `version-hint.text`: from now on it is the current one.
    Hint,
}

/// One file that publishing has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is.
    pub kind: StepKind,
    /// Its path below the folder of the table.
    pub path: String,
    /// Its exact size, in bytes.
    pub size: u64,
}

/// A file that is shown as it is: data, equality deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFile {
    /// Where it is.
    pub location: Location,
    /// Its size according to the manifest, in bytes.
    pub size: u64,
    /// How many rows it has.
    pub rows: u64,
    /// What is in it.
    pub content: Content,
    /// `PARQUET`, `ORC`, `AVRO`, … as the manifest says.
    pub format: Arc<str>,
    /// Its partition as text: `day=2026-01-31/kind=a`; empty in a table without partitions.
    pub partition: Arc<str>,
}

/// What a file of a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Rows.
    Data,
    /// Which rows of which data files are deleted; a deletion vector, too.
    PositionDeletes,
    /// Which values are deleted.
    EqualityDeletes,
}

/// One version of a table and the folder it is published in.
#[derive(Debug)]
pub struct Publication {
    #[expect(dead_code, reason = "the steps that use it come next")]
    objects: Arc<dyn Objects>,
    place: Place,
    number: u64,
}

impl Publication {
    /// Reads the metadata of a version and what the folder holds already. Writes nothing.
    ///
    /// # Errors
    /// [`TableError::Encrypted`], [`TableError::Unsupported`] and [`TableError::Malformed`] say that this table
    /// cannot be shown; the folder keeps the version it has.
    pub async fn prepare(
        objects: Arc<dyn Objects>,
        place: Place,
        _table: &Table,
    ) -> Result<Self, TableError> {
        Ok(Self { objects, place, number: 1 })
    }

    /// The `N` of `v<N>.metadata.json`: greater than that of every version published before in this folder, and
    /// the same again if this very version is the current one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where it is published.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Writes whatever is not there yet, the hint last, and returns what was written. Only what the current
    /// snapshot, the branches and the tags need; older snapshots follow when somebody asks for them.
    ///
    /// # Errors
    /// The hint is as it was. Another attempt goes on with what is there.
    pub async fn publish(&self) -> Result<Vec<Step>, TableError> {
        self.publish_while(|_| ControlFlow::Continue(())).await
    }

    /// The same, asking after each step whether to go on.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_while(
        &self,
        _go_on: impl FnMut(&Step) -> ControlFlow<()> + Send,
    ) -> Result<Vec<Step>, TableError> {
        Ok(Vec::new())
    }

    /// Publishes `snapshots/<id>/`, the table as of that snapshot, with the schema it had then; returns its path
    /// below the folder.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such snapshot (any more).
    pub async fn snapshot(&self, id: i64) -> Result<String, TableError> {
        Err(TableError::NoSuch { what: format!("snapshot {id}") })
    }

    /// Publishes `refs/<name>/`, the table as a branch or tag has it; returns its path below the folder. A branch
    /// has the schema of the table, a tag that of its snapshot.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such branch or tag (any more).
    pub async fn reference(&self, name: &str) -> Result<String, TableError> {
        Err(TableError::NoSuch { what: format!("branch or tag {name}") })
    }

    /// The snapshot that was the current one at a time: milliseconds since 1970, or `2026-01-31T12:00:00Z`, or
    /// `2026-01-31` (its first instant, UTC). `None` before the first.
    pub fn snapshot_at(&self, _time: &str) -> Option<i64> {
        None
    }

    /// Makes sure that a file below the folder which metadata names, but nobody has asked for yet (the list of an
    /// older snapshot), is there.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if no metadata names it.
    pub async fn materialise(&self, path: &str) -> Result<(), TableError> {
        Err(TableError::NoSuch { what: format!("file {path}") })
    }

    /// The files that make up a snapshot and are shown as they are (under `objects/`, the table's own also under
    /// `data/`), in the order of the manifests.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such snapshot (any more).
    pub async fn files(&self, snapshot: i64) -> Result<Vec<LiveFile>, TableError> {
        Err(TableError::NoSuch { what: format!("snapshot {snapshot}") })
    }

    /// The path of a file below the folder: `data/…`, if it lies in the folder `data` of the table's location.
    pub fn data_path(&self, _location: &Location) -> Option<String> {
        None
    }
}
