//! The tables of the tests (scripts/fixtures/tables), unpacked, and what is looked at in them.
use crate::avro::Container;
use crate::manifest::{Status, read_list, read_manifest};
use crate::mapping::Mapping;
use crate::objects::LocalObjects;
use crate::publication::{Place, Publication, version};
use crate::table::{Table, TableId, Token};
use crate::{Location, Objects, TableError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// The objects of all tables, and where they are published. Goes away with who has unpacked it.
pub(in crate::publication) struct Lake {
    pub(in crate::publication) dir: PathBuf,
    pub(super) expected: BTreeMap<String, Value>,
    _unpacked: Option<tempfile::TempDir>,
}

impl Lake {
    pub(in crate::publication) fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().to_owned();
        let raw = path.join("raw");
        std::fs::create_dir(&raw).unwrap();
        let status = Command::new("tar")
            .arg("--zstd")
            .arg("-xf")
            .arg(fixtures().join("tables.tar.zst"))
            .arg("-C")
            .arg(&raw)
            .status();
        assert!(status.unwrap().success(), "tar and zstd unpack the tables");
        Self { _unpacked: Some(dir), ..Self::unpacked(path) }
    }

    /// What another process has unpacked there.
    pub(in crate::publication) fn unpacked(dir: PathBuf) -> Self {
        let expected = std::fs::read(fixtures().join("expected.json")).unwrap();
        Self { dir, expected: serde_json::from_slice(&expected).unwrap(), _unpacked: None }
    }

    pub(super) fn raw(&self) -> PathBuf {
        self.dir.join("raw")
    }

    pub(super) fn location(&self, name: &str) -> Location {
        self.expected[name]["metadata"].as_str().unwrap().parse().unwrap()
    }

    pub(super) fn place(&self, name: &str, mount: &str) -> Place {
        let root = self.dir.join(mount);
        let mapping = Mapping::new(&root).unwrap();
        let path = mapping.table_path(None, &id(name));
        Place { folder: root.join(&path), mapping, path }
    }

    pub(in crate::publication) async fn prepare(
        &self,
        name: &str,
        metadata: Location,
        mount: &str,
    ) -> Result<Publication, TableError> {
        let objects = Arc::new(LocalObjects::with_buckets(self.raw()));
        self.prepare_with(objects, name, metadata, mount).await
    }

    pub(super) async fn prepare_with(
        &self,
        objects: Arc<dyn Objects>,
        name: &str,
        metadata: Location,
        mount: &str,
    ) -> Result<Publication, TableError> {
        let token = Token(metadata.as_str().into());
        let table = Table {
            id: id(name),
            metadata_location: metadata,
            metadata: None,
            token,
            credentials: Vec::new(),
        };
        Publication::prepare(objects, self.place(name, mount), &table).await
    }

    /// All metadata files of a table of the Hadoop catalog, oldest first.
    pub(in crate::publication) fn versions(&self, name: &str) -> Vec<Location> {
        let last = self.location(name);
        let number = |n: u64, suffix: &str| -> Location {
            let folder = last.as_str().rsplit_once('/').unwrap().0;
            format!("{folder}/v{n}{suffix}").parse().unwrap()
        };
        let count = version::wish(&last, 0);
        let suffix = last.name().trim_start_matches('v').trim_start_matches(|c: char| c.is_ascii_digit());
        (1..=count)
            .map(|n| number(n, suffix))
            .filter(|l| self.raw().join("s3").join(l.authority()).join(l.key()).exists())
            .collect()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(super) fn id(name: &str) -> TableId {
    TableId { namespace: vec!["db".into()], name: name.into() }
}

/// The path of what a URI of rewritten metadata names; objects are where they were unpacked.
pub(super) fn local(lake: &Lake, place: &Place, uri: &str) -> PathBuf {
    let path = place.mapping.path_of(uri).unwrap_or_else(|| panic!("{uri} is below the mount"));
    match place.mapping.location(path) {
        Some(location) => lake.raw().join("s3").join(location.authority()).join(location.key()),
        None => place.folder.join(path.strip_prefix(&format!("{}/", place.path)).unwrap()),
    }
}

pub(super) fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
}

/// Every text and every block of a file, decompressed: where a location could still be.
pub(super) fn contents(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    match path.extension().and_then(|e| e.to_str()) {
        Some("avro") => {
            let file = Container::parse(&bytes).unwrap();
            let mut out = bytes.clone();
            let mut seen = 0;
            file.records(|content, at| {
                if at == 0 {
                    out.extend_from_slice(content);
                }
                seen += 1;
                crate::avro::walk(&file.schema, file.schema.root(), content, at, |_, _| Ok(()))
            })
            .unwrap();
            out
        }
        Some("parquet") => {
            use ::parquet::file::reader::{FileReader, SerializedFileReader};
            let mut out = bytes.clone();
            let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
            for row in file.get_row_iter(None).unwrap() {
                out.extend_from_slice(row.unwrap().to_string().as_bytes());
            }
            out
        }
        _ => bytes,
    }
}

pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { out.push(path) }
        }
    }
    out
}

/// Follows metadata down to the last file: everything is there, and as long as it is said to be. Returns how many
/// files it has met.
pub(in crate::publication) fn follow(
    lake: &Lake,
    place: &Place,
    metadata: &Path,
    only: Option<i64>,
) -> usize {
    let json: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let mut met = 0;
    for snapshot in json["snapshots"].as_array().into_iter().flatten() {
        if only.is_some_and(|only| snapshot["snapshot-id"].as_i64() != Some(only)) {
            continue;
        }
        let list = local(lake, place, snapshot["manifest-list"].as_str().unwrap());
        for manifest in read_list(&std::fs::read(&list).unwrap(), "list").unwrap() {
            let path = local(lake, place, &manifest.path);
            assert_eq!(manifest.length, size(&path), "{}", path.display());
            for entry in read_manifest(&std::fs::read(&path).unwrap(), "manifest").unwrap().1 {
                let referenced = entry.referenced.as_ref().map(|uri| local(lake, place, uri));
                if entry.status == Status::Live {
                    let file = local(lake, place, &entry.path);
                    assert_eq!(entry.size, size(&file), "{}", file.display());
                    assert!(referenced.is_none_or(|file| file.exists()));
                    met += 1;
                }
            }
        }
    }
    met
}
