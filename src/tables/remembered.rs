//! [`Remembered`]: what catalogs have said, for a start while one of them is away: which tables there are, and which
//! version of each was shown last.
//!
//! docs/FORMAT.md has the bytes of the files. They are hints: what is missing or not whole is as if it had never been
//! said, and what a catalog says now counts.
use super::lent::has_keys;
use super::sealed::{Lasting, Seal, write};
use crate::sync::Mutex;
use bytes::Bytes;
use icecache_iceberg::catalog::Options;
use icecache_iceberg::{CatalogAddress, StorageCredential, Table, TableId, Token};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const NAMES: Seal = Seal { magic: "icecache-names", version: "1" };
const SHOWN: Seal = Seal { magic: "icecache-shown", version: "1" };
/// In the folder of a table, where the mount shows nothing whose name begins with a dot.
const FILE: &str = ".shown";
/// Options that say which of several catalogs at one address is meant, or in whose name it is asked.
const WHICH: [&str; 13] = [
    "warehouse",
    "prefix",
    "catalog-name",
    "glue.id",
    "glue.region",
    "client.region",
    "glue.endpoint",
    "glue.profile-name",
    "client.profile-name",
    "glue.access-key-id",
    "client.access-key-id",
    "ugi",
    "hive.ugi",
];
/// Of what a catalog lends, what says where the store is. Keys are no one's to write down.
const WHERE: [&str; 4] = ["s3.endpoint", "client.region", "s3.region", "s3.path-style-access"];

/// See the module. Owner of its lock.
#[derive(Debug)]
pub(super) struct Remembered {
    folder: PathBuf,
    /// Checksums of the lists of names that are on the disk, by catalog.
    written: Mutex<HashMap<String, blake3::Hash>>,
}

/// A catalog as what is remembered knows it: another address, or another warehouse there, is another one, and so is one
/// whose buckets are in another store, or that is asked in the name of somebody else.
pub(super) fn identity(address: &CatalogAddress, options: &Options, endpoint: Option<&str>) -> String {
    let mut identity = address.to_string();
    for key in WHICH {
        if let Some(value) = options.get(key) {
            identity.push_str(&format!(" {key}={value}"));
        }
    }
    let id = options.get("credential").and_then(|credential| credential.split_once(':')).map(|(id, _)| id);
    for (key, value) in [("as", id), ("store", endpoint)] {
        if let Some(value) = value {
            identity.push_str(&format!(" {key}={value}"));
        }
    }
    identity
}

impl Remembered {
    /// In the folder of the tables of a mount.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, written: Mutex::default() }
    }

    /// The tables that a catalog had when it was asked last.
    pub fn names(&self, catalog: &str) -> BTreeSet<TableId> {
        let Ok(bytes) = std::fs::read(self.names_file(catalog)) else { return BTreeSet::new() };
        let Some(names) = decode_names(&bytes, catalog) else { return BTreeSet::new() };
        self.written.lock().insert(catalog.to_owned(), blake3::hash(&bytes));
        names
    }

    /// These are the tables of a catalog. Blocks for a moment, if they are not those of before.
    pub fn keep_names(&self, catalog: &str, names: &BTreeSet<TableId>) {
        let bytes = encode_names(catalog, names);
        let checksum = blake3::hash(&bytes);
        let mut written = self.written.lock();
        if written.get(catalog) == Some(&checksum) {
            return;
        }
        let path = self.names_file(catalog);
        match write(&path, &bytes, Lasting::No) {
            Ok(()) => drop(written.insert(catalog.to_owned(), checksum)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remember the names of tables");
            }
        }
    }

    fn names_file(&self, catalog: &str) -> PathBuf {
        self.folder.join(format!("names.{}", &blake3::hash(catalog.as_bytes()).to_hex()[..16]))
    }

    /// The version of a table of a catalog that was shown last from this folder.
    pub fn shown(folder: &Path, catalog: &str, id: &TableId) -> Option<Table> {
        decode_shown(&std::fs::read(folder.join(FILE)).ok()?, catalog, id)
    }

    /// The catalog of the table that was shown last from this folder.
    pub fn catalog_of(folder: &Path) -> Option<String> {
        let bytes = std::fs::read(folder.join(FILE)).ok()?;
        Some(split_shown(&bytes)?.0.catalog)
    }

    /// This version is shown from this folder from now on, and all that it needs is there. Blocks for a moment.
    ///
    /// # Errors
    /// What was shown before is remembered.
    pub fn keep_shown(folder: &Path, catalog: &str, table: &Table) -> std::io::Result<()> {
        let Some(bytes) = encode_shown(catalog, table) else { return Ok(()) };
        write(&folder.join(FILE), &bytes, Lasting::No)
    }

    /// Nothing is shown from this folder any more.
    pub fn forget_shown(folder: &Path) {
        let _was_none = std::fs::remove_file(folder.join(FILE));
    }
}

