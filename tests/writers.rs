//! Two machines and one name: who comes second loses nothing, overwrites nothing and is told so everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::lab::version_in;
use harness::{KEPT, Lab, Setup, Subject, Tree};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

/// Every regular file below `dir`, with its content.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push((entry.path(), fs::read(entry.path()).unwrap())),
            _ => {}
        }
    }
    found
}

/// The same time, to the nanosecond, whoever wrote it.
fn stamp(path: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// A file larger than what is compared in memory, with a hole; `last` is its last byte.
fn large(path: &Path, last: u8) {
    let file = File::create(path).unwrap();
    file.write_all_at(&[7; 200_000], 0).unwrap();
    file.write_all_at(&[last], 2_000_000).unwrap();
}

/// SEMANTICS, Mount: "Equal size and time prove nothing: files are compared byte by byte, and where only attributes differ
/// the remote's hold." A local file of the same size and time was overwritten, or taken for saved.
#[test]
fn a_local_file_that_only_looks_like_the_remotes_is_not_lost() {
    for winner in ["merge", "local"] {
        let mut lab = Lab::new(Setup::default());
        let write = |dir: &Path, ours: &str, last: u8| {
            fs::write(dir.join("same"), "the same").unwrap();
            fs::write(dir.join("differs"), format!("{ours} text")).unwrap();
            fs::write(dir.join("mode differs"), format!("{ours} text, other mode")).unwrap();
            fs::write(dir.join("only mode differs"), "the same").unwrap();
            large(&dir.join("large"), last);
            large(&dir.join("large and same"), 1);
            for entry in fs::read_dir(dir).unwrap().flatten() {
                stamp(&entry.path());
            }
        };
        write(&lab.dir(), "remote", 1);
        lab.flush();
        lab.kill();
        lab.wipe();
        let dir = lab.place();
        write(&dir, "locals", 2);
        for name in ["mode differs", "only mode differs"] {
            fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let inodes = ["same", "large and same"].map(|name| fs::metadata(dir.join(name)).unwrap().ino());
        lab.setup = lab.setup.clone().with(&["--on-existing", winner]);
        lab.mount();
        let shown = if winner == "merge" { "remote" } else { "locals" };
        assert_eq!(read(dir.join("differs")), format!("{shown} text"));
        assert_eq!(read(dir.join("mode differs")), format!("{shown} text, other mode"));
        let last = if winner == "merge" { 1 } else { 2 };
        assert_eq!(fs::read(dir.join("large")).unwrap().last(), Some(&last));
        let mode = fs::metadata(dir.join("only mode differs")).unwrap().mode() & 0o7777;
        assert_eq!(mode, if winner == "merge" { 0o644 } else { 0o600 });
        let now = ["same", "large and same"].map(|name| fs::metadata(dir.join(name)).unwrap().ino());
        assert_eq!(now, inodes, "{winner}: what is the same was written again");
        let mut aside: Vec<String> = files(&lab.state().join("conflicts"))
            .into_iter()
            .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        aside.sort();
        let moved: &[&str] = if winner == "merge" { &["differs", "large", "mode differs"] } else { &[] };
        assert_eq!(aside, moved, "{winner}: what was moved aside");
        if winner == "merge" {
            let kept = files(&lab.state().join("conflicts"));
            assert!(kept.iter().any(|(_, bytes)| bytes == b"locals text, other mode"));
            assert!(kept.iter().any(|(_, bytes)| bytes.len() == 2_000_001 && bytes.last() == Some(&2)));
        }
        let expected = Tree::take(&dir, KEPT);
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), KEPT), winner);
        assert_eq!(lab.status_number("dirty_files"), 0);
    }
}

