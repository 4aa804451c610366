//! The original tool of this name saved a directory too, and lost it in thirteen ways. Each is a test here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::child::Writer;
use harness::{KEPT, LIMIT, Lab, Setup, Subject, Tree, eventually, load, run};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Command;

/// The writers' own process (see `harness::child`).
#[test]
#[ignore = "the other end of the writers, not a test"]
fn role() {
    load::play();
}

fn text(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Each save replaced the archive with the files touched since the last one. SEMANTICS, Flush: "Every version is complete."
#[test]
fn fault_01_a_flush_drops_what_was_saved_before() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("a"), b"a").unwrap();
    lab.flush();
    fs::write(lab.dir().join("b"), b"b").unwrap();
    lab.flush();
    lab.elsewhere();
    assert_eq!((text(lab.dir().join("a")), text(lab.dir().join("b"))), ("a".into(), "b".into()));
}

/// Restored files were never saved again. SEMANTICS, Restore: "A restored tree is the next version's base."
#[test]
fn fault_02_the_first_write_after_a_cold_start_drops_the_restored() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("a"), b"a").unwrap();
    lab.flush();
    lab.elsewhere();
    fs::write(lab.dir().join("c"), b"c").unwrap();
    lab.flush();
    lab.elsewhere();
    assert_eq!((text(lab.dir().join("a")), text(lab.dir().join("c"))), ("a".into(), "c".into()));
}

/// Only the WAL was saved. SEMANTICS, Cut: "Databases that are being written are saved."
#[test]
fn fault_03_sqlite_is_destroyed() {
    let mut lab = Lab::new(Setup::default());
    let db = rusqlite::Connection::open(lab.dir().join("db.sqlite")).unwrap();
    db.query_row("pragma journal_mode=wal", [], |_| Ok(())).unwrap();
    db.execute_batch("create table t(n integer)").unwrap();
    for n in 0..200 {
        db.execute("insert into t values(?1)", [n]).unwrap();
    }
    lab.flush();
    db.execute("insert into t values(200)", []).unwrap();
    let version = lab.flush();
    let copy = rusqlite::Connection::open(lab.checkout(&version).join("db.sqlite")).unwrap();
    let count: i64 = copy.query_row("select count(*) from t", [], |r| r.get(0)).unwrap();
    let verdict: String = copy.query_row("pragma integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!((count, verdict.as_str()), (201, "ok"));
}

/// The wrapper never let the program behind it start. SEMANTICS, Mount: "`mount` returns when the directory is usable."
#[test]
fn fault_04_the_program_behind_never_starts() {
    let lab = Lab::prepare(Setup::default());
    lab.try_mount().must("mount");
    let mut program = Command::new("sh");
    program.args(["-c", "echo started > program && cat program"]).current_dir(lab.place());
    assert_eq!(run(&mut program, LIMIT).must("the program").stdout, "started\n");
}

/// A failed GET was a warning, and the next save overwrote good state. SEMANTICS, Restore: "Only a remote that says `not
/// found` is empty."
#[test]
fn fault_05_a_failed_start_overwrites_good_state() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("a"), b"good").unwrap();
    lab.flush();
    lab.kill();
    lab.wipe();
    let head = lab.head();
    let away = lab.root().join("head-away");
    fs::rename(&head, &away).unwrap();
    fs::create_dir(&head).unwrap(); // reading it fails, and not with "not found"
    let refused = lab.try_mount();
    assert!(!refused.ok() && !lab.mounted(), "went on without knowing the state: {}", refused.said());
    fs::remove_dir(&head).unwrap();
    fs::rename(&away, &head).unwrap();
    lab.mount();
    assert_eq!(text(lab.dir().join("a")), "good");
}

/// Constant writing put off the save for ever, and SIGTERM did not save. SEMANTICS, Flush: "at the latest after the maximum
/// delay"; Unmount:
/// "each end with a final flush".
#[test]
fn fault_06_constant_writing_is_never_saved() {
    let lab = Lab::new(Setup::default().flushing("500ms", "1s"));
    let before = lab.status()["version"].clone();
    let outside = tempfile::tempdir().unwrap();
    let writer = Writer::start("counter", &lab.place(), &outside.path().join("p"));
    lab.await_status("a version under constant writing", |s| s["version"] != before);
    let step = writer.stop();
    let pid = lab.pid();
    harness::lab::signal(pid, rustix::process::Signal::TERM);
    assert!(harness::command::wait_pid(pid, LIMIT));
    assert!(load::check("counter", &lab.restored(None)) >= step, "SIGTERM did not save the last steps");
}

