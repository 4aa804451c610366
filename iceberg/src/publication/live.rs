//! [`LiveFile`]: what a snapshot is made of, read back from the manifests that were written for it.
use super::Publication;
use super::manifest::is_shown;
use super::writer::{blocking, list_path};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::{Entry, MANIFEST_MAX_BYTES, filter_manifest, read_list, read_manifest};
use crate::mapping::Mapping;
use crate::predicate::{Filter, Predicate};
use std::sync::Arc;

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

impl Publication {
    /// The files that make up a snapshot and are shown as they are (under `objects/`, the table's own also under
    /// `data/`), in the order of the manifests. Those that are rewritten, position deletes, are not among them.
    ///
    /// # Errors
    /// [`TableError::NoSuch`] if the table has no such snapshot (any more).
    pub async fn files(&self, snapshot: i64) -> Result<Vec<LiveFile>, TableError> {
        self.files_of(snapshot, None).await
    }

    /// Those of the [files](Self::files) of a snapshot that a query with this predicate reads: data that may have such
    /// rows, and all equality deletes, since each may be of some of it. The columns are those of the current schema,
    /// also for a snapshot of before: they are found by their numbers.
    ///
    /// # Errors
    /// [`TableError::Predicate`] if it does not fit that schema; [`TableError::NoSuch`] if the table has no such snapshot
    /// (any more).
    pub async fn files_where(
        &self,
        snapshot: i64,
        predicate: &Predicate,
    ) -> Result<Vec<LiveFile>, TableError> {
        let filter = Arc::new(Filter::new(&self.metadata, predicate)?);
        self.files_of(snapshot, Some(&filter)).await
    }

    async fn files_of(
        &self,
        snapshot: i64,
        filter: Option<&Arc<Filter>>,
    ) -> Result<Vec<LiveFile>, TableError> {
        match self.files_there(snapshot, filter).await {
            // A manifest has gone.
            Err(TableError::NoSuch { .. }) => {
                self.repair(self.find(snapshot)?).await?;
                self.files_there(snapshot, filter).await
            }
            files => files,
        }
    }

    async fn files_there(
        &self,
        snapshot: i64,
        filter: Option<&Arc<Filter>>,
    ) -> Result<Vec<LiveFile>, TableError> {
        let mut files = Vec::new();
        for path in self.manifests(snapshot).await? {
            let entries = match filter {
                Some(filter) => self.entries_where(&path, filter.clone()).await?,
                None => self.entries_of(&path).await?,
            };
            files.extend(entries.iter().filter_map(|entry| live_file(&self.place().mapping, entry)));
        }
        Ok(files)
    }

    /// The paths of the rewritten manifests of a snapshot, below the folder.
    pub(crate) async fn manifests(&self, snapshot: i64) -> Result<Vec<String>, TableError> {
        let snapshot = self.find(snapshot)?;
        self.ensure(snapshot).await?;
        let path = list_path(snapshot.id, &snapshot.manifests);
        let list = read_list(&self.written(&path).await?, &path)?;
        list.into_iter().map(|manifest| self.own_path(&manifest.path)).collect()
    }

    /// The entries of a rewritten manifest whose files are shown as they are.
    pub(super) async fn entries_of(&self, manifest: &str) -> Result<Vec<Entry>, TableError> {
        let (bytes, name) = (self.written(manifest).await?, manifest.to_owned());
        blocking(move || {
            let (_, mut entries) = read_manifest(&bytes, &name)?;
            entries.retain(is_shown);
            Ok(entries)
        })
        .await
    }

    /// Those of which a query reads the files.
    async fn entries_where(&self, manifest: &str, filter: Arc<Filter>) -> Result<Vec<Entry>, TableError> {
        let (bytes, name) = (self.written(manifest).await?, manifest.to_owned());
        blocking(move || {
            filter_manifest(&bytes, &name, |entry, evidence| {
                Ok(is_shown(entry) && (entry.content != Content::Data || filter.may_match(evidence)?))
            })
        })
        .await
    }

    /// A file that these rules have written.
    pub(super) async fn written(&self, path: &str) -> Result<bytes::Bytes, TableError> {
        let (folder, own) = (self.writer.folder.clone(), path.to_owned());
        let bytes = blocking(move || folder.read(&own)).await?;
        let bytes = bytes.ok_or_else(|| TableError::NoSuch { what: format!("file {path}") })?;
        if bytes.len() as u64 > MANIFEST_MAX_BYTES * 2 {
            let what = path.to_owned();
            return Err(TableError::TooLarge {
                what,
                size: bytes.len() as u64,
                limit: MANIFEST_MAX_BYTES * 2,
            });
        }
        Ok(bytes)
    }

    fn own_path(&self, uri: &str) -> Result<String, TableError> {
        let path = self.writer.place.own_path(uri).map(str::to_owned);
        path.ok_or_else(|| {
            TableError::malformed("rewritten manifest list", format!("it names {uri}, which is elsewhere"))
        })
    }
}

/// The file of an entry that is [shown](is_shown) as it is; `None` if it is none.
pub(super) fn live_file(mapping: &Mapping, entry: &Entry) -> Option<LiveFile> {
    Some(LiveFile {
        location: mapping.location(mapping.path_of(&entry.path)?)?,
        size: entry.size,
        rows: entry.rows,
        content: entry.content,
        format: entry.format.clone(),
        partition: entry.partition.clone(),
    })
}
