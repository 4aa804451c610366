//! SIGKILL of the daemon at random moments under load. What the backing had is there and becomes saved;
//! with the disk lost too, the newest version is one consistent moment not older than the last
//! acknowledged flush.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::child::Writer;
use harness::{Defect, Dice, Lab, Mode, Setup, Subject, Twin, load, must_notice, slice};
use std::path::Path;

/// Layers are merged all the time, so that kills meet it. (Deleting them without a grace time would take them from the
/// restores that judge: tests/prune.rs kills in the middle of that.)
const SHORT: &[&str] = &["--chain", "4", "--keep", "3"];

/// The writers' own process (see `harness::child`).
#[test]
#[ignore = "the other end of the writers, not a test"]
fn role() {
    load::play();
}

fn judge(dir: &Path, roles: &[&str], least: &[u64], what: &str) {
    for (role, least) in roles.iter().zip(least) {
        let step = load::check(role, dir);
        assert!(step >= *least, "{what}: {role} is at step {step}, but {least} was acknowledged");
    }
}

/// `count` crashes; every third one takes the disk with it.
fn crashes(subject: &mut dyn Subject, roles: &[&str], count: usize) {
    crashes_after(subject, roles, count, 100);
}

/// The same; `pace` is how many steps a writer may do between two things that happen.
fn crashes_after(subject: &mut dyn Subject, roles: &[&str], count: usize, pace: u64) {
    let mut dice = Dice::seeded("crashes");
    let outside = tempfile::tempdir().unwrap();
    for round in 0..count {
        let start =
            |role: &&str| Writer::start(role, &subject.dir(), &outside.path().join(format!("{role}{round}")));
        let writers: Vec<Writer> = roles.iter().map(start).collect();
        subject.writers(&writers.iter().map(Writer::pid).collect::<Vec<_>>());
        let steps = || writers.iter().map(Writer::steps).collect::<Vec<_>>();
        let mut saved = vec![0; roles.len()];
        for _ in 0..dice.below(3) {
            writers[0].await_steps(dice.below(2 * pace));
            saved = steps();
            subject.flush();
        }
        writers[dice.below(roles.len() as u64) as usize].await_steps(dice.below(pace));
        let disk_lost = round % 3 == 2;
        if disk_lost && saved.iter().all(|s| *s == 0) {
            saved = steps();
            subject.flush();
        }
        subject.strike();
        if !disk_lost {
            saved = steps();
        }
        // Descriptors that outlived the daemon must be gone before the next one: they are outside of its cuts.
        drop(writers);
        if disk_lost {
            subject.elsewhere();
        } else {
            subject.revive();
        }
        subject.writers(&[]);
        judge(
            &subject.dir(),
            roles,
            &saved,
            if disk_lost { "after the loss of the disk" } else { "after a crash" },
        );
        if !disk_lost {
            // What the crash left becomes saved by the next flush.
            let version = subject.flush();
            judge(&subject.checkout(&version), roles, &saved, "the first version after a crash");
        }
    }
}

/// SEMANTICS, Crash: "When the daemon is killed, every completed operation is in the backing; the next start shows it and
/// the next flush saves it. When the disk is lost as well, the tree is that of one moment, not older than the last
/// acknowledged flush."
#[test]
fn kill_at_random_points_passthrough() {
    crashes(
        &mut Lab::new(Setup::mode(Mode::Passthrough).flushing("50ms", "200ms").with(SHORT)),
        &load::ROLES,
        slice(20, 140),
    );
}

/// The same when all data passes the daemon.
#[test]
fn kill_at_random_points_classic() {
    crashes(
        &mut Lab::new(Setup::mode(Mode::Classic).flushing("50ms", "200ms").with(SHORT)),
        &load::ROLES,
        slice(10, 60),
    );
}

/// The same for a repository of git's, which fsck must find whole, its newest commit not older than what was saved.
#[test]
fn kill_at_random_points_git() {
    if std::process::Command::new("git").arg("--version").output().is_err() {
        return harness::skip("crashes of git", "git is not installed (scripts/provision has it)");
    }
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode).flushing("50ms", "200ms").with(SHORT));
        crashes_after(&mut lab, &["git"], slice(9, 150), 12);
    }
}