/// SEMANTICS, Restore: "A directory in which nothing was changed while another machine saved becomes the newer version,
/// times included: nothing is moved aside, and no version follows from it."
#[test]
fn a_directory_that_only_fell_behind_catches_up_without_a_trace() {
    let mut first = Lab::new(Setup::default());
    let dir = first.dir();
    fs::create_dir_all(dir.join("d/e")).unwrap();
    for name in ["changed", "gone", "kept", "d/gone", "d/kept", "d/e/gone", "becomes a directory"] {
        fs::write(dir.join(name), format!("{name}, first")).unwrap();
    }
    fs::create_dir_all(dir.join("becomes a file/sub")).unwrap();
    fs::write(dir.join("becomes a file/sub/f"), "deep").unwrap();
    first.flush();
    first.unmount();
    let kept = fs::metadata(dir.join("kept")).unwrap().ino();

    let mut second = Lab::new(Setup { remote: Some(first.remote()), ..Setup::default() });
    let other = second.dir();
    fs::write(other.join("changed"), "changed by the second").unwrap();
    for name in ["gone", "d/gone", "becomes a directory"] {
        fs::remove_file(other.join(name)).unwrap();
    }
    for name in ["d/e", "becomes a file"] {
        fs::remove_dir_all(other.join(name)).unwrap();
    }
    fs::write(other.join("becomes a file"), "file").unwrap();
    fs::create_dir(other.join("becomes a directory")).unwrap();
    fs::write(other.join("d/new"), "new").unwrap();
    let version = second.flush();
    let expected = Tree::take(&other, KEPT);
    second.unmount();

    let said = first.try_mount().must("mount");
    expected.assert_same(&Tree::take(&dir, KEPT), "the tree that caught up");
    assert!(!said.stderr.contains("differ"), "{}", said.said());
    assert_eq!(files(&first.state().join("conflicts")), [], "something was moved aside");
    assert_eq!(fs::metadata(dir.join("kept")).unwrap().ino(), kept, "written again for nothing");
    assert_eq!(first.flush(), version, "an empty version was made");
    assert_eq!(first.status_number("dirty_files"), 0);
    assert_eq!(others(&first), Vec::<String>::new());
}

/// SEMANTICS, Writers: "A HEAD that goes back to an older version", "is no newer one: a mount is refused, and nothing is
/// removed".
#[test]
fn a_remote_that_went_back_takes_nothing_away() {
    for (policy, kind) in [("fork", "clean"), ("merge", "clean"), ("fail", "changed"), ("merge", "changed")] {
        let mut lab = Lab::new(Setup::default().with(&["--on-conflict", policy]));
        let dir = lab.dir();
        fs::create_dir(dir.join("d")).unwrap();
        for name in ["f", "d/old"] {
            fs::write(dir.join(name), "one").unwrap();
        }
        assert_eq!(lab.flush(), "1");
        let head = fs::read(lab.head()).unwrap();
        fs::write(dir.join("f"), "two, longer").unwrap();
        fs::write(dir.join("d/new"), "two").unwrap();
        fs::remove_file(dir.join("d/old")).unwrap();
        assert_eq!(lab.flush(), "2");
        fs::write(dir.join("g"), "three").unwrap();
        assert_eq!(lab.flush(), "3");
        lab.unmount();
        if kind == "changed" {
            fs::write(dir.join("h"), "unsaved").unwrap();
        }
        fs::write(lab.head(), head).unwrap();

        let before = Tree::take(&dir, KEPT);
        let refused = lab.try_mount();
        assert_eq!(refused.code, 8, "{policy}, {kind}: {}", refused.said());
        let told =
            ["version 3", "version 1", "--on-existing local"].iter().all(|w| refused.stderr.contains(w));
        assert!(told, "{policy}, {kind}: {}", refused.said());
        before.assert_same(&Tree::take(&dir, KEPT), &format!("{policy}, {kind}: refused"));

        lab.setup.options.extend(["--on-existing".into(), "local".into()]);
        lab.mount();
        assert_eq!(lab.flush(), "2", "{policy}, {kind}: on top of version 1");
        for (name, text) in [("f", "two, longer"), ("d/new", "two"), ("g", "three"), ("d/old", "one")] {
            assert_eq!(read(dir.join(name)), text, "{policy}, {kind}: {name}");
        }
        assert_eq!(dir.join("h").exists(), kind == "changed");
        Tree::take(&dir, KEPT).assert_same(&Tree::take(&lab.restored(None), KEPT), "what was saved");
        assert_eq!(others(&lab), Vec::<String>::new());
    }
}

