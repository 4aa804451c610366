//! Listings that last while others find something else.
use crate::catalog::{Catalog, Table};
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, names};
use rustix::fs::{Mode, OFlags, RawDir};
use std::collections::BTreeSet;
use std::mem::MaybeUninit;

/// Whoever goes on with a listing gets every name once that is there all the time, also if others have listed the folder
/// anew, and found that what was listed already is gone.
#[test]
fn a_listing_that_lasts_loses_no_name() {
    let lake = Lake::prepare(|_| false);
    let name = |n: usize| format!("object-{n:03}");
    for n in 0..300 {
        lake.cloud.server.put_into("lake", &format!("many/{}", name(n)), "x");
    }
    lake.mount();
    let dir = lake.dir.join("objects/s3/lake/many");
    let begun = rustix::fs::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut pass = RawDir::new(begun, &mut buffer);
    let mut seen = Vec::new();
    let mut next = |seen: &mut Vec<String>| {
        let Some(entry) = pass.next() else { return false };
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if !name.starts_with('.') {
            seen.push(name);
        }
        true
    };
    while seen.len() < 10 {
        assert!(next(&mut seen));
    }
    let gone: BTreeSet<String> = seen.iter().cloned().collect();
    gone.iter().for_each(|name| assert!(lake.cloud.server.remove_from("lake", &format!("many/{name}"))));
    lake.cloud.server.put_into("lake", "many/a-new-one", "x");
    eventually("others find what is there", LIMIT, || {
        let now = names(&dir);
        (now.len() == 291 && now[0] == "a-new-one").then_some(())
    });
    while next(&mut seen) {}
    drop(pass);
    seen.retain(|name| !gone.contains(name) && name != "a-new-one");
    assert_eq!(seen, (10..300).map(name).collect::<Vec<_>>());
    lake.unmount();
}

/// The kernel keeps listings, and of an empty one it would keep the end.
#[test]
fn a_folder_that_was_listed_while_it_was_empty_shows_what_comes() {
    let lake = Lake::prepare(|key| key.starts_with("wh/"));
    lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh", "--tables-poll", "100ms"]).must("mount");
    let keys: Vec<&str> =
        lake.objects.keys().map(String::as_str).filter(|key| key.starts_with("wh/db/refs/")).collect();
    let is_there = |there: bool| {
        let expected: &[&str] = if there { &["db"] } else { &[] };
        eventually("the listing is what there is", LIMIT, || {
            (names(&lake.dir.join("iceberg")) == expected).then_some(())
        });
    };
    for round in 0..3 {
        is_there(false);
        lake.commit(&keys);
        is_there(true);
        keys.iter().for_each(|key| assert!(lake.cloud.server.remove_from("lake", key), "round {round}"));
    }
    lake.unmount();
}

/// The same of each kind of folder: a namespace, those of a table, a bucket, and those above buckets.
#[test]
fn folders_that_were_empty_show_what_comes() {
    let lake = Lake::prepare(|_| false);
    lake.cloud.server.add_bucket("bare", []);
    let catalog = Catalog::start([]);
    lake.mount_with(&["--catalog", &catalog.named(), "--tables-poll", "100ms"]).must("mount");
    let is = |path: &str, expected: &[&str]| {
        let folder = lake.dir.join(path);
        eventually(&format!("{path} has {expected:?}"), LIMIT, || (names(&folder) == expected).then_some(()));
    };
    for path in ["iceberg/db", "objects", "objects/s3", "objects/s3/bare", "objects/s3/bare"] {
        is(path, &[]);
    }
    catalog.say("t", Table::version("empty", 1));
    is("iceberg/db", &["t"]);
    for path in ["iceberg/db/t/data", "iceberg/db/t/snapshots", "iceberg/db/t/refs", "objects"] {
        is(path, &[]);
    }
    lake.cloud.server.put_into("bare", "a/b", "x");
    is("objects/s3/bare", &["a"]);
    is("objects/s3/bare/a", &["b"]);
    catalog.say("t", Table::version("refs", 7));
    is("iceberg/db/t/refs", &["dev~2ftwo", "first", "main"]);
    is("objects", &["s3"]);
    is("objects/s3", &["lake"]);
    for (path, has) in [("data", 2), ("snapshots", 3)] {
        let folder = lake.dir.join("iceberg/db/t").join(path);
        eventually(path, LIMIT, || (names(&folder).len() == has).then_some(()));
    }
    catalog.state().tables.clear();
    is("iceberg/db", &[]);
    is("objects", &[]);
    lake.unmount();
}

