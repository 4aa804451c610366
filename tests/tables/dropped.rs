//! What is left on the disk of tables that their catalog has no longer.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files, names};
use crate::support::s3server::Fault;
use s3s::S3ErrorCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

const KEY: &str = "wh/db/refs/";

fn keys(lake: &Lake) -> Vec<&str> {
    lake.objects.keys().map(String::as_str).filter(|key| key.starts_with(KEY)).collect()
}

fn remove(lake: &Lake) {
    for key in keys(lake) {
        assert!(lake.cloud.server.remove_from("lake", key), "{key}");
    }
}

/// The folder of a table of this state.
pub fn on_disk(lake: &Lake, table: &str) -> PathBuf {
    let all = lake.cloud.lab.root().join("tables-state/tables/tables");
    all.join(names(&all).remove(0)).join("iceberg/db").join(table)
}

/// The files in a folder, by their paths in it, and their bytes.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = |file: &Path| file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
    files(folder).iter().filter_map(|file| Some((path(file), fs::read(file).ok()?))).collect()
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// Looks at all that is shown of the table: what it names is there, and whole. The number of its version.
fn whole(lake: &Lake) -> u64 {
    let table = lake.table("refs");
    let hint = fs::read_to_string(table.join("metadata/version-hint.text")).unwrap();
    let mut views = vec![(table.clone(), hint.clone())];
    for view in ["snapshots", "refs"] {
        for name in names(&table.join(view)) {
            let view = table.join(view).join(name);
            views.push((view.clone(), fs::read_to_string(view.join("metadata/version-hint.text")).unwrap()));
        }
    }
    for (folder, hint) in views {
        let metadata = json(&folder.join(format!("metadata/v{hint}.metadata.json")));
        for snapshot in metadata["snapshots"].as_array().unwrap() {
            let list = snapshot["manifest-list"].as_str().unwrap().strip_prefix("file://").unwrap();
            assert!(fs::read(list).unwrap().starts_with(b"Obj\x01"), "{list}");
        }
    }
    for file in names(&table.join("metadata")) {
        fs::read(table.join("metadata").join(file)).unwrap();
    }
    hint.parse().unwrap()
}

/// Which is another table than the one of the fixtures.
fn made_anew(lake: &Lake) {
    for key in keys(lake) {
        let mut bytes = lake.objects[key].clone();
        if key.ends_with(".metadata.json") {
            let uuid =
                serde_json::from_slice::<Value>(&bytes).unwrap()["table-uuid"].as_str().unwrap().to_owned();
            let other = uuid.chars().rev().collect::<String>();
            let other = format!("{}-{}", &uuid[..8], &other.replace('-', "")[..4]) + &uuid[13..];
            bytes = String::from_utf8(bytes).unwrap().replace(&uuid, &other).into_bytes();
        }
        lake.cloud.server.put_into("lake", key, bytes);
    }
}

/// Of a dropped table that from which the next one takes its number stays, and nothing else; whoever has a file open reads on.
#[test]
fn a_dropped_table_leaves_its_number() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    let before = whole(&lake);
    let folder = on_disk(&lake, "refs");
    let all = content(&folder);
    assert!(all.len() > 12, "{:?}", all.keys());
    let list = all.keys().find(|path| path.starts_with("metadata/snap-")).unwrap();
    let mut open = File::open(lake.table("refs").join(list)).unwrap();
    remove(&lake);
    let is_number = |path: &str| path.contains("/v") && !path.starts_with("refs/");
    let left = eventually("what was rewritten goes", LIMIT, || {
        let _asks_for_names = fs::read_dir(lake.dir.join("iceberg/db")).map(Iterator::count);
        let left = content(&folder);
        left.keys().all(|path| is_number(path)).then_some(left)
    });
    assert_eq!(left.keys().filter(|path| path.starts_with("metadata/")).count(), 1, "{:?}", left.keys());
    for (path, bytes) in &left {
        assert_eq!(bytes, &all[path], "{path}");
    }
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, all[list]);
    drop(open);
    made_anew(&lake);
    eventually("it is there again", LIMIT, || {
        let hint = fs::read_to_string(lake.table("refs").join("metadata/version-hint.text")).ok()?;
        (!hint.is_empty()).then_some(())
    });
    assert!(whole(&lake) > before, "no number comes twice");
    for (path, bytes) in left.iter().filter(|(path, _)| path.starts_with("metadata/")) {
        assert_eq!(&fs::read(lake.table("refs").join(path)).unwrap(), bytes, "{path}");
    }
    lake.unmount();
}

