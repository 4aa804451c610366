//! Parts of tables that are brought and kept: columns, and what a condition is about.
use crate::harness::{LIMIT, eventually};
use crate::lake::{Lake, files};
use crate::support::s3server::Fault;
use crate::verbs::{commit, table_as_of};
use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use tokio::sync::Notify;

/// Small, so that a column of a small file has blocks of its own.
const BLOCK: u64 = 4096;
const MIB: usize = 1 << 20;
/// Objects of 1 MiB, twice what the cache can hold.
const BIG: usize = 16;

fn mount(lake: &Lake) {
    let options =
        ["--catalog", "lake=hadoop:s3://lake/wh", "--tables-cache", "8MiB", "--tables-block", "4KiB"];
    lake.mount_with(&options).must("mount");
}

/// Reads so much else that the cache has no room left for what nobody holds. Others each time: the kernel may keep what
/// it has read.
fn push_out(lake: &Lake, round: usize) {
    let big = Bytes::from(vec![7; MIB]);
    for n in 0..BIG {
        let key = format!("big/{round}/{n}");
        lake.cloud.server.put_into("lake", &key, big.clone());
        assert_eq!(fs::read(lake.dir.join("objects/s3/lake").join(key)).unwrap(), big);
    }
}

/// The only file of a table: its key, and its bytes.
fn only_file(lake: &Lake, table: &str) -> (String, Bytes) {
    let folder = format!("wh/db/{table}/data/");
    let mut files = lake.objects.iter().filter(|(key, _)| key.starts_with(&folder));
    let (key, bytes) = files.next().unwrap();
    assert!(files.next().is_none());
    (key.clone(), bytes.clone().into())
}

/// How many blocks these columns of a file are in, with what tells of them.
fn blocks(bytes: &Bytes, columns: &[usize]) -> u64 {
    let metadata = SerializedFileReader::new(bytes.clone()).unwrap().metadata().clone();
    let (mut blocks, mut end) = (BTreeSet::new(), 0);
    for group in metadata.row_groups() {
        for (number, column) in group.columns().iter().enumerate() {
            let (start, length) = column.byte_range();
            end = end.max(start + length);
            if columns.contains(&number) {
                blocks.extend(start / BLOCK..(start + length).div_ceil(BLOCK));
            }
        }
    }
    blocks.extend(end / BLOCK..(bytes.len() as u64).div_ceil(BLOCK));
    blocks.len() as u64
}

/// What `explain` says of the only file of a table that is cached.
fn explained(lake: &Lake, table: &str) -> Value {
    let told = lake.told("explain", &[table]);
    let files = told["cached_files"].as_array().unwrap().clone();
    assert!(files.len() <= 1, "{files:?}");
    files.into_iter().next().unwrap_or_default()
}

