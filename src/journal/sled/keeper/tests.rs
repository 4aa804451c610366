use super::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Rests and renews as often as it can.
const RESTLESS: Manners = Manners { rest_after: Duration::from_micros(200), renew_after: 1 };
/// What nothing here takes.
const LIMIT: Duration = Duration::from_secs(60);
/// Tells a copy of this test program which journal to write until it is killed.
const WRITER: &str = "ICECACHE_TEST_JOURNAL_WRITER";

fn keeper(path: &Path, manners: Manners) -> Keeper {
    let db = {
        let _shift = Shift::begin();
        open_patiently(path, Missing::New, Instant::now() + LIMIT).expect("opens")
    };
    Keeper::new(db, path, manners).expect("starts")
}

fn put(keeper: &Keeper, key: u64, value: u64) {
    let db = keeper.enter().expect("enters");
    db.touch(1);
    db.insert(key.to_be_bytes(), &value.to_be_bytes()).expect("inserts");
    db.flush().expect("flushes");
}

fn get(keeper: &Keeper, key: u64) -> Option<u64> {
    let value = keeper.enter().expect("enters").get(key.to_be_bytes()).expect("reads")?;
    Some(u64::from_be_bytes((*value).try_into().expect("eight bytes")))
}

#[test]
fn users_and_rests_in_any_order_lose_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let keeper = keeper(&dir.path().join("journal"), RESTLESS);
    let rounds = 300;
    std::thread::scope(|scope| {
        for user in 0..3_u64 {
            let keeper = &keeper;
            scope.spawn(move || {
                for round in 0..rounds {
                    put(keeper, user, round);
                    if round % 3 == user {
                        keeper.wait_rest(Duration::from_millis(1)); // most often it is over before
                    }
                    assert_eq!(get(keeper, user), Some(round));
                }
            });
        }
    });
    let (resting, renewals) = keeper.wait_rest(LIMIT);
    assert!(resting && renewals > 0, "resting {resting}, renewals {renewals}");
    for user in 0..3 {
        assert_eq!(get(&keeper, user), Some(rounds - 1));
    }
}

#[test]
fn a_long_use_keeps_it_awake_and_open() {
    let dir = tempfile::tempdir().expect("dir");
    let keeper = keeper(&dir.path().join("journal"), RESTLESS);
    put(&keeper, 1, 1);
    let long = keeper.enter().expect("enters");
    let before = keeper.wait_rest(Duration::from_millis(20));
    long.insert(b"k", b"v").expect("inserts");
    assert!(!before.0, "it rests while it is used");
    drop(long);
    assert!(keeper.wait_rest(LIMIT).0);
}

#[test]
fn a_renewal_that_fails_is_made_up_for_by_the_next_use() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, aside) = (dir.path().join("journal"), dir.path().join("aside"));
    let keeper = keeper(&path, RESTLESS);
    let open = keeper.enter().expect("enters"); // nothing is renewed until this ends
    let (_, renewals) = keeper.wait_rest(Duration::ZERO);
    put(&keeper, 7, 7);
    std::fs::rename(&path, &aside).expect("renames");
    std::fs::write(&path, b"no directory").expect("writes");
    drop(open);
    assert_eq!(keeper.wait_rest(LIMIT), (true, renewals));
    assert!(keeper.enter().is_err());
    std::fs::remove_file(&path).expect("removes");
    std::fs::rename(&aside, &path).expect("renames");
    assert_eq!(get(&keeper, 7), Some(7));
}

#[test]
fn a_database_that_has_vanished_is_damage_and_not_an_empty_one() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("journal");
    drop(crate::journal::SledJournal::open(&path, LIMIT).expect("opens")); // with its format record
    let keeper = keeper(&path, RESTLESS);
    let open = keeper.enter().expect("enters");
    put(&keeper, 7, 7);
    std::fs::rename(&path, dir.path().join("aside")).expect("renames");
    drop(open);
    assert!(keeper.wait_rest(LIMIT).0);
    assert!(matches!(keeper.enter(), Err(JournalError::Corrupt { .. })));
}

#[test]
fn a_kill_at_any_moment_loses_nothing_flushed() {
    if let Some(path) = std::env::var_os(WRITER) {
        write_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("journal");
    let mut next = 0;
    for round in 0..8_u64 {
        let mut writer = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", "journal::sled::keeper::tests::a_kill_at_any_moment_loses_nothing_flushed"])
            .args(["--nocapture", "--test-threads=1"])
            .env(WRITER, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
        let written = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("key ")?.parse().ok());
        let mut last = None;
        for key in written.take(20 + 13 * round as usize) {
            assert_eq!(key, next);
            last = Some(key);
            next = key + 1;
        }
        writer.kill().expect("kills");
        writer.wait().expect("ends");
        let keeper = keeper(&path, MANNERS);
        let last: u64 = last.expect("the writer wrote");
        assert!((0..=last).all(|key| get(&keeper, key) == Some(!key)), "round {round}");
        // What it flushed and had not told any more.
        next = (next..).find(|key| get(&keeper, *key).is_none()).expect("an end");
    }
}

fn write_until_killed(path: &Path) -> ! {
    let keeper = keeper(path, RESTLESS);
    let mut next = (0..).find(|key| get(&keeper, *key).is_none()).expect("an end");
    loop {
        put(&keeper, next, !next);
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nkey {next}").expect("tells"); // the test program's own line has no end yet
        out.flush().expect("tells");
        drop(out);
        keeper.wait_rest(Duration::from_millis(next % 5));
        next += 1;
    }
}