fn encode_names(catalog: &str, names: &BTreeSet<TableId>) -> Vec<u8> {
    let line = |value: serde_json::Value| value.to_string() + "\n";
    let mut lines = line(serde_json::json!(catalog));
    lines.extend(names.iter().map(|id| line(serde_json::json!([id.namespace, id.name]))));
    NAMES.seal(lines.as_bytes())
}

fn decode_names(bytes: &[u8], catalog: &str) -> Option<BTreeSet<TableId>> {
    let mut lines = std::str::from_utf8(NAMES.content(bytes)?).ok()?.lines();
    if serde_json::from_str::<String>(lines.next()?).ok()? != catalog {
        return None;
    }
    let table = |line| {
        let (namespace, name) = serde_json::from_str(line).ok()?;
        Some(TableId { namespace, name })
    };
    lines.map(table).collect()
}

/// Which version it was.
#[derive(serde::Serialize, serde::Deserialize)]
struct Version {
    catalog: String,
    namespace: Vec<String>,
    name: String,
    location: String,
    token: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lent: Vec<Place>,
}

/// Where files are for which the catalog lends keys.
#[derive(serde::Serialize, serde::Deserialize)]
struct Place {
    prefix: String,
    properties: Vec<(String, String)>,
}

fn encode_shown(catalog: &str, table: &Table) -> Option<Vec<u8>> {
    let metadata = table.metadata.as_ref()?;
    let version = Version {
        catalog: catalog.to_owned(),
        namespace: table.id.namespace.clone(),
        name: table.id.name.clone(),
        location: table.metadata_location.as_str().to_owned(),
        token: table.token.0.clone(),
        lent: table.credentials.iter().filter(|credential| has_keys(credential)).map(place_of).collect(),
    };
    let mut content = serde_json::to_vec(&version).ok()?;
    content.push(b'\n');
    content.extend_from_slice(metadata);
    Some(SHOWN.seal(&content))
}

/// Which version it was, and its metadata.
fn split_shown(bytes: &[u8]) -> Option<(Version, &[u8])> {
    let content = SHOWN.content(bytes)?;
    let end = content.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&content[..end]).ok()?, &content[end + 1..]))
}

fn decode_shown(bytes: &[u8], catalog: &str, id: &TableId) -> Option<Table> {
    let (version, metadata) = split_shown(bytes)?;
    let id_there = TableId { namespace: version.namespace, name: version.name };
    if version.catalog != catalog || id_there != *id {
        return None;
    }
    Some(Table {
        id: id_there,
        metadata_location: version.location.parse().ok()?,
        metadata: Some(Bytes::copy_from_slice(metadata)),
        token: Token(version.token),
        credentials: version
            .lent
            .into_iter()
            .map(|Place { prefix, properties }| StorageCredential { prefix, properties })
            .collect(),
    })
}

fn place_of(credential: &StorageCredential) -> Place {
    let properties = credential.properties.iter().filter(|(key, _)| WHERE.contains(&key.as_str()));
    Place { prefix: credential.prefix.clone(), properties: properties.cloned().collect() }
}

