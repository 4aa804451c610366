//! Random operations on a mount and on a plain directory: every answer (errors included) and every tree must
//! be the same, also after flushes, crashes, remounts and restores elsewhere in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::ops::{Op, Side, live, op};
use harness::snapshot::Look;
use harness::{Defect, InTurn, Lab, Mode, Setup, Subject, TIMELESS, Tree, Twin, long, slice};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use std::cell::Cell;

/// After so many operations whole trees are compared.
const LOOK_EVERY: usize = 20;

/// Everything that is kept but holes: preallocated space is data or hole as the backing likes.
const SAVED: Look = Look { holes: false, ..harness::KEPT };

/// How long a failing sequence is made smaller, in milliseconds.
const SHRINK: u32 = 45_000;

type Verdict = Result<(), TestCaseError>;

fn same(expected: &Tree, found: Result<Tree, String>, what: &str) -> Verdict {
    let found = found.map_err(|e| TestCaseError::fail(format!("{what}: {e}")))?;
    let lines = expected.diff(&found);
    let shown: Vec<_> = lines.iter().take(10).collect();
    prop_assert!(lines.is_empty(), "{what}: {shown:#?}");
    Ok(())
}

/// Runs one sequence on a fresh subject and a fresh directory.
fn agree(subject: &mut dyn Subject, ops: &[Op]) -> Verdict {
    let model = tempfile::Builder::new().prefix("icecache-model-").tempdir().unwrap();
    let (mut plain, mut tested) = (Side::new(model.path().to_path_buf()), Side::new(subject.dir()));
    for (index, op) in ops.iter().enumerate() {
        match op {
            Op::Flush => drop(subject.flush()),
            Op::Crash | Op::Remount | Op::Elsewhere => {
                // Descriptors do not survive the mount they are of.
                tested.close();
                plain.close();
                let before = Tree::take(&subject.dir(), SAVED);
                let mut version = None;
                match op {
                    Op::Crash => subject.crash(),
                    Op::Remount => subject.remount(),
                    _ => {
                        version = Some(subject.flush());
                        subject.elsewhere();
                    }
                }
                tested.base = subject.dir();
                // Who looks at all of it brings all of it. Every other time the operations that follow meet what is
                // not here.
                let seen = match version.filter(|_| index % 2 == 0) {
                    Some(version) => subject.checkout(&version),
                    None => subject.dir(),
                };
                let what = format!("operation {index} ({op:?}) changed the tree");
                same(&before, Tree::try_take(&seen, SAVED), &what)?;
            }
            _ => {
                let names = live(&plain.base);
                let (expected, found) = (plain.apply(op, &names), tested.apply(op, &names));
                prop_assert_eq!(expected, found, "operation {} ({:?})", index, op);
            }
        }
        if index % LOOK_EVERY == 0 || index + 1 == ops.len() {
            let expected = Tree::take(&plain.base, TIMELESS);
            same(
                &expected,
                Tree::try_take(&subject.dir(), TIMELESS),
                &format!("trees differ after operation {index} ({op:?})"),
            )?;
        }
    }
    tested.close();
    let before = Tree::take(&subject.dir(), SAVED);
    let version = subject.flush();
    same(&before, Tree::try_take(&subject.checkout(&version), SAVED), "the last version")
}

/// Runs `cases` sequences of up to `length` operations; the smallest failing sequence is the error.
fn explore(
    cases: usize,
    length: usize,
    shrink: u32,
    make: impl Fn() -> Box<dyn Subject>,
) -> Result<usize, String> {
    // A umask of the runner would hide differences in modes.
    rustix::process::umask(rustix::fs::Mode::empty());
    let seed = std::env::var("ICECACHE_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + u64::from(long()));
    eprintln!("differential: ICECACHE_SEED={seed}");
    let config = Config {
        cases: cases as u32,
        max_shrink_time: shrink,
        max_shrink_iters: 400,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let done = Cell::new(0);
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(op(), length / 2..length), |ops| {
        done.set(done.get() + ops.len());
        agree(&mut *make(), &ops)
    });
    match outcome {
        Ok(()) => Ok(done.get()),
        Err(TestError::Fail(reason, ops)) => {
            let lines: String = ops.iter().map(|op| format!("\n    {op:?},")).collect();
            Err(format!("seed {seed}: {reason}\nsmallest sequence of {}:{lines}", ops.len()))
        }
        Err(TestError::Abort(reason)) => Err(format!("seed {seed}: gave up: {reason}")),
    }
}

fn mounted(mode: Mode, options: &'static [&'static str]) {
    let make = || Box::new(Lab::new(Setup::mode(mode).with(options))) as Box<dyn Subject>;
    let done = explore(slice(10, 200), 400, SHRINK, make).unwrap_or_else(|e| panic!("{e}"));
    eprintln!("differential: {done} operations agreed ({mode:?})");
    assert!(done > 1000, "only {done} operations ran: the check is void");
}

/// SEMANTICS, Calls: "Every call answers as the backing's own file system would, errors included."
#[test]
fn passthrough() {
    mounted(Mode::Passthrough, &[]);
}

/// The same when all data passes the daemon.
#[test]
fn classic() {
    mounted(Mode::Classic, &["--chain", "4", "--keep", "2"]);
}

/// The same where nothing comes by itself, so that most operations after a move to another machine meet what is not
/// here.
///
/// SEMANTICS, Restore: "Every operation works on what is not here yet."
#[test]
fn on_what_is_not_here() {
    let lab = |mode| Lab::new(Setup::mode(mode).with(&["--no-prefetch"]));
    for (mode, cases) in [(Mode::Passthrough, slice(8, 120)), (Mode::Classic, slice(4, 60))] {
        let make = || Box::new(lab(mode)) as Box<dyn Subject>;
        explore(cases, 300, SHRINK, make).unwrap_or_else(|e| panic!("{mode:?}: {e}"));
    }
}

/// The same on two machines in turn, each of which follows what the other one saved.
#[test]
fn on_two_machines_in_turn() {
    let options: &[&str] = &["--chain", "4", "--keep", "2"];
    let lab = move || Lab::new(Setup::default().with(options));
    let make = move || Box::new(InTurn::new(lab())) as Box<dyn Subject>;
    explore(slice(8, 120), 400, SHRINK, make).unwrap_or_else(|e| panic!("{e}"));
}

/// The same while flushes run by themselves all the time.
#[test]
fn while_flushing_by_itself() {
    let make = || Box::new(Lab::new(Setup::default().flushing("1ms", "5ms"))) as Box<dyn Subject>;
    explore(slice(4, 60), 400, SHRINK, make).unwrap_or_else(|e| panic!("{e}"));
}

/// A plain directory agrees with a plain directory, and each defect of a twin is found and made small.
#[test]
fn selftest() {
    let done =
        explore(12, 400, 0, || Box::new(Twin::new(Defect::Faithful))).unwrap_or_else(|e| panic!("{e}"));
    assert!(done > 2000, "only {done} operations ran");
    let defects = [
        Defect::SkipDeletes,
        Defect::ForgetHardLinks,
        Defect::RoundMtimes,
        Defect::ForgetXattrs,
        Defect::FollowSymlinks,
        Defect::LoseOnCrash,
    ];
    for defect in defects {
        let found = explore(20, 400, 1500, || Box::new(Twin::new(defect)));
        let Err(report) = found else { panic!("{defect:?} was not noticed") };
        eprintln!("{defect:?}: {report}");
    }
}