/// Folders above a table are there also if nobody knows of any file in them, and have what their bucket has.
#[test]
fn folders_above_a_table_are_there() {
    let lake = Lake::prepare(|_| false);
    let catalog = Catalog::start([("t", Table::version("empty", 1))]);
    lake.mount_with(&["--catalog", &catalog.named()]).must("mount");
    assert!(names(&lake.table("t").join("data")).is_empty());
    let bucket = lake.dir.join("objects/s3/lake");
    lake.cloud.server.control().clear_log();
    for folder in ["wh/db/empty", "wh/db", "wh"] {
        assert!(bucket.join(folder).is_dir(), "{folder}");
    }
    assert_eq!(lake.cloud.server.control().log(), [], "nobody is asked whether they are");
    assert_eq!(names(&bucket), ["py", "wh"], "each warehouse");
    let in_store = lake.objects.keys().filter_map(|key| key.strip_prefix("wh/db/")?.split('/').next());
    let in_store: BTreeSet<&str> = in_store.collect();
    assert_eq!(names(&bucket.join("wh/db")), in_store.into_iter().collect::<Vec<_>>());
    assert_eq!(names(&bucket.join("wh/db/empty")), ["metadata"]);
    assert!(!bucket.join("wh/d").exists() && !bucket.join("wh/db/empt").exists());
    lake.unmount();
}

/// Whoever lists a folder of a bucket, and looks at each name, costs no requests for each folder in it.
#[test]
fn a_folder_of_many_folders_costs_few_requests() {
    let lake = Lake::prepare(|_| false);
    for n in 0..40 {
        for name in ["a", "b/c"] {
            lake.cloud.server.put_into("lake", &format!("deep/{n:02}/{name}"), "x");
        }
    }
    lake.cloud.server.put_into("lake", "deep/07", "an object of that name");
    lake.mount();
    let dir = lake.dir.join("objects/s3/lake/deep");
    std::fs::metadata(&dir).unwrap();
    lake.cloud.server.control().clear_log();
    for name in names(&dir) {
        let is_object = name == "07";
        assert_eq!(std::fs::metadata(dir.join(name)).unwrap().is_file(), is_object);
    }
    let counts = lake.cloud.server.control().counts();
    let asked = |operation| counts.get(operation).copied().unwrap_or(0);
    assert!(asked("ListObjectsV2") < 10 && asked("HeadObject") < 10, "{counts:?}");
    assert_eq!(names(&dir.join("08")), ["a", "b"]);
    assert!(std::fs::metadata(dir.join("40")).is_err());
    lake.unmount();
}

/// A folder of which only a part would be listed is not: nobody takes that part for all.
#[test]
fn a_folder_of_too_many_objects_is_refused() {
    const MOST: usize = 100_000;
    let lake = Lake::prepare(|_| false);
    for n in 0..=MOST {
        lake.cloud.server.put_into("lake", &format!("very/many/{n:06}"), "x");
    }
    lake.mount();
    let dir = lake.dir.join("objects/s3/lake/very");
    assert_eq!(names(&dir), ["many"]);
    let refused = std::fs::read_dir(dir.join("many")).and_then(|mut all| all.next().unwrap()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFBIG), "{refused}");
    assert_eq!(std::fs::read(dir.join("many/100000")).unwrap(), b"x", "each is opened by its name");
    assert!(lake.cloud.server.remove_from("lake", "very/many/000007"));
    assert_eq!(names(&dir.join("many")).len(), MOST);
    lake.unmount();
}
