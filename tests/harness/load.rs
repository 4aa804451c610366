//! The writers of the crash and cut suites, and what must hold in any true cut of their files.
use super::child::{Part, part};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The roles that [`play`] knows and [`check`] judges.
pub const ROLES: [&str; 3] = ["counter", "sqlite", "churn"];

/// Plays the role this process was started for; returns at the first error (the mount is gone).
pub fn play() {
    let Some(part) = part() else { return };
    let outcome = match part.role.as_str() {
        "counter" => counter(&part),
        "sqlite" => sqlite(&part),
        "churn" => churn(&part),
        "git" => git(&part),
        "mapper" => mapper(&part),
        other => panic!("no such role: {other}"),
    };
    if let Err(e) = outcome {
        eprintln!("{} ends: {e}", part.role);
    }
}

/// Checks a role's files in one tree; returns the step they stand at. Panics if no single moment had them so.
#[track_caller]
pub fn check(role: &str, dir: &Path) -> u64 {
    let dir = &dir.join(role);
    match role {
        "counter" => check_counter(dir),
        "sqlite" => check_sqlite(dir),
        "churn" => check_churn(dir),
        "git" => check_git(dir),
        other => panic!("no such role: {other}"),
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn held(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

fn number(file: &Path) -> u64 {
    let bytes = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    if bytes.is_empty() { 0 } else { u64::from_le_bytes(bytes[..8].try_into().unwrap()) }
}

/// `a` is written before `b`, `b` before a line of the log; all three stay open for ever.
fn counter(part: &Part) -> Outcome {
    let dir = part.dir.join("counter");
    fs::create_dir_all(&dir)?;
    let (a, b, log) = (held(&dir.join("a"))?, held(&dir.join("b"))?, held(&dir.join("held.log"))?);
    let mut step = number(&dir.join("a"));
    loop {
        step += 1;
        a.write_all_at(&step.to_le_bytes(), 0)?;
        b.write_all_at(&step.to_le_bytes(), 0)?;
        // A ring of 4,096 lines keeps the log small however long the test runs.
        log.write_all_at(&step.to_le_bytes(), 8 * (step % 4096))?;
        part.done(step);
    }
}

fn check_counter(dir: &Path) -> u64 {
    let (a, b) = (number(&dir.join("a")), number(&dir.join("b")));
    let log = fs::read(dir.join("held.log")).unwrap();
    let lines = log.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap()));
    let newest = lines.max().unwrap_or(0);
    assert!(a == b || a == b + 1, "torn counter: a is {a}, b is {b}");
    assert!(newest == b || newest + 1 == b, "torn counter: b is {b}, the log ends with {newest}");
    newest
}

/// Two databases in different journal modes; each step is committed in the first before the second.
fn sqlite(part: &Part) -> Outcome {
    let dir = part.dir.join("sqlite");
    fs::create_dir_all(&dir)?;
    let open = |name: &str, mode: &str| -> rusqlite::Result<rusqlite::Connection> {
        let db = rusqlite::Connection::open(dir.join(name))?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.query_row(&format!("pragma journal_mode={mode}"), [], |_| Ok(()))?;
        db.execute_batch(
            "create table if not exists t(n integer primary key, pad text); pragma wal_autocheckpoint=100;",
        )?;
        Ok(db)
    };
    let (first, second) = (open("first.db", "wal")?, open("second.db", "delete")?);
    let mut step = newest(&first)?;
    if newest(&second)? < step {
        insert(&second, step)?;
    }
    loop {
        step += 1;
        insert(&first, step)?;
        insert(&second, step)?;
        part.done(step);
    }
}

fn newest(db: &rusqlite::Connection) -> rusqlite::Result<u64> {
    db.query_row("select coalesce(max(n), 0) from t", [], |row| row.get::<_, i64>(0)).map(|n| n as u64)
}

fn insert(db: &rusqlite::Connection, step: u64) -> rusqlite::Result<()> {
    let n = step as i64;
    db.execute_batch("begin immediate")?;
    db.execute("insert into t values(?1, ?2)", (n, format!("{n:0300}")))?;
    db.execute("delete from t where n < ?1", [n - 500])?;
    db.execute_batch("commit")
}

fn check_sqlite(dir: &Path) -> u64 {
    let read = |name: &str| -> u64 {
        let db = rusqlite::Connection::open(dir.join(name)).unwrap();
        let verdict: String = db
            .query_row("pragma integrity_check", [], |row| row.get(0))
            .unwrap_or_else(|e| panic!("malformed database {name}: {e}"));
        assert_eq!(verdict, "ok", "malformed database {name}");
        // A tree of before the first commit has no table yet.
        let step = newest(&db).unwrap_or(0);
        let rows: i64 = db.query_row("select count(*) from t", [], |row| row.get(0)).unwrap_or(0);
        assert_eq!(rows as u64, step.min(501), "rows are missing in {name} at step {step}");
        step
    };
    let (first, second) = (read("first.db"), read("second.db"));
    assert!(first == second || first == second + 1, "torn databases: {first} and {second}");
    second
}

/// Files that come and go: numbered ones in a window, and one that is always replaced by rename.
fn churn(part: &Part) -> Outcome {
    let dir = part.dir.join("churn");
    fs::create_dir_all(&dir)?;
    let last = fs::read_dir(&dir)?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).max();
    let mut step: u64 = last.unwrap_or(0);
    for old in 0..step.saturating_sub(9) {
        let _ = fs::remove_file(dir.join(old.to_string()));
    }
    loop {
        step += 1;
        fs::write(dir.join("new"), body(step))?;
        fs::rename(dir.join("new"), dir.join("current"))?;
        fs::write(dir.join(step.to_string()), b"")?;
        if step > 10 {
            fs::remove_file(dir.join((step - 10).to_string()))?;
        }
        part.done(step);
    }
}