/// The checks are right without a crash, and notice losses, early answers and torn copies.
#[test]
fn selftest() {
    crashes(&mut Twin::new(Defect::Faithful), &load::ROLES, 6);
    must_notice("a crash that loses writes", || {
        crashes(&mut Twin::new(Defect::LoseOnCrash), &["counter"], 3);
    });
    must_notice("an early answer", || crashes(&mut Twin::new(Defect::AcknowledgeEarly), &["counter"], 6));
    must_notice("a torn copy", || crashes(&mut Twin::new(Defect::Torn), &["counter"], 9));
    must_notice("a crash that loses commits", || {
        crashes_after(&mut Twin::new(Defect::LoseOnCrash), &["git"], 3, 12);
    });
}

/// SEMANTICS, Crash: "A daemon that dies in the middle of a cut releases every writer."
#[test]
fn killed_during_a_cut_no_writer_hangs() {
    let mut dice = Dice::seeded("cut");
    let lab = Lab::new(Setup::default());
    for round in 0..slice(8, 50) {
        let outside = tempfile::tempdir().unwrap();
        let progress = |n: &str| outside.path().join(format!("{n}{round}"));
        let writer = Writer::start("counter", &lab.place(), &progress("c"));
        let pid = lab.pid();
        let mut flush = lab.command(["flush", lab.place().to_str().unwrap(), "--wait"]).spawn().unwrap();
        // Some moment of the flush: after so many further steps of the writer, or when that is over.
        let (from, more) = (writer.steps(), dice.below(60));
        harness::eventually("a moment of the flush", harness::LIMIT, || {
            (writer.steps() >= from + more || flush.try_wait().unwrap().is_some()).then_some(())
        });
        harness::lab::signal(pid, rustix::process::Signal::KILL);
        assert!(harness::command::wait_pid(pid, harness::LIMIT), "the daemon does not end");
        assert!(harness::wait_for(&mut flush, harness::LIMIT).is_some(), "flush waits for a dead daemon");
        // Ends it by SIGKILL and panics if it stays in an uninterruptible wait.
        let acknowledged = writer.stop();
        lab.mount();
        judge(&lab.place(), &["counter"], &[acknowledged], "after a kill during a flush");
    }
}

/// SEMANTICS, Crash: "A killed daemon leaves HEAD at a complete version, the one before or the one after the flush it was in."
#[test]
fn killed_during_upload_head_is_complete() {
    let mut dice = Dice::seeded("upload");
    let mut lab = Lab::new(Setup::default());
    std::fs::write(lab.dir().join("generation"), b"0").unwrap();
    lab.flush();
    let mut saved = 0_u32;
    for round in 1..=slice(8, 40) as u32 {
        for i in 0..50 {
            std::fs::write(lab.dir().join(format!("bulk{i}")), round.to_le_bytes().repeat(20_000)).unwrap();
        }
        std::fs::write(lab.dir().join("generation"), round.to_string()).unwrap();
        let pid = lab.pid();
        let before = lab.objects();
        let mut flush = lab.command(["flush", lab.place().to_str().unwrap(), "--wait"]).spawn().unwrap();
        let at = dice.below(3);
        harness::eventually("the upload", harness::LIMIT, || {
            let begun = lab.objects().iter().map(|o| o.1).sum::<u64>()
                >= before.iter().map(|o| o.1).sum::<u64>() + at * 10_000;
            ((at > 0 && begun && lab.objects() != before) || at == 0 || flush.try_wait().unwrap().is_some())
                .then_some(())
        });
        harness::lab::signal(pid, rustix::process::Signal::KILL);
        assert!(harness::command::wait_pid(pid, harness::LIMIT), "the daemon does not end");
        let acknowledged =
            harness::wait_for(&mut flush, harness::LIMIT).expect("flush waits for a dead daemon") == 0;
        let tree = lab.restored(None);
        let found: u32 = std::fs::read_to_string(tree.join("generation")).unwrap().parse().unwrap();
        assert!(found == saved || found == round, "HEAD is at {found}, neither at {saved} nor at {round}");
        assert!(!acknowledged || found == round, "flush answered, but HEAD is still at {found}");
        for i in 0..50 {
            let bulk = std::fs::read(tree.join(format!("bulk{i}"))).unwrap_or_default();
            assert!(
                found == 0 || bulk == found.to_le_bytes().repeat(20_000),
                "bulk{i} is not of generation {found}"
            );
        }
        std::fs::remove_dir_all(tree).unwrap();
        saved = found;
        lab.mount();
    }
    lab.flush();
}

