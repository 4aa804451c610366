//! Two machines and one name: who comes second loses nothing, overwrites nothing and is told so everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::lab::version_in;
use harness::{Lab, Setup, Subject};
use std::fs;
use std::path::Path;

/// Two labs with the same remote and name; the second has moved it, the first has `mine` unsaved.
fn second_came_first(options: &[&str]) -> (Lab, Lab) {
    let mut first = Lab::new(Setup::default().with(options));
    fs::write(first.dir().join("base"), b"base").unwrap();
    first.flush();
    let mut second = Lab::new(Setup { remote: Some(first.remote()), ..Setup::default() });
    fs::write(second.dir().join("theirs"), b"theirs").unwrap();
    second.flush();
    fs::write(first.dir().join("mine"), b"mine").unwrap();
    (first, second)
}

/// The names in the remote that have a HEAD, except ours.
fn others(lab: &Lab) -> Vec<String> {
    let names = fs::read_dir(lab.remote_dir()).unwrap().flatten();
    let names =
        names.filter(|e| e.path().join("HEAD").is_file()).map(|e| e.file_name().into_string().unwrap());
    names.filter(|n| *n != lab.setup.name).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// SEMANTICS, Writers: "Who finds that another moved it saves its changes as a fork, says so, and overwrites nothing."
#[test]
fn a_fork_is_told_wherever_one_looks_and_can_be_mounted() {
    let (first, second) = second_came_first(&[]);
    let flushed = first.verb("flush", &["--wait"]).must("flush");
    let forks = others(&first);
    let [fork] = &forks[..] else { panic!("not one fork: {forks:?}") };
    assert!(fork.starts_with("work.fork-"), "{fork}");
    assert!(flushed.stderr.contains("warning") && flushed.stderr.contains(fork), "flush: {}", flushed.said());
    let version = version_in(&flushed.stdout);

    assert_eq!(first.status()["fork"], fork.as_str());
    let shown = first.verb("status", &[]).must("status");
    assert!(shown.stdout.contains(fork) && shown.stderr.contains("warning"), "status: {}", shown.said());
    let log = first.verb("log", &[]).must("log");
    assert!(log.stderr.contains(fork), "log: {}", log.said());
    let daemon = read(first.state().join("daemon.log"));
    assert!(daemon.lines().any(|l| l.contains("ERROR") && l.contains(fork)), "daemon.log: {daemon}");
    let ended = first.unmount();
    assert!(ended.stderr.contains(fork), "unmount: {}", ended.said());

    // The next mount goes on in the fork, and says that, too.
    let again = first.try_mount().must("mount");
    assert!(again.stderr.contains(fork), "mount: {}", again.said());
    assert_eq!(
        (&first.status()["fork"], &first.status()["version"]),
        (&fork.as_str().into(), &version.into())
    );
    fs::write(first.place().join("more"), b"more").unwrap();
    let flushed = first.verb("flush", &["--wait"]).must("flush");
    assert!(flushed.stderr.contains(fork), "flush: {}", flushed.said());
    assert_eq!(others(&first), forks, "a fork of a fork");

    let setup = Setup { remote: Some(first.remote()), name: fork.clone(), ..Setup::default() };
    let third = Lab::new(setup);
    for (name, there) in [("base", true), ("mine", true), ("more", true), ("theirs", false)] {
        assert_eq!(third.place().join(name).exists(), there, "{name} in the fork");
    }
    assert!(third.status()["fork"].is_null(), "to whoever mounts it by name it is a name like any other");
    assert_eq!(read(second.restored(None).join("theirs")), "theirs");
}

/// SEMANTICS, Writers: "With `--on-conflict fail` there is no fork: everything stays unsaved in the directory, and
/// `flush`, `status` and `unmount` say so."
#[test]
fn without_forks_everything_stays_unsaved_until_one_is_allowed() {
    let (mut first, second) = second_came_first(&["--on-conflict", "fail"]);
    for _ in 0..2 {
        let refused = first.verb("flush", &["--wait"]);
        assert_eq!(refused.code, 8, "flush: {}", refused.said());
        assert!(refused.stderr.contains("another writer"), "flush: {}", refused.said());
    }
    let status = first.status();
    assert!(
        status["last_error"]["message"].as_str().is_some_and(|m| m.contains("another writer")),
        "{status}"
    );
    assert!(status["dirty_files"].as_u64().is_some_and(|n| n > 0), "{status}");
    let ended = first.verb("unmount", &[]);
    assert_eq!(ended.code, 3, "unmount: {}", ended.said());
    assert!(ended.stdout.contains("mine") && !first.mounted(), "unmount: {}", ended.said());
    assert_eq!(others(&first), Vec::<String>::new(), "a fork that nobody wanted");
    assert_eq!(read(first.place().join("mine")), "mine");
    assert_eq!(read(second.restored(None).join("theirs")), "theirs");

    // Started anew it knows at once; and the other way out is open.
    let again = first.try_mount().must("mount");
    assert!(again.stderr.contains("another machine"), "mount: {}", again.said());
    assert_eq!(first.verb("flush", &["--wait"]).code, 8);
    assert_eq!(first.verb("unmount", &[]).code, 3);
    first.setup.options.clear();
    first.mount();
    first.verb("flush", &["--wait"]).must("flush");
    let forks = others(&first);
    assert_eq!(forks.len(), 1, "{forks:?}");
    let restored =
        Lab::new(Setup { remote: Some(first.remote()), name: forks[0].clone(), ..Setup::default() });
    assert_eq!(read(restored.place().join("mine")), "mine");
}
