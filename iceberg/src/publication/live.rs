//! [`LiveFile`]: what a snapshot is made of, read back from the manifests that were written for it.
use super::Publication;
use super::writer::{blocking, list_path};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::{Entry, MANIFEST_MAX_BYTES, Status, read_list, read_manifest};
use crate::mapping::Mapping;
use std::collections::HashMap;
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
        let mut files = Vec::new();
        for path in self.manifests(snapshot).await? {
            files.extend(self.files_of(&path).await?);
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

    /// The live files of a rewritten manifest.
    pub(crate) async fn files_of(&self, manifest: &str) -> Result<Vec<LiveFile>, TableError> {
        let bytes = self.written(manifest).await?;
        let (place, name) = (self.writer.place.clone(), manifest.to_owned());
        blocking(move || {
            let (_, entries) = read_manifest(&bytes, &name)?;
            let mut interned = HashMap::new();
            Ok(entries
                .into_iter()
                .filter_map(|entry| live_file(&place.mapping, entry, &mut interned))
                .collect())
        })
        .await
    }

    /// A file that these rules have written.
    async fn written(&self, path: &str) -> Result<bytes::Bytes, TableError> {
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

fn live_file(mapping: &Mapping, entry: Entry, interned: &mut HashMap<String, Arc<str>>) -> Option<LiveFile> {
    if entry.status == Status::Deleted {
        return None;
    }
    let location = mapping.location(mapping.path_of(&entry.path)?)?;
    let mut intern =
        |text: String| interned.entry(text).or_insert_with_key(|text| text.as_str().into()).clone();
    Some(LiveFile {
        location,
        size: entry.size,
        rows: entry.rows,
        content: entry.content,
        format: intern(entry.format),
        partition: intern(entry.partition),
    })
}
