//! What somebody does in a directory between a start that broke off and the next one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, Lab, Setup, Subject, TIMELESS, Tree, detach};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const WORK: &str = "a day of work";

/// A machine that saved version 1 and changes the directory by `here`, while another one makes version 2 by
/// `elsewhere`, and 3 of large bytes.
fn two_versions_behind(options: &[&str], here: fn(&Path), elsewhere: fn(&Path)) -> Lab {
    let mut lab = Lab::new(Setup::default().with(options));
    let dir = lab.dir();
    fs::create_dir_all(dir.join("d")).unwrap();
    for name in ["a", "b", "d/x", "d/y"] {
        fs::write(dir.join(name), format!("{name}, first")).unwrap();
    }
    lab.flush();
    lab.turn_to(1);
    elsewhere(&lab.dir());
    lab.flush();
    let large: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(lab.dir().join("large"), large).unwrap();
    assert_eq!(lab.flush(), "3");
    lab.leave_for(0);
    here(&lab.place());
    lab
}

fn newest(lab: &Lab, name: &str) -> Option<String> {
    fs::read_to_string(lab.restored(None).join(name)).ok()
}

/// SEMANTICS, Restore: "What somebody changed between the two is moved aside where the version has it otherwise".
#[test]
fn what_was_put_into_a_directory_that_is_none_any_more_is_moved_aside() {
    let elsewhere: [fn(&Path); 2] = [
        |dir| {
            fs::remove_dir_all(dir.join("d")).unwrap();
            symlink("/elsewhere", dir.join("d")).unwrap();
        },
        |dir| {
            fs::remove_dir_all(dir.join("d")).unwrap();
            fs::write(dir.join("d"), "a file by now").unwrap();
        },
    ];
    for elsewhere in elsewhere {
        let lab = two_versions_behind(&[], |_| (), elsewhere);
        lab.break_off(&lab.layer_files()[1]);
        fs::write(lab.place().join("d/mine"), WORK).unwrap();
        lab.mount();
        assert!(!lab.place().join("d/mine").exists());
        let aside = fs::read_dir(lab.state().join("conflicts")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_to_string(aside.join("d/mine")).unwrap(), WORK);
    }
}

/// SEMANTICS, Writers: "With `--on-conflict merge` changes of different paths are both in the next version".
#[test]
fn what_was_removed_before_and_written_anew_since_stays() {
    let mut lab = two_versions_behind(
        &["--on-conflict", "merge", "--scan", "always"],
        |dir| {
            fs::remove_file(dir.join("b")).unwrap();
            fs::remove_file(dir.join("d/x")).unwrap();
        },
        |dir| fs::write(dir.join("a"), "a, newer").unwrap(),
    );
    lab.break_off(&lab.layer_files()[0]);
    fs::write(lab.place().join("b"), WORK).unwrap();
    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("b")).unwrap(), WORK);
    assert!(!lab.dir().join("d/x").exists(), "what was removed before is back");
    lab.flush();
    assert_eq!(newest(&lab, "b").as_deref(), Some(WORK));
    assert_eq!(newest(&lab, "a").as_deref(), Some("a, newer"));
    assert_eq!(newest(&lab, "d/x"), None);
}

/// The same: what came to the remote in a directory that was removed here is nobody's removal.
#[test]
fn what_others_put_into_a_directory_that_was_removed_here_stays() {
    for broken in [false, true] {
        let mut lab = two_versions_behind(
            &["--on-conflict", "merge", "--scan", "always"],
            |dir| fs::remove_dir_all(dir.join("d")).unwrap(),
            |dir| fs::write(dir.join("d/new"), "of another machine").unwrap(),
        );
        if broken {
            lab.break_off(&lab.layer_files()[0]);
        }
        lab.mount();
        lab.flush();
        assert_eq!(newest(&lab, "d/new").as_deref(), Some("of another machine"), "broken off: {broken}");
        assert_eq!(newest(&lab, "d/x"), None, "broken off: {broken}");
    }
}

