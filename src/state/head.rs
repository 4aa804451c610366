//! HEAD: the one small object that says which layers make up the newest version.
use crate::clock::Timestamp;
use crate::layer::Tail;
use crate::remote::{ObjectStore, RemoteError, Tag};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

mod chain;
mod inline;
mod tags;
#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
pub(crate) mod tests;

pub use inline::{INLINE_BYTES_MAX, Inline};
pub use tags::{TAG_BYTES_MAX, TAGS_MAX, check_tag};

/// What the field `format` says.
pub const FORMAT: &str = "icecache-head";
/// The format number written and understood.
pub const FORMAT_VERSION: u32 = 1;
/// The longest document that is read, in bytes.
pub const HEAD_BYTES_MAX: usize = 32 << 20;
/// The most layers one version may have.
pub const LAYERS_MAX: usize = 65_536;
/// The most versions that are kept, tagged ones besides.
pub const VERSIONS_MAX: usize = 10_000;
/// A document that is longer keeps fewer versions: whoever flushes reads and writes it each time.
pub const HEAD_BYTES_AIM: usize = 8 << 20;
/// The most unneeded layers that are written down.
pub const UNNEEDED_MAX: usize = 8192;
/// The longest key of a layer and the longest name, in bytes.
pub const KEY_BYTES_MAX: usize = 900;
/// The longest name of a state, in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// The number of a version: 1 for the first, then counting up. 0 stands for "nothing yet".
pub type VersionId = u64;

/// The newest version of one name.
///
/// Fields of later formats that this version does not know stay in `extra` and are written back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    format: String,
    format_version: u32,
    /// BLAKE3 in hex of the canonical form of this document with this field empty.
    checksum: String,
    /// Whose newest version this is.
    pub name: String,
    /// Its number.
    pub version: VersionId,
    /// The version it was built on; 0 for the first.
    pub parent: VersionId,
    /// Set in the versions of a fork: where it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkedFrom>,
    /// The state directory that wrote it.
    pub writer: Uuid,
    /// The machine it was on, for people.
    pub host: String,
    /// Counts takeovers: a writer with a smaller number has lost its right to write.
    pub fence: u64,
    /// The instant of the tree it shows.
    pub time: jiff::Timestamp,
    /// What makes it up, oldest first.
    pub layers: Vec<LayerRef>,
    /// What is no part of it, but of earlier versions that are kept, or is referred to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<LayerRef>,
    /// Layers that nothing needs any more, until their objects are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unneeded: Vec<Unneeded>,
    /// Names that people gave to versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, VersionId>,
    /// What the store called earlier documents of this version, which differed in their tags alone;
    /// the newest is the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formerly: Vec<Tag>,
    /// BLAKE3, in hex, of the compression dictionary that later layers may need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<Digest>,
    /// The id of the first layer that it had, or that was added to a document without this: whoever knows another one
    /// knows another history. A fork has that of its origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Uuid>,
    /// Nothing that this name ever had is deleted: it is an archive in the append-only layout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Where a fork left its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkedFrom {
    /// The name it left.
    pub name: String,
    /// The last version both have.
    pub version: VersionId,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One layer of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Its object's key, relative to the remote's prefix.
    pub key: String,
    /// Length of the object.
    pub bytes: u64,
    /// Length of the archive inside.
    pub raw_bytes: u64,
    /// BLAKE3 of the object, in hex.
    pub digest: Digest,
    /// How many entries it has, whiteouts included.
    pub entries: u64,
    /// What of the object a reader of parts needs first; layers without contents have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableRef>,
    /// BLAKE3, in hex, of the compression dictionary without which it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<Digest>,
    /// The version that it completes: the one that added it, or the newest of those merged into it.
    pub version: VersionId,
    /// The version it builds on. Says so of held layers only; of others that of the layer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<VersionId>,
    /// Keys of other layers in which parts of its files stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refers: Vec<String>,
    /// The instant of the tree it shows.
    pub time: jiff::Timestamp,
    /// The state directory that wrote it.
    pub writer: Uuid,
    /// How many paths it sets.
    pub changed: u64,
    /// How many paths it removes (a directory with its content counts once).
    pub removed: u64,
    /// How many of its files were mapped for writing and may not be of one instant.
    #[serde(default)]
    pub fuzzy: u64,
    /// The object itself, if it is small and may not be there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Inline>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A layer that no kept version has, and no layer refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unneeded {
    /// Its object's key, relative to the remote's prefix.
    pub key: String,
    /// Length of the object.
    pub bytes: u64,
    /// Since when.
    pub since: jiff::Timestamp,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The tail of a layer: all of the object after its last data frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// Its length; it ends the object.
    pub bytes: u64,
    /// BLAKE3 of these bytes, in hex.
    pub digest: Digest,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl From<Tail> for TableRef {
    fn from(tail: Tail) -> Self {
        Self { bytes: tail.bytes, digest: Digest(tail.digest), extra: Map::new() }
    }
}

