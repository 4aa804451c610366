//! What SQLite keeps beside a database that is in use: its log is part of every version, the shared index of that log of
//! none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Lab, Mode, Setup, Subject};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn rows(dir: &Path) -> i64 {
    let db = rusqlite::Connection::open(dir.join("db")).unwrap();
    let verdict: String = db.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    db.query_row("select count(*) from t", [], |row| row.get(0)).unwrap()
}

/// The start of an index as SQLite makes it, and a database that has a log.
fn index() -> Vec<u8> {
    let mut bytes = vec![0; 32768];
    for at in [0, 48] {
        bytes[at..at + 4].copy_from_slice(&3_007_000_u32.to_ne_bytes());
    }
    bytes
}

fn database(content: &str) -> Vec<u8> {
    [b"SQLite format 3\0\x10\0\x02\x02", content.as_bytes()].concat()
}

/// SEMANTICS, Cut: "SQLite's `X-shm`, the index of a log that the users of database `X` share as memory, is in no
/// version; SQLite makes it anew from `X` and `X-wal` when the database is first opened. It is known by its content, not
/// by its name: any other file that is called so is saved like every file, and so is an index under another name or
/// under two. `status` does not count it."
#[test]
fn the_index_of_an_open_database_is_in_no_version() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode));
        let dir = lab.dir();
        let db = rusqlite::Connection::open(dir.join("db")).unwrap();
        let wal: String = db.query_row("pragma journal_mode=wal", [], |row| row.get(0)).unwrap();
        assert_eq!(wal, "wal");
        db.execute_batch("pragma wal_autocheckpoint=0; create table t(n); insert into t values(1)").unwrap();
        assert!(dir.join("db-shm").exists() && dir.join("db-wal").metadata().unwrap().len() > 0);
        fs::write(dir.join("notes-shm"), b"mine").unwrap();
        fs::copy(dir.join("db-shm"), dir.join("copied-shm")).unwrap();

        let version = lab.flush();
        let tree = lab.checkout(&version);
        assert!(!tree.join("db-shm").exists() && !tree.join("copied-shm").exists(), "an index is saved");
        assert_eq!(fs::read(tree.join("notes-shm")).unwrap(), b"mine");
        assert_eq!(rows(&tree), 1, "{mode:?}");
        let status = lab.status();
        assert_eq!(
            (&status["dirty_files"], &status["dirty_bytes"]),
            (&0.into(), &0.into()),
            "{mode:?}: the open database counts as changed: {status}"
        );
        assert_eq!(lab.flush(), version, "{mode:?}: a version without a change");

        db.execute_batch("insert into t values(2)").unwrap();
        fs::rename(dir.join("copied-shm"), dir.join("copied")).unwrap();
        let version = lab.flush();
        let tree = lab.checkout(&version);
        assert_eq!(rows(&tree), 2, "{mode:?}");
        assert_eq!(
            tree.join("copied").metadata().unwrap().len(),
            dir.join("copied").metadata().unwrap().len()
        );

        // The program goes on with its index after the daemon's death and the next start.
        let index = dir.join("db-shm").metadata().unwrap().ino();
        lab.kill();
        lab.mount();
        assert_eq!(dir.join("db-shm").metadata().unwrap().ino(), index, "{mode:?}");
        let version = lab.flush();
        let tree = lab.checkout(&version);
        assert!(!tree.join("db-shm").exists());
        assert_eq!(rows(&tree), 2, "{mode:?}");
    }
}

/// SEMANTICS, Cut: "A start takes away a local `X-shm` together with its `X` or when another `X` or `X-wal` takes the
/// place of its own, so that nobody joins the old to the new; as long as these stay, it stays."
#[test]
fn a_start_keeps_an_index_with_its_database_and_only_with_that() {
    let mut theirs = Lab::new(Setup::default());
    let dir = theirs.dir();
    for name in ["kept", "logged", "other", "old", "gone"] {
        fs::write(dir.join(name), database(name)).unwrap();
    }
    fs::write(dir.join("logged-wal"), b"their log").unwrap();
    // As a version has it that was made before the index was left out: to this one it is a plain file.
    fs::write(dir.join("old-shm"), b"an index of then").unwrap();
    theirs.flush();

    let mut ours = Lab::prepare(Setup { remote: Some(theirs.remote()), ..Setup::default() });
    let place = ours.place();
    let tree = theirs.restored(None);
    for name in ["kept", "logged", "old", "gone"] {
        let done =
            std::process::Command::new("cp").arg("-p").arg(tree.join(name)).arg(&place).status().unwrap();
        assert!(done.success());
    }
    fs::write(place.join("other"), database("another")).unwrap();
    fs::write(place.join("logged-wal"), b"our log").unwrap();
    for name in ["kept-shm", "logged-shm", "other-shm", "old-shm", "gone-shm"] {
        fs::write(place.join(name), index()).unwrap();
    }
    ours.mount();
    let there = |name: &str| fs::read(place.join(name)).is_ok_and(|content| content == index());
    assert!(there("kept-shm") && there("old-shm") && there("gone-shm"), "taken from its database");
    assert!(!there("logged-shm") && !there("other-shm"), "left to another database");
    let version = ours.flush();
    let tree = ours.checkout(&version);
    let saved: Vec<_> = fs::read_dir(&tree).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!saved.iter().any(|name| name.to_string_lossy().ends_with("-shm")), "{saved:?}");

    // The other machine goes on; here nothing has changed.
    ours.unmount();
    theirs.unmount();
    theirs.mount();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::write(dir.join("old"), database("replaced")).unwrap();
    theirs.flush();
    ours.mount();
    assert!(!place.join("gone").exists() && !there("gone-shm"), "its database is gone");
    assert_eq!(fs::read(place.join("old")).unwrap(), database("replaced"));
    assert!(there("kept-shm") && !there("old-shm"));
}

