//! [`Metadata`]: what a metadata file says of its table, and what it becomes below a mount.
mod fields;
mod kind;
mod rewrite;
mod specs;
#[cfg(test)]
mod tests;

pub use fields::{Field, Fields};
pub use kind::Type;
pub(crate) use rewrite::{Paths, SOURCE_PROPERTY, View};
pub(crate) use specs::{PartitionField, PartitionSpec, Transform};

use crate::document::Object;
use crate::error::TableError;
use crate::location::Location;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;

/// The largest metadata file, in bytes after decompression. Some tables of 100,000 snapshots have 200 MB.
pub const METADATA_MAX_BYTES: u64 = 512 << 20;
/// The most snapshots of a table.
const SNAPSHOTS_MAX: usize = 1 << 20;
/// The newest version of the format that is understood.
const FORMAT_MAX: u8 = 3;
/// The property of a table that says what its columns are called in files without field ids.
const NAME_MAPPING: &str = "schema.name-mapping.default";

/// What a metadata file says of its table.
#[derive(Debug)]
pub struct Metadata {
    object: Object,
    /// The version of the format: 1, 2 or 3.
    pub format_version: u8,
    /// The identifier that a table keeps all its life; version 1 may have none.
    pub uuid: Option<String>,
    /// The folder of the table.
    pub location: Location,
    /// When this version was made, in milliseconds since 1970.
    pub updated_ms: i64,
    /// The current snapshot; an empty table has none.
    pub current_snapshot: Option<i64>,
    /// The number of the current schema.
    pub schema_id: Option<i64>,
    /// All snapshots that are kept, in the order of the file.
    pub snapshots: Vec<Snapshot>,
    /// Branches and tags by name. A table with a current snapshot has `main`.
    pub refs: BTreeMap<String, Reference>,
    /// Branches and tags of snapshots that it does not have. Readers refuse a table with one, so none is shown.
    pub dangling: BTreeMap<String, Reference>,
    /// What was the current snapshot when: milliseconds since 1970 and identifiers, oldest first.
    pub history: Vec<(i64, i64)>,
    /// Files of statistics, and how many bytes each has.
    pub statistics: Vec<(Location, u64)>,
    /// The text of all schemas: equal means nothing has changed in them.
    pub(crate) schemas: String,
    /// How many versions before this one it knows.
    pub(crate) log_length: u64,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier.
    pub id: i64,
    /// The one that it was made from.
    pub parent: Option<i64>,
    /// When it was made, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `append`, `replace`, `overwrite` or `delete`; version 1 may not say.
    pub operation: Option<String>,
    /// The schema it was written with.
    pub schema_id: Option<i64>,
    /// Where its manifests are listed.
    pub manifests: Manifests,
}

/// Where the manifests of a snapshot are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifests {
    /// In a file.
    List(Location),
    /// In the metadata itself: version 1 may.
    Inline(Vec<Location>),
}

/// A branch or a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Its snapshot.
    pub snapshot: i64,
    /// Whether it moves with every commit to it.
    pub is_branch: bool,
}

