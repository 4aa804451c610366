//! Names that come again: at the place of a file stands another one, of the same table or of another.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files};
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