/// Whatever is removed meanwhile, one that comes under the same name at once is whole, and so is the same one again.
#[test]
fn a_table_that_comes_back_at_once_is_whole() {
    let lake = Lake::prepare(|_| false);
    lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh", "--tables-poll", "100ms"]).must("mount");
    let mut last = whole(&lake);
    let uuid = || lake.tables("show", &["db.refs"]).stdout;
    for round in 0..6 {
        let before = uuid();
        remove(&lake);
        if round % 3 == 2 {
            eventually("it is gone", LIMIT, || (!lake.tables("show", &["db.refs"]).ok()).then_some(()));
        }
        match round % 2 {
            0 => made_anew(&lake),
            _ => lake.commit(&keys(&lake)),
        }
        eventually("it is another one", LIMIT, || {
            let now = uuid();
            let told: Value = serde_json::from_str(&now).ok()?;
            let was: Value = serde_json::from_str(&before).unwrap();
            (told["uuid"] != was["uuid"]).then_some(())
        });
        let number = whole(&lake);
        assert!(number > last, "round {round}: {number} after {last}");
        last = number;
    }
    lake.unmount();
}

/// TABLES: "of a table that takes its name after it was dropped": what is pinned of one that is made again is brought, though nobody
/// looks into it.
#[test]
fn a_pinned_table_that_is_made_again_is_brought_again() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    let pinned = lake.told("pin", &["db.refs"])["there"]["files"].clone();
    let line = || {
        let all = lake.told("ls", &[]);
        all.as_array().unwrap().iter().find(|line| line["id"] == "db.refs").cloned()
    };
    for make in [made_anew as fn(&Lake), |lake| lake.commit(&keys(lake))] {
        remove(&lake);
        eventually("it is gone", LIMIT, || line().is_none().then_some(()));
        lake.cloud.server.control().clear_log();
        make(&lake);
        let told = eventually("it is shown", LIMIT, || line().filter(|line| line["state"] == "shown"));
        assert_eq!((&told["pinned"], &told["used_s_ago"]), (&true.into(), &Value::Null), "nobody has looked");
        eventually("it is held again", LIMIT, || {
            (lake.told("show", &["db.refs"])["held"]["files"] == pinned).then_some(())
        });
        // Its files may be others by now: the store is asked what they are.
        let log = lake.cloud.server.control().log();
        assert!(log.iter().any(|request| request.key.starts_with(&format!("{KEY}data/"))));
    }
    lake.unmount();
}

/// What was dropped while nobody asked is found once the catalog answers, and not before: until then all that was shown
/// is there.
#[test]
fn what_a_silent_catalog_may_have_stays() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    whole(&lake);
    names(&lake.table("v1").join("metadata"));
    let (folder, other) = (on_disk(&lake, "refs"), on_disk(&lake, "v1"));
    lake.unmount();
    // One of which nobody knows any more, as an older program has left it.
    let unknown = on_disk(&lake, "unknown");
    fs::create_dir_all(unknown.join(".aside")).unwrap();
    fs::create_dir(unknown.join("metadata")).unwrap();
    for name in ["v1.metadata.json", "v2.metadata.json", "list.avro"] {
        fs::write(unknown.join("metadata").join(name), name).unwrap();
    }
    let before = [&folder, &other, &unknown].map(|folder| content(folder));
    remove(&lake);
    lake.cloud.server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::ServiceUnavailable));
    let said = lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh"]).must("mount").said();
    assert!(said.contains("not all catalogs answer yet"), "{said}");
    assert_eq!(whole(&lake), 7, "what was shown before is shown");
    assert_eq!([&folder, &other, &unknown].map(|folder| content(folder)), before);
    lake.cloud.server.control().clear_hook();
    eventually("what the catalog has not goes", LIMIT, || {
        let _asks_for_names = fs::read_dir(lake.dir.join("iceberg/db")).map(Iterator::count);
        let few = |folder| content(folder).len() < 6;
        (few(&folder) && content(&unknown).len() == 1).then_some(())
    });
    assert_eq!(content(&unknown).into_keys().collect::<Vec<_>>(), ["metadata/v2.metadata.json"]);
    assert_eq!(content(&other), before[1], "it is there still");
    lake.unmount();
}