/// A BLAKE3 digest; 64 lower-case hex digits in documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let hash = blake3::Hash::from_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// Why a HEAD cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The remote did not give it.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// It is not a HEAD document.
    #[error("not an icecache HEAD: {0}")]
    Foreign(String),
    /// It was written by a later icecache.
    #[error("HEAD has a format this version does not know: {0}")]
    Version(u32),
    /// Its checksum is wrong.
    #[error("HEAD is damaged: its checksum is wrong")]
    Checksum,
    /// It contradicts itself or is beyond any bound.
    #[error("HEAD is damaged: {0}")]
    Invalid(String),
}

impl From<HeadError> for crate::Error {
    fn from(e: HeadError) -> Self {
        use crate::ErrorKind;
        let kind = match &e {
            HeadError::Remote(RemoteError::NotFound { .. } | RemoteError::NoBucket { .. }) => {
                ErrorKind::NotFound
            }
            HeadError::Remote(RemoteError::Denied { .. }) => ErrorKind::Denied,
            HeadError::Remote(RemoteError::Precondition { .. }) => ErrorKind::Conflict,
            HeadError::Remote(_) => ErrorKind::Unavailable,
            HeadError::Version(_) => ErrorKind::Unsupported,
            HeadError::Foreign(_) | HeadError::Checksum | HeadError::Invalid(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, e.to_string())
    }
}

impl Head {
    /// The document before the first version of a name: no layers, version 0.
    pub fn empty(name: &str, writer: Uuid, host: &str) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            checksum: String::new(),
            name: name.into(),
            version: 0,
            parent: 0,
            forked_from: None,
            writer,
            host: host.into(),
            fence: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            layers: Vec::new(),
            held: Vec::new(),
            unneeded: Vec::new(),
            tags: BTreeMap::new(),
            formerly: Vec::new(),
            dictionary: None,
            history: None,
            log: false,
            extra: Map::new(),
        }
    }

    /// The next version: this one and one layer more, by this writer. The layer gets its number.
    #[must_use]
    pub fn next(&self, writer: Uuid, host: &str, mut layer: LayerRef) -> Self {
        let mut next = self.clone();
        next.parent = self.version;
        next.version = self.version + 1;
        next.writer = writer;
        host.clone_into(&mut next.host);
        next.time = layer.time;
        next.formerly.clear();
        layer.version = next.version;
        next.history = next.history.or_else(|| layer_id(&layer.key));
        next.layers.push(layer);
        next
    }

    /// The same layers under another name.
    #[must_use]
    pub fn fork(&self, name: &str) -> Self {
        let mut fork = self.clone();
        fork.forked_from =
            Some(ForkedFrom { name: self.name.clone(), version: self.version, extra: Map::new() });
        name.clone_into(&mut fork.name);
        fork.formerly.clear();
        fork
    }

    /// Whether both are known to be of histories that do not come of each other.
    pub fn is_of_another_history(&self, than: Option<Uuid>) -> bool {
        self.history.zip(than).is_some_and(|(ours, other)| ours != other)
    }

    /// Whether this version has that layer.
    pub fn has_layer(&self, key: &str) -> bool {
        self.layers.iter().rev().any(|layer| layer.key == key)
    }

    /// The document's bytes, with its checksum.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeadError> {
        let invalid = |e: serde_json::Error| HeadError::Invalid(e.to_string());
        let mut value = serde_json::to_value(self).map_err(invalid)?;
        let sum = checksum(&mut value);
        let mut sealed = self.clone();
        sealed.checksum = sum;
        sealed.check()?;
        let bytes = serde_json::to_vec(&sealed).map_err(invalid)?;
        // What nobody could read must not take the place of what can be read.
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(HeadError::Invalid(format!("longer than {HEAD_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }

    /// Reads a document; refuses whatever is not whole, known and consistent.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(HeadError::Invalid(format!("longer than {HEAD_BYTES_MAX} bytes")));
        }
        let mut value: Value =
            serde_json::from_slice(bytes).map_err(|e| HeadError::Foreign(e.to_string()))?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(HeadError::Foreign("field 'format' is not 'icecache-head'".into()));
        }
        match value.get("format_version").and_then(Value::as_u64) {
            Some(n) if n == u64::from(FORMAT_VERSION) => {}
            Some(n) => return Err(HeadError::Version(u32::try_from(n).unwrap_or(u32::MAX))),
            None => return Err(HeadError::Foreign("field 'format_version' is missing".into())),
        }
        let claimed = value.get("checksum").and_then(Value::as_str).unwrap_or_default().to_owned();
        if checksum(&mut value) != claimed {
            return Err(HeadError::Checksum);
        }
        let mut head: Self = serde_json::from_value(value).map_err(|e| HeadError::Invalid(e.to_string()))?;
        head.checksum = claimed;
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), HeadError> {
        let invalid = |text: String| Err(HeadError::Invalid(text));
        check_name(&self.name)?;
        self.check_tags()?;
        if self.version == 0 || self.parent >= self.version {
            return invalid(format!("version {} with parent {}", self.version, self.parent));
        }
        self.check_layers()?;
        Ok(())
    }
}