/// SEMANTICS, Writers: "So does the version that a mount with unsaved changes finds at its start, if both changed the same".
#[test]
fn what_a_start_merges_can_be_had_as_the_other_machine_left_it() {
    type Change = fn(&Path);
    let write: Change = |dir| fs::write(dir.join("a"), "a, here").unwrap();
    let remove: Change = |dir| fs::remove_file(dir.join("a")).unwrap();
    let restrict: Change =
        |dir| fs::set_permissions(dir.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    let add: Change = |dir| fs::write(dir.join("new"), "new, here").unwrap();
    let others: Change = |dir| fs::write(dir.join("a"), "a, elsewhere").unwrap();
    let other: Change = |dir| fs::write(dir.join("b"), "b, elsewhere").unwrap();
    let new: Change = |dir| fs::write(dir.join("new"), "new, elsewhere").unwrap();
    let cases = [
        ("written", write, others, false, true),
        ("written, and the start broke off", write, others, true, true),
        ("written, and removed elsewhere", write, remove, false, true),
        ("removed, and written elsewhere", remove, others, false, true),
        ("with another mode, and written elsewhere", restrict, others, false, true),
        ("made by both", add, new, false, true),
        ("written, another one elsewhere", write, other, false, false),
        ("removed, another one written elsewhere", remove, other, false, false),
        ("removed by both", remove, remove, false, false),
        ("made, another one written elsewhere, and the start broke off", add, other, true, false),
    ];
    for (case, here, elsewhere, broken, overlap) in cases {
        let mut lab = two_versions_behind(&["--on-conflict", "merge", "--scan", "always"], here, elsewhere);
        let theirs = lab.restored(None);
        if broken {
            lab.break_off(&lab.layer_files()[0]);
        }
        lab.mount();
        lab.flush();
        let head: serde_json::Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
        let tags: Vec<&String> = head["tags"].as_object().into_iter().flatten().map(|(tag, _)| tag).collect();
        let expected: &[&str] = if overlap { &["before-merge-3"] } else { &[] };
        assert_eq!(tags, expected, "{case}");
        if overlap {
            let before = Tree::take(&lab.restored(Some("before-merge-3")), KEPT);
            Tree::take(&theirs, KEPT).assert_same(&before, case);
        }
    }
}

/// SEMANTICS, Writers: "With `--on-conflict merge` changes of different paths are both in the next version". Whatever is a
/// directory of one side alone.
#[test]
fn directories_are_merged_as_each_side_left_them() {
    type Change = fn(&Path);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let restrict: Change =
        |dir| fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o750)).unwrap();
    let put: Change = |dir| fs::write(dir.join("d/put"), "into it").unwrap();
    let other: Change = |dir| fs::write(dir.join("a"), "a, newer").unwrap();
    let replace: Change = |dir| {
        fs::remove_dir_all(dir.join("d")).unwrap();
        fs::write(dir.join("d"), "a file").unwrap();
    };
    let merged = |here: Change, elsewhere: Change| {
        let mut lab = two_versions_behind(&["--on-conflict", "merge", "--scan", "always"], here, elsewhere);
        lab.mount();
        lab.flush();
        let newest = lab.restored(None);
        Tree::take(&lab.dir(), TIMELESS).assert_same(&Tree::take(&newest, TIMELESS), "the newest version");
        (lab, newest)
    };
    let (_lab, newest) = merged(restrict, other);
    assert_eq!(mode(&newest.join("d")), 0o750, "a mode that was given here");
    let (_lab, newest) = merged(put, restrict);
    assert_eq!(mode(&newest.join("d")), 0o750, "a mode that was given elsewhere");
    assert!(newest.join("d/put").exists());
    // What the version has below it is not led through it.
    let (_lab, newest) = merged(replace, other);
    assert_eq!(fs::read_to_string(newest.join("d")).unwrap(), "a file");
    assert_eq!(fs::read_to_string(newest.join("a")).unwrap(), "a, newer");
    let (_lab, newest) = merged(replace, put);
    assert_eq!(fs::read_to_string(newest.join("d")).unwrap(), "a file");
}