fn body(step: u64) -> Vec<u8> {
    format!("{step}\n").repeat(2000).into_bytes()
}

fn check_churn(dir: &Path) -> u64 {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<u64> = names.filter_map(|n| n.parse().ok()).collect();
    numbers.sort_unstable();
    let Ok(current) = fs::read(dir.join("current")) else {
        assert!(numbers.is_empty(), "numbered files without the one made before them: {numbers:?}");
        return 0;
    };
    let text = String::from_utf8(current).unwrap();
    let step: u64 =
        text.lines().next().and_then(|l| l.parse().ok()).unwrap_or_else(|| panic!("current is empty"));
    assert!(text.as_bytes() == body(step), "current is not as it was written at step {step}");
    let newest = numbers.last().copied().unwrap_or(0);
    assert!(
        newest == step || newest + 1 == step,
        "torn churn: current is {step}, the files end with {newest}"
    );
    let from = numbers.first().copied().unwrap_or(newest);
    assert_eq!(numbers, (from..=newest).collect::<Vec<_>>().as_slice()[..numbers.len()], "torn churn: a gap");
    let (full, kept) = (newest.min(10), numbers.len() as u64);
    assert!(kept == full || kept == full + 1, "torn churn: {kept} files at step {newest}");
    newest
}

/// A command of git's in a repository, with nothing of this machine's configuration.
/// Removes the locks of git programs that were killed.
fn unlock(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        } else if entry.file_name().as_encoded_bytes().ends_with(b".lock")
            || entry.file_name() == "packed-refs.new"
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn git_in(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    // Restored by root it is root's, whoever made it.
    command.arg("-C").arg(dir).args(["-c", "safe.directory=*", "-c", "user.name=Nobody"]);
    command
        .args(["-c", "user.email=nobody@example.org", "-c", "gc.auto=20", "-c", "gc.autoDetach=false"])
        .args(args);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").stdin(Stdio::null());
    command
}

/// Commits for ever, each with a new file and a changed one; now and then everything is packed anew.
fn git(part: &Part) -> Outcome {
    let dir = part.dir.join("git");
    fs::create_dir_all(&dir)?;
    let run = |args: &[&str]| -> Outcome {
        let mut command = git_in(&dir, args);
        // SAFETY: between fork and exec only prctl is called. What outlives us could write to the next mount.
        unsafe {
            command.pre_exec(|| {
                Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
            });
        }
        let done = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into()) }
    };
    run(&["init", "-q"])?;
    // As whoever finds a repository of before a failure does.
    let _ = fs::remove_file(dir.join(".git/gc.pid"));
    unlock(&dir.join(".git"))?;
    let mut step = commits(&dir);
    loop {
        step += 1;
        fs::write(dir.join("changed"), body(step))?;
        fs::write(dir.join(format!("file{}", step % 50)), step.to_string())?;
        run(&["add", "-A"])?;
        run(&["commit", "-q", "-m", &step.to_string()])?;
        part.done(step);
        if step.is_multiple_of(25) {
            run(&["gc", "-q"])?;
        }
    }
}

/// How many commits there are; 0 without a repository.
fn commits(dir: &Path) -> u64 {
    let counted = git_in(dir, &["rev-list", "--count", "HEAD"]).stderr(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&counted.stdout).trim().parse().unwrap_or(0)
}

fn check_git(dir: &Path) -> u64 {
    let step = commits(dir);
    if step == 0 {
        return 0;
    }
    let said = |args: &[&str]| {
        let done = git_in(dir, args).output().unwrap();
        let text = [done.stdout, done.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
        assert!(done.status.success(), "git {args:?} at step {step}: {text:?}");
        text
    };
    let [_, complaints] = said(&["fsck", "--full", "--strict", "--no-dangling", "--no-progress"]);
    assert!(!complaints.contains("error"), "git fsck at step {step}: {complaints}");
    let [content, _] = said(&["show", "HEAD:changed"]);
    assert!(content.as_bytes() == body(step), "the newest commit is not as it was made at step {step}");
    let [subject, _] = said(&["log", "-1", "--format=%s"]);
    assert_eq!(subject.trim(), step.to_string());
    step
}

/// Stores through mappings for ever, in a file without a descriptor. No cut can hold it; it must hold up no cut.
fn mapper(part: &Part) -> Outcome {
    const LENGTH: usize = 1 << 20;
    use rustix::mm::{MapFlags, ProtFlags};
    let file = held(&part.dir.join("mapped"))?;
    file.set_len(LENGTH as u64)?;
    let (bits, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a fresh mapping at an address the kernel chooses touches no memory of ours.
    let at: *mut u8 = unsafe { rustix::mm::mmap(std::ptr::null_mut(), LENGTH, bits, kind, &file, 0) }?.cast();
    drop(file);
    for step in 1_u64.. {
        // SAFETY: the place is within the mapping, which is never unmapped, and the file is never shortened.
        unsafe { at.add((step as usize * 4099) % LENGTH).write_volatile(step as u8) };
        if step % 64 == 0 {
            part.done(step / 64);
        }
    }
    Ok(())
}