/// Whether bytes can name a state: one component of a key, printable, nothing special.
pub fn check_name(name: &str) -> Result<(), HeadError> {
    let bad = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.starts_with('.')
        || name == "layers"
        || name.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    if bad { Err(HeadError::Invalid(format!("name {name:?}"))) } else { Ok(()) }
}

/// Where the HEAD of a name is.
pub fn head_key(name: &str) -> String {
    format!("{name}/HEAD")
}

/// How the keys of layers begin. Objects there never change.
pub const LAYERS: &str = "layers/";

/// Where the layer of this id is; names share layers, so it lies beside them.
pub fn layer_key(id: Uuid) -> String {
    format!("{LAYERS}{id}.tar.zst")
}

/// The id of the layer at this key; foreign archives have none, and nothing refers to them.
pub fn layer_id(key: &str) -> Option<Uuid> {
    let id = key.strip_prefix("layers/")?.strip_suffix(".tar.zst")?.parse().ok()?;
    (layer_key(id) == key).then_some(id)
}

/// Where the one archive of a name is in layout single.
pub fn archive_key(name: &str) -> String {
    format!("{name}.zst")
}

/// A version's instant as documents hold it; beyond year 9999 it is clamped.
pub fn instant(time: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::new(time.sec, time.nsec as i32).unwrap_or(if time.sec < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    })
}

/// Reads the HEAD of a name. `None` only if the store is certain that there is none: any other
/// failure is an error, so that an outage is never mistaken for an empty state.
pub async fn read_head(store: &dyn ObjectStore, name: &str) -> Result<Option<(Head, Tag)>, HeadError> {
    check_name(name)?;
    let object = match store.get(&head_key(name)).await {
        Ok(object) => object,
        Err(RemoteError::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let head = Head::parse(&object.bytes)?;
    if head.name != name {
        return Err(HeadError::Invalid(format!("it belongs to another name: {:?}", head.name)));
    }
    head.hand_over(store);
    Ok(Some((head, object.tag)))
}

/// Empties the field `checksum` and returns what it should be.
fn checksum(document: &mut Value) -> String {
    if let Value::Object(fields) = document {
        fields.insert("checksum".into(), Value::String(String::new()));
    }
    let mut canonical = Vec::new();
    write_canonical(document, &mut canonical);
    blake3::hash(&canonical).to_hex().to_string()
}

/// JSON without spaces, keys in byte order: the same for any writer and any order of fields.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| key.as_bytes());
            out.push(b'{');
            for (n, (key, value)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::String(key.clone()).to_string().as_bytes());
                out.push(b':');
                write_canonical(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}
