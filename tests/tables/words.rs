//! What a catalog says of a version in other words than before.
use crate::catalog::{Catalog, Table};
use crate::harness::{LIMIT, eventually};
use crate::lake::Lake;
use crate::verbs::Watcher;
use serde_json::{Value, json};
use std::fs;

/// A version of the table `refs`, with an ETag and metadata as a catalog may send it.
fn said(number: u32, etag: &str, metadata: Value) -> Table {
    Table { etag: Some(format!("\"{etag}\"")), metadata, ..Table::version("refs", number) }
}

/// TABLES: "if the metadata is the same, and where it was": no version is new, nobody is told of one, and nothing is fetched but
/// the metadata, which says so.
#[test]
fn a_version_in_other_words_is_no_new_one() {
    let lake = Lake::prepare(|_| false);
    let catalog = Catalog::start([("refs", said(6, "1", json!({ "snapshots": [1] })))]);
    let deaf = ["--tables-poll", "12h", "--tables-poll-idle", "12h"];
    lake.mount_with(&[&["--catalog", &catalog.named()][..], &deaf].concat()).must("mount");
    let hint = || fs::read_to_string(lake.table("refs").join("metadata/version-hint.text")).unwrap();
    let before = hint();
    let refreshed = || lake.told("refresh", &["db.refs"])[0].clone();
    let mut watcher = Watcher::start(&lake);
    for (etag, metadata) in [("2", json!({ "snapshots": [] })), ("3", json!(null))] {
        catalog.say("refs", said(6, etag, metadata));
        lake.cloud.server.control().clear_log();
        let told = refreshed();
        assert_eq!((&told["changed"], &told["error"]), (&json!(false), &Value::Null), "{etag}");
        let asked = lake.cloud.server.control().log();
        let asked: Vec<&str> = asked.iter().map(|request| request.key.as_str()).collect();
        assert_eq!(asked, ["wh/db/refs/metadata/v6.metadata.json"], "{etag}");
        // It is asked with these words from then on.
        refreshed();
        assert_eq!(catalog.state().asked_with.last(), Some(&format!("\"{etag}\"")));
        assert_eq!(hint(), before);
    }
    assert_eq!(lake.told("show", &["db.refs"])["last_change"], Value::Null);
    catalog.say("refs", said(7, "4", json!({ "snapshots": [2] })));
    assert_eq!(refreshed()["changed"], true);
    assert_eq!(watcher.next()["event"], "snapshot_added", "the first that anybody hears of");
    lake.unmount();
}

/// The same where it was remembered, and what the catalog says of it has become other words meanwhile.
#[test]
fn a_remembered_version_in_other_words_is_no_new_one() {
    let lake = Lake::prepare(|_| false);
    let catalog = Catalog::start([("refs", said(6, "1", json!({ "snapshots": [1] })))]);
    let address = catalog.named();
    let mount = || lake.mount_with(&["--catalog", &address, "--tables-poll", "100ms"]).must("mount");
    let hint = || fs::read_to_string(lake.table("refs").join("metadata/version-hint.text"));
    mount();
    let before = hint().unwrap();
    lake.unmount();
    catalog.state().is_silent = true;
    mount();
    assert_eq!(hint().unwrap(), before, "as it was");
    let mut watcher = Watcher::start(&lake);
    catalog.say("refs", said(6, "2", json!({ "snapshots": [] })));
    catalog.state().is_silent = false;
    eventually("it is asked about by its new words", LIMIT, || {
        catalog.state().asked_with.contains(&"\"2\"".to_owned()).then_some(())
    });
    assert_eq!(hint().unwrap(), before);
    catalog.say("refs", said(7, "3", json!({ "snapshots": [2] })));
    assert_eq!(watcher.next()["event"], "snapshot_added");
    lake.unmount();
}