/// A failed PUT was not tried again until another event. SEMANTICS, Outage: "the flush is tried again, for ever".
#[test]
fn fault_07_a_failed_save_is_forgotten() {
    let lab = Lab::new(Setup::default().flushing("20ms", "100ms"));
    let away = lab.root().join("away");
    fs::rename(lab.remote_dir(), &away).unwrap();
    fs::write(lab.remote_dir(), b"in the way").unwrap();
    fs::write(lab.place().join("a"), b"once").unwrap();
    lab.await_status("the failure in status", |s| !s["last_error"].is_null());
    fs::remove_file(lab.remote_dir()).unwrap();
    fs::rename(&away, lab.remote_dir()).unwrap();
    // No further event and no call of ours.
    lab.await_status("the retry", |s| s["last_error"].is_null() && s["dirty_files"] == 0);
    assert_eq!(text(lab.restored(None).join("a")), "once");
}

/// A pipe stopped everything for ever. SEMANTICS, Names: "Pipes, the whiteout of overlay
/// file systems (character device 0:0) and, for root, other device nodes are kept".
#[test]
fn fault_08_a_pipe_blocks_everything() {
    let mut lab = Lab::new(Setup::default());
    run(Command::new("mkfifo").arg(lab.dir().join("pipe")), LIMIT).must("mkfifo");
    fs::write(lab.dir().join("a"), b"a").unwrap();
    let version = lab.flush();
    let tree = lab.checkout(&version);
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::symlink_metadata(tree.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(text(tree.join("a")), "a");
}

/// New directories were not watched; deletes, renames and chmod were ignored. SEMANTICS, Flush: "What was deleted before a
/// flush is not in its version."
#[test]
fn fault_09_new_directories_deletes_and_renames_are_missed() {
    let mut lab = Lab::new(Setup::default());
    let dir = lab.dir();
    for name in ["deleted", "old name", "mode"] {
        fs::write(dir.join(name), name).unwrap();
    }
    lab.flush();
    fs::create_dir_all(dir.join("new/sub")).unwrap();
    fs::write(dir.join("new/sub/inner"), b"inner").unwrap();
    fs::write(dir.join("brief"), b"brief").unwrap();
    fs::remove_file(dir.join("brief")).unwrap();
    fs::remove_file(dir.join("deleted")).unwrap();
    fs::rename(dir.join("old name"), dir.join("new name")).unwrap();
    fs::set_permissions(dir.join("mode"), fs::Permissions::from_mode(0o751)).unwrap();
    let expected = Tree::take(&dir, KEPT);
    lab.flush();
    lab.elsewhere();
    expected.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree elsewhere");
    assert_eq!(expected.paths(), ["mode", "new", "new name", "new/sub", "new/sub/inner"]);
}

/// Mode, time, owner, links, attributes, holes and empty directories were lost. SEMANTICS, Attributes and Names.
#[test]
fn fault_10_attributes_and_links_are_lost() {
    let mut lab = Lab::new(Setup::default());
    let dir = lab.dir();
    fs::write(dir.join("file"), b"content").unwrap();
    fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o4510)).unwrap();
    rustix::fs::lsetxattr(dir.join("file"), "user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
    fs::hard_link(dir.join("file"), dir.join("again")).unwrap();
    symlink("/does/not/exist", dir.join("link")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 10 << 20).unwrap();
    if harness::is_root() {
        std::os::unix::fs::lchown(dir.join("link"), Some(1234), Some(4321)).unwrap();
    }
    let expected = Tree::take(&dir, KEPT);
    lab.flush();
    lab.elsewhere();
    expected.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree elsewhere");
}

