//! Tables that Spark and PyIceberg have written (scripts/fixtures/tables), published and looked through.
use super::*;
use crate::avro::Container;
use crate::manifest::{Status, read_list, read_manifest};
use crate::objects::LocalObjects;
use crate::table::{TableId, Token};
use crate::{ChangeKind, difference};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The objects of all tables, and where they are published. Goes away with who has unpacked it.
pub(super) struct Lake {
    pub(super) dir: PathBuf,
    expected: BTreeMap<String, Value>,
    _unpacked: Option<tempfile::TempDir>,
}

impl Lake {
    pub(super) fn new() -> Self {
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
    pub(super) fn unpacked(dir: PathBuf) -> Self {
        let expected = std::fs::read(fixtures().join("expected.json")).unwrap();
        Self { dir, expected: serde_json::from_slice(&expected).unwrap(), _unpacked: None }
    }

    fn raw(&self) -> PathBuf {
        self.dir.join("raw")
    }

    fn location(&self, name: &str) -> Location {
        self.expected[name]["metadata"].as_str().unwrap().parse().unwrap()
    }

    fn place(&self, name: &str, mount: &str) -> Place {
        let root = self.dir.join(mount);
        let mapping = Mapping::new(&root).unwrap();
        let path = mapping.table_path(None, &id(name));
        Place { folder: root.join(&path), mapping, path }
    }

    pub(super) async fn prepare(
        &self,
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
        let objects = Arc::new(LocalObjects::with_buckets(self.raw()));
        Publication::prepare(objects, self.place(name, mount), &table).await
    }

    /// All metadata files of a table of the Hadoop catalog, oldest first.
    pub(super) fn versions(&self, name: &str) -> Vec<Location> {
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

fn id(name: &str) -> TableId {
    TableId { namespace: vec!["db".into()], name: name.into() }
}

/// The path of what a URI of rewritten metadata names; objects are where they were unpacked.
fn local(lake: &Lake, place: &Place, uri: &str) -> PathBuf {
    let path = place.mapping.path_of(uri).unwrap_or_else(|| panic!("{uri} is below the mount"));
    match place.mapping.location(path) {
        Some(location) => lake.raw().join("s3").join(location.authority()).join(location.key()),
        None => place.folder.join(path.strip_prefix(&format!("{}/", place.path)).unwrap()),
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
}

/// Every text and every block of a file, decompressed: where a location could still be.
fn contents(path: &Path) -> Vec<u8> {
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

fn files_below(folder: &Path) -> Vec<PathBuf> {
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
pub(super) fn follow(lake: &Lake, place: &Place, metadata: &Path, only: Option<i64>) -> usize {
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

#[tokio::test(flavor = "multi_thread")]
async fn no_location_is_left_and_every_length_is_exact() {
    let lake = Lake::new();
    for name in lake.expected.keys() {
        let publication = match lake.prepare(name, lake.location(name), "m").await {
            Ok(publication) => publication,
            Err(error) => panic!("{name}: {error}"),
        };
        let steps = publication.publish().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let place = publication.place();
        for step in &steps {
            assert_eq!(step.size, size(&place.folder.join(&step.path)), "{name}: {}", step.path);
        }
        for snapshot in &publication.metadata().snapshots {
            publication.snapshot(snapshot.id).await.unwrap();
        }
        for reference in publication.metadata().refs.keys() {
            publication.reference(reference).await.unwrap();
        }
        let hint = std::fs::read_to_string(place.folder.join("metadata/version-hint.text")).unwrap();
        assert_eq!(hint, publication.number().to_string(), "{name}");
        let met = follow(&lake, place, &place.folder.join(format!("metadata/v{hint}.metadata.json")), None);
        assert_eq!(met == 0, name == "empty", "{name}");
        for path in files_below(&place.folder) {
            let contents = contents(&path);
            for scheme in [&b"s3://"[..], b"s3a://", b"file:/var/tmp/raw"] {
                let left = contents.windows(scheme.len()).position(|window| window == scheme);
                assert_eq!(left, None, "{name}: {} in {}", scheme.escape_ascii(), path.display());
            }
        }
        // The same again has nothing to do.
        assert_eq!(publication.publish().await.unwrap(), [], "{name}");
        let again = lake.prepare(name, lake.location(name), "m").await.unwrap();
        assert_eq!(
            (again.number(), again.publish().await.unwrap()),
            (publication.number(), Vec::new()),
            "{name}"
        );
    }
}

/// A table of which some deletes cannot be read is refused, and says why; nothing of the version is there to be opened.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_that_cannot_be_read_refuse_the_table() {
    let lake = Lake::new();
    let data = lake.raw().join("s3/lake/wh/db/orc_deletes/data");
    let deletes = |path: &PathBuf| path.to_str().unwrap().ends_with("-deletes.orc");
    let file = files_below(&data).into_iter().find(deletes).unwrap();
    let good = std::fs::read(&file).unwrap();
    // The number of its codec is LZO's now: it stands in the last bytes, as `10 01 18` with the size of a chunk.
    let mut lzo = good.clone();
    let at = lzo.windows(3).rposition(|window| window == [0x10, 1, 0x18]).unwrap();
    lzo[at + 1] = 3;
    for (bytes, why) in [
        (&lzo[..], "LZO"),
        (&b"ORC"[..], "is not an ORC file"),
        (&good[..good.len() - 1], "is not an ORC file"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let publication = lake.prepare("orc_deletes", lake.location("orc_deletes"), "m").await.unwrap();
        let error = publication.publish().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!publication.place().folder.join("metadata/version-hint.text").exists());
    }
    std::fs::write(&file, good).unwrap();
    let publication = lake.prepare("orc_deletes", lake.location("orc_deletes"), "m").await.unwrap();
    publication.publish().await.unwrap();
}

/// What a manifest tells of the columns of its first file: by the field of the entry, by the id of the column.
fn metrics(manifest: &[u8]) -> BTreeMap<i32, BTreeMap<i64, Vec<u8>>> {
    use crate::avro::{elements, long, walk};
    let file = Container::parse(manifest).unwrap();
    let mut found = BTreeMap::new();
    file.records(|content, at| {
        let mut data = None;
        let end = walk(&file.schema, file.schema.root(), content, at, |field, item| {
            data = data.take().or(Some(item).filter(|_| field.id == Some(2)));
            Ok(())
        })?;
        let data = data.unwrap();
        walk(&file.schema, data.node, content, data.range.start, |field, map| {
            let id = field.id.unwrap();
            if [108, 109, 110, 125, 128, 137].contains(&id)
                && !map.is_null(&file.schema)
                && !found.contains_key(&id)
            {
                let mut values = BTreeMap::new();
                elements(&file.schema, &map, content, |element| {
                    let (mut key, mut value) = (0, Vec::new());
                    walk(&file.schema, element.node, content, element.range.start, |field, item| {
                        if field.name == "key" {
                            key = long(&file.schema, &item, content)?;
                        } else {
                            value = match long(&file.schema, &item, content) {
                                Ok(number) => number.to_le_bytes().to_vec(),
                                Err(_) => content[item.range].to_vec(),
                            };
                        }
                        Ok(())
                    })?;
                    values.insert(key, value);
                    Ok(())
                })?;
                found.insert(id, values);
            }
            Ok(())
        })?;
        Ok(end)
    })
    .unwrap();
    found
}

/// Deletes in ORC are published in Parquet: the same rows, and what manifests tell of the file is of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn deletes_in_orc_become_parquet() {
    use crate::deletes::facts;
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let lake = Lake::new();
    let (mut met, mut bounded) = (0, 0);
    for name in
        ["orc_deletes", "orc_pos_file", "orc_pos_partition", "orc_pos_orc", "pos_file", "pos_partition"]
    {
        let publication = lake.prepare(name, lake.location(name), "m").await.unwrap();
        publication.publish().await.unwrap();
        let place = publication.place();
        let snapshot =
            publication.metadata().snapshot(publication.metadata().current_snapshot.unwrap()).unwrap();
        let Manifests::List(from) = &snapshot.manifests else { panic!("{name} has a list") };
        let raw = |location: &Location| {
            std::fs::read(lake.raw().join("s3").join(location.authority()).join(location.key())).unwrap()
        };
        for manifest in read_list(&raw(from), "list").unwrap().iter().filter(|manifest| manifest.deletes) {
            let location: Location = manifest.path.parse().unwrap();
            let old = raw(&location);
            let new = std::fs::read(
                place.folder.join(format!("metadata/{}", crate::mapping::rewritten_name(&location))),
            )
            .unwrap();
            let (old_entries, new_entries) =
                (read_manifest(&old, "old").unwrap().1, read_manifest(&new, "new").unwrap().1);
            for (n, (was, is)) in old_entries.iter().zip(&new_entries).enumerate() {
                assert_eq!(
                    (is.format.as_str(), is.rows, &is.partition),
                    ("PARQUET", was.rows, &was.partition)
                );
                let path = local(&lake, place, &is.path);
                assert!(
                    path.starts_with(place.folder.join("deletes")) && path.extension().unwrap() == "parquet"
                );
                if is.status == Status::Deleted {
                    continue;
                }
                met += 1;
                let parquet = bytes::Bytes::from(std::fs::read(&path).unwrap());
                let file = SerializedFileReader::new(parquet.clone()).unwrap();
                let rows: Vec<String> =
                    file.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
                assert_eq!(rows.len() as u64, is.rows);
                if was.format == "ORC" {
                    let expected: Vec<String> = crate::orc::tests::read(&raw(&was.path.parse().unwrap()))
                        .unwrap()
                        .iter()
                        .map(|(path, position)| {
                            let path = place.mapping.object_uri(&path.parse().unwrap());
                            format!("{{file_path: \"{path}\", pos: {position}}}")
                        })
                        .collect();
                    assert_eq!(rows, expected);
                }
                if n > 0 {
                    continue;
                }
                let facts = facts("PARQUET", parquet, "it").unwrap();
                let (was, is) = (metrics(&old), metrics(&new));
                assert_eq!(was.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>());
                for (id, size) in facts.sizes.unwrap() {
                    assert_eq!(is[&108][&i64::from(id)], size.to_le_bytes(), "{name}");
                }
                for (map, columns) in &is {
                    assert_eq!(
                        was[map].keys().collect::<Vec<_>>(),
                        columns.keys().collect::<Vec<_>>(),
                        "{name}, {map}"
                    );
                    assert!(columns.keys().all(|id| [2_147_483_546, 2_147_483_545].contains(id)));
                }
                if let Some(low) = is.get(&125).and_then(|columns| columns.get(&2_147_483_546)) {
                    let (first, last) = facts.bounds.unwrap();
                    assert!(low.ends_with(first.as_bytes()));
                    assert!(is[&128][&2_147_483_546].ends_with(last.as_bytes()));
                    bounded += 1;
                }
            }
        }
    }
    assert!(met > 10 && bounded > 2, "{met} files, {bounded} with bounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_those_of_the_snapshot() {
    let lake = Lake::new();
    let table = lake.prepare("odd", lake.location("odd"), "m").await.unwrap();
    table.publish().await.unwrap();
    let files = table.files(table.metadata().current_snapshot.unwrap()).await.unwrap();
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    assert_eq!(Some(rows), lake.expected["odd"]["current"]["rows"].as_u64());
    let partitions: HashSet<&str> = files.iter().map(|file| &*file.partition).collect();
    for partition in ["p=a%2Fb", "p=50%2525", "p=..", "p=ü ñ", "p=null", "p="] {
        assert!(partitions.contains(partition), "{partition} in {partitions:?}");
    }
    for file in &files {
        let path = table.data_path(&file.location).expect("it lies below data/");
        assert_eq!(table.data_location(&path).as_ref(), Some(&file.location));
    }
    // Files elsewhere have no path below data/.
    let table = lake.prepare("outside", lake.location("outside"), "m").await.unwrap();
    let files = table.files(table.metadata().current_snapshot.unwrap()).await.unwrap();
    assert!(
        files
            .iter()
            .any(|file| file.location.authority() == "other" && table.data_path(&file.location).is_none())
    );
    assert!(table.files(1).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_anywhere_leaves_the_old_version_or_the_new_one() {
    let lake = Lake::new();
    for name in ["pos_file", "orc_pos_file", "dv", "expired", "outside"] {
        let versions = lake.versions(name);
        assert!(versions.len() >= 2, "{name}");
        let (old, new) = (versions[versions.len() - 2].clone(), versions[versions.len() - 1].clone());
        for stop in 1.. {
            let mount = format!("{name}-{stop}");
            let before = lake.prepare(name, old.clone(), &mount).await.unwrap();
            before.publish().await.unwrap();
            let after = lake.prepare(name, new.clone(), &mount).await.unwrap();
            assert!(after.number() > before.number());
            let mut left = stop;
            let steps = after
                .publish_while(|_| {
                    left -= 1;
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .await
                .unwrap();
            // What a reader finds by the hint, and what one finds who looks for the version after it.
            let place = after.place();
            let hint: u64 = std::fs::read_to_string(place.folder.join("metadata/version-hint.text"))
                .unwrap()
                .parse()
                .unwrap();
            let done = steps.last().unwrap().kind == StepKind::Hint;
            assert_eq!(
                hint,
                if done { after.number() } else { before.number() },
                "{name} stopped after {stop}"
            );
            for number in [hint, hint + 1] {
                let metadata = place.folder.join(format!("metadata/v{number}.metadata.json"));
                if metadata.exists() {
                    let of = if number == before.number() { &before } else { &after };
                    assert!(follow(&lake, place, &metadata, of.metadata().current_snapshot) > 0);
                }
            }
            // A restart goes on.
            let again = lake.prepare(name, new.clone(), &mount).await.unwrap();
            assert_eq!(again.number(), after.number());
            again.publish().await.unwrap();
            let hint = std::fs::read_to_string(place.folder.join("metadata/version-hint.text")).unwrap();
            assert_eq!(hint, after.number().to_string());
            if done {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_costs_what_it_changed() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let mut published = Vec::new();
    for version in versions {
        let publication = lake.prepare("rolled", version, "m").await.unwrap();
        let steps = publication.publish().await.unwrap();
        published.push((publication, steps));
    }
    // An empty table, three commits, and a way back: nothing but metadata and hint.
    let kinds: Vec<Vec<StepKind>> =
        published.iter().map(|(_, steps)| steps.iter().map(|s| s.kind).collect()).collect();
    let commit = [StepKind::Manifest, StepKind::ManifestList, StepKind::Metadata, StepKind::Hint];
    assert_eq!(kinds[0], commit[2..]);
    assert!(kinds[1..4].iter().all(|kinds| kinds == &commit), "{kinds:?}");
    assert_eq!(kinds[4], commit[2..]);
    let mut changes = Vec::new();
    for pair in published.windows(2) {
        let difference = difference(&pair[0].0, &pair[1].0).await.unwrap();
        changes.push((difference.kind, difference.added.len(), difference.removed.len()));
    }
    let append = (ChangeKind::Append, 1, 0);
    assert_eq!(changes, [append, append, append, (ChangeKind::Rollback, 0, 1)]);
}

/// The manifests that a commit left alone are not looked into, neither to publish it nor to tell what it changed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_left_alone_is_not_read() {
    let lake = Lake::new();
    let versions = lake.versions("rolled");
    let old = lake.prepare("rolled", versions[2].clone(), "m").await.unwrap();
    old.publish().await.unwrap();
    let snapshot = old.metadata().current_snapshot.unwrap();
    for manifest in old.manifests(snapshot).await.unwrap() {
        let path = old.place().folder.join(manifest);
        let zeros = vec![0; size(&path) as usize];
        std::fs::write(&path, zeros).unwrap();
    }
    assert!(old.files(snapshot).await.is_err());
    let new = lake.prepare("rolled", versions[3].clone(), "m").await.unwrap();
    new.publish().await.unwrap();
    let difference = difference(&old, &new).await.unwrap();
    assert_eq!((difference.added.len(), difference.removed.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_have_their_kinds() {
    let lake = Lake::new();
    let mut kinds: BTreeMap<&str, Vec<ChangeKind>> = BTreeMap::new();
    for name in ["expired", "refs", "v1"] {
        let mut last: Option<Publication> = None;
        for version in lake.versions(name) {
            let next = lake.prepare(name, version, "m").await.unwrap();
            // Snapshots that were expired since have no files any more: only the last two can be compared.
            let kind = match &last {
                Some(last) if name != "expired" => Some(difference(last, &next).await.unwrap().kind),
                _ => None,
            };
            kinds.entry(name).or_default().extend(kind);
            last = Some(next);
        }
    }
    use ChangeKind::{Append, Overwrite, References, Schema};
    assert_eq!(kinds["v1"], [Append, Append, Overwrite]);
    assert_eq!(kinds["refs"], [Append, References, References, Schema, References, Append]);
    // A table that was dropped and made again is another one.
    let one = lake.prepare("recreated", lake.location("recreated"), "m").await.unwrap();
    let other = lake.prepare("rolled", lake.location("rolled"), "m").await.unwrap();
    assert_eq!(difference(&one, &other).await.unwrap().kind, ChangeKind::Replaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_snapshots_come_when_somebody_asks() {
    let lake = Lake::new();
    let table = lake.prepare("rolled", lake.location("rolled"), "m").await.unwrap();
    table.publish().await.unwrap();
    let first = &table.metadata().snapshots[0];
    let list = list_path(first.id, &first.manifests);
    assert!(!table.place().folder.join(&list).exists());
    table.materialise(&list).await.unwrap();
    assert!(table.place().folder.join(&list).exists());
    assert!(matches!(table.materialise("metadata/none.avro").await, Err(TableError::NoSuch { .. })));
    assert!(matches!(table.snapshot(7).await, Err(TableError::NoSuch { .. })));
    assert!(matches!(table.reference("none").await, Err(TableError::NoSuch { .. })));
    let at = first.timestamp_ms;
    assert_eq!(table.snapshot_at(&at.to_string()).unwrap(), Some(first.id));
    assert_eq!(table.snapshot_at(&(at - 1).to_string()).unwrap(), None);
    assert_eq!(table.snapshot_at("2000-01-01T00:00:00Z").unwrap(), None);
    assert_eq!(table.snapshot_at("2999-01-01").unwrap(), table.metadata().current_snapshot);
    assert!(table.snapshot_at("yesterday").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_in_the_metadata_itself_get_a_list() {
    let lake = Lake::new();
    let file = |location: &Location| lake.raw().join("s3").join(location.authority()).join(location.key());
    let from = lake.location("v1");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file(&from)).unwrap()).unwrap();
    for snapshot in json["snapshots"].as_array_mut().unwrap() {
        let list: Location = snapshot["manifest-list"].as_str().unwrap().parse().unwrap();
        let manifests = read_list(&std::fs::read(file(&list)).unwrap(), "list").unwrap();
        let snapshot = snapshot.as_object_mut().unwrap();
        snapshot.remove("manifest-list");
        snapshot.insert("manifests".into(), manifests.into_iter().map(|m| m.path).collect());
    }
    let inline: Location = "s3://lake/wh/db/v1/metadata/v9.metadata.json".parse().unwrap();
    std::fs::write(file(&inline), serde_json::to_vec(&json).unwrap()).unwrap();
    let one = lake.prepare("v1", from, "one").await.unwrap();
    let two = lake.prepare("v1", inline, "two").await.unwrap();
    for table in [&one, &two] {
        table.publish().await.unwrap();
        for snapshot in &table.metadata().snapshots {
            let path = table.snapshot(snapshot.id).await.unwrap();
            let metadata = table.place().folder.join(path).join("metadata/v1.metadata.json");
            assert!(follow(&lake, table.place(), &metadata, Some(snapshot.id)) > 0);
            let files = one.files(snapshot.id).await.unwrap();
            assert_eq!(table.files(snapshot.id).await.unwrap(), files);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_leaves_what_is_needed_and_nothing_else() {
    let lake = Lake::new();
    let mut last = None;
    for version in lake.versions("pos_file") {
        let publication = lake.prepare("pos_file", version, "m").await.unwrap();
        publication.publish().await.unwrap();
        for snapshot in &publication.metadata().snapshots {
            publication.snapshot(snapshot.id).await.unwrap();
        }
        publication.reference("main").await.ok();
        last = Some(publication);
    }
    let table = last.unwrap();
    let folder = &table.place().folder;
    let metadata = folder.join(format!("metadata/v{}.metadata.json", table.number()));
    let met = follow(&lake, table.place(), &metadata, None);
    let all = Retention { versions: usize::MAX, ..Retention::default() };
    let hour = Duration::from_secs(3600);
    for roomy in [Retention { age: Some(hour), ..all }, Retention { bytes: Some(1 << 30), ..all }] {
        assert_eq!(table.sweep(roomy).await.unwrap(), Swept::default());
    }
    // All snapshots are kept by the table: only older metadata goes, here and in the reference.
    let newest = Retention { versions: 1, ..all };
    let swept = table.sweep(newest).await.unwrap();
    assert_eq!(swept.files, 2 * (table.number() - 1) - 1);
    assert_eq!(follow(&lake, table.place(), &metadata, None), met);
    assert_eq!(table.sweep(newest).await.unwrap(), Swept::default());
    assert_eq!(table.publish().await.unwrap(), []);
    // One byte is had by the newest alone, and every older one was the current one at some time before now.
    for narrow in [Retention { bytes: Some(1), ..all }, Retention { age: Some(Duration::ZERO), ..all }] {
        table.reference("main").await.ok();
        let old = folder.join("metadata/v1.metadata.json");
        std::fs::write(&old, std::fs::read(&metadata).unwrap()).unwrap();
        assert!(table.sweep(narrow).await.unwrap().files > 0 && !old.exists(), "{narrow:?}");
        assert_eq!(follow(&lake, table.place(), &metadata, None), met);
    }

    // Another table in its place needs nothing of it.
    let other = Place { path: table.place().path.clone(), ..table.place().clone() };
    let token = Token(String::new());
    let empty = Table {
        id: id("empty"),
        metadata_location: lake.location("empty"),
        metadata: None,
        token,
        credentials: Vec::new(),
    };
    let empty =
        Publication::prepare(Arc::new(LocalObjects::with_buckets(lake.raw())), other, &empty).await.unwrap();
    empty.publish().await.unwrap();
    // Two branches whose names are longer than that of a folder, and begin alike.
    for end in ["a", "b"] {
        let branch = folder.join("refs").join(escape_name(&format!("{}{end}", "x".repeat(600))));
        std::fs::create_dir_all(branch.join("metadata")).unwrap();
        std::fs::write(branch.join("metadata/version-hint.text"), "1").unwrap();
    }
    empty.sweep(newest).await.unwrap();
    assert!(!folder.join("refs").exists());
    let mut left: Vec<_> = files_below(folder)
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap().display().to_string())
        .collect();
    left.sort();
    assert_eq!(
        left,
        [format!("metadata/v{}.metadata.json", empty.number()), "metadata/version-hint.text".to_owned()]
    );
}
