//! What is shown is as it is now: listings, moments, live files, and what catalogs say of themselves.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, TABLES, files, names};
use crate::support::s3server::Fault;
use crate::verbs::{Watcher, commit, table_as_of};
use s3s::S3ErrorCode;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// Waits until `what` is listed in a folder, or is not. Nobody looks it up by its name.
fn listed(folder: &Path, what: &str, is_there: bool) {
    let to_see = format!("{what} is listed: {is_there}");
    eventually(&to_see, LIMIT, || (names(folder).iter().any(|name| name == what) == is_there).then_some(()));
}

/// TABLES: "Listings are of now, or a second old": tables that come and go, and one that could not be shown, without a look-up that
/// would say so.
#[test]
fn a_listing_is_of_now() {
    let lake = Lake::prepare(|key| key.starts_with("wh/db/evolved/"));
    let broken = "wh/db/v1/metadata/v4.metadata.json";
    lake.cloud.server.put_into("lake", broken, "{ no table");
    lake.mount();
    let all = lake.dir.join(TABLES);
    assert!(!names(&all).contains(&"evolved".to_owned()));
    let keys: Vec<&str> = lake.objects.keys().map(String::as_str).collect();
    let evolved: Vec<&str> = keys.into_iter().filter(|key| key.starts_with("wh/db/evolved/")).collect();
    lake.commit(&evolved);
    listed(&all, "evolved", true);
    for key in &evolved {
        assert!(lake.cloud.server.remove_from("lake", key), "{key}");
    }
    listed(&all, "evolved", false);
    assert_eq!(names(&lake.table("v1")), ["ERROR"]);
    lake.commit(&[broken]);
    listed(&lake.table("v1"), "metadata", true);
    listed(&lake.table("v1"), "ERROR", false);
    // Beside tables, too, and what no table names.
    let folder = lake.dir.join("objects/s3/other/more");
    lake.cloud.server.put_into("other", "more/one", "1");
    assert_eq!(names(&folder), ["one"]);
    lake.cloud.server.put_into("other", "more/two", "2");
    listed(&folder, "two", true);
    lake.unmount();
}

/// TABLES: "a link to the snapshot that was current then": a time that has not been leads to the newest snapshot, whichever that is by then.
#[test]
fn a_time_leads_to_what_was_current_then() {
    let (lake, keys) = table_as_of("refs", 4, 7);
    lake.mount();
    let future = lake.table("refs").join("snapshots/@2100-01-01");
    let before = fs::read_link(&future).unwrap();
    commit(&lake, &keys);
    eventually("it leads to the new one", LIMIT, || {
        (fs::read_link(&future).unwrap() != before).then_some(())
    });
    lake.unmount();
}

/// TABLES: "`data/` lists the live files of the version that is shown": what a commit took out is there for who still reads it, and not listed.
#[test]
fn the_data_of_a_table_is_what_is_live() {
    let (lake, keys) = table_as_of("v1", 3, 4);
    lake.mount();
    let data = lake.table("v1").join("data");
    let before = files(&data);
    commit(&lake, &keys);
    let after = eventually("the new version is listed", LIMIT, || {
        let now = files(&data);
        (now != before).then_some(now)
    });
    assert_eq!(after.len(), before.len() - 3 + 1, "{after:?}");
    for file in before.iter().filter(|file| !after.contains(file)) {
        let key = format!("wh/db/v1/data/{}", file.strip_prefix(&data).unwrap().display());
        assert_eq!(&fs::read(file).unwrap(), &lake.objects[&key], "an older snapshot has it");
    }
    lake.unmount();
    lake.mount();
    eventually("it is opened", LIMIT, || (names(&lake.table("v1")).len() > 1).then_some(()));
    assert_eq!(files(&data), after, "the same as before the restart");
    lake.unmount();
}

/// TABLES: whoever notices that a table is gone, it is told, and what was pinned of it is let go.
#[test]
fn what_is_dropped_is_told_whoever_notices() {
    let lake = Lake::prepare(|_| false);
    let poll = ["--catalog", "lake=hadoop:s3://lake/wh", "--tables-poll", "1h", "--tables-poll-idle", "1h"];
    lake.mount_with(&poll).must("mount");
    assert_eq!(lake.told("pin", &["db.evolved"])["there"]["files"], 6);
    let mut watcher = Watcher::start(&lake);
    let evolved: Vec<&String> = lake.objects.keys().filter(|key| key.starts_with("wh/db/evolved/")).collect();
    for key in evolved {
        assert!(lake.cloud.server.remove_from("lake", key), "{key}");
    }
    // Nobody polls: who asks for names notices it.
    listed(&lake.dir.join(TABLES), "evolved", false);
    let told = watcher.next();
    assert_eq!((&told["event"], &told["table"]), (&"dropped".into(), &"iceberg/db/evolved".into()));
    drop(watcher);
    lake.unmount();
}

/// TABLES, status: a catalog that answers about no table is away, and who asks is told why.
#[test]
fn a_catalog_that_is_away_is_said_to_be() {
    let lake = Lake::prepare(|_| false);
    lake.mount();
    assert!(!files(&lake.table("refs").join("data")).is_empty());
    let status = || -> Value {
        let args = [OsStr::new("status"), lake.dir.as_os_str(), OsStr::new("--json")];
        serde_json::from_str(&lake.cloud.lab.call(args).must("status").stdout).unwrap()
    };
    let error = || status()["tables"]["catalogs"][0]["error"].clone();
    assert_eq!(error(), Value::Null, "{}", status());
    lake.cloud.server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::AccessDenied));
    eventually("it is said to be away", LIMIT, || (error() != Value::Null).then_some(()));
    lake.cloud.server.control().clear_hook();
    eventually("it is back", LIMIT, || (error() == Value::Null).then_some(()));
    lake.unmount();
}
