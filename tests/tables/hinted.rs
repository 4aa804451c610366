//! Hints by HTTP: a catalog that is not polled is asked because somebody says that a table has changed.
use crate::harness::{LIMIT, eventually, run};
use crate::lake::{Lake, names};
use crate::support::s3server::Fault;
use crate::verbs::{Watcher, table_as_of};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::sync::Notify;

const TOKEN: &str = "open sesame";

/// Mounts with a catalog that nobody polls for as long as a test takes; where hints are taken.
fn listen(lake: &Lake) -> String {
    let token = lake.cloud.lab.root().join("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let token = format!("file:{}", token.display());
    let deaf = ["--tables-poll", "12h", "--tables-poll-idle", "12h", "--catalog", "lake=hadoop:s3://lake/wh"];
    let said = lake
        .mount_with(&[&deaf[..], &["--tables-hints", "127.0.0.1:0", "--tables-hints-token", &token]].concat())
        .must("mount")
        .stderr;
    let (_, rest) = said.split_once("hints are taken at http://").expect(&said);
    rest.split_once("/tables/").unwrap().0.to_owned()
}

/// The status of the answer.
fn post(at: &str, path: &str, options: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"]).args(options);
    run(curl.arg(format!("http://{at}{path}")), LIMIT).must("curl").stdout
}

fn hint(at: &str, path: &str, body: Option<&Value>) -> String {
    let token = format!("Authorization: Bearer {TOKEN}");
    match body {
        Some(body) => post(at, path, &["-H", &token, "--data", &body.to_string()]),
        None => post(at, path, &["-H", &token]),
    }
}

fn counts(lake: &Lake) -> [u64; 3] {
    let hints = lake.stats()["hints"].clone();
    ["asked", "merged", "refused"].map(|what| hints[what].as_u64().unwrap())
}

/// The next event that says that a version is shown.
fn shown(watcher: &mut Watcher) -> Value {
    loop {
        let event = watcher.next();
        if event["event"] == "shown" {
            return event;
        }
    }
}

/// TABLES: "then its catalog is asked at once, instead of when the next poll is due".
#[test]
fn a_hint_turns_a_table_over() {
    let (lake, _) = table_as_of("refs", 4, 7);
    let at = listen(&lake);
    names(&lake.table("refs"));
    let mut watcher = Watcher::start(&lake);
    let current = || fs::read_to_string(lake.table("refs").join("metadata/version-hint.text")).unwrap();
    let metadata = |n: u32| format!("wh/db/refs/metadata/v{n}.metadata.json");
    let commit = |n: u32| {
        lake.commit(&[&metadata(n)]);
        lake.cloud.server.put_into("lake", "wh/db/refs/metadata/version-hint.text", n.to_string());
    };
    [5, 6].into_iter().for_each(commit);
    assert_eq!(hint(&at, "/tables/db.evolved/refresh", None), "202", "nobody has looked into it");
    assert_eq!(current(), "4");
    assert_eq!(hint(&at, "/tables/iceberg%2Fdb%2Frefs/refresh", None), "202");
    assert_eq!((&shown(&mut watcher)["version"], current().as_str()), (&6.into(), "6"));
    // A bucket says which objects have changed; what is no table's metadata is nobody's business.
    let notification = |key: &str| json!({ "Records": [{ "s3": { "bucket": { "name": "lake" }, "object": { "key": key } } }] });
    commit(7);
    assert_eq!(hint(&at, "/tables/refresh", Some(&notification("wh/db/refs/data/1.parquet"))), "202");
    assert_eq!((counts(&lake), current().as_str()), ([1, 0, 0], "6"));
    assert_eq!(hint(&at, "/tables/refresh", Some(&notification(&metadata(7)))), "202");
    assert_eq!((&shown(&mut watcher)["version"], current().as_str()), (&7.into(), "7"));
    // All that somebody has looked into.
    assert_eq!(hint(&at, "/tables/refresh", None), "202");
    assert_eq!(counts(&lake), [3, 0, 0]);
    let status = lake.cloud.lab.call([OsStr::new("status"), lake.dir.as_os_str()]).must("status");
    assert!(status.stdout.contains(&format!("at http://{at}/tables/")), "{}", status.stdout);
    lake.unmount();
    assert!(!run(Command::new("curl").args(["-sS", &format!("http://{at}/")]), LIMIT).ok());
}

/// Who shows no token, or asks for something else, is told so.
#[test]
fn what_is_no_hint_is_refused() {
    let lake = Lake::prepare(|_| false);
    let at = listen(&lake);
    let token = format!("Authorization: Bearer {TOKEN}");
    let long = lake.cloud.lab.root().join("long");
    fs::write(&long, vec![b' '; 300 << 10]).unwrap();
    let long = format!("@{}", long.display());
    let path = "/tables/db.refs/refresh";
    for (status, path, options) in [
        ("401", path, &[][..]),
        ("401", path, &["-H", "Authorization: Bearer open"]),
        ("401", "/", &["-H", "Authorization: Basic open sesame"]),
        ("404", "/", &["-H", &token]),
        ("404", "/tables/db.refs", &["-H", &token]),
        ("404", "/tables/db.none/refresh", &["-H", &token]),
        ("405", path, &["-H", &token, "-X", "GET"]),
        ("405", path, &["-H", &token, "-X", "PUT", "--data", "x"]),
        ("413", path, &["-H", &token, "--data-binary", &long]),
        ("400", "/tables/refresh", &["-H", &token, "--data", "{}"]),
        ("202", "/tables/refresh", &["-H", &token, "--data", "{\"Event\":\"s3:TestEvent\"}"]),
    ] {
        assert_eq!(post(&at, path, options), status, "{path} {options:?}");
    }
    assert_eq!(counts(&lake), [0, 0, 10]);
    lake.unmount();
    let typed = lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh", "--tables-hints-token", "typed"]);
    assert!(typed.said().contains("env:VARIABLE") && !typed.said().contains("typed"), "{}", typed.said());
}

/// TABLES: "Hints that come while another one waits are one with it".
#[test]
fn a_flood_of_hints_is_one_question() {
    let lake = Lake::prepare(|_| false);
    let at = listen(&lake);
    names(&lake.table("refs"));
    // What a poll looks at.
    let key = "wh/db/refs/metadata/v7.metadata.json";
    let (asked, gate) = (Arc::<AtomicU64>::default(), Arc::new(Notify::new()));
    let (counted, held) = (asked.clone(), gate.clone());
    lake.cloud.server.control().set_hook(move |request| {
        let first = request.key == key && counted.fetch_add(1, SeqCst) == 0;
        if first { Fault::Hold(held.clone()) } else { Fault::None }
    });
    let refresh = |count: usize| {
        for _ in 0..count {
            assert_eq!(hint(&at, "/tables/db.refs/refresh", None), "202");
        }
    };
    refresh(1);
    eventually("the catalog is asked", LIMIT, || (asked.load(SeqCst) == 1).then_some(()));
    refresh(20);
    assert_eq!((counts(&lake), asked.load(SeqCst)), ([2, 19, 0], 1), "the answer is still to come");
    gate.notify_waiters();
    eventually("it is asked once more", LIMIT, || (asked.load(SeqCst) >= 2).then_some(()));
    refresh(1);
    eventually("and for the next hint", LIMIT, || (asked.load(SeqCst) >= 3).then_some(()));
    assert_eq!(asked.load(SeqCst), 3);
    lake.cloud.server.control().clear_hook();
    lake.unmount();
}
