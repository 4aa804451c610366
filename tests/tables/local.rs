//! Tables of this machine: a warehouse of `file:` locations, whose files are found only where a table names them.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files, names};
use crate::verbs::Watcher;
use icecache_iceberg::objects::LocalObjects;
use icecache_iceberg::publication::LiveFile;
use icecache_iceberg::{Location, Mapping, Place, Publication, Table, TableId, Token};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tables of the fixtures, with every location in them one of this machine: published for a mount at `root` that nobody
/// mounts.
struct Warehouse {
    root: PathBuf,
    lake: Lake,
}

impl Warehouse {
    fn new() -> Self {
        let lake = Lake::prepare(|_| false);
        let root = lake.cloud.lab.root().join("warehouse");
        for (key, bytes) in &lake.objects {
            let path = root.join("objects/s3/lake").join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        Self { root, lake }
    }

    /// A version of a table, with what all its snapshots need. Returns the files of each.
    fn publish(&self, table: &str, version: u32) -> Vec<(i64, Vec<LiveFile>)> {
        let mapping = Mapping::new(&self.root).unwrap();
        let id = TableId { namespace: vec!["db".into()], name: table.into() };
        let path = mapping.table_path(None, &id);
        let place = Place { folder: self.root.join(&path), mapping, path };
        let metadata = format!("s3://lake/wh/db/{table}/metadata/v{version}.metadata.json");
        let metadata_location: Location = metadata.parse().unwrap();
        let token = Token(String::new());
        let table = Table { id, metadata_location, metadata: None, token, credentials: Vec::new() };
        let objects = Arc::new(LocalObjects::with_buckets(self.root.join("objects")));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let publication = Publication::prepare(objects, place, &table).await.unwrap();
            let mut all = Vec::new();
            for snapshot in &publication.metadata().snapshots {
                all.push((snapshot.id, publication.files(snapshot.id).await.unwrap()));
            }
            publication.publish().await.unwrap();
            all
        })
    }

    fn mount(&self, options: &[&str]) {
        let catalog = format!("local=hadoop:file://{}", self.root.join("iceberg").display());
        let all: Vec<&str> = ["--catalog", &catalog].iter().chain(options).copied().collect();
        self.lake.mount_with(&all).must("mount");
    }

    /// Where a file of a table is, and what its table calls it below the mount.
    fn paths(&self, file: &LiveFile) -> (PathBuf, PathBuf) {
        let key = file.location.as_str().strip_prefix("s3://lake/").unwrap();
        let own = self.root.join("objects/s3/lake").join(key);
        let shown = self.lake.dir.join("objects/file").join(own.strip_prefix("/").unwrap());
        (own, shown)
    }

    /// The current metadata, as the mount shows it.
    fn metadata(&self, folder: &Path) -> Value {
        let metadata = folder.join("metadata");
        let hint = fs::read_to_string(metadata.join("version-hint.text")).unwrap();
        serde_json::from_slice(&fs::read(metadata.join(format!("v{hint}.metadata.json"))).unwrap()).unwrap()
    }

    /// Reads a snapshot as engines do: its list, by the name that the metadata has for it, then its files.
    fn read(&self, metadata: &Value, (id, files): &(i64, Vec<LiveFile>)) {
        let snapshots = metadata["snapshots"].as_array().unwrap();
        let snapshot = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == *id).unwrap();
        let list = snapshot["manifest-list"].as_str().unwrap().strip_prefix("file://").unwrap();
        assert!(!fs::read(list).unwrap().is_empty());
        assert!(!files.is_empty());
        for (own, shown) in files.iter().map(|file| self.paths(file)) {
            assert!(fs::read(&shown).unwrap() == fs::read(&own).unwrap(), "{}", shown.display());
        }
    }
}

