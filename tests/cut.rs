//! Every version is one instant of the whole tree, however hard programs write during the flush.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::child::Writer;
use harness::{Defect, LIMIT, Lab, Mode, Setup, Subject, Twin, load, must_notice, slice};
use std::time::{Duration, Instant};

/// The writers' own process (see `harness::child`).
#[test]
#[ignore = "the other end of the writers, not a test"]
fn role() {
    load::play();
}

/// Flushes again and again while the roles write, then judges every version.
fn cuts(subject: &mut dyn Subject, roles: &[&str], count: usize) {
    let outside = tempfile::tempdir().unwrap();
    let writers: Vec<Writer> =
        roles.iter().map(|role| Writer::start(role, &subject.dir(), &outside.path().join(role))).collect();
    subject.writers(&writers.iter().map(Writer::pid).collect::<Vec<_>>());
    let mut versions = Vec::new();
    for _ in 0..count {
        let before: Vec<u64> = writers.iter().map(Writer::steps).collect();
        versions.push((subject.flush(), before));
        // Writers must get on between cuts, else the versions are all the same one.
        writers.iter().for_each(|w| w.await_steps(1));
    }
    drop(writers);
    let mut violations = Vec::new();
    for (version, before) in &versions {
        let tree = subject.checkout(version);
        for (role, before) in roles.iter().zip(before) {
            let verdict = std::panic::catch_unwind(|| load::check(role, &tree));
            match verdict {
                Err(e) => violations
                    .push(format!("{version}: {}", e.downcast_ref::<String>().cloned().unwrap_or_default())),
                Ok(step) if step < *before => violations
                    .push(format!("{version}: {role} at {step}, older than {before} of before the flush")),
                Ok(_) => {}
            }
        }
        let _ = std::fs::remove_dir_all(tree);
    }
    let shown: Vec<_> = violations.iter().take(5).collect();
    assert!(violations.is_empty(), "{} violations in {count} cuts: {shown:#?}", violations.len());
}

/// Every version is judged at the end: none may be given up before.
fn lab(mode: Mode) -> Lab {
    Lab::new(Setup::mode(mode).with(&["--keep", "10000"]))
}

/// SEMANTICS, Cut: "A version is the tree at one instant: of two writes of which one began after the other had
/// ended, the later is never there without the earlier, in whatever files they are."
#[test]
fn counter_across_files_passthrough() {
    cuts(&mut lab(Mode::Passthrough), &["counter", "churn"], slice(100, 1000));
}

/// The same when all data passes the daemon.
#[test]
fn counter_across_files_classic() {
    cuts(&mut lab(Mode::Classic), &["counter", "churn"], slice(50, 1000));
}

/// SEMANTICS, Cut: "Databases that are being written are saved as they would be found after a power failure at that
/// instant: consistent, and consistent with each other."
#[test]
fn two_databases_passthrough() {
    cuts(&mut lab(Mode::Passthrough), &["sqlite"], slice(50, 1000));
}

/// The same when all data passes the daemon.
#[test]
fn two_databases_classic() {
    cuts(&mut lab(Mode::Classic), &["sqlite"], slice(25, 500));
}

/// The checks are right on a true cut, and they notice files copied one after another.
#[test]
fn selftest() {
    cuts(&mut Twin::new(Defect::Faithful), &["counter", "churn", "sqlite"], 10);
    let torn =
        must_notice("files copied one after another", || cuts(&mut Twin::new(Defect::Torn), &["counter"], 3));
    assert!(torn.contains("torn counter"), "noticed for another reason: {torn}");
    let torn = must_notice("databases copied one after another", || {
        cuts(&mut Twin::new(Defect::Torn), &["sqlite"], 5);
    });
    assert!(
        torn.contains("torn databases") || torn.contains("malformed") || torn.contains("rows are missing"),
        "{torn}"
    );
    must_notice("a flush that comes too early", || {
        cuts(&mut Twin::new(Defect::AcknowledgeEarly), &["counter"], 5);
    });
}

/// SEMANTICS, Cut: "What is open and being written is included; nothing has to be closed to be saved."
#[test]
fn a_log_held_open_is_saved_by_itself() {
    use std::io::Write;
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode).flushing("50ms", "300ms"));
        let mut log = std::fs::File::create(lab.place().join("held.log")).unwrap();
        log.write_all(b"first line\n").unwrap();
        // No flush is asked for and the file is never closed.
        harness::eventually("a first version", LIMIT, || lab.head().exists().then_some(()));
        harness::eventually("the open log in the remote", LIMIT, || {
            let text = std::fs::read(lab.restored(None).join("held.log")).ok()?;
            (text == b"first line\n").then_some(())
        });
        log.write_all(b"second line\n").unwrap();
        harness::eventually("the second line in the remote", LIMIT, || {
            let text = std::fs::read(lab.restored(None).join("held.log")).ok()?;
            text.ends_with(b"second line\n").then_some(())
        });
    }
}

/// SEMANTICS, Flush: "A flush begins at the latest after the maximum delay, however constant the writing."
#[test]
fn constant_writing_is_flushed_within_the_maximum_delay() {
    let lab = Lab::new(Setup::default().flushing("300ms", "1s"));
    let before = lab.status()["version"].clone();
    let outside = tempfile::tempdir().unwrap();
    let writer = Writer::start("counter", &lab.place(), &outside.path().join("p"));
    let first =
        lab.await_status("a version under constant writing", |s| s["version"] != before)["version"].clone();
    lab.await_status("a second version under constant writing", |s| s["version"] != first);
    writer.await_steps(1);
}

/// SEMANTICS, Cut: "Programs that write through mappings are not held; they never hold up a flush either."
#[test]
fn mapped_writers_do_not_hang_a_flush() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode));
        let outside = tempfile::tempdir().unwrap();
        let mapper = Writer::start("mapper", &lab.dir(), &outside.path().join("m"));
        let counter = Writer::start("counter", &lab.dir(), &outside.path().join("c"));
        let begin = Instant::now();
        for _ in 0..5 {
            let version = lab.flush();
            let tree = lab.checkout(&version);
            load::check("counter", &tree);
            assert_eq!(std::fs::metadata(tree.join("mapped")).unwrap().len(), 1 << 20);
            mapper.await_steps(1);
            counter.await_steps(1);
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "five flushes took {:?}", begin.elapsed());
    }
}

/// SEMANTICS, Cut: "A descriptor keeps its position, flags and locks over a cut; no call fails because of one."
#[test]
fn a_cut_is_invisible_to_the_writer() {
    let mut lab = Lab::new(Setup::default());
    let outside = tempfile::tempdir().unwrap();
    let counter = Writer::start("counter", &lab.dir(), &outside.path().join("c"));
    let churn = Writer::start("churn", &lab.dir(), &outside.path().join("h"));
    for _ in 0..30 {
        lab.flush();
    }
    // A writer ends at its first failed call, so going on means that none failed.
    counter.await_steps(100);
    churn.await_steps(10);
}
