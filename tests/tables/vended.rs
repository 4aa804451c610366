//! Credentials that a REST catalog lends: the only ones that open the table.
use crate::catalog::{Catalog, Table};
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files, names};
use crate::support::s3server::{ACCESS_KEY, SECRET_KEY};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The tables, for a process whose own credentials open nothing.
fn prepare() -> Lake {
    let mut lake = Lake::prepare(|_| false);
    for (name, value) in &mut lake.cloud.lab.setup.environment {
        if name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY" {
            *value = "of-somebody-else".to_owned();
        }
    }
    lake
}

/// The keys of the store, of which it is said that they are good no longer.
fn keys() -> Value {
    json!({
        "s3.access-key-id": ACCESS_KEY,
        "s3.secret-access-key": SECRET_KEY,
        "s3.session-token-expires-at-ms": "1000",
    })
}

/// Those that open nothing.
fn no_keys() -> Value {
    json!({ "s3.access-key-id": "nobody", "s3.secret-access-key": "nothing" })
}

/// A table of the fixtures, and the keys of the store.
fn lent(name: &str, number: u32) -> Table {
    Table { config: keys(), ..Table::version(name, number) }
}

/// The files of a table have the bytes of their objects.
fn is_whole(lake: &Lake, table: &str) {
    let data = lake.table(table).join("data");
    let all = files(&data);
    assert!(!all.is_empty());
    for file in all {
        assert_eq!(fs::read(&file).unwrap(), lake.objects[&key(&data, &file)], "{}", file.display());
    }
}

fn key(data: &Path, file: &Path) -> String {
    let table = data.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("wh/db/{table}/data/{}", file.strip_prefix(data).unwrap().display())
}

#[test]
fn what_a_catalog_lends_opens_its_tables() {
    let lake = prepare();
    let catalog = Catalog::start([("refs", lent("refs", 7))]);
    let named = catalog.named();
    lake.mount_with(&["--catalog", &named, "--catalog-option", "rest.vended-credentials=false"])
        .must("mount");
    assert_eq!(names(&lake.table("refs")), ["ERROR"], "nobody lends anything");
    assert_eq!(catalog.state().lent, 0);
    lake.unmount();
    lake.mount_with(&["--catalog", &named]).must("mount");
    is_whole(&lake, "refs");
    assert!(catalog.state().lent > 1, "what has expired is lent again");
    // Another bucket is none of this catalog's.
    assert!(fs::read_dir(lake.dir.join("objects/s3/other/somewhere")).is_err());
    let all = files(&lake.table("refs").join("data"));
    lake.unmount();
    // TABLES: "what the cache has of its files is read": also if only the catalog could lend what opens them.
    drop(catalog);
    let said = lake.mount_with(&["--catalog", &named]).must("mount").said();
    assert!(said.contains("not all catalogs answer yet"), "{said}");
    assert_eq!(files(&lake.table("refs").join("data")), all);
    is_whole(&lake, "refs");
    lake.unmount();
    let state = lake.cloud.lab.root().join("tables-state");
    let written = files(&state).into_iter().filter(|file| file.is_file());
    let of_keys = |file: &std::path::PathBuf| {
        fs::read(file).unwrap().windows(SECRET_KEY.len()).any(|part| part == SECRET_KEY.as_bytes())
    };
    assert_eq!(written.filter(of_keys).count(), 0, "no key is written down");
}

/// What was lent for a table opens nothing any more once its catalog has it no longer.
#[test]
fn what_was_lent_for_a_dropped_table_is_given_back() {
    let lake = prepare();
    let catalog = Catalog::start([("refs", lent("refs", 7))]);
    lake.mount_with(&["--catalog", &catalog.named()]).must("mount");
    let data = lake.table("refs").join("data");
    let all: Vec<String> = files(&data).iter().map(|file| key(&data, file)).collect();
    let objects = lake.dir.join("objects/s3/lake");
    assert_eq!(fs::read(objects.join(&all[0])).unwrap(), lake.objects[&all[0]]);
    // No table names it, and what is lent opens it all the same.
    let [unnamed, another] = ["wh/db/refs/unnamed", "wh/db/refs/another"];
    lake.cloud.server.put_into("lake", unnamed, "1");
    lake.cloud.server.put_into("lake", another, "2");
    assert_eq!(fs::read(objects.join(unnamed)).unwrap(), b"1");
    catalog.state().tables.clear();
    eventually("it is gone", LIMIT, || names(&lake.dir.join("iceberg/db")).is_empty().then_some(()));
    let denied = |key: &str| fs::metadata(objects.join(key)).unwrap_err().raw_os_error();
    assert_eq!((denied(another), denied(&all[1])), (Some(libc::EACCES), Some(libc::EACCES)));
    lake.unmount();
}

/// What is lent for a prefix opens what lies below it, and nothing else does: neither what is lent for a shorter one nor
/// what the table is configured with.
#[test]
fn what_is_lent_for_the_longest_prefix_is_what_counts() {
    let lake = prepare();
    let of = |config: Value, lent: &[(&str, Value)], table: Table| {
        let lent = lent.iter().map(|(prefix, config)| json!({ "prefix": prefix, "config": config }));
        Table { config, storage_credentials: lent.collect(), ..table }
    };
    let [refs, v1] = ["s3://lake/wh/db/refs/", "s3://lake/wh/db/v1"];
    let opens = [("s3://lake/wh/", no_keys()), (refs, keys()), ("s3://lake/wh/db/refs2", no_keys())];
    let catalog = Catalog::start([
        ("refs", of(no_keys(), &opens, Table::version("refs", 7))),
        ("v1", of(keys(), &[(v1, no_keys())], Table::version("v1", 4))),
        // Of what is lent some is for another table.
        ("evolved", of(keys(), &[(v1, no_keys())], Table::version("evolved", 10))),
    ]);
    lake.mount_with(&["--catalog", &catalog.named()]).must("mount");
    is_whole(&lake, "evolved");
    is_whole(&lake, "refs");
    assert_eq!(names(&lake.table("v1")), ["ERROR"]);
    lake.unmount();
}

/// TABLES: "A folder above what is lent shows what leads there": nobody is asked with credentials that are not for it.
#[test]
fn a_folder_above_what_is_lent_is_asked_of_nobody() {
    let mut lake = prepare();
    for may_look in [false, true] {
        if may_look {
            for (name, value) in &mut lake.cloud.lab.setup.environment {
                match name.as_str() {
                    "AWS_ACCESS_KEY_ID" => *value = ACCESS_KEY.to_owned(),
                    "AWS_SECRET_ACCESS_KEY" => *value = SECRET_KEY.to_owned(),
                    _ => {}
                }
            }
        }
        let catalog = Catalog::start([("refs", lent("refs", 7)), ("evolved", lent("evolved", 10))]);
        lake.mount_with(&["--catalog", &catalog.named()]).must("mount");
        for table in ["refs", "evolved"] {
            assert!(!files(&lake.table(table).join("data")).is_empty());
        }
        lake.cloud.server.control().clear_log();
        let bucket = lake.dir.join("objects/s3/lake");
        assert_eq!(names(&bucket), ["wh"]);
        assert_eq!(names(&bucket.join("wh")), ["db"]);
        assert_eq!(names(&bucket.join("wh/db")), ["evolved", "refs"]);
        assert!(bucket.join("wh/db").is_dir());
        assert_eq!(lake.cloud.server.control().counts().get("ListObjectsV2"), None, "{may_look}");
        // What is lent for a table opens its folder.
        assert_eq!(names(&bucket.join("wh/db/refs")), ["data", "metadata"]);
        lake.unmount();
    }
}