/// The same: "another history stands in the remote by then, whatever its numbers".
#[test]
fn a_history_that_was_begun_anew_takes_nothing_away() {
    for (versions, kind) in [(1, "clean"), (2, "clean"), (3, "changed"), (3, "mounted")] {
        let mut lab = Lab::new(Setup::default().with(&["--on-conflict", "merge"]));
        let dir = lab.dir();
        for name in ["f", "g"] {
            fs::write(dir.join(name), "first history").unwrap();
            lab.flush();
        }
        if kind != "mounted" {
            lab.unmount();
        }
        // What is mounted goes on with the layers that it was made of.
        let lost = if kind == "mounted" { lab.head() } else { lab.remote_dir() };
        fs::rename(lost, lab.root().join("lost")).unwrap();
        let mut anew = Lab::new(Setup { remote: Some(lab.remote()), ..Setup::default() });
        for version in 1..=versions {
            fs::write(anew.dir().join(format!("new-{version}")), "second history").unwrap();
            assert_eq!(anew.flush(), version.to_string());
        }
        anew.unmount();
        if kind != "clean" {
            fs::write(dir.join("h"), "unsaved").unwrap();
        }
        let before = Tree::take(&dir, KEPT);
        if kind == "mounted" {
            lab.flush();
            let forks = others(&lab);
            assert_eq!(forks.len(), 1, "{forks:?}");
            before.assert_same(&Tree::take(&dir, KEPT), "nothing was taken from it");
            continue;
        }
        let refused = lab.try_mount();
        assert_eq!(refused.code, 8, "{versions}, {kind}: {}", refused.said());
        let told = ["another history", "--on-existing local"].iter().all(|w| refused.stderr.contains(w));
        assert!(told, "{versions}, {kind}: {}", refused.said());
        before.assert_same(&Tree::take(&dir, KEPT), &format!("{versions}, {kind}: refused"));

        lab.setup.options.extend(["--on-existing".into(), "local".into()]);
        lab.mount();
        lab.flush();
        for (name, text) in [("f", "first history"), ("g", "first history"), ("new-1", "second history")] {
            assert_eq!(read(dir.join(name)), text, "{versions}, {kind}: {name}");
        }
        assert_eq!(dir.join("h").exists(), kind == "changed");
        Tree::take(&dir, KEPT).assert_same(&Tree::take(&lab.restored(None), KEPT), "what was saved");
        assert_eq!(others(&lab), Vec::<String>::new());
    }
}

/// What a version has is no unsaved change, also of what took the place of something that was not here.
#[test]
fn what_replaced_something_that_was_not_here_and_was_saved_is_no_change() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("renamed over it", |dir| {
            fs::write(dir.join("new"), "another").unwrap();
            fs::rename(dir.join("new"), dir.join("f")).unwrap();
        }),
        ("made anew", |dir| {
            fs::remove_file(dir.join("f")).unwrap();
            fs::write(dir.join("f"), "another").unwrap();
        }),
        ("another kind", |dir| {
            fs::remove_file(dir.join("f")).unwrap();
            fs::create_dir(dir.join("f")).unwrap();
        }),
        ("removed", |dir| fs::remove_file(dir.join("f")).unwrap()),
    ];
    for (what, change) in changes {
        let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
        for name in ["f", "g"] {
            fs::write(lab.dir().join(name), "first").unwrap();
        }
        lab.flush();
        lab.turn_to(1);
        change(&lab.dir());
        assert_eq!(lab.flush(), "2");
        lab.kill();
        let mut other = Lab::new(Setup { remote: Some(lab.remote()), ..Setup::default() });
        fs::write(other.dir().join("theirs"), "theirs").unwrap();
        assert_eq!(other.flush(), "3");
        other.unmount();
        lab.mount();
        assert_eq!(read(lab.dir().join("theirs")), "theirs", "{what}");
        assert_eq!(lab.flush(), "3", "{what}: it had nothing to save");
        assert_eq!(others(&lab), Vec::<String>::new(), "{what}");
    }
}