impl Metadata {
    /// Reads a metadata file, compressed or not. `name` is for the errors.
    ///
    /// # Errors
    /// [`TableError::Malformed`], [`TableError::TooLarge`]; [`TableError::Encrypted`] and
    /// [`TableError::Unsupported`] for tables that cannot be shown.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, TableError> {
        let plain = decompress(bytes, name)?;
        let bytes = plain.as_deref().unwrap_or(bytes);
        let object: Object = serde_json::from_slice(bytes)
            .map_err(|error| TableError::malformed(format!("metadata {name}"), error.to_string()))?;
        check_format(&object, name)?;
        Self::read(object).map_err(|why| TableError::malformed(format!("metadata {name}"), why))
    }

    fn read(object: Object) -> Result<Self, String> {
        let format_version = object.need("format-version")?;
        let snapshots = snapshot_objects(&object)?;
        if snapshots.len() > SNAPSHOTS_MAX {
            let count = snapshots.len();
            return Err(format!("it has {count} snapshots, at most {SNAPSHOTS_MAX} are possible"));
        }
        let snapshots = snapshots.iter().map(Snapshot::read).collect::<Result<Vec<_>, _>>()?;
        // Written as -1 where there is none.
        let current_snapshot = object.get::<i64>("current-snapshot-id")?.filter(|id| *id != -1);
        let ids: HashSet<i64> = snapshots.iter().map(|snapshot| snapshot.id).collect();
        let has = |id: i64| ids.contains(&id);
        let (mut refs, mut dangling) = (BTreeMap::new(), BTreeMap::new());
        for (name, reference) in object.get::<BTreeMap<String, Object>>("refs")?.unwrap_or_default() {
            let is_branch = match reference.need::<String>("type")?.to_ascii_lowercase().as_str() {
                "branch" => true,
                "tag" => false,
                other => return Err(format!("reference '{name}' is neither branch nor tag: {other}")),
            };
            let reference = Reference { snapshot: reference.need("snapshot-id")?, is_branch };
            let those = if has(reference.snapshot) { &mut refs } else { &mut dangling };
            those.insert(name, reference);
        }
        if let Some(snapshot) = current_snapshot {
            refs.entry("main".into()).or_insert(Reference { snapshot, is_branch: true });
        }
        if let Some(id) = current_snapshot.filter(|id| !has(*id)) {
            return Err(format!("its current snapshot is {id}, which it does not have"));
        }
        let mut history = Vec::new();
        for entry in object.get::<Vec<Object>>("snapshot-log")?.unwrap_or_default() {
            history.push((entry.need("timestamp-ms")?, entry.need("snapshot-id")?));
        }
        let mut statistics = Vec::new();
        for list in ["statistics", "partition-statistics"] {
            for entry in object.get::<Vec<Object>>(list)?.unwrap_or_default() {
                let location = place(&entry.need::<String>("statistics-path")?)?;
                statistics.extend(entry.get("file-size-in-bytes")?.map(|size| (location, size)));
            }
        }
        let text = |name: &str| object.raw(name).map_or("", |raw| raw.get()).to_owned();
        Ok(Self {
            format_version,
            uuid: object.get("table-uuid")?,
            location: place(&object.need::<String>("location")?)?,
            updated_ms: object.need("last-updated-ms")?,
            current_snapshot,
            schema_id: object.get("current-schema-id")?,
            snapshots,
            refs,
            dangling,
            history,
            statistics,
            schemas: text("schema") + &text("schemas"),
            log_length: object.get::<Vec<Object>>("metadata-log")?.map_or(0, |log| log.len() as u64),
            object,
        })
    }

    /// A snapshot by its identifier.
    pub fn snapshot(&self, id: i64) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// Whether a snapshot is what it was in another version: a table that was moved has the same ones elsewhere. Of no
    /// snapshot nothing has changed.
    pub fn has_still(&self, other: &Self, id: Option<i64>) -> bool {
        let Some(id) = id else { return true };
        let (own, was) = (self.snapshot(id), other.snapshot(id));
        own.is_some_and(|own| was.is_some_and(|was| was.manifests == own.manifests))
    }

    /// Whether it has all snapshots of another version, and each where it was.
    pub fn has_all_of(&self, other: &Self) -> bool {
        let own: HashMap<i64, &Manifests> =
            self.snapshots.iter().map(|one| (one.id, &one.manifests)).collect();
        other.snapshots.iter().all(|one| own.get(&one.id) == Some(&&one.manifests))
    }

    /// Whether a branch that has not moved is read as in another version: by the same columns, and the same properties.
    pub(crate) fn is_read_as(&self, other: &Self) -> bool {
        let text = |of: &Self, name: &str| of.object.raw(name).map(|raw| raw.get().to_owned());
        let rest =
            ["properties", "partition-specs", "default-spec-id", "sort-orders", "default-sort-order-id"];
        (self.schema_id, &self.schemas) == (other.schema_id, &other.schemas)
            && rest.iter().all(|name| text(self, name) == text(other, name))
    }

    /// The snapshot that was the current one at a time, in milliseconds since 1970; `None` before the first, and
    /// if it has been expired.
    pub fn snapshot_at(&self, time_ms: i64) -> Option<i64> {
        let (_, id) = self.history.iter().rev().find(|(since, _)| *since <= time_ms)?;
        self.snapshot(*id).map(|snapshot| snapshot.id)
    }

    /// What columns are called in files that have no field ids, by the ids of the columns, where the table says so.
    pub fn mapped_names(&self) -> HashMap<i32, Vec<String>> {
        let text = self.property(NAME_MAPPING).unwrap_or_default();
        let mapping: Vec<MappedField> = serde_json::from_str(&text).unwrap_or_default();
        mapping.into_iter().filter_map(|field| Some((field.id?, field.names))).collect()
    }

    /// The properties that say how the table is read. Not all: some writers change others with every commit.
    pub(crate) fn read_properties(&self) -> BTreeMap<String, Value> {
        read_properties(&self.object).unwrap_or_default()
    }

    /// Those of these partition specs that the table has.
    pub(crate) fn own_specs(&self, mut specs: BTreeSet<i64>) -> BTreeSet<i64> {
        let own = spec_ids(&self.object).unwrap_or_default();
        specs.retain(|id| own.contains(id));
        specs
    }

    /// The property `name` of the table.
    pub fn property(&self, name: &str) -> Option<String> {
        self.object.get::<Object>("properties").ok().flatten()?.get(name).ok().flatten()
    }
}