/// The same of a directory that was removed without ever having been here.
#[test]
fn what_was_removed_before_it_came_is_removed_by_a_merge_with_all_below() {
    let setup = Setup::default().with(&["--on-conflict", "merge", "--no-prefetch"]).flushing("1h", "1h");
    let (mut lab, _) = Lab::arrived(setup, |dir| {
        fs::create_dir_all(dir.join("d/e/f")).unwrap();
        for name in ["a", "d/x", "d/e/y", "d/e/f/z"] {
            fs::write(dir.join(name), name).unwrap();
        }
    });
    fs::remove_dir_all(lab.dir().join("d")).unwrap();
    lab.kill();
    detach(&lab.place());
    lab.go_to(7);
    lab.mount();
    fs::write(lab.dir().join("a"), "a, newer").unwrap();
    fs::write(lab.dir().join("d/e/new"), "of another machine").unwrap();
    lab.flush();
    lab.leave_for(1);
    lab.mount();
    let left = |dir: &Path| Tree::take(&dir.join("d"), TIMELESS);
    let expected = Tree::made_by(
        |_| (),
        |dir| {
            fs::create_dir(dir.join("e")).unwrap();
            fs::write(dir.join("e/new"), "of another machine").unwrap();
        },
    );
    expected.assert_same(&left(&lab.dir()), "only what another machine put there is left");
    lab.flush();
    expected.assert_same(&left(&lab.restored(None)), "the newest version");
    assert_eq!(newest(&lab, "a").as_deref(), Some("a, newer"));
}

/// The same: of what was removed here only directories come again, for what the version may have below.
#[test]
fn what_was_removed_does_not_come_back_with_a_start_that_is_killed() {
    let mut lab = Lab::new(Setup::default().with(&["--on-conflict", "merge", "--scan", "always"]));
    let names = ["d", "d/e", "d/e/y", "d/first", "d/second", "d/symlink", "d/x", "x"];
    let dir = lab.dir();
    fs::create_dir_all(dir.join("d/e")).unwrap();
    for name in ["d/x", "d/e/y", "d/first", "x"] {
        fs::write(dir.join(name), format!("{name}, first")).unwrap();
    }
    fs::hard_link(dir.join("d/first"), dir.join("d/second")).unwrap();
    symlink("nowhere", dir.join("d/symlink")).unwrap();
    fs::set_permissions(dir.join("d/e"), fs::Permissions::from_mode(0o710)).unwrap();
    lab.flush();
    fs::write(dir.join("a"), "a, first").unwrap();
    lab.flush();
    lab.turn_to(1);
    fs::write(lab.dir().join("a"), "a, newer").unwrap();
    lab.flush();
    lab.leave_for(0);
    fs::remove_dir_all(lab.place().join("d")).unwrap();
    fs::remove_file(lab.place().join("x")).unwrap();
    // Broken off at the middle layer of three, and at the oldest, before and after what was removed would have come.
    let left = |at: &Path| -> Vec<&str> {
        names.into_iter().filter(|name| at.join(name).symlink_metadata().is_ok()).collect()
    };
    let layers = lab.layer_files();
    for layer in [&layers[1], &layers[0]] {
        lab.break_off(layer);
        assert_eq!(left(&lab.place()), [] as [&str; 0]);
    }
    // A directory that had come, and gets its attributes last.
    fs::create_dir_all(lab.place().join("d/e")).unwrap();
    fs::write(lab.place().join("d/e/since"), WORK).unwrap();
    fs::write(lab.place().join("x"), WORK).unwrap();
    lab.mount();
    lab.flush();
    let version = lab.restored(None);
    Tree::take(&lab.dir(), KEPT).assert_same(&Tree::take(&version, KEPT), "the newest version");
    assert_eq!(left(&version), ["d", "d/e", "x"], "beside what was put there since");
    for name in ["d/e/since", "x"] {
        assert_eq!(fs::read_to_string(version.join(name)).unwrap(), WORK, "{name}");
    }
    assert_eq!(newest(&lab, "a").as_deref(), Some("a, newer"));
}