/// Columns of a table of 500 stay in the cache and nothing else of its file does, also after a restart; what a pin of
/// other columns has beside them goes with it.
#[test]
fn pinned_columns_stay() {
    let lake = Lake::prepare(|_| false);
    let (_, bytes) = only_file(&lake, "wide");
    let (two, three) = (blocks(&bytes, &[8, 451]), blocks(&bytes, &[8, 300, 451]));
    assert!(two < three && three * BLOCK < bytes.len() as u64 / 2, "{two}, {three}");
    mount(&lake);
    let unknown = lake.tables("pin", &["db.wide", "--columns", "c7,c999"]);
    assert!(!unknown.ok() && unknown.stderr.contains("no such column: c999"), "{}", unknown.stderr);
    assert_eq!(lake.told("show", &["db.wide"])["pins"], json!([]));

    lake.told("warm", &["db.wide"]);
    let pinned = lake.told("pin", &["db.wide", "--columns", "c7,c450"]);
    assert_eq!(pinned["there"]["files"], 1);
    push_out(&lake, 0);
    let there = explained(&lake, "db.wide");
    assert_eq!((&there["why"], &there["blocks"][0]), (&json!("pinned"), &json!(two)));
    let shown = lake.told("show", &["db.wide"]);
    assert_eq!(shown["pins"], json!(["columns c450, c7"]));
    assert_eq!(shown["held"]["bytes"], pinned["there"]["bytes"]);

    lake.told("pin", &["db.wide", "--columns", "C299", "--where", "c7 > 5"]);
    push_out(&lake, 1);
    assert_eq!(explained(&lake, "db.wide")["blocks"][0], three);
    lake.unmount();
    mount(&lake);
    eventually("it is held again", LIMIT, || {
        (lake.told("show", &["db.wide"])["held"]["files"] == 1).then_some(())
    });
    push_out(&lake, 2);
    assert_eq!(explained(&lake, "db.wide")["blocks"][0], three);

    let other = lake.tables("unpin", &["db.wide", "--columns", "c7"]);
    assert!(!other.ok() && other.stderr.contains("not pinned"), "{}", other.stderr);
    lake.told("unpin", &["db.wide", "--where", "c7>5", "--columns", "C299"]);
    eventually("what is held is less", LIMIT, || {
        (lake.told("show", &["db.wide"])["held"]["bytes"] == pinned["there"]["bytes"]).then_some(())
    });
    push_out(&lake, 3);
    assert_eq!(explained(&lake, "db.wide")["blocks"][0], two);
    lake.told("unpin", &["db.wide", "--columns", "c450,c7"]);
    push_out(&lake, 4);
    assert_eq!(explained(&lake, "db.wide"), Value::Null);
    lake.unmount();
}

/// Of 2,000 files those stay that a query reads; of a file all, or the columns that it reads.
#[test]
fn what_a_query_reads_stays() {
    let lake = Lake::prepare(|_| false);
    mount(&lake);
    for (wrong, why) in [("id <", "character 5"), ("idd = 1", "idd"), ("id = 'x'", "id")] {
        let refused = lake.tables("pin", &["db.many", "--where", wrong]);
        assert!(!refused.ok() && refused.stderr.contains(why), "{wrong}: {}", refused.stderr);
    }
    let pinned = lake.told("pin", &["db.many", "--where", "id < 10 and name like 'n%'"]);
    assert_eq!(pinned["there"]["files"], 5, "two rows in each");
    push_out(&lake, 0);
    let shown = lake.told("show", &["db.many"]);
    assert_eq!(shown["files"]["files"], 2000);
    assert_eq!((&shown["cached"]["files"], &shown["held"]["files"]), (&json!(5), &json!(5)));
    let warmed = lake.told("warm", &["db.many", "--where", "id IN (0, 3999)", "--columns", "price"]);
    assert_eq!(warmed["there"]["files"], 2);
    lake.unmount();
}

/// A pin by a condition is about what a new version brings as well.
#[test]
fn what_comes_is_pinned_if_a_query_reads_it() {
    let (lake, later) = table_as_of("pos_file", 4, 5);
    mount(&lake);
    let pinned = lake.told("pin", &["db.pos_file", "--where", "id >= 45"]);
    assert_eq!(pinned["there"]["files"], 0, "nothing yet");
    commit(&lake, &later);
    lake.told("refresh", &["db.pos_file"]);
    eventually("what has come is held", LIMIT, || {
        (lake.told("show", &["db.pos_file"])["held"]["files"] == 1).then_some(())
    });
    lake.unmount();
}