/// SEMANTICS, Crash: "A killed daemon leaves HEAD at a complete version, the one before or the one after the flush it was
/// in." Also one whose versions go on top of those of another writer, and who merges layers of both.
#[test]
fn killed_while_another_writes_the_name() {
    let mut dice = Dice::seeded("two writers");
    let options = [SHORT, &["--on-conflict", "merge"]].concat();
    let first = Lab::new(Setup::default().with(&options));
    for name in ["first", "second"] {
        std::fs::write(first.place().join(name), "0").unwrap();
    }
    first.verb("flush", &["--wait"]).must("flush");
    let second = Lab::new(Setup { remote: Some(first.remote()), ..Setup::default() }.with(&options));
    let number = |path: &Path| -> usize { std::fs::read_to_string(path).unwrap().parse().unwrap() };
    let save = |lab: &Lab, name: &str, round: usize| {
        std::fs::write(lab.place().join(name), round.to_string()).unwrap();
        std::fs::write(lab.place().join(format!("{name} {}", round % 7)), round.to_string()).unwrap();
        lab.verb("flush", &["--wait"]).must("flush");
    };
    let mut round = 0;
    for kill in 0..slice(16, 120) {
        for _ in 0..dice.below(3) {
            round += 1;
            save(&second, "second", round);
            save(&first, "first", round);
        }
        round += 1;
        save(&second, "second", round);
        std::fs::write(first.place().join("first"), round.to_string()).unwrap();
        let (pid, before, head) = (first.pid(), first.objects().len(), std::fs::read(first.head()).unwrap());
        let mut flush = first.command(["flush", first.place().to_str().unwrap(), "--wait"]).spawn().unwrap();
        let at = dice.below(4);
        let mut ended = false;
        harness::eventually("a moment of the flush", harness::LIMIT, || {
            ended = ended || flush.try_wait().unwrap().is_some();
            let reached = match at {
                0 => true,
                1 => first.objects().len() > before,
                2 => std::fs::read(first.head()).unwrap() != head,
                // Layers are merged then, if there are many.
                _ => first.objects().len() > before + 1,
            };
            (reached || ended).then_some(())
        });
        harness::lab::signal(pid, rustix::process::Signal::KILL);
        assert!(harness::command::wait_pid(pid, harness::LIMIT), "the daemon does not end");
        let flushed =
            harness::wait_for(&mut flush, harness::LIMIT).expect("flush waits for a dead daemon") == 0;

        let tree = first.restored(None);
        let (own, other) = (number(&tree.join("first")), number(&tree.join("second")));
        assert_eq!(other, round, "kill {kill} at {at}: what the other saved");
        assert!(own == round || !flushed && own < round, "kill {kill} at {at}: {own} of {round}");
        std::fs::remove_dir_all(tree).unwrap();
        first.mount();
        assert_eq!(number(&first.place().join("first")), round, "kill {kill} at {at}");
        assert_eq!(number(&first.place().join("second")), round, "kill {kill} at {at}");
        first.verb("flush", &["--wait"]).must("flush");
        assert_eq!(number(&first.restored(None).join("first")), round, "kill {kill} at {at}");
    }
    for lab in [&first, &second] {
        assert!(lab.status()["fork"].is_null(), "nobody need go to a fork");
    }
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(first.head()).unwrap()).unwrap();
    assert!(document["layers"].as_array().unwrap().len() <= 5, "{document}");
    assert_eq!(document["tags"].as_object().map_or(0, serde_json::Map::len), 0, "{document}");
}
