//! [`Remembered`]: what catalogs have said, for a start while one of them is away: which tables there are, and which
//! version of each was shown last.
//!
//! docs/FORMAT.md has the bytes of the files. They are hints: what is missing or not whole is as if it had never been
//! said, and what a catalog says now counts.
use super::sealed::{Lasting, Seal, write};
use crate::sync::Mutex;
use bytes::Bytes;
use icecache_iceberg::catalog::Options;
use icecache_iceberg::{CatalogAddress, Table, TableId, Token};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const NAMES: Seal = Seal { magic: "icecache-names", version: "1" };
const SHOWN: Seal = Seal { magic: "icecache-shown", version: "1" };
/// In the folder of a table; the mount shows no name that begins with a dot.
const FILE: &str = ".shown";
/// Options that say which of several catalogs at one address is meant.
const WHICH: [&str; 3] = ["warehouse", "prefix", "catalog-name"];

/// See the module. Owner of its lock.
#[derive(Debug)]
pub(super) struct Remembered {
    folder: PathBuf,
    /// The names that are on the disk, by catalog.
    written: Mutex<HashMap<String, BTreeSet<TableId>>>,
}

/// A catalog as what is remembered knows it: another address, or another warehouse there, is another one.
pub(super) fn identity(address: &CatalogAddress, options: &Options) -> String {
    let which = WHICH.iter().filter_map(|key| Some(format!(" {key}={}", options.get(key)?)));
    format!("{address}{}", which.collect::<String>())
}

impl Remembered {
    /// In the folder of the tables of a mount.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, written: Mutex::default() }
    }

    /// The tables that a catalog had when it was asked last.
    pub fn names(&self, catalog: &str) -> BTreeSet<TableId> {
        let read = std::fs::read(self.names_file(catalog)).ok();
        let names = read.and_then(|bytes| decode_names(&bytes, catalog)).unwrap_or_default();
        self.written.lock().insert(catalog.to_owned(), names.clone());
        names
    }

    /// These are the tables of a catalog. Blocks for a moment, if they are not those of before.
    pub fn keep_names(&self, catalog: &str, names: &BTreeSet<TableId>) {
        let mut written = self.written.lock();
        if written.get(catalog) == Some(names) {
            return;
        }
        let path = self.names_file(catalog);
        match write(&path, &encode_names(catalog, names), Lasting::No) {
            Ok(()) => drop(written.insert(catalog.to_owned(), names.clone())),
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

    /// This version is shown from this folder; its metadata is there. Blocks for a moment.
    pub fn keep_shown(folder: &Path, catalog: &str, table: &Table) {
        let Some(bytes) = encode_shown(catalog, table) else { return };
        let path = folder.join(FILE);
        if let Err(error) = write(&path, &bytes, Lasting::No) {
            tracing::warn!(path = %path.display(), %error, "cannot remember which version is shown");
        }
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
}

fn encode_shown(catalog: &str, table: &Table) -> Option<Vec<u8>> {
    let metadata = table.metadata.as_ref()?;
    let version = Version {
        catalog: catalog.to_owned(),
        namespace: table.id.namespace.clone(),
        name: table.id.name.clone(),
        location: table.metadata_location.as_str().to_owned(),
        token: table.token.0.clone(),
    };
    let mut content = serde_json::to_vec(&version).ok()?;
    content.push(b'\n');
    content.extend_from_slice(metadata);
    Some(SHOWN.seal(&content))
}

fn decode_shown(bytes: &[u8], catalog: &str, id: &TableId) -> Option<Table> {
    let content = SHOWN.content(bytes)?;
    let end = content.iter().position(|byte| *byte == b'\n')?;
    let version: Version = serde_json::from_slice(&content[..end]).ok()?;
    let id_there = TableId { namespace: version.namespace, name: version.name };
    if version.catalog != catalog || id_there != *id {
        return None;
    }
    Some(Table {
        id: id_there,
        metadata_location: version.location.parse().ok()?,
        metadata: Some(Bytes::copy_from_slice(&content[end + 1..])),
        token: Token(version.token),
        credentials: Vec::new(), // what was lent has expired, and is no one's to write down
    })
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
            credentials: Vec::new(),
        };
        let text = sealed(
            "icecache-shown",
            "{\"catalog\":\"c\",\"namespace\":[\"db\"],\"name\":\"t\",\
             \"location\":\"s3://b/t/metadata/1.metadata.json\",\"token\":\"e\\nl\"}\n{\n}",
        );
        assert_eq!(String::from_utf8(encode_shown("c", &table).expect("has metadata")).expect("text"), text);
        let again = decode_shown(text.as_bytes(), "c", &table.id).expect("is whole");
        assert_eq!(again.metadata_location, table.metadata_location);
        assert_eq!((again.metadata, again.token), (table.metadata, table.token));
        assert!(decode_shown(text.as_bytes(), "d", &table.id).is_none());
        assert!(decode_shown(text.as_bytes(), "c", &id(&["db"], "u")).is_none());
        for wrong in [&text[1..], &text[..text.len() - 1], "", &text.replace(" 1 ", " 2 ")] {
            assert!(decode_shown(wrong.as_bytes(), "c", &table.id).is_none(), "{wrong}");
        }
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