/// Time travel by the metadata of the table itself, and the branches that move on.
#[test]
fn every_snapshot_of_a_table_of_this_machine_is_read() {
    let warehouse = Warehouse::new();
    let before = warehouse.publish("refs", 6);
    warehouse.mount(&[]);
    let table = warehouse.lake.table("refs");
    let metadata = warehouse.metadata(&table);
    before.iter().for_each(|snapshot| warehouse.read(&metadata, snapshot));
    // What no table names is not there.
    let (own, shown) = warehouse.paths(&before[0].1[0]);
    fs::write(own.with_file_name("other"), "nobody's").unwrap();
    assert!(!shown.with_file_name("other").exists());
    let main = table.join("refs/main");
    let hint = fs::read_to_string(main.join("metadata/version-hint.text")).unwrap();
    let after = warehouse.publish("refs", 7);
    assert!(after.len() > before.len());
    eventually("the branch moves", LIMIT, || {
        (fs::read_to_string(main.join("metadata/version-hint.text")).unwrap() != hint).then_some(())
    });
    let metadata = warehouse.metadata(&main);
    after.iter().for_each(|snapshot| warehouse.read(&metadata, snapshot));
    // And after a restart, from what was written before it.
    warehouse.lake.unmount();
    warehouse.mount(&[]);
    let metadata = warehouse.metadata(&table);
    after.iter().for_each(|snapshot| warehouse.read(&metadata, snapshot));
    warehouse.lake.unmount();
}

#[test]
fn statistics_of_a_table_of_this_machine_are_there() {
    let warehouse = Warehouse::new();
    warehouse.publish("statistics", 4);
    warehouse.mount(&[]);
    let metadata = warehouse.metadata(&warehouse.lake.table("statistics"));
    let mut met = 0;
    for list in ["statistics", "partition-statistics"] {
        for entry in metadata[list].as_array().into_iter().flatten() {
            let path = entry["statistics-path"].as_str().unwrap().strip_prefix("file://").unwrap();
            assert_eq!(fs::read(path).unwrap().len() as u64, entry["file-size-in-bytes"].as_u64().unwrap());
            met += 1;
        }
    }
    assert!(met >= 2, "{met}");
    warehouse.lake.unmount();
}

/// Another table takes the place of one, with files of the same names and sizes: its rows are read from then on, by
/// whoever opens them anew.
#[test]
fn a_table_that_takes_the_place_of_another_has_its_own_rows() {
    let warehouse = Warehouse::new();
    let snapshots = warehouse.publish("v1", 4);
    warehouse.mount(&[]);
    let table = warehouse.lake.table("v1");
    let hint = fs::read_to_string(table.join("metadata/version-hint.text")).unwrap();
    let (own, shown) = warehouse.paths(&snapshots.last().unwrap().1[0]);
    let old = fs::read(&own).unwrap();
    assert!(fs::read(&shown).unwrap() == old);
    let mut watcher = Watcher::start(&warehouse.lake);
    let other: Vec<u8> = old.iter().map(|byte| !byte).collect();
    fs::write(own.with_file_name("new"), &other).unwrap();
    fs::rename(own.with_file_name("new"), &own).unwrap();
    let metadata = warehouse.root.join("iceberg/db/v1/metadata");
    let mut json: Value =
        serde_json::from_slice(&fs::read(metadata.join(format!("v{hint}.metadata.json"))).unwrap()).unwrap();
    json["table-uuid"] = "00000000-0000-4000-8000-000000000000".into();
    let next = format!("v{}.metadata.json", hint.parse::<u64>().unwrap() + 1);
    fs::write(metadata.join(".new"), serde_json::to_vec(&json).unwrap()).unwrap();
    fs::rename(metadata.join(".new"), metadata.join(next)).unwrap();
    let told = watcher.next();
    assert_eq!(told["event"], "replaced", "{told}");
    assert_eq!(watcher.next()["event"], "shown");
    assert!(fs::read(&shown).unwrap() == other);
    warehouse.lake.unmount();
}

