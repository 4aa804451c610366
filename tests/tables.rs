//! Iceberg tables as a directory: a real mount over an S3 in this process. What engines make of it is a matter of
//! `scripts/suite/tables`.
#![cfg(feature = "tables")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "tables/again.rs"]
mod again;
#[path = "tables/ahead.rs"]
mod ahead;
#[path = "tables/beside.rs"]
mod beside;
#[path = "tables/broken.rs"]
mod broken;
#[path = "tables/catalog.rs"]
mod catalog;
#[path = "tables/changed.rs"]
mod changed;
#[path = "support/cloud.rs"]
mod cloud;
#[cfg(feature = "redis")]
#[path = "cache/common.rs"]
#[allow(dead_code)]
mod common;
#[path = "tables/dropped.rs"]
mod dropped;
#[path = "tables/early.rs"]
mod early;
#[cfg(feature = "redis")]
#[path = "tables/fleet.rs"]
mod fleet;
mod harness;
#[cfg(feature = "http")]
#[path = "tables/hinted.rs"]
mod hinted;
#[path = "tables/kills.rs"]
mod kills;
#[path = "tables/lake.rs"]
mod lake;
#[path = "tables/late.rs"]
mod late;
#[path = "tables/listed.rs"]
mod listed;
#[path = "tables/local.rs"]
mod local;
#[path = "tables/named.rs"]
mod named;
#[path = "tables/neighbours.rs"]
mod neighbours;
#[path = "tables/now.rs"]
mod now;
#[path = "tables/parts.rs"]
mod parts;
#[cfg(feature = "redis")]
#[path = "redis/server.rs"]
#[allow(dead_code)]
mod server;
mod support;
#[path = "tables/vended.rs"]
mod vended;
#[path = "tables/verbs.rs"]
mod verbs;
#[path = "tables/words.rs"]
mod words;

use harness::{LIMIT, eventually};
use lake::{Lake, TABLES, files, names};
use s3s::S3ErrorCode;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use support::s3server::Fault;

/// What is shown: every table, its data with the bytes that the store has, in its own place and in that of all
/// objects; snapshots and references; nothing that can be changed.
#[test]
fn tables_are_a_tree_of_files() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    assert_eq!(names(&lake.dir), ["iceberg", "objects"]);
    assert!(names(&lake.dir.join(TABLES)).contains(&"refs".to_owned()));
    let mut read = 0;
    for table in names(&lake.dir.join(TABLES)) {
        let data = lake.table(&table).join("data");
        if lake.table(&table).join("ERROR").exists() {
            continue;
        }
        for file in files(&data) {
            let key = format!("wh/db/{table}/data/{}", file.strip_prefix(&data).unwrap().display());
            let Some(bytes) = lake.objects.get(&key) else { continue }; // an escaped name
            let object = lake.dir.join("objects/s3/lake").join(&key);
            assert_eq!(fs::metadata(&file).unwrap().len(), bytes.len() as u64, "{key}");
            assert_eq!(&fs::read(&file).unwrap(), bytes, "{key}");
            assert_eq!(&fs::read(&object).unwrap(), bytes, "{key}");
            let mut part = vec![0; 8];
            File::open(&file).unwrap().read_exact_at(&mut part, bytes.len() as u64 - 8).unwrap();
            assert_eq!(part, bytes[bytes.len() - 8..], "{key}");
            read += 1;
        }
    }
    assert!(read > 40, "{read} files were read");
    let refs = lake.table("refs");
    assert_eq!(fs::read(refs.join("metadata/version-hint.text")).unwrap(), b"7");
    assert_eq!(names(&refs.join("refs")), ["dev~2ftwo", "first", "main"]);
    for view in ["refs/first", "refs/dev~2ftwo"] {
        let hint = fs::read_to_string(refs.join(view).join("metadata/version-hint.text")).unwrap();
        let metadata = fs::read(refs.join(view).join(format!("metadata/v{hint}.metadata.json"))).unwrap();
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        let location = format!("file://{}", refs.join(view).display());
        assert_eq!(metadata["location"].as_str(), Some(&*location));
    }
    let ids = names(&refs.join("snapshots"));
    assert_eq!(ids.len(), 3);
    for id in &ids {
        let metadata = fs::read(refs.join("snapshots").join(id).join("metadata/v1.metadata.json")).unwrap();
        let metadata: Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(metadata["current-snapshot-id"].to_string(), *id);
    }
    let at = fs::read_link(refs.join("snapshots/@2100-01-01")).unwrap();
    assert!(ids.contains(&at.to_str().unwrap().to_owned()));
    for absent in
        ["metadata/.v7.metadata.json.crc", "metadata/v8.metadata.json", "snapshots/1", "refs/none", "x"]
    {
        assert!(!refs.join(absent).exists(), "{absent}");
    }
    assert!(File::create(refs.join("data/new")).is_err());
    assert!(fs::remove_file(refs.join("metadata/version-hint.text")).is_err());
    assert!(fs::create_dir(lake.dir.join("iceberg/new")).is_err());
    lake.unmount();
    assert!(names(&lake.dir).is_empty());
}

