//! A table that costs no other one anything.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, TABLES, names};
use crate::support::s3server::Fault;
use crate::verbs::Watcher;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::Notify;

const NEWEST: [&str; 2] = ["wh/db/refs/metadata/v7.metadata.json", "wh/db/v1/metadata/v4.metadata.json"];
const HINTS: [(&str, &str); 2] =
    [("wh/db/refs/metadata/version-hint.text", "6"), ("wh/db/v1/metadata/version-hint.text", "3")];

fn hint(table: &Path) -> String {
    fs::read_to_string(table.join("metadata/version-hint.text")).unwrap()
}

/// Two tables without their last versions.
fn prepare() -> Lake {
    let lake = Lake::prepare(|key| NEWEST.contains(&key));
    for (key, number) in HINTS {
        lake.cloud.server.put_into("lake", key, number);
    }
    lake
}

/// Neither when its catalog is asked about it, nor while its next version is fetched.
#[test]
fn a_table_whose_store_does_not_answer_holds_up_no_other() {
    let lake = prepare();
    lake.mount();
    let (silent, other) = (lake.table("refs"), lake.table("v1"));
    let before = hint(&silent);
    assert_eq!(hint(&other), "3");
    // Its lists are not sent; then not even whether it has changed is said.
    for (held, is_fetched) in [("wh/db/refs/metadata/snap-", true), ("wh/db/refs/", false)] {
        let gate = Arc::new(Notify::new());
        let waiting = gate.clone();
        lake.cloud.server.control().set_hook(move |request| match request.key.starts_with(held) {
            true => Fault::Hold(waiting.clone()),
            false => Fault::None,
        });
        if is_fetched {
            lake.commit(&NEWEST[..1]);
        }
        let was = hint(&other);
        let next = format!("wh/db/v1/metadata/v{}.metadata.json", was.parse::<u64>().unwrap() + 1);
        lake.cloud.server.put_into("lake", &next, lake.objects[NEWEST[1]].clone());
        eventually("the other turns over", LIMIT, || (hint(&other) != was).then_some(()));
        if is_fetched {
            assert_eq!(hint(&silent), before);
        }
        lake.cloud.server.control().clear_hook();
        gate.notify_waiters();
    }
    eventually("it has its turn in the end", LIMIT, || (hint(&silent) != before).then_some(()));
    lake.unmount();
}

/// `ls -l` looks at each name of a folder: that is no look into the tables.
#[test]
fn who_looks_at_names_has_looked_into_no_table() {
    let lake = prepare();
    lake.mount();
    for name in names(&lake.dir.join(TABLES)) {
        assert!(fs::metadata(lake.table(&name)).unwrap().is_dir());
    }
    let states = |lake: &Lake| -> Vec<Value> {
        lake.told("ls", &[]).as_array().unwrap().iter().map(|table| table["state"].clone()).collect()
    };
    assert!(states(&lake).iter().all(|state| state == "unopened"), "{:?}", states(&lake));
    names(&lake.table("v1"));
    assert_eq!(states(&lake).iter().filter(|state| *state == "shown").count(), 1);
    lake.unmount();
}

/// Another table takes the place of one in its bucket, with files of the same names: nothing is read of the old one.
#[test]
fn a_table_that_takes_the_place_of_another_has_its_own_rows() {
    let lake = prepare();
    lake.mount();
    let table = lake.table("v1");
    let data = crate::lake::files(&table.join("data")).remove(0);
    let key = format!("wh/db/v1/data/{}", data.strip_prefix(table.join("data")).unwrap().display());
    let object = lake.dir.join("objects/s3/lake").join(&key);
    let old = lake.objects[&key].clone();
    for path in [&data, &object] {
        assert!(fs::read(path).unwrap() == old);
    }
    let mut watcher = Watcher::start(&lake);
    let other: Vec<u8> = old.iter().map(|byte| !byte).collect();
    lake.cloud.server.put_into("lake", &key, other.clone());
    let before = "wh/db/v1/metadata/v3.metadata.json";
    let mut json: Value = serde_json::from_slice(&lake.objects[before]).unwrap();
    json["table-uuid"] = "00000000-0000-4000-8000-000000000000".into();
    lake.cloud.server.put_into("lake", NEWEST[1], serde_json::to_vec(&json).unwrap());
    let told = watcher.next();
    assert_eq!(told["event"], "replaced", "{told}");
    assert_eq!(watcher.next()["event"], "shown");
    for path in [&data, &object] {
        assert!(fs::read(path).unwrap() == other, "{}", path.display());
    }
    lake.unmount();
}