/// Files of this machine are not immutable because a table names them: whoever opens one anew gets what is there, also
/// while somebody has it open, and whatever time is given to it.
#[test]
fn a_file_of_this_machine_that_is_written_anew_is_read_anew() {
    for options in [&[][..], &["--passthrough", "off"]] {
        let warehouse = Warehouse::new();
        let snapshots = warehouse.publish("v1", 4);
        warehouse.mount(options);
        let (own, shown) = warehouse.paths(&snapshots.last().unwrap().1[0]);
        warehouse.metadata(&warehouse.lake.table("v1"));
        let mut bytes = fs::read(&own).unwrap();
        let time = fs::metadata(&own).unwrap().modified().unwrap();
        let mut held = Vec::new();
        for in_place in [true, false, true] {
            held.push(fs::File::open(&shown).unwrap());
            assert!(fs::read(&shown).unwrap() == bytes, "{options:?}");
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            let place = if in_place { own.clone() } else { own.with_file_name("new") };
            let mut file = fs::File::options().write(true).create(true).truncate(false).open(&place).unwrap();
            file.write_all(&bytes).unwrap();
            file.set_modified(time).unwrap();
            fs::rename(&place, &own).unwrap();
            assert!(fs::read(&shown).unwrap() == bytes, "{options:?}, in place: {in_place}");
        }
        drop(held);
        warehouse.lake.unmount();
    }
}

/// What is no file is not waited for, and costs the table alone that names it.
#[test]
fn a_table_that_names_a_pipe_is_refused_and_its_neighbour_turns_over() {
    let warehouse = Warehouse::new();
    warehouse.publish("v1", 4);
    warehouse.publish("refs", 6);
    let metadata = warehouse.root.join("iceberg/db/v1/metadata");
    let newest = fs::read_to_string(metadata.join("version-hint.text")).unwrap();
    warehouse.mount(&[]);
    let (v1, refs) = (warehouse.lake.table("v1"), warehouse.lake.table("refs"));
    let hint = |table: &Path| fs::read_to_string(table.join("metadata/version-hint.text")).unwrap();
    let before = (hint(&v1), hint(&refs));
    let mut watcher = Watcher::start(&warehouse.lake);
    let pipe = warehouse.root.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let current = metadata.join(format!("v{newest}.metadata.json"));
    let mut json: Value = serde_json::from_slice(&fs::read(current).unwrap()).unwrap();
    for snapshot in json["snapshots"].as_array_mut().unwrap() {
        let id = snapshot["snapshot-id"].as_i64().unwrap();
        snapshot["manifest-list"] = format!("file://{}", pipe.display()).into();
        snapshot["snapshot-id"] = (id / 2).into();
    }
    json["current-snapshot-id"] = (json["current-snapshot-id"].as_i64().unwrap() / 2).into();
    json.as_object_mut().unwrap().remove("refs");
    let next = format!("v{}.metadata.json", newest.parse::<u64>().unwrap() + 1);
    fs::write(metadata.join(".new"), serde_json::to_vec(&json).unwrap()).unwrap();
    fs::rename(metadata.join(".new"), metadata.join(next)).unwrap();
    let told = watcher.next();
    assert_eq!((&told["event"], &told["table"]), (&"failed".into(), &"iceberg/db/v1".into()), "{told}");
    warehouse.publish("refs", 7);
    eventually("the neighbour turns over", LIMIT, || (hint(&refs) != before.1).then_some(()));
    assert_eq!(hint(&v1), before.0);
    assert!(names(&v1).contains(&"data".to_owned()) && files(&v1.join("data")).is_empty());
    warehouse.lake.unmount();
}

/// Who wants files of this machine in the cache is told that they are not copied.
#[test]
fn files_of_this_machine_are_not_copied() {
    let warehouse = Warehouse::new();
    warehouse.publish("refs", 7);
    warehouse.mount(&[]);
    let lake = &warehouse.lake;
    let files = lake.told("show", &["db.refs"])["files"].clone();
    for verb in ["warm", "pin"] {
        let brought = lake.told(verb, &["db.refs"]);
        assert_eq!((&brought["local"], &brought["there"]["files"]), (&files, &0.into()));
        let said =
            lake.cloud.lab.call(["tables", verb, lake.dir.to_str().unwrap(), "db.refs"]).must(verb).said();
        assert!(said.contains("of this machine") && !said.contains("in the cache"), "{said}");
    }
    lake.unmount();
}