/// A new version is shown within moments, and whoever has the old one open goes on with it.
#[test]
fn a_commit_turns_a_table_over() {
    let newest = "wh/db/refs/metadata/v7.metadata.json";
    let hint = "wh/db/refs/metadata/version-hint.text";
    let lake = Lake::prepare(|key| key == newest || key == hint);
    lake.cloud.server.put_into("lake", hint, "6");
    lake.mount();
    let metadata = lake.table("refs").join("metadata");
    assert_eq!(fs::read(metadata.join("version-hint.text")).unwrap(), b"6");
    assert!(!metadata.join("v7.metadata.json").exists());
    let before = fs::read(metadata.join("v6.metadata.json")).unwrap();
    let held = File::open(metadata.join("v6.metadata.json")).unwrap();
    names(&metadata);
    lake.cloud.server.put_into("lake", newest, lake.objects[newest].clone());
    lake.cloud.server.put_into("lake", hint, "7");
    eventually("the new version is shown", LIMIT, || {
        (fs::read(metadata.join("version-hint.text")).unwrap() == b"7").then_some(())
    });
    assert!(fs::metadata(metadata.join("v7.metadata.json")).is_ok());
    eventually("it is listed", LIMIT, || {
        names(&metadata).contains(&"v7.metadata.json".to_owned()).then_some(())
    });
    let mut after = vec![0; before.len()];
    held.read_exact_at(&mut after, 0).unwrap();
    assert_eq!(after, before, "the old version has its bytes");
    drop(held);
    lake.unmount();
}

/// What was read is served after a restart without asking for it again, and while the store is away; what was
/// not read is an error by then, and comes when the store is back.
#[test]
fn what_was_read_stays_when_the_store_goes() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    let data = lake.table("evolved").join("data");
    let all = files(&data);
    let (first, other) = (&all[0], &all[1]);
    let bytes = fs::read(first).unwrap();
    assert_eq!(lake.fetches(), 1);
    lake.unmount();
    lake.mount();
    assert_eq!(&fs::read(first).unwrap(), &bytes);
    assert_eq!(lake.fetches(), 0);
    assert_eq!(files(&data), all);
    lake.cloud.server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::AccessDenied));
    assert_eq!(&fs::read(first).unwrap(), &bytes);
    let failed = fs::read(other).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EACCES), "{failed}");
    lake.cloud.server.control().clear_hook();
    let key = format!("wh/db/evolved/data/{}", other.strip_prefix(&data).unwrap().display());
    assert_eq!(&fs::read(other).unwrap(), &lake.objects[&key]);
    lake.unmount();
}