/// The same of what was saved without ever having been here.
#[test]
fn what_was_renamed_before_it_came_and_then_removed_does_not_come_back() {
    for broken in [false, true] {
        let setup = Setup::default().with(&["--on-conflict", "merge", "--no-prefetch"]).flushing("1h", "1h");
        let (mut lab, _) = Lab::arrived(setup, |dir| {
            fs::create_dir(dir.join("d")).unwrap();
            for name in ["a", "d/x", "d/y", "f", "g", "stays"] {
                fs::write(dir.join(name), name).unwrap();
            }
        });
        let dir = lab.dir();
        for (from, to) in [("d", "e"), ("f", "f2"), ("stays", "stayed")] {
            fs::rename(dir.join(from), dir.join(to)).unwrap();
        }
        fs::set_permissions(dir.join("g"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(lab.absent_files(), 6, "something came for it");
        lab.flush();
        for name in ["e/x", "f2", "g"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
        lab.kill();
        detach(&lab.place());
        lab.go_to(7);
        lab.mount();
        fs::write(lab.dir().join("a"), "a, newer").unwrap();
        lab.flush();
        fs::write(lab.dir().join("large"), vec![7; 300_000]).unwrap();
        lab.flush();
        lab.leave_for(1);
        if broken {
            let layers = lab.layer_files();
            lab.break_off(&layers[layers.len() - 2]);
        }
        lab.mount();
        lab.flush();
        let (here, version) = (Tree::take(&lab.dir(), KEPT), lab.restored(None));
        here.assert_same(&Tree::take(&version, KEPT), "the newest version");
        for name in ["e/x", "f", "f2", "g"] {
            assert!(!version.join(name).exists(), "{name} is back, broken off: {broken}");
        }
        for (name, content) in [("a", "a, newer"), ("e/y", "d/y"), ("stayed", "stays")] {
            let found = fs::read_to_string(version.join(name)).ok();
            assert_eq!(found.as_deref(), Some(content), "{name}, broken off: {broken}");
        }
    }
}

/// A start finds what was removed while nothing was mounted; also if something stands there again by the time of the first
/// version.
#[test]
fn what_was_removed_while_nothing_was_mounted_does_not_come_back_with_its_directory() {
    let mut lab = Lab::new(Setup::default().with(&["--scan", "always"]).flushing("1h", "1h"));
    fs::create_dir_all(lab.dir().join("d/e")).unwrap();
    for name in ["d/x", "d/e/y"] {
        fs::write(lab.dir().join(name), name).unwrap();
    }
    lab.flush();
    lab.unmount();
    fs::remove_dir_all(lab.place().join("d")).unwrap();
    lab.mount();
    fs::create_dir(lab.dir().join("d")).unwrap();
    fs::write(lab.dir().join("d/z"), "new").unwrap();
    lab.flush();
    Tree::take(&lab.dir(), TIMELESS)
        .assert_same(&Tree::take(&lab.restored(None), TIMELESS), "the newest version");
    assert!(!lab.restored(None).join("d/x").exists());
}

/// The same of what was not here at all: it was named, moved or changed, and not removed.
#[test]
fn what_is_not_here_and_was_moved_is_not_removed_by_a_merge() {
    for killed in [false, true] {
        let options = ["--on-conflict", "merge", "--no-prefetch", "--unmount-timeout", "1s"];
        let (mut lab, _) = Lab::arrived(Setup::default().with(&options), |dir| {
            fs::create_dir(dir.join("d")).unwrap();
            for name in ["f1", "f2", "f3", "d/x", "d/y"] {
                fs::write(dir.join(name), name).unwrap();
            }
        });
        let dir = lab.dir();
        assert_eq!(lab.absent_files(), 5);
        fs::set_permissions(dir.join("f1"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(dir.join("f2"), dir.join("g2")).unwrap();
        fs::hard_link(dir.join("f3"), dir.join("h3")).unwrap();
        fs::rename(dir.join("d"), dir.join("e")).unwrap();
        assert_eq!(lab.absent_files(), 5, "something came for it");
        if killed {
            lab.kill();
        } else {
            let away = lab.root().join("remote-away");
            fs::rename(lab.remote_dir(), &away).unwrap();
            assert!(!lab.verb("unmount", &[]).ok(), "saved without a remote");
            fs::rename(away, lab.remote_dir()).unwrap();
        }
        let (place, state) = (lab.root().join("beside"), lab.root().join("beside-state"));
        fs::create_dir(&place).unwrap();
        lab.try_mount_at(&place, &state).must("mount");
        fs::write(place.join("other"), "of another machine").unwrap();
        lab.call(["unmount".as_ref(), place.as_os_str()]).must("unmount");
        lab.mount();
        lab.flush();
        let restored = lab.restored(None);
        let expected = [
            ("f1", "f1"),
            ("g2", "f2"),
            ("f3", "f3"),
            ("h3", "f3"),
            ("e/x", "d/x"),
            ("e/y", "d/y"),
            ("other", "of another machine"),
        ];
        for (name, content) in expected {
            let found = fs::read_to_string(restored.join(name));
            assert_eq!(found.ok().as_deref(), Some(content), "{name}, killed: {killed}");
        }
        Tree::take(&lab.dir(), KEPT).assert_same(&Tree::take(&restored, KEPT), "the newest version");
    }
}
