//! Names that come again: at the place of a file stands another one, of the same table or of another.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, TABLES, files, names};
use crate::support::s3server::Fault;
use s3s::S3ErrorCode;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = "wh/db/rolled";

/// The table `rolled` as of version 4. The file that only its newest snapshot has, as the table has it, and its key.
fn rolled() -> (Lake, PathBuf, String) {
    let lake = Lake::prepare(|key| key == format!("{TABLE}/metadata/v5.metadata.json"));
    current(&lake, 4);
    lake.mount();
    let data = lake.table("rolled").join("data");
    let all = files(&data);
    shown(&lake, 5, &lake.objects[&metadata(5)]);
    let left = eventually("it is listed no more", LIMIT, || {
        let left = files(&data);
        (left.len() < all.len()).then_some(left)
    });
    let file = all.into_iter().find(|file| !left.contains(file)).unwrap();
    let key = format!("{TABLE}/data/{}", file.strip_prefix(&data).unwrap().display());
    (lake, file, key)
}

fn metadata(version: u32) -> String {
    format!("{TABLE}/metadata/v{version}.metadata.json")
}

fn current(lake: &Lake, version: u32) {
    lake.cloud.server.put_into("lake", &format!("{TABLE}/metadata/version-hint.text"), version.to_string());
}

/// Commits a version, and waits until it is shown.
fn shown(lake: &Lake, version: u32, bytes: &[u8]) {
    let hint = lake.table("rolled").join("metadata/version-hint.text");
    let now = || fs::read_to_string(&hint).unwrap_or_default();
    let before = now();
    lake.cloud.server.put_into("lake", &metadata(version), bytes.to_vec());
    current(lake, version);
    eventually("the version is shown", LIMIT, || {
        let now = now();
        (!now.is_empty() && now != before).then_some(())
    });
}

/// Removes all objects of the table, and waits until nothing is shown of it.
fn drop_table(lake: &Lake) -> Vec<&str> {
    let of_it = lake.objects.keys().filter(|key| key.starts_with(&format!("{TABLE}/")));
    let keys: Vec<&str> = of_it.map(String::as_str).collect();
    for key in &keys {
        assert!(lake.cloud.server.remove_from("lake", key), "{key}");
    }
    let all = lake.dir.join(TABLES);
    eventually("it is gone", LIMIT, || (!names(&all).contains(&"rolled".to_owned())).then_some(()));
    keys
}

fn inverted(lake: &Lake, key: &str) -> Vec<u8> {
    lake.objects[key].iter().map(|byte| !byte).collect()
}

/// Both paths of a file.
fn both(lake: &Lake, file: &Path, key: &str) -> [PathBuf; 2] {
    [file.to_owned(), lake.dir.join("objects/s3/lake").join(key)]
}

/// A file that was removed, and has come again.
#[test]
fn a_name_that_comes_back_is_of_another_file() {
    let (lake, file, key) = rolled();
    // An older snapshot has it; somebody reads it in both ways.
    for path in both(&lake, &file, &key) {
        assert_eq!(fs::read(&path).unwrap(), lake.objects[&key]);
    }
    lake.cloud.server.put_into("lake", &key, inverted(&lake, &key));
    shown(&lake, 6, &lake.objects[&metadata(4)]);
    for path in both(&lake, &file, &key) {
        assert!(fs::read(&path).unwrap() == inverted(&lake, &key), "{}", path.display());
    }
    lake.unmount();
}

/// A table is dropped, and made anew with a file whose name only an older snapshot of the old one had.
#[test]
fn a_table_that_is_made_anew_has_files_of_its_own() {
    let (lake, file, key) = rolled();
    // What is current does not name it. By the metadata of the table itself an older snapshot is read so.
    lake.unmount();
    lake.mount();
    assert!(!files(&lake.table("rolled").join("data")).is_empty());
    let object = lake.dir.join("objects/s3/lake").join(&key);
    assert_eq!(fs::read(&object).unwrap(), lake.objects[&key]);
    let keys = drop_table(&lake);
    let others: Vec<&str> = keys.into_iter().filter(|key| !key.contains("/metadata/v")).collect();
    lake.commit(&others);
    lake.cloud.server.put_into("lake", &key, inverted(&lake, &key));
    let old = String::from_utf8(lake.objects[&metadata(4)].clone()).unwrap();
    let new = old.replace("a44f0ce3", "a44f0ce4");
    assert_ne!(old, new);
    shown(&lake, 4, new.as_bytes());
    for path in both(&lake, &file, &key) {
        assert!(fs::read(&path).unwrap() == inverted(&lake, &key), "{}", path.display());
    }
    lake.unmount();
}

/// What two tables have is there for the one when the other is dropped, also while the store is away.
#[test]
fn a_file_of_two_tables_outlives_one_of_them() {
    let lake = Lake::prepare(|_| false);
    let other = "wh/db/sharing/metadata";
    let copied = String::from_utf8(lake.objects[&metadata(5)].clone()).unwrap();
    lake.cloud.server.put_into(
        "lake",
        &format!("{other}/v5.metadata.json"),
        copied.replace("a44f0ce3", "a44f0ce5"),
    );
    lake.cloud.server.put_into("lake", &format!("{other}/version-hint.text"), "5");
    lake.mount();
    let data = lake.table("rolled").join("data");
    let file = files(&data).remove(0);
    let key = format!("{TABLE}/data/{}", file.strip_prefix(&data).unwrap().display());
    assert!(!names(&lake.table("sharing").join("metadata")).is_empty());
    let object = lake.dir.join("objects/s3/lake").join(&key);
    assert_eq!(fs::read(&object).unwrap(), lake.objects[&key]);
    drop_table(&lake);
    lake.cloud.server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::ServiceUnavailable));
    assert_eq!(fs::read(&object).unwrap(), lake.objects[&key]);
    lake.cloud.server.control().clear_hook();
    lake.unmount();
}
