//! Branches, tags and snapshots that cannot be shown, of a table that can.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, names};
use serde_json::{Value, json};
use std::fs;

const NEWEST: &str = "wh/db/refs/metadata/v7.metadata.json";
const BEFORE: &str = "wh/db/refs/metadata/v6.metadata.json";
const HINT: &str = "wh/db/refs/metadata/version-hint.text";

fn metadata(lake: &Lake, key: &str) -> Value {
    serde_json::from_slice(&lake.objects[key]).unwrap()
}

/// The snapshot of the tag `first`, and the key of its list.
fn first(lake: &Lake) -> (i64, String) {
    let metadata = metadata(lake, NEWEST);
    let id = metadata["refs"]["first"]["snapshot-id"].as_i64().unwrap();
    assert_ne!(metadata["current-snapshot-id"], id);
    let snapshots = metadata["snapshots"].as_array().unwrap();
    let list =
        snapshots.iter().find(|one| one["snapshot-id"] == id).unwrap()["manifest-list"].as_str().unwrap();
    (id, list.split_once("lake/").unwrap().1.to_owned())
}

/// TABLES: "A branch, a tag or a snapshot that cannot be shown hides itself alone".
#[test]
fn a_tag_that_cannot_be_read_hides_no_table() {
    let lake = Lake::prepare(|_| false);
    let (id, list) = first(&lake);
    assert!(lake.cloud.server.remove_from("lake", &list));
    lake.mount();
    let table = lake.table("refs");
    let hint = || fs::read_to_string(table.join("metadata/version-hint.text")).unwrap();
    assert_eq!(hint(), "7");
    assert!(!names(&table.join("data")).is_empty());
    for view in ["refs/first", &format!("snapshots/{id}")] {
        assert_eq!(names(&table.join(view)), ["ERROR"], "{view}");
        let why = fs::read_to_string(table.join(view).join("ERROR")).unwrap();
        assert!(why.contains("no such object") && why.contains(&list), "{why}");
        let told = lake.told("explain", &["db.refs"]);
        assert!(told["broken"][view].as_str().unwrap().contains("no such object"), "{told}");
    }
    let all = lake.told("ls", &[]);
    let line = all.as_array().unwrap().iter().find(|line| line["table"] == "iceberg/db/refs").unwrap();
    assert_eq!((&line["state"], line["broken"].as_object().unwrap().len()), (&"shown".into(), 2));
    // Neither do its next versions mind, nor its other branches.
    let mut next = metadata(&lake, NEWEST);
    let other = next["refs"]["dev/two"]["snapshot-id"].clone();
    (next["current-snapshot-id"], next["refs"]["main"]["snapshot-id"]) = (other.clone(), other);
    let key = NEWEST.replace("v7", "v8");
    lake.cloud.server.put_into("lake", &key, serde_json::to_vec(&next).unwrap());
    eventually("it turns over", LIMIT, || (hint() == "8").then_some(()));
    assert_eq!(fs::read_to_string(table.join("refs/dev~2ftwo/metadata/version-hint.text")).unwrap(), "8");
    assert_eq!(names(&table.join("refs/first")), ["ERROR"]);
    // Nor does it after a restart; and it comes when it can be read.
    lake.unmount();
    lake.mount();
    assert_eq!(hint(), "8");
    assert_eq!(names(&table.join("refs/first")), ["ERROR"]);
    lake.commit(&[&list]);
    let tag = table.join("refs/first/metadata/version-hint.text");
    eventually("the tag is shown", LIMIT, || fs::read(&tag).is_ok().then_some(()));
    assert_eq!(names(&table.join("refs/first")), ["metadata"]);
    assert_eq!(lake.told("show", &["db.refs"])["broken"], json!({}));
    lake.unmount();
}

/// A tag of a snapshot that was expired: readers would refuse the table for it.
#[test]
fn a_tag_of_no_snapshot_hides_no_table() {
    let lake = Lake::prepare(|key| key == NEWEST);
    let mut lost = metadata(&lake, NEWEST);
    lost["refs"]["lost"] = json!({ "snapshot-id": 7, "type": "tag" });
    lake.cloud.server.put_into("lake", NEWEST, serde_json::to_vec(&lost).unwrap());
    lake.mount();
    let table = lake.table("refs");
    assert_eq!(names(&table.join("refs")), ["dev~2ftwo", "first", "lost", "main"]);
    assert_eq!(names(&table.join("refs/lost")), ["ERROR"]);
    let why = fs::read_to_string(table.join("refs/lost/ERROR")).unwrap();
    assert!(why.contains("the table has no snapshot 7"), "{why}");
    let shown: Value =
        serde_json::from_slice(&fs::read(table.join("metadata/v7.metadata.json")).unwrap()).unwrap();
    assert_eq!(shown["refs"], metadata(&lake, NEWEST)["refs"]);
    let told = lake.told("ls", &[]);
    let line = told.as_array().unwrap().iter().find(|line| line["table"] == "iceberg/db/refs").unwrap();
    assert!(line["broken"]["refs/lost"].as_str().unwrap().contains("no snapshot 7"), "{line}");
    lake.unmount();
}

/// A branch that somebody has looked into moves to what cannot be read: the table turns over all the same.
#[test]
fn a_branch_that_moves_to_what_cannot_be_read_holds_up_no_table() {
    let lake = Lake::prepare(|key| key == NEWEST);
    lake.cloud.server.put_into("lake", HINT, "6");
    let mut moved = metadata(&lake, NEWEST);
    let mut odd = moved["snapshots"][0].clone();
    (odd["snapshot-id"], odd["manifest-list"]) = (7.into(), "s3://lake/wh/db/refs/metadata/none.avro".into());
    moved["snapshots"].as_array_mut().unwrap().push(odd);
    moved["refs"]["dev/two"]["snapshot-id"] = 7.into();
    assert!(metadata(&lake, BEFORE)["refs"]["dev/two"].is_object());
    lake.mount();
    let table = lake.table("refs");
    let hint = |of: &str| fs::read_to_string(table.join(of).join("metadata/version-hint.text"));
    assert_eq!(hint("refs/dev~2ftwo").unwrap(), "6");
    lake.cloud.server.put_into("lake", NEWEST, serde_json::to_vec(&moved).unwrap());
    eventually("it turns over", LIMIT, || (hint("").unwrap() == "7").then_some(()));
    eventually("the branch is told", LIMIT, || {
        (names(&table.join("refs/dev~2ftwo")) == ["ERROR"]).then_some(())
    });
    assert!(hint("refs/dev~2ftwo").is_err());
    lake.unmount();
}