/// Whatever these files hold, reading them ends in a table, in names, or in none: for fuzzing.
pub fn decode(bytes: &[u8]) {
    let id = TableId { namespace: vec!["db".to_owned()], name: "t".to_owned() };
    for bytes in [bytes, &NAMES.seal(bytes), &SHOWN.seal(bytes)] {
        decode_names(bytes, "c");
        decode_shown(bytes, "c", &id);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    fn id(namespace: &[&str], name: &str) -> TableId {
        TableId {
            namespace: namespace.iter().map(|level| (*level).to_owned()).collect(),
            name: name.to_owned(),
        }
    }

    fn credential(prefix: &str, properties: &[(&str, &str)]) -> StorageCredential {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        StorageCredential { prefix: prefix.to_owned(), properties: properties.collect() }
    }

    #[track_caller]
    fn sealed(magic: &str, content: &str) -> String {
        format!("{magic} 1 {}\n{content}", blake3::hash(content.as_bytes()).to_hex())
    }

    #[test]
    fn the_files_are_these_lines() {
        let names = BTreeSet::from([id(&["db"], "t"), id(&["db", "a b"], "\"u\"")]);
        let text =
            sealed("icecache-names", "\"c=rest:x\"\n[[\"db\"],\"t\"]\n[[\"db\",\"a b\"],\"\\\"u\\\"\"]\n");
        assert_eq!(String::from_utf8(encode_names("c=rest:x", &names)).expect("text"), text);
        assert_eq!(decode_names(text.as_bytes(), "c=rest:x"), Some(names));
        assert_eq!(decode_names(text.as_bytes(), "c=rest:y"), None);
        let table = Table {
            id: id(&["db"], "t"),
            metadata_location: "s3://b/t/metadata/1.metadata.json".parse().expect("a location"),
            metadata: Some(Bytes::from_static(b"{\n}")),
            token: Token("e\nl".to_owned()),
            credentials: vec![
                credential(
                    "s3://b/t",
                    &[("s3.access-key-id", "a"), ("s3.secret-access-key", "b"), ("s3.region", "r")],
                ),
                credential("", &[("s3.region", "none")]),
            ],
        };
        let text = sealed(
            "icecache-shown",
            "{\"catalog\":\"c\",\"namespace\":[\"db\"],\"name\":\"t\",\
             \"location\":\"s3://b/t/metadata/1.metadata.json\",\"token\":\"e\\nl\",\
             \"lent\":[{\"prefix\":\"s3://b/t\",\"properties\":[[\"s3.region\",\"r\"]]}]}\n{\n}",
        );
        assert_eq!(String::from_utf8(encode_shown("c", &table).expect("has metadata")).expect("text"), text);
        let again = decode_shown(text.as_bytes(), "c", &table.id).expect("is whole");
        assert_eq!(again.metadata_location, table.metadata_location);
        assert_eq!((again.metadata, again.token), (table.metadata, table.token));
        assert_eq!(again.credentials, [credential("s3://b/t", &[("s3.region", "r")])], "and no key");
        assert!(decode_shown(text.as_bytes(), "d", &table.id).is_none());
        assert!(decode_shown(text.as_bytes(), "c", &id(&["db"], "u")).is_none());
        for wrong in [&text[1..], &text[..text.len() - 1], "", &text.replace(" 1 ", " 2 ")] {
            assert!(decode_shown(wrong.as_bytes(), "c", &table.id).is_none(), "{wrong}");
        }
    }

    /// A disk that is full for a moment.
    #[test]
    fn what_cannot_be_remembered_leaves_what_was() {
        let dir = tempfile::tempdir().expect("a folder");
        let table = |token: &str| Table {
            id: id(&["db"], "t"),
            metadata_location: "s3://b/t/metadata/1.metadata.json".parse().expect("a location"),
            metadata: Some(Bytes::from_static(b"{}")),
            token: Token(token.to_owned()),
            credentials: Vec::new(),
        };
        Remembered::keep_shown(dir.path(), "c", &table("1")).expect("there is room");
        let aside = dir.path().join(FILE).with_extension("new");
        std::fs::create_dir(&aside).expect("a folder");
        assert!(Remembered::keep_shown(dir.path(), "c", &table("2")).is_err());
        let shown = Remembered::shown(dir.path(), "c", &id(&["db"], "t")).expect("the one of before");
        assert_eq!(shown.token, Token("1".to_owned()));
    }

    #[test]
    fn names_are_there_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let names = BTreeSet::from([id(&["db"], "t")]);
        let remembered = Remembered::new(dir.path().join("new"));
        assert!(remembered.names("c").is_empty());
        remembered.keep_names("c", &names);
        let again = Remembered::new(dir.path().join("new"));
        assert_eq!((again.names("c"), again.names("d")), (names, BTreeSet::new()));
    }
}