/// A column in the property [`NAME_MAPPING`].
#[derive(serde::Deserialize)]
struct MappedField {
    #[serde(rename = "field-id")]
    id: Option<i32>,
    #[serde(default)]
    names: Vec<String>,
}

impl Snapshot {
    fn read(object: &Object) -> Result<Self, String> {
        let manifests = match object.get::<String>("manifest-list")? {
            Some(list) => Manifests::List(place(&list)?),
            None => {
                let inline: Vec<String> = object.need("manifests")?;
                Manifests::Inline(inline.iter().map(|path| place(path)).collect::<Result<_, _>>()?)
            }
        };
        let summary: Object = object.get("summary")?.unwrap_or_default();
        Ok(Self {
            id: object.need("snapshot-id")?,
            parent: object.get("parent-snapshot-id")?,
            timestamp_ms: object.need("timestamp-ms")?,
            operation: summary.get("operation")?,
            schema_id: object.get("schema-id")?,
            manifests,
        })
    }
}

/// The properties in metadata that say how its table is read: what columns are called in files without their numbers, and
/// what readers are told.
pub(crate) fn read_properties(metadata: &Object) -> Result<BTreeMap<String, Value>, String> {
    let mut properties: BTreeMap<String, Value> = metadata.get("properties")?.unwrap_or_default();
    properties.retain(|name, _| name == NAME_MAPPING || name.starts_with("read."));
    Ok(properties)
}

/// The numbers of the partition specs in metadata.
pub(crate) fn spec_ids(metadata: &Object) -> Result<BTreeSet<i64>, String> {
    let specs: Vec<Object> = metadata.get("partition-specs")?.unwrap_or_default();
    specs.iter().map(|spec| spec.need("spec-id")).collect()
}

/// The snapshots in metadata. Read when they are needed: there may be very many, and their text is kept anyway.
fn snapshot_objects(metadata: &Object) -> Result<Vec<Object>, String> {
    Ok(metadata.get("snapshots")?.unwrap_or_default())
}

/// A location in a document.
pub(crate) fn place(text: &str) -> Result<Location, String> {
    text.parse::<Location>().map_err(|error| error.to_string())
}

/// What is shown must be of a version that is known, and in plain.
fn check_format(object: &Object, name: &str) -> Result<(), TableError> {
    let fault = |why| TableError::malformed(format!("metadata {name}"), why);
    let version: u64 = object.need("format-version").map_err(fault)?;
    if version == 0 || version > u64::from(FORMAT_MAX) {
        return Err(TableError::Unsupported {
            what: format!("format version {version}"),
            advice: "versions 1 to 3 are: read the table through its catalog",
        });
    }
    if !object.get::<Vec<Object>>("encryption-keys").map_err(fault)?.unwrap_or_default().is_empty() {
        return Err(TableError::Encrypted { by: "it has encryption keys" });
    }
    let properties: Object = object.get("properties").map_err(fault)?.unwrap_or_default();
    if properties.raw("encryption.key-id").is_some() {
        return Err(TableError::Encrypted { by: "property encryption.key-id" });
    }
    let snapshots: Vec<Object> = object.get("snapshots").map_err(fault)?.unwrap_or_default();
    if snapshots.iter().any(|snapshot| snapshot.raw("key-id").is_some()) {
        return Err(TableError::Encrypted { by: "a snapshot has a key-id" });
    }
    Ok(())
}

/// The content of a gzip file, by its first bytes whatever it is called; `None`: it is none.
fn decompress(bytes: &[u8], name: &str) -> Result<Option<Vec<u8>>, TableError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(None);
    }
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .take(METADATA_MAX_BYTES + 1)
        .read_to_end(&mut out)
        .map_err(|error| TableError::malformed(format!("metadata {name}"), error.to_string()))?;
    if out.len() as u64 > METADATA_MAX_BYTES {
        let what = format!("metadata {name}");
        return Err(TableError::TooLarge { what, size: out.len() as u64, limit: METADATA_MAX_BYTES });
    }
    Ok(Some(out))
}