/// Changes the database in `dir` and leaves it as a process that was killed leaves it: with its log, unless that is closed.
fn work_on(dir: &Path, sql: &str, closed: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let files = ["db", "db-wal"];
    for name in files {
        let _none_yet = fs::copy(dir.join(name), scratch.path().join(name));
    }
    let db = rusqlite::Connection::open(scratch.path().join("db")).unwrap();
    let wal: String = db.query_row("pragma journal_mode=wal", [], |row| row.get(0)).unwrap();
    assert_eq!(wal, "wal");
    db.execute_batch(&format!("pragma wal_autocheckpoint=0; {sql}")).unwrap();
    let _open = if closed { None } else { Some(db) };
    for name in files {
        match scratch.path().join(name).exists() {
            true => drop(fs::copy(scratch.path().join(name), dir.join(name)).unwrap()),
            false => drop(fs::remove_file(dir.join(name))),
        }
    }
}

const ONE_MORE: &str = "insert into t values(randomblob(60));";
const MANY: &str = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 400)
    insert into t select randomblob(60) from c;";
const CHECKPOINT: &str = "pragma wal_checkpoint(truncate);";

/// SEMANTICS, Writers: "A database of SQLite and its logs are one thing there".
#[test]
fn a_start_mixes_no_database_with_the_log_of_another() {
    let checkpointed = format!("{MANY} {CHECKPOINT}");
    // Here and elsewhere: what is done, and whether it is closed.
    type Work<'a> = (&'a str, bool);
    let cases: [(Work<'_>, Work<'_>); 5] = [
        ((ONE_MORE, false), (MANY, false)),
        ((ONE_MORE, false), (&checkpointed, false)),
        ((ONE_MORE, false), (MANY, true)),
        ((&checkpointed, false), (ONE_MORE, false)),
        ((MANY, true), (ONE_MORE, false)),
    ];
    for (here, elsewhere) in cases {
        for (restore, broken) in [("lazy", 0), ("eager", 1), ("eager", 0)] {
            let case = format!("{here:?} and {elsewhere:?}, {restore}, broken off {broken} times");
            let options = ["--on-conflict", "merge", "--scan", "always", "--restore", restore];
            let mut lab = Lab::new(Setup::default().with(&options));
            work_on(
                &lab.dir(),
                &format!("create table t(n); create index i on t(n); {ONE_MORE} {CHECKPOINT}"),
                false,
            );
            lab.flush();
            lab.turn_to(1);
            work_on(&lab.dir(), elsewhere.0, elsewhere.1);
            lab.flush();
            fs::write(lab.dir().join("other"), "of another machine").unwrap();
            assert_eq!(lab.flush(), "3");
            lab.leave_for(0);
            work_on(&lab.place(), here.0, here.1);
            for layer in lab.layer_files().iter().rev().take(broken) {
                lab.break_off(layer);
            }
            lab.mount();
            lab.flush();
            let count = |(sql, _): (&str, bool)| if sql == ONE_MORE { 2 } else { 401 };
            assert_eq!(rows(&lab.dir()), count(here), "{case}: the mount");
            assert_eq!(rows(&lab.restored(None)), count(here), "{case}: the newest version");
            assert!(lab.dir().join("other").exists(), "{case}");
            let before = lab.restored(Some("before-merge-3"));
            assert_eq!(rows(&before), count(elsewhere), "{case}: as the other machine left it");
        }
    }
}

/// The same of a start that knows nothing of the directory.
#[test]
fn a_first_start_puts_no_log_beside_a_database_that_stays() {
    let mut lab = Lab::new(Setup::default());
    work_on(
        &lab.dir(),
        &format!("create table t(n); create index i on t(n); {ONE_MORE} {CHECKPOINT}"),
        false,
    );
    lab.flush();
    let first = lab.restored(None);
    work_on(&lab.dir(), MANY, false);
    lab.flush();
    let options = ["--on-existing", "local"];
    let mut other = Lab::prepare(Setup { remote: Some(lab.remote()), ..Setup::default().with(&options) });
    fs::create_dir_all(other.place()).unwrap();
    fs::copy(first.join("db"), other.place().join("db")).unwrap();
    work_on(&other.place(), &format!("{ONE_MORE} {CHECKPOINT}"), true);
    other.mount();
    assert_eq!(rows(&other.dir()), 2);
    other.flush();
    assert_eq!(rows(&other.restored(None)), 2);
}
