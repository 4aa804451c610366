//! `icecache tables …`: what is told of tables, and what can be done about them.
use crate::dropped::on_disk;
use crate::harness::{LIMIT, eventually, wait_for};
use crate::lake::{Lake, files, names};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

/// A table of which only its first versions are there so far.
pub fn table_as_of(table: &str, version: u32, last: u32) -> (Lake, Vec<String>) {
    let metadata = format!("wh/db/{table}/metadata");
    let later: Vec<String> = (version + 1..=last).map(|n| format!("{metadata}/v{n}.metadata.json")).collect();
    let hint = format!("{metadata}/version-hint.text");
    let lake = Lake::prepare(|key| later.iter().any(|later| later == key));
    lake.cloud.server.put_into("lake", &hint, version.to_string());
    // The version after the current one last: until then, and but for the hint, nobody finds the others.
    let mut commit: Vec<String> = later.into_iter().rev().collect();
    commit.insert(commit.len().max(2) - 1, hint);
    (lake, commit)
}

pub fn commit(lake: &Lake, keys: &[String]) {
    lake.commit(&keys.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Ended when dropped.
pub struct Watcher(Child, BufReader<std::process::ChildStdout>);

impl Watcher {
    pub fn start(lake: &Lake) -> Self {
        Self::of(lake, &[])
    }

    /// Of these tables.
    pub fn of(lake: &Lake, tables: &[&str]) -> Self {
        let args = ["tables".as_ref(), "watch".as_ref(), lake.dir.as_os_str()].into_iter();
        let args = args.chain(tables.iter().map(std::ffi::OsStr::new));
        let mut command = lake.cloud.lab.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("watching"), "{said}");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self(child, stdout)
    }

    pub fn next(&mut self) -> Value {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// Lists say how each table stands; a table may be named in four ways; what does not exist is refused with advice.
#[test]
fn tables_are_listed_and_explained() {
    let lake = Lake::prepare(|_| false);
    lake.break_deletes();
    lake.mount();
    let list = lake.told("ls", &[]);
    let find = |list: &Value, table: &str| {
        list.as_array().unwrap().iter().find(|line| line["table"] == table).unwrap().clone()
    };
    assert_eq!(find(&list, "iceberg/db/refs")["state"], "unopened");
    let evolved = lake.table("evolved").join("data");
    let read = files(&evolved).remove(0);
    let size = fs::read(&read).unwrap().len() as u64;
    assert!(lake.table("orc_deletes").join("ERROR").exists());
    let list = lake.told("ls", &[]);
    assert_eq!(find(&list, "iceberg/db/evolved")["version"], 10);
    assert_eq!(find(&list, "iceberg/db/orc_deletes")["state"], "failed");
    assert!(find(&list, "iceberg/db/orc_deletes")["error"].as_str().unwrap().contains("ORC"));
    let path = lake.table("evolved");
    for name in ["iceberg/db/evolved", "db/evolved", "db.evolved", "lake.db.evolved", path.to_str().unwrap()]
    {
        let shown = lake.told("show", &[name]);
        assert_eq!(
            (&shown["table"], &shown["files"]["files"]),
            (&"iceberg/db/evolved".into(), &6.into()),
            "{name}"
        );
        assert_eq!(shown["cached"]["files"], 1);
    }
    let refs = lake.told("show", &["db.refs"]);
    assert_eq!(refs["branches"].as_object().unwrap().len(), 2);
    assert_eq!(refs["tags"].as_object().unwrap().len(), 1);
    let why = lake.told("explain", &["db.evolved"]);
    assert_eq!(why["cached_files"].as_array().unwrap().len(), 1);
    let file = &why["cached_files"][0];
    assert!(file["location"].as_str().unwrap().ends_with(read.file_name().unwrap().to_str().unwrap()));
    assert_eq!(
        (&file["size"], &file["why"], &file["blocks"]),
        (&size.into(), &"read".into(), &serde_json::json!([1, 1]))
    );
    let cached: u64 =
        why["partitions"].as_array().unwrap().iter().map(|p| p["cached"]["files"].as_u64().unwrap()).sum();
    assert_eq!(cached, 1);
    for (verb, arguments, told) in [
        ("show", &["db.none"][..], "no catalog has such a table"),
        ("explain", &["db.orc_deletes"], "ORC"),
        ("warm", &["db.evolved", "--partition", "day=1"], "no such partition"),
        ("unpin", &["db.evolved"], "was not pinned"),
    ] {
        let refused = lake.tables(verb, arguments);
        assert!(!refused.ok() && refused.said().contains(told), "{}", refused.said());
    }
    let status = lake.cloud.lab.call(["status".as_ref(), lake.dir.as_os_str()]).must("status");
    assert!(status.stdout.contains("answered") && !status.stdout.contains("dirty"), "{}", status.stdout);
    lake.unmount();
}

/// A version that cannot be shown is not passed over in silence while the one before is.
#[test]
fn who_is_shown_an_old_version_is_told_so() {
    let (lake, keys) = table_as_of("v1", 3, 4);
    lake.mount();
    names(&lake.table("v1"));
    let error = || {
        let all = lake.told("ls", &[]);
        let line =
            all.as_array().unwrap().iter().find(|line| line["table"] == "iceberg/db/v1").unwrap().clone();
        assert_eq!((&line["state"], &line["version"]), (&"shown".into(), &3.into()));
        line["error"].as_str().map(str::to_owned)
    };
    let status = |json: &[&str]| {
        let args = ["status".as_ref(), lake.dir.as_os_str()]
            .into_iter()
            .chain(json.iter().map(std::ffi::OsStr::new));
        lake.cloud.lab.call(args).must("status").stdout
    };
    assert_eq!(error(), None);
    assert!(!status(&[]).contains("not as they are by now"));
    for key in &keys {
        let is_newest = key.ends_with("v4.metadata.json");
        let bytes = if is_newest { b"{ no table".to_vec() } else { lake.objects[key].clone() };
        lake.cloud.server.put_into("lake", key, bytes);
    }
    assert!(!lake.tables("refresh", &["db.v1"]).ok());
    let why = error().expect("it is said");
    assert!(why.contains("malformed"), "{why}");
    assert_eq!(lake.told("show", &["db.v1"])["error"].as_str(), Some(&*why));
    assert!(
        lake.cloud.lab.call(["tables".as_ref(), "ls".as_ref(), lake.dir.as_os_str()]).said().contains(&why)
    );
    assert!(status(&[]).contains("1 not as they are by now"), "{}", status(&[]));
    let told: Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!((&told["tables"]["shown"], &told["tables"]["behind"]), (&1.into(), &1.into()));
    lake.commit(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    lake.told("refresh", &["db.v1"]);
    let shown = lake.told("show", &["db.v1"]);
    assert_eq!((&shown["version"], &shown["error"]), (&4.into(), &Value::Null));
    assert!(!status(&[]).contains("not as they are by now"));
    lake.unmount();
}

/// What changes is told in types of its own, in order, and the last line says that it is shown; the end of the mount
/// ends the watch.
#[test]
fn a_change_is_told_to_who_watches() {
    let (lake, keys) = table_as_of("refs", 4, 7);
    lake.mount();
    names(&lake.table("refs"));
    let mut watcher = Watcher::start(&lake);
    commit(&lake, &keys);
    let refreshed = lake.told("refresh", &["db.refs"]);
    assert_eq!((&refreshed[0]["version"], &refreshed[0]["error"]), (&7.into(), &Value::Null));
    assert_eq!(fs::read(lake.table("refs").join("metadata/version-hint.text")).unwrap(), b"7");
    let mut events = Vec::new();
    while events.last().is_none_or(|last: &Value| last["event"] != "shown") {
        events.push(watcher.next());
    }
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["snapshot_added", "snapshot_added", "branch_moved", "schema_changed", "shown"]);
    assert!(events.iter().all(|event| event["table"] == "iceberg/db/refs"));
    assert_eq!((&events[2]["name"], &events[3]["to"]), (&"dev/two".into(), &1.into()));
    assert_eq!((&events[4]["added"], &events[4]["removed"]), (&1.into(), &0.into()));
    lake.unmount();
    assert_eq!(wait_for(&mut watcher.0, LIMIT), Some(0));
}

/// What takes the place of files that are read is brought before anybody asks for it, and what it took the place of
/// goes first; a refresh costs what has changed, and no more.
#[test]
fn the_successors_of_hot_files_are_brought() {
    let (lake, keys) = table_as_of("v1", 3, 4);
    lake.mount();
    let data = lake.table("v1").join("data");
    let old: Vec<Vec<u8>> = files(&data).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!((old.len(), lake.fetches()), (3, 3));
    let held = fs::File::open(files(&data).remove(0)).unwrap();
    commit(&lake, &keys);
    lake.tables("refresh", &[]).must("refresh");
    let explained = eventually("the successor is there", LIMIT, || {
        let told = lake.told("explain", &["db.v1"]);
        (told["last_change"]["brought"] == 1).then_some(told)
    });
    let change = &explained["last_change"];
    assert_eq!(
        (&change["kind"], &change["added"], &change["removed"]),
        (&"overwrite".into(), &1.into(), &3.into())
    );
    assert_eq!((&change["demoted"], &change["kept_blocks"]), (&3.into(), &0.into()));
    assert!(change["requests"].as_u64().unwrap() <= 5, "{change}");
    assert_eq!(explained["cached_files"][0]["why"], "successor");
    let fetched = lake.fetches();
    let key = explained["cached_files"][0]["location"].as_str().unwrap().strip_prefix("s3://lake/").unwrap();
    assert_eq!(fs::read(lake.dir.join("objects/s3/lake").join(key)).unwrap(), lake.objects[key]);
    assert_eq!(lake.fetches(), fetched, "it was there");
    drop(held);
    lake.unmount();
}

/// What a change leaves as it was is not read again for the sake of what comes: manifests of before may be very many.
#[test]
fn successors_cost_what_has_changed() {
    let (lake, keys) = table_as_of("refs", 6, 7);
    lake.mount();
    let data = lake.table("refs").join("data");
    let before = files(&data);
    fs::read(&before[0]).unwrap();
    let metadata = on_disk(&lake, "refs").join("metadata");
    let manifests: Vec<_> =
        files(&metadata).into_iter().filter(|file| file.to_str().unwrap().contains("-m0.")).collect();
    let there: Vec<Vec<u8>> = manifests.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!manifests.is_empty());
    for (file, bytes) in manifests.iter().zip(&there) {
        fs::write(file, vec![b'?'; bytes.len()]).unwrap();
    }
    lake.cloud.server.control().clear_log();
    commit(&lake, &keys);
    let fetched = eventually("the successor is fetched", LIMIT, || {
        let log = lake.cloud.server.control().log();
        let mut keys =
            log.iter().filter(|request| request.operation == "GetObject").map(|one| one.key.clone());
        keys.find(|key| key.starts_with("wh/db/refs/data/"))
    });
    assert!(before.iter().all(|file| !fetched.ends_with(file.file_name().unwrap().to_str().unwrap())));
    for (file, bytes) in manifests.iter().zip(&there) {
        fs::write(file, bytes).unwrap();
    }
    let change = eventually("it is there", LIMIT, || {
        let told = lake.told("explain", &["db.refs"])["last_change"].clone();
        (told["brought"] == 1).then_some(told)
    });
    let size =
        lake.objects[&format!("wh/db/refs/data/{}", before[0].strip_prefix(&data).unwrap().display())].len();
    assert_eq!((&change["kept_blocks"], &change["kept_bytes"]), (&1.into(), &size.into()), "{change}");
    lake.unmount();
}

/// A pinned table is in the cache before anybody reads it, stays there while others have to go, and is there again
/// after a restart; what is not pinned any more goes like everything else.
#[test]
fn a_pinned_table_stays() {
    const MIB: usize = 1 << 20;
    const BIG: usize = 16; // objects of 1 MiB, twice what the cache can hold
    const ROUNDS: usize = 5;
    let lake = Lake::prepare(|_| false);
    let big = bytes::Bytes::from(vec![7; MIB]);
    for n in 0..ROUNDS * BIG {
        lake.cloud.server.put_into("lake", &format!("big/{n}"), big.clone());
    }
    let mount = || {
        lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh", "--tables-cache", "8MiB"]).must("mount");
    };
    // Others each time: the kernel may keep what it has read.
    let rounds = std::cell::Cell::new(0..ROUNDS);
    let push_out = || {
        let mut left = rounds.take();
        let round = left.next().unwrap();
        rounds.set(left);
        for n in round * BIG..(round + 1) * BIG {
            assert_eq!(fs::read(lake.dir.join(format!("objects/s3/lake/big/{n}"))).unwrap(), big);
        }
    };
    let cached = || lake.told("show", &["db.evolved"])["cached"]["files"].as_u64().unwrap();
    mount();
    assert_eq!(lake.told("warm", &["db.evolved"])["there"]["files"], 6);
    assert_eq!(cached(), 6);
    push_out();
    assert_eq!(cached(), 0, "what is not pinned goes");
    assert_eq!(lake.told("pin", &["db.evolved"])["there"]["files"], 6);
    push_out();
    assert_eq!(cached(), 6);
    let pinned = lake.told("explain", &["db.evolved"]);
    assert!(pinned["cached_files"].as_array().unwrap().iter().all(|file| file["why"] == "pinned"));
    let forgotten = lake.told("invalidate", &["db.evolved"]);
    assert_eq!(forgotten["files"], 6);
    eventually("what is pinned comes again", LIMIT, || (cached() == 6).then_some(()));
    lake.unmount();
    mount();
    eventually("it is held again", LIMIT, || {
        (lake.told("show", &["db.evolved"])["held"]["files"] == 6).then_some(())
    });
    push_out();
    assert_eq!(cached(), 6);
    let partition =
        lake.told("explain", &["db.evolved"])["partitions"][1]["partition"].as_str().unwrap().to_owned();
    lake.tables("pin", &["db.evolved", "--partition", &partition]).must("pin a partition");
    assert_eq!(lake.told("unpin", &["db.evolved"])["unpinned"], true, "with its partitions");
    assert_eq!(lake.told("show", &["db.evolved"])["pins"], serde_json::json!([]));
    push_out();
    assert_eq!(cached(), 0);
    lake.tables("pin", &["db.evolved", "--partition", &partition]).must("pin a partition");
    push_out();
    let shown = lake.told("show", &["db.evolved"]);
    assert!(
        shown["held"]["files"].as_u64().unwrap() < 6 && shown["held"]["files"] == shown["cached"]["files"]
    );
    lake.unmount();
}

/// Events of the tables that somebody names, by any of their names, and of no other.
#[test]
fn who_watches_tables_hears_of_these_alone() {
    let (lake, keys) = table_as_of("v1", 3, 4);
    lake.mount();
    names(&lake.table("v1"));
    names(&lake.table("refs"));
    let refused = lake.tables("watch", &["db.v1", "db.none"]);
    assert!(
        !refused.ok() && refused.said().contains("no catalog has such a table: db.none"),
        "{}",
        refused.said()
    );
    let mut watchers: Vec<Watcher> =
        [&["lake.db.v1"][..], &["iceberg/db/refs", "db.v1"]].map(|tables| Watcher::of(&lake, tables)).into();
    let mut other = Watcher::of(&lake, &["db.refs"]);
    commit(&lake, &keys);
    for watcher in &mut watchers {
        assert_eq!(watcher.next()["table"], "iceberg/db/v1");
    }
    // Nothing of the one is told of the other, up to its own next event.
    let next = lake.objects["wh/db/refs/metadata/v7.metadata.json"].clone();
    lake.cloud.server.put_into("lake", "wh/db/refs/metadata/v8.metadata.json", next);
    let told = other.next();
    assert_eq!((&told["table"], &told["event"]), (&"iceberg/db/refs".into(), &"shown".into()), "{told}");
    lake.unmount();
}

/// What is to be kept by now is kept from the first look into a table, not from its next version on.
#[test]
fn older_versions_go_when_fewer_are_kept() {
    let (lake, keys) = table_as_of("v1", 3, 4);
    let metadata = lake.table("v1").join("metadata");
    let versions = || -> Vec<String> {
        names(&metadata).into_iter().filter(|name| name.ends_with(".metadata.json")).collect()
    };
    lake.mount();
    assert_eq!(versions(), ["v3.metadata.json"]);
    commit(&lake, &keys);
    eventually("both versions are there", LIMIT, || (versions().len() == 2).then_some(()));
    lake.unmount();
    lake.mount_with(&["--catalog", "lake=hadoop:s3://lake/wh", "--keep-snapshots", "1"]).must("mount");
    eventually("the older one goes", LIMIT, || (versions() == ["v4.metadata.json"]).then_some(()));
    lake.unmount();
}