/// A member `../evil` was written outside. SEMANTICS, Restore: "An archive writes beneath the directory or not at all."
#[test]
fn fault_11_an_archive_writes_outside() {
    let lab = Lab::prepare(Setup::default());
    let (inside, outside) = (lab.root().join("in/side"), lab.root().join("outside"));
    fs::create_dir_all(&inside).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(lab.root().join("in/evil"), b"evil").unwrap();
    fs::write(lab.root().join("evil-absolute"), b"evil").unwrap();
    fs::create_dir(lab.root().join("real")).unwrap();
    fs::write(lab.root().join("real/evil"), b"evil").unwrap();
    let tar = |args: &[&OsStr]| {
        run(Command::new("tar").arg("-P").args(args).current_dir(&inside), LIMIT).must("tar");
    };
    let archive = |n: usize| lab.root().join(format!("evil{n}.tar"));
    let absolute = lab.root().join("evil-absolute");
    tar(&[OsStr::new("-cf"), archive(0).as_os_str(), OsStr::new("../evil")]);
    tar(&[OsStr::new("-cf"), archive(1).as_os_str(), absolute.as_os_str()]);
    // A symlink that leads out, then a file through it.
    symlink(&outside, inside.join("door")).unwrap();
    tar(&[OsStr::new("-cf"), archive(2).as_os_str(), OsStr::new("door")]);
    let transform = OsStr::new("--transform=s,^real,door,");
    tar(&[
        transform,
        OsStr::new("-rf"),
        archive(2).as_os_str(),
        OsStr::new("-C"),
        lab.root().as_os_str(),
        OsStr::new("real/evil"),
    ]);
    fs::remove_file(lab.root().join("in/evil")).unwrap();
    fs::remove_file(&absolute).unwrap();
    for n in 0..3 {
        run(Command::new("zstd").arg("-q").arg(archive(n)), LIMIT).must("zstd");
        let (file, name) = (format!("{}.zst", archive(n).display()), format!("evil{n}"));
        let (remote, to) = (lab.remote(), lab.root().join(format!("to/{n}")));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let import = lab.call(["import", &file, "--remote", &remote, "--name", &name]);
        let restore =
            lab.call(["restore", "--remote", &remote, "--name", &name, "--to", to.to_str().unwrap()]);
        assert!(!import.ok() || !restore.ok(), "archive {n} was taken without a word");
        for trace in
            [lab.root().join("evil"), lab.root().join("to/evil"), outside.join("evil"), absolute.clone()]
        {
            assert!(fs::symlink_metadata(&trace).is_err(), "archive {n} wrote {}", trace.display());
        }
    }
}

/// Everything was in memory, and read again at every write. SEMANTICS, Flush: "at most 64 MiB above idle, whatever the size".
#[test]
fn fault_12_a_large_file_fills_the_memory() {
    let mut lab = Lab::new(Setup::default());
    lab.flush();
    let memory = |field: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", lab.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let idle = memory("VmRSS");
    let file = fs::File::create(lab.dir().join("large")).unwrap();
    let mut block = vec![0_u8; 1 << 20];
    let mut noise = 1_u64;
    for i in 0..300_u64 {
        for word in block.chunks_exact_mut(8) {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&(noise >> 8).to_le_bytes());
        }
        file.write_all_at(&block, i << 20).unwrap();
    }
    let place = lab.place();
    run(&mut lab.command([OsStr::new("flush"), place.as_os_str(), OsStr::new("--wait")]), LIMIT * 2)
        .must("flush");
    let peak = memory("VmHWM");
    assert!(peak <= idle + 64, "{idle} MiB idle, {peak} MiB at the peak");
    let stored: u64 = lab.objects().iter().map(|o| o.1).sum();
    assert!((250 << 20..340 << 20).contains(&stored), "{stored} bytes stored for 300 MiB of noise");
}

/// No condition, no versions, no checksum, and an error dropped in silence. SEMANTICS, Writers, Log and Restore.
#[test]
fn fault_13_no_condition_no_versions_no_checksum() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("f"), b"one").unwrap();
    let one = lab.flush();
    fs::write(lab.dir().join("f"), b"two").unwrap();
    let two = lab.flush();
    assert_eq!(
        (text(lab.checkout(&one).join("f")), text(lab.checkout(&two).join("f"))),
        ("one".into(), "two".into())
    );
    // Another writer's HEAD is not overwritten.
    let other = Lab::new(Setup { remote: Some(lab.remote()), ..Setup::default() });
    fs::write(other.place().join("f"), b"three").unwrap();
    other.verb("flush", &["--wait"]).must("flush of the other");
    let head = fs::read(lab.head()).unwrap();
    fs::write(lab.dir().join("g"), b"four").unwrap();
    let late = lab.verb("flush", &["--wait"]);
    assert_eq!(fs::read(lab.head()).unwrap(), head, "overwrote another writer: {}", late.said());
    drop(other);
    // One flipped bit does not go unnoticed.
    eventually("layers in the remote", LIMIT, || {
        lab.objects().iter().any(|o| o.0.extension() == Some(OsStr::new("zst"))).then_some(())
    });
    for (path, _) in lab.objects().into_iter().filter(|o| o.0.extension() == Some(OsStr::new("zst"))) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let (remote, to) = (lab.remote(), lab.root().join("spoilt"));
    let done = lab.call(["restore", "--remote", &remote, "--name", "work", "--to", to.to_str().unwrap()]);
    assert!(!done.ok(), "restored from flipped bits");
}
