//! What an idle daemon does without: its helper, and with it the threads and memory that only a flush needs.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod harness;

use harness::{LIMIT, Lab, Mode, Setup, eventually};
use std::fs::File;
use std::io::Write;

/// Processes that the daemon has started and that run.
fn helpers(lab: &Lab) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", lab.pid())).unwrap();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    children.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn the_helper_ends_when_nothing_is_flushed_and_is_back_for_the_next_cut() {
    let lab = Lab::new(Setup::mode(Mode::Passthrough));
    let mut log = File::create(lab.place().join("log")).unwrap();
    log.write_all(b"first ").unwrap();
    lab.verb("flush", &["--wait"]).must("flush");
    let first = helpers(&lab);
    assert_eq!(first.len(), 1, "a cut with a file open for writing has a helper");
    eventually("the end of the helper", LIMIT, || helpers(&lab).is_empty().then_some(()));
    log.write_all(b"second").unwrap();
    lab.verb("flush", &["--wait"]).must("flush after a rest");
    assert_eq!(helpers(&lab).len(), 1);
    let saved = lab.restored(None).join("log");
    assert_eq!(std::fs::read(saved).unwrap(), b"first second");
}