/// A table that cannot be shown says why, and its neighbours do not mind.
#[test]
fn a_table_that_cannot_be_shown_says_why() {
    let lake = Lake::prepare(|_| false);
    lake.cloud.server.put_into("lake", "wh/db/v1/metadata/v4.metadata.json", "{ no table");
    lake.break_deletes();
    lake.mount();
    let broken = lake.table("v1");
    assert_eq!(names(&broken), ["ERROR"]);
    assert!(fs::read_to_string(broken.join("ERROR")).unwrap().contains("malformed"));
    assert!(fs::read_to_string(lake.table("orc_deletes").join("ERROR")).unwrap().contains("ORC"));
    assert_eq!(fs::read(lake.table("refs").join("metadata/version-hint.text")).unwrap(), b"7");
    lake.unmount();
}

/// An object that has not the size which the table states is an error, never bytes.
#[test]
fn an_object_of_another_size_is_an_error() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    let data = lake.table("evolved").join("data");
    let file = files(&data).remove(0);
    let key = format!("wh/db/evolved/data/{}", file.strip_prefix(&data).unwrap().display());
    lake.cloud.server.put_into("lake", &key, "shorter");
    assert_eq!(File::open(&file).unwrap_err().raw_os_error(), Some(libc::EIO));
    lake.unmount();
}

/// A bucket may have keys that no file of ours would have: each has its path.
#[test]
fn any_key_of_a_bucket_has_its_path() {
    let lake = Lake::prepare(|_| false);
    let long = "x".repeat(300);
    let (long, part) = (format!("odd/{long}"), format!("odd/{}~+", "x".repeat(253)));
    let all = [
        ("odd/a//b", "odd/a/~-/b"),
        ("odd/../up", "odd/~2e~2e/up"),
        ("odd/.icecache-notes/x", "odd/.icecache-notes/x"),
        (&*long, &*format!("{part}/{}", "x".repeat(47))),
    ];
    for (key, _) in all {
        lake.cloud.server.put_into("lake", key, key.to_owned());
    }
    lake.mount();
    let objects = lake.dir.join("objects/s3/lake");
    for (key, path) in all {
        assert_eq!(fs::read_to_string(objects.join(path)).unwrap(), key);
    }
    assert!(names(&objects.join("odd")).iter().any(|name| part.ends_with(name)));
    assert_eq!(names(&objects.join(&part)), ["x".repeat(47)]);
    assert_eq!(names(&objects.join("odd/a/~-")), ["b"]);
    lake.unmount();
}

/// Several catalogs have folders of their own, and single tables too; what makes no sense is refused with advice.
#[test]
fn catalogs_stand_side_by_side() {
    let lake = Lake::prepare(|_| false);
    lake.mount_with(&["--catalog", "a=hadoop:s3://lake/wh", "--table", "one=s3://lake/wh/db/refs"])
        .must("mount");
    assert_eq!(names(&lake.dir.join("iceberg")), ["a", "one"]);
    assert_eq!(fs::read(lake.dir.join("iceberg/a/db/refs/metadata/version-hint.text")).unwrap(), b"7");
    let one = lake.dir.join("iceberg/one");
    let table = names(&one).remove(0);
    assert_eq!(fs::read(one.join(table).join("metadata/version-hint.text")).unwrap(), b"7");
    lake.unmount();
    for (options, told) in [
        (&["--catalog", "a=hadoop:s3://lake/wh", "--catalog", "a=hadoop:s3://lake/py"][..], "same name"),
        (&["--catalog", "nonsense"], "NAME=KIND"),
        (&["--catalog", "a=hadoop:s3://lake/wh", "--catalog-option", "b.token=x"], "b.token"),
        (&[], "--catalog"),
        (&["--catalog", "a=hadoop:s3://lake/wh", "--version", "1"], "--tables-only"),
    ] {
        let refused = lake.mount_with(options);
        assert!(!refused.ok() && refused.said().contains(told), "{}", refused.said());
    }
}
