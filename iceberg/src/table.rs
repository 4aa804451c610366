//! What a table is called, and which of its versions one is.
use crate::error::TableError;
use crate::location::Location;
use crate::metadata::METADATA_MAX_BYTES;
use crate::objects::Objects;
use bytes::Bytes;
use std::fmt;

/// What a catalog calls a table: its namespace, level by level, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId {
    /// The levels of the namespace, outermost first; may be empty.
    pub namespace: Vec<String>,
    /// The name.
    pub name: String,
}

impl fmt::Display for TableId {
    /// Joined by dots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for level in &self.namespace {
            write!(f, "{}.", level.escape_debug())?;
        }
        write!(f, "{}", self.name.escape_debug())
    }
}

/// Which version of a table a catalog showed, in words of its own (an ETag, a location, a number). Opaque: equal
/// means that nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token(pub String);

/// One version of a table, as its catalog gave it.
#[derive(Clone)]
pub struct Table {
    /// What it is called.
    pub id: TableId,
    /// Where its metadata is (`….metadata.json`).
    pub metadata_location: Location,
    /// The metadata itself, where the catalog sent it along: no need to fetch it.
    pub metadata: Option<Bytes>,
    /// The version, for the next [`poll`](crate::catalog::Catalog::poll).
    pub token: Token,
    /// What opens its files, where the catalog lends it. Empty otherwise.
    pub credentials: Vec<StorageCredential>,
}

impl Table {
    /// The same with its metadata, fetched where the catalog has not sent it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn with_metadata(mut self, objects: &dyn Objects) -> Result<Self, TableError> {
        if self.metadata.is_none() {
            self.metadata = Some(objects.get(&self.metadata_location, METADATA_MAX_BYTES).await?);
        }
        Ok(self)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("id", &self.id)
            .field("metadata_location", &self.metadata_location)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// What a catalog lends to open files with: properties as Iceberg names them (`s3.access-key-id`, …).
#[derive(Clone, PartialEq, Eq)]
pub struct StorageCredential {
    /// The locations it is for begin with this; the longest that fits is the one. Empty: all.
    pub prefix: String,
    /// The properties; some are secrets.
    pub properties: Vec<(String, String)>,
}

impl fmt::Debug for StorageCredential {
    /// The names of the properties alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.properties.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("StorageCredential").field("prefix", &self.prefix).field("properties", &names).finish()
    }
}