/// A pin that waits for the store: it runs, and has asked for data.
fn pinning(lake: &Lake, table: &str) -> (Child, Arc<Notify>) {
    let (gate, asked) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (held, seen, of_it) = (gate.clone(), asked.clone(), format!("/{table}/data/"));
    lake.cloud.server.control().set_hook(move |request| match request.key.contains(&of_it) {
        true => {
            seen.store(true, SeqCst);
            Fault::Hold(held.clone())
        }
        false => Fault::None,
    });
    let args =
        ["tables".into(), "pin".into(), lake.dir.clone().into_os_string(), format!("db.{table}").into()];
    let mut command = lake.cloud.lab.command(args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it is under way", LIMIT, || asked.load(SeqCst).then_some(()));
    (child, gate)
}

/// How it ended, and what it said.
fn ended(lake: &Lake, (child, gate): (Child, Arc<Notify>)) -> (bool, String) {
    lake.cloud.server.control().clear_hook();
    gate.notify_waiters();
    let ended = child.wait_with_output().unwrap();
    (ended.status.success(), String::from_utf8(ended.stderr).unwrap())
}

/// What is unpinned while it is being brought is not held afterwards: everything else would find less room for ever.
#[test]
fn what_is_unpinned_meanwhile_is_not_held() {
    let lake = Lake::prepare(|_| false);
    mount(&lake);
    let pin = pinning(&lake, "evolved");
    assert_eq!(lake.told("unpin", &["db.evolved"])["unpinned"], true);
    let (ok, said) = ended(&lake, pin);
    assert!(!ok && said.contains("unpinned meanwhile"), "{said}");
    assert_eq!(lake.told("show", &["db.evolved"])["held"]["files"], 0);
    push_out(&lake, 0);
    assert_eq!(explained(&lake, "db.evolved"), Value::Null);
    lake.unmount();
}

/// Neither is what the table has no longer when it has come.
#[test]
fn what_went_meanwhile_is_not_held() {
    let (lake, later) = table_as_of("v1", 3, 4);
    mount(&lake);
    let data = lake.table("v1").join("data");
    let name = |file: &PathBuf| format!("wh/db/v1/data/{}", file.strip_prefix(&data).unwrap().display());
    let old: Vec<_> = files(&data).iter().map(name).collect();
    assert_eq!(old.len(), 3);
    let pin = pinning(&lake, "v1");
    commit(&lake, &later);
    lake.tables("refresh", &["db.v1"]).must("refresh");
    let (ok, said) = ended(&lake, pin);
    assert!(ok, "{said}");
    eventually("the new file is held", LIMIT, || {
        (lake.told("show", &["db.v1"])["held"]["files"] == 1).then_some(())
    });
    push_out(&lake, 0);
    let fetched = lake.fetches();
    for key in &old {
        assert_eq!(&fs::read(lake.dir.join("objects/s3/lake").join(key)).unwrap(), &lake.objects[key]);
    }
    assert_eq!(lake.fetches(), fetched + 3, "none of the old files was there");
    lake.unmount();
}

/// Of what the cache cannot have all nothing is fetched, and it is said how much would be needed.
#[test]
fn more_than_the_cache_has_is_not_brought() {
    let lake = Lake::prepare(|_| false);
    let (_, bytes) = only_file(&lake, "wide");
    let less = format!("{}B", bytes.len() as u64 / BLOCK * BLOCK);
    let options =
        ["--catalog", "lake=hadoop:s3://lake/wh", "--tables-block", "4KiB", "--tables-cache", &less];
    lake.mount_with(&options).must("mount");
    for verb in ["warm", "pin"] {
        let refused = lake.tables(verb, &["db.wide"]);
        assert!(!refused.ok() && refused.stderr.contains("--tables-cache"), "{}", refused.stderr);
    }
    assert_eq!(lake.fetches(), 0);
    assert_eq!(lake.told("warm", &["db.wide", "--columns", "c7"])["there"]["files"], 1);
    lake.unmount();
}

/// Who has pinned a column that the table calls otherwise by now is told that nothing of it is kept.
#[test]
fn a_pin_of_nothing_is_told() {
    let (lake, later) = table_as_of("evolved", 6, 10);
    mount(&lake);
    lake.told("pin", &["db.evolved", "--columns", "n"]);
    lake.told("pin", &["db.evolved", "--columns", "id"]);
    assert_eq!(lake.told("show", &["db.evolved"])["idle_pins"], Value::Null);
    commit(&lake, &later);
    lake.told("refresh", &["db.evolved"]);
    let idle = eventually("it is about nothing", LIMIT, || {
        let shown = lake.told("show", &["db.evolved"]);
        shown["idle_pins"].as_array().cloned()
    });
    assert!(idle.len() == 1 && idle[0].as_str().unwrap().starts_with("columns n: "), "{idle:?}");
    for (verb, table) in [("ls", None), ("show", Some("db.evolved"))] {
        let args = ["tables", verb, lake.dir.to_str().unwrap()].into_iter().chain(table);
        let said = lake.cloud.lab.call(args).said();
        assert!(said.contains("nothing") && said.contains("no such column: n"), "{said}");
    }
    lake.told("unpin", &["db.evolved", "--columns", "n"]);
    assert_eq!(lake.told("show", &["db.evolved"])["idle_pins"], Value::Null);
    lake.unmount();
}

/// What was pinned while there was room for it, and is not held any more for want of room, is told with the reason, until
/// it is held again.
#[test]
fn a_pin_without_room_is_told() {
    let lake = Lake::prepare(|_| false);
    let (_, bytes) = only_file(&lake, "wide");
    let less = format!("{}B", bytes.len() as u64 / BLOCK * BLOCK);
    mount(&lake);
    assert_eq!(lake.told("pin", &["db.wide"])["there"]["files"], 1);
    lake.unmount();
    let options =
        ["--catalog", "lake=hadoop:s3://lake/wh", "--tables-block", "4KiB", "--tables-cache", &less];
    lake.mount_with(&options).must("mount");
    let why = eventually("it is said", LIMIT, || {
        lake.told("show", &["db.wide"])["not_held"].as_str().map(str::to_owned)
    });
    assert!(why.contains("too much is pinned") && why.contains("--tables-cache"), "{why}");
    for (verb, table) in [("ls", None), ("show", Some("db.wide"))] {
        let args = ["tables", verb, lake.dir.to_str().unwrap()].into_iter().chain(table);
        let said = lake.cloud.lab.call(args).said();
        assert!(said.contains(&why), "{said}");
    }
    lake.told("unpin", &["db.wide"]);
    assert_eq!(lake.told("show", &["db.wide"])["not_held"], Value::Null);
    lake.told("pin", &["db.wide", "--columns", "c7"]);
    let shown = lake.told("show", &["db.wide"]);
    assert_eq!((&shown["not_held"], &shown["held"]["files"]), (&Value::Null, &1.into()));
    lake.unmount();
}

/// What was pinned, and nobody has read, is there because somebody asked for it; what was read, because of that.
#[test]
fn what_is_unpinned_is_not_taken_for_read() {
    let lake = Lake::prepare(|_| false);
    mount(&lake);
    let data = lake.table("evolved").join("data");
    let read = files(&data).remove(0);
    fs::read(&read).unwrap();
    lake.told("pin", &["db.evolved"]);
    lake.told("pin", &["db.wide", "--columns", "c7"]);
    for table in ["db.evolved", "db.wide"] {
        lake.told("unpin", &[table]);
    }
    let why = |table: &str| -> Vec<(String, String)> {
        let explained = lake.told("explain", &[table]);
        let lines = explained["cached_files"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        lines.map(|line| (text(&line["location"]), text(&line["why"]))).collect()
    };
    let (name, evolved) = (read.file_name().unwrap().to_str().unwrap(), why("db.evolved"));
    assert_eq!(evolved.len(), 6);
    for (location, why) in &evolved {
        assert_eq!(why, if location.ends_with(name) { "read" } else { "warmed" }, "{location}");
    }
    assert_eq!(why("db.wide")[0].1, "warmed");
    fs::read(&files(&data)[1]).unwrap();
    assert_eq!(why("db.evolved").iter().filter(|(_, why)| why == "read").count(), 2);
    lake.unmount();
}