/// As many readers of a bucket that does not answer as there can be fetches leave some to the others.
#[test]
fn a_bucket_that_does_not_answer_holds_up_no_other() {
    const READERS: usize = 80;
    let lake = prepare();
    for n in 0..READERS {
        lake.cloud.server.put_into("other", &format!("silent/{n}"), "never");
    }
    lake.cloud.server.put_into("lake", "prompt/object", "at once");
    lake.mount();
    let gate = Arc::new(Notify::new());
    let held = gate.clone();
    lake.cloud.server.control().set_hook(move |request| {
        let is_silent = request.operation == "GetObject" && request.key.starts_with("silent/");
        if is_silent { Fault::Hold(held.clone()) } else { Fault::None }
    });
    let (ended, objects) = (Arc::<AtomicUsize>::default(), lake.dir.join("objects/s3"));
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let (file, ended) = (objects.join("other/silent").join(n.to_string()), ended.clone());
            std::thread::spawn(move || {
                let read = fs::read(file);
                ended.fetch_add(1, SeqCst);
                read.is_ok()
            })
        })
        .collect();
    let fetching = || lake.stats()["cache"]["fetching"].as_u64().unwrap();
    eventually("all of them wait", LIMIT, || (fetching() == READERS as u64).then_some(()));
    assert_eq!(fs::read_to_string(objects.join("lake/prompt/object")).unwrap(), "at once");
    assert_eq!(lake.stats()["cache"]["totals"]["stalls"], 0, "none of them was given up meanwhile");
    lake.cloud.server.control().clear_hook();
    eventually("all are served in the end", LIMIT, || {
        gate.notify_waiters();
        (ended.load(SeqCst) == READERS).then_some(())
    });
    assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    lake.unmount();
}

/// As many tables that hang as may turn over at once: the others turn over all the same.
#[test]
fn many_tables_that_hang_hold_up_no_other() {
    const HANGING: usize = 36;
    let lake = prepare();
    let copy = |n: usize, version: u32| {
        let of = format!("wh/db/v1/metadata/v{version}.metadata.json");
        lake.cloud.server.put_into(
            "lake",
            &of.replace("v1/", &format!("copy{n}/")),
            lake.objects[&of].clone(),
        );
    };
    for n in 0..HANGING {
        copy(n, 3);
        lake.cloud.server.put_into("lake", &format!("wh/db/copy{n}/metadata/version-hint.text"), "3");
    }
    lake.mount();
    let copies: Vec<_> = (0..HANGING).map(|n| lake.table(&format!("copy{n}"))).collect();
    assert!(copies.iter().all(|copy| hint(copy) == "3"));
    let other = lake.table("refs");
    assert_eq!(hint(&other), "6");
    let gate = Arc::new(Notify::new());
    let held = gate.clone();
    lake.cloud.server.control().set_hook(move |request| {
        let is_held = request.operation == "GetObject"
            && request.key.contains("/copy")
            && request.key.ends_with("/v4.metadata.json");
        if is_held { Fault::Hold(held.clone()) } else { Fault::None }
    });
    (0..HANGING).for_each(|n| copy(n, 4));
    let asked = || {
        let log = lake.cloud.server.control().log();
        log.iter()
            .filter(|one| one.operation == "GetObject" && one.key.ends_with("/v4.metadata.json"))
            .count()
    };
    eventually("as many hang as may turn over at once", LIMIT, || (asked() >= 32).then_some(()));
    lake.commit(&NEWEST[..1]);
    eventually("the other turns over", LIMIT, || (hint(&other) == "7").then_some(()));
    assert!(copies.iter().all(|copy| hint(copy) == "3"), "none of them has given up meanwhile");
    lake.cloud.server.control().clear_hook();
    eventually("they have their turns in the end", LIMIT, || {
        gate.notify_waiters();
        copies.iter().all(|copy| hint(copy) == "4").then_some(())
    });
    lake.unmount();
}
