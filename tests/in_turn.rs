//! Two machines that share a name and are used one after the other: the one that only looked has nothing to save.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, LIMIT, Lab, Setup, Subject, Tree, eventually};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

type Step = fn(&Path);

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn names_of_one_file_come_and_go_elsewhere() {
    let steps: [&[Step]; 6] = [
        &[|dir| fs::remove_file(dir.join("f1")).unwrap(), |dir| fs::write(dir.join("d/f2"), "two").unwrap()],
        &[
            |dir| fs::hard_link(dir.join("f1"), dir.join("f4")).unwrap(),
            |dir| fs::write(dir.join("d/f2"), "two").unwrap(),
        ],
        &[
            |dir| {
                fs::remove_file(dir.join("f1")).unwrap();
                fs::write(dir.join("f1"), "another file").unwrap();
            },
            |dir| fs::write(dir.join("d/f2"), "two").unwrap(),
        ],
        &[
            |dir| fs::rename(dir.join("f1"), dir.join("g")).unwrap(),
            |dir| fs::remove_dir_all(dir.join("d")).unwrap(),
        ],
        &[
            |dir| {
                fs::hard_link(dir.join("single"), dir.join("d/double")).unwrap();
                fs::write(dir.join("f1"), "one").unwrap();
            },
            |dir| fs::remove_file(dir.join("single")).unwrap(),
        ],
        &[
            |dir| fs::rename(dir.join("single"), dir.join("f1")).unwrap(),
            |dir| fs::rename(dir.join("d/f3"), dir.join("single")).unwrap(),
        ],
    ];
    for (number, steps) in steps.into_iter().enumerate() {
        for restore in ["lazy", "eager"] {
            let mut lab = Lab::new(Setup::default().with(&["--restore", restore]));
            fs::create_dir(lab.dir().join("d")).unwrap();
            fs::write(lab.dir().join("f1"), "first").unwrap();
            fs::write(lab.dir().join("single"), "only one").unwrap();
            fs::hard_link(lab.dir().join("f1"), lab.dir().join("d/f2")).unwrap();
            fs::hard_link(lab.dir().join("f1"), lab.dir().join("d/f3")).unwrap();
            lab.flush();
            lab.turn_to(1);
            assert_eq!(fs::read_to_string(lab.dir().join("f1")).unwrap(), "first");
            for (round, step) in steps.iter().enumerate() {
                let what = format!("case {number}, {restore}, step {round}");
                lab.turn_to(0);
                step(&lab.dir());
                let version = lab.flush();
                let tree = Tree::take(&lab.dir(), KEPT);
                lab.turn_to(1);
                tree.assert_same(&Tree::take(&lab.dir(), KEPT), &what);
                assert_eq!(lab.flush(), version, "{what}: it had nothing to save");
                assert!(!lab.state().join("conflicts").exists(), "{what}: something was moved aside");
            }
        }
    }
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing and brings nothing back".
#[test]
fn who_is_killed_while_files_come_has_nothing_to_save() {
    const FILES: u64 = 2000;
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch=off"]));
    for n in 0..FILES {
        let dir = lab.dir().join(format!("d{}", n % 40));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), vec![n as u8; 2000]).unwrap();
    }
    fs::write(lab.dir().join("large"), vec![7; 9 << 20]).unwrap();
    lab.flush();
    let tree = Tree::take(&lab.dir(), KEPT);
    for left in [FILES - 1, FILES - 200, FILES / 2, 100] {
        lab.elsewhere();
        fs::read(lab.dir().join("d7/7")).unwrap();
        lab.await_status("some are here", |status| status["absent_files"].as_u64() <= Some(left));
        lab.crash();
        let status = lab.status();
        assert_eq!(lab.flush(), "1", "{left} left: what came was saved: {status}");
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), &format!("{left} left"));
    }
}

/// So many bytes that no compression makes small, and no two parts of it are the same.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ (state >> 29)
    });
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

/// Changes one chunk of a file.
fn change_chunk(path: &Path, number: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&noise(number, 64 << 10), number * (64 << 10)).unwrap();
}

/// SEMANTICS, Names: "A symlink is kept as it is: its target is never followed, changed or checked." Where a newer version
/// has one in the place of a directory, what that had is not removed from where it leads.
#[test]
fn what_a_directory_had_is_not_removed_through_a_link_in_its_place() {
    let (mut lab, outside) = (Lab::new(Setup::default()), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("x"), "somebody else's").unwrap();
    let dir = lab.dir();
    for name in ["d", "d/e", "within", "within/within"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    for name in ["d/x", "d/e/y", "within/within/mine"] {
        fs::write(dir.join(name), name).unwrap();
    }
    lab.flush();
    lab.turn_to(1);
    let dir = lab.dir();
    fs::remove_dir_all(dir.join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.join("d")).unwrap();
    fs::remove_dir_all(dir.join("within/within")).unwrap();
    std::os::unix::fs::symlink(".", dir.join("within/within")).unwrap();
    fs::write(dir.join("within/mine"), "another of that name").unwrap();
    lab.flush();
    let tree = Tree::take(&dir, KEPT);
    lab.turn_to(0);
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the machine that caught up");
    assert_eq!(fs::read_to_string(outside.path().join("x")).unwrap(), "somebody else's");
    assert_eq!(fs::read_to_string(lab.dir().join("within/mine")).unwrap(), "another of that name");
}

/// Nothing that stands there is a file without its content.
fn assert_whole(dir: &Path, files: &[(&str, Vec<&[u8]>)]) {
    for (name, contents) in files {
        let Ok(found) = fs::read(dir.join(name)) else { continue };
        assert!(contents.contains(&&found[..]), "{name} is neither version's");
        assert_ne!(fs::metadata(dir.join(name)).unwrap().mtime(), 0, "{name}");
    }
}

fn names(lab: &Lab) -> Vec<String> {
    let heads = lab.objects().into_iter().map(|(path, _)| path).filter(|path| path.ends_with("HEAD"));
    heads.map(|path| path.strip_prefix(lab.remote_dir()).unwrap().display().to_string()).collect()
}

/// A directory that fell two versions behind; the tree of the newest.
fn behind(options: &[&str]) -> (Lab, Tree) {
    let mut lab = Lab::new(Setup::default().with(options));
    let dir = lab.dir();
    fs::create_dir_all(dir.join("d/e")).unwrap();
    for name in ["a", "b", "gone", "d/e/gone", "d/kept"] {
        fs::write(dir.join(name), format!("{name}, first")).unwrap();
    }
    fs::write(dir.join("large"), noise(1, 2 << 20)).unwrap();
    lab.flush();
    lab.turn_to(1);
    let dir = lab.dir();
    change_chunk(&dir.join("large"), 3);
    fs::write(dir.join("new"), noise(2, 2 << 20)).unwrap();
    lab.flush();
    fs::write(dir.join("a"), "a, newer").unwrap();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::remove_dir_all(dir.join("d/e")).unwrap();
    fs::create_dir(dir.join("f")).unwrap();
    fs::write(dir.join("f/new"), "small").unwrap();
    change_chunk(&dir.join("large"), 5);
    change_chunk(&dir.join("new"), 7);
    fs::hard_link(dir.join("new"), dir.join("f/second name")).unwrap();
    assert_eq!(lab.flush(), "3");
    let tree = Tree::take(&dir, KEPT);
    (lab, tree)
}

/// SEMANTICS, Restore: "A start that breaks off while a version comes to the directory leaves no changes: the next one goes
/// on with it"
#[test]
fn a_start_that_broke_off_has_changed_nothing() {
    let (fork, merge) = (["--restore", "eager"], ["--on-conflict", "merge"]);
    for options in [&fork[..], &merge[..], &["--no-prefetch"]] {
        for broken in [&[0][..], &[1], &[1, 0, 0]] {
            let what = format!("{options:?}, without {broken:?}");
            let (mut lab, tree) = behind(options);
            let newest = fs::read(lab.dir().join("new")).unwrap();
            let large = fs::read(lab.dir().join("large")).unwrap();
            lab.leave_for(0);
            let layers = lab.layer_files();
            assert_eq!(layers.len(), 3);
            for number in broken {
                lab.break_off(&layers[*number]);
                let first = noise(1, 2 << 20);
                assert_whole(&lab.dir(), &[("new", vec![&newest]), ("large", vec![&first, &large])]);
            }
            let said = lab.try_mount().must("mount").stderr;
            tree.assert_same(&Tree::take(&lab.dir(), KEPT), &what);
            assert!(said.contains("goes on with it") && !said.contains("unsaved"), "{what}: {said}");
            assert_eq!(lab.flush(), "3", "{what}: what came was taken for changes");
            assert_eq!(names(&lab), ["work/HEAD"], "{what}");
            assert!(!lab.state().join("conflicts").exists(), "{what}: something was moved aside");
            // It is over.
            fs::write(lab.dir().join("b"), "b, changed").unwrap();
            assert_eq!(lab.flush(), "4", "{what}");
            lab.remount();
            assert_eq!(lab.flush(), "4", "{what}");
            let tree = Tree::take(&lab.dir(), KEPT);
            tree.assert_same(&Tree::take(&lab.checkout("4"), KEPT), &what);
        }
    }
}

/// The same where the version of before was not all here either.
#[test]
fn a_start_that_broke_off_keeps_what_is_only_in_the_remote() {
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    fs::create_dir(lab.dir().join("d")).unwrap();
    for n in 0..3 {
        fs::write(lab.dir().join(format!("d/{n}")), format!("file {n}")).unwrap();
    }
    lab.flush();
    lab.turn_to(1);
    fs::read_dir(lab.dir().join("d")).unwrap().for_each(|entry| assert!(entry.unwrap().metadata().is_ok()));
    lab.turn_to(0);
    for n in 0..2 {
        fs::write(lab.dir().join(format!("new{n}")), noise(n, 300_000)).unwrap();
        lab.flush();
    }
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.leave_for(1);
    lab.break_off(&lab.layer_files()[1]);
    assert!(
        lab.state().join("absent/HEAD").exists(),
        "what is not here was forgotten before the newer version came"
    );
    lab.mount();
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree that caught up");
    assert_eq!(lab.flush(), "3");
    assert_eq!(names(&lab), ["work/HEAD"]);
    assert!(!lab.state().join("absent").exists(), "what never came was of another version");
}

/// SEMANTICS, Restore: "A start that breaks off while a version comes to the directory leaves no changes".
#[test]
fn a_first_start_that_broke_off_leaves_nothing_that_wins() {
    for existing in ["local", "merge", "fail"] {
        let (mut lab, tree) = behind(&["--restore", "eager", "--on-existing", existing]);
        let newest = fs::read(lab.dir().join("new")).unwrap();
        let large = fs::read(lab.dir().join("large")).unwrap();
        lab.leave_for(2);
        let layers = lab.layer_files();
        for number in [0, 1] {
            lab.break_off(&layers[number]);
            assert_whole(&lab.dir(), &[("new", vec![&newest]), ("large", vec![&large])]);
        }
        lab.mount();
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), existing);
        assert_eq!(lab.flush(), "3", "{existing}");
        assert!(!lab.state().join("conflicts").exists(), "{existing}: something was moved aside");
    }
}

/// SEMANTICS, Mount: "`--on-existing local`: the directory wins".
#[test]
fn what_was_local_before_a_start_broke_off_still_wins() {
    let (mut lab, _) = behind(&["--on-existing", "local"]);
    lab.leave_for(2);
    let dir = lab.place();
    fs::create_dir_all(dir.join("f")).unwrap();
    for name in ["a", "f/new", "own"] {
        fs::write(dir.join(name), "local").unwrap();
    }
    lab.break_off(&lab.layer_files()[0]);
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "local");
    lab.mount();
    for name in ["a", "f/new", "own"] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "local", "{name}");
    }
    assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "b, first");
    assert_eq!(lab.flush(), "4");
    let version = lab.checkout("4");
    Tree::take(&dir, KEPT).assert_same(&Tree::take(&version, KEPT), "the version");
    assert!(!lab.state().join("conflicts").exists(), "something was moved aside");
}

/// SEMANTICS, Restore: "What somebody changed between the two is moved aside where the version has it otherwise".
#[test]
fn what_was_changed_after_a_start_broke_off_is_not_lost() {
    let (mut lab, _) = behind(&[]);
    lab.leave_for(0);
    lab.break_off(&lab.layer_files()[0]);
    let dir = lab.place();
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "a, newer");
    fs::write(dir.join("a"), "a, since").unwrap();
    fs::write(dir.join("gone"), "gone, since").unwrap();
    fs::write(dir.join("mine"), "mine").unwrap();
    lab.mount();
    for (name, content) in [("a", "a, newer"), ("gone", "gone, since"), ("mine", "mine")] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), content, "{name}");
    }
    let aside = fs::read_dir(lab.state().join("conflicts")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(aside.join("a")).unwrap(), "a, since");
    assert_eq!(lab.flush(), "4");
    assert_eq!(names(&lab), ["work/HEAD"]);
}

/// A third machine saves before the start is tried again.
#[test]
fn a_start_that_broke_off_goes_on_with_the_newest_version() {
    for options in [&[][..], &["--on-conflict", "merge"]] {
        let (mut lab, _) = behind(options);
        lab.leave_for(0);
        let before = lab.layer_files();
        lab.break_off(&before[0]);
        assert!(lab.place().join("f/new").exists());
        // The mount of the other machine, beside.
        let (place, state) = (lab.root().join("place1"), lab.root().join("state1"));
        lab.try_mount_at(&place, &state).must("mount");
        fs::remove_dir_all(place.join("f")).unwrap();
        fs::write(place.join("a"), "a, newest").unwrap();
        lab.call(["unmount".as_ref(), place.as_os_str()]).must("unmount");
        let tree = Tree::take(&place, KEPT);
        lab.mount();
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the newest version");
        assert_eq!(lab.flush(), "4", "{options:?}: what the version of between had was taken for a change");
    }
}

/// SEMANTICS, Restore: "What is not here yet and stands in layers that no version needs any more comes whole from those of
/// the newest version when the directory is mounted again".
#[test]
fn what_stands_in_layers_that_go_comes_from_the_newest_version() {
    let mut lab = Lab::new(Setup::default());
    for n in 0..5 {
        fs::write(lab.dir().join(format!("f{n}")), noise(n, 300_000)).unwrap();
        lab.flush();
    }
    let first: Vec<String> =
        lab.layer_files().iter().map(|path| path.file_name().unwrap().display().to_string()).collect();
    lab.setup.options.extend(["--no-prefetch", "--chain", "4"].map(Into::into));
    lab.turn_to(1);
    fs::remove_file(lab.dir().join("f3")).unwrap();
    for n in 0..6 {
        fs::write(lab.dir().join(format!("new{n}")), n.to_string()).unwrap();
        lab.flush();
    }
    eventually("the first layers become one", LIMIT, || {
        let head: Value = serde_json::from_slice(&fs::read(lab.head()).ok()?).ok()?;
        let chain = head["layers"].to_string();
        first.iter().all(|name| !chain.contains(name)).then_some(())
    });
    lab.unmount();
    let remote = lab.remote();
    let prune = ["prune", "--keep", "1", "--older-than", "0h", "--remote", &remote, "--name", "work"];
    let pruned = lab.call(prune).must("prune").stdout;
    assert!(pruned.contains("deleted"), "{pruned}");
    fs::write(lab.place().join("own"), "while nothing was mounted").unwrap();
    let _there = fs::remove_file(lab.place().join("new1"));
    lab.setup.options.push("--scan=always".into());
    let said = lab.try_mount().must("mount").stderr;
    assert!(said.contains("comes from the newest version"), "{said}");
    for n in [0, 1, 2, 4] {
        assert_eq!(fs::read(lab.dir().join(format!("f{n}"))).unwrap(), noise(n, 300_000), "f{n}");
    }
    for gone in ["f3", "new1"] {
        assert!(!lab.dir().join(gone).exists(), "{gone} is back");
    }
    let version = lab.flush();
    let tree = Tree::take(&lab.dir(), KEPT);
    tree.assert_same(&Tree::take(&lab.checkout(&version), KEPT), "the version");
    assert_eq!(lab.status()["absent_files"], 0);
}

/// SEMANTICS, Writers: "With `--on-conflict merge` changes of different paths are both in the next version".
#[test]
fn what_was_removed_here_is_not_back_when_the_other_has_saved() {
    let (mut lab, _) = behind(&["--on-conflict", "merge", "--scan", "always"]);
    lab.leave_for(0);
    let dir = lab.place();
    fs::remove_file(dir.join("b")).unwrap();
    fs::remove_dir_all(dir.join("d")).unwrap();
    lab.break_off(&lab.layer_files()[0]);
    lab.mount();
    for gone in ["b", "d"] {
        assert!(!dir.join(gone).exists(), "{gone} is back");
    }
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "a, newer");
    assert_eq!(lab.flush(), "4");
    Tree::take(&dir, KEPT).assert_same(&Tree::take(&lab.checkout("4"), KEPT), "the version");
}

/// SEMANTICS, Writers: "Of a path that both changed it has what came last". What a start keeps as it is here may be changed once
/// more, moved or removed before that is ever saved.
#[test]
fn what_stays_as_it_is_here_can_go_before_it_is_saved() {
    type Change = fn(&Path);
    fn cases() -> [(&'static str, Change); 6] {
        [
            ("removed", |dir| {
                for name in ["file", "first", "symlink"] {
                    fs::remove_file(dir.join(name)).unwrap();
                }
                for name in ["d", "file by now", "directory by now"] {
                    let path = dir.join(name);
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
                }
            }),
            ("renamed", |dir| {
                for name in ["file", "first", "symlink", "d", "file by now", "directory by now"] {
                    fs::rename(dir.join(name), dir.join(format!("{name}, renamed"))).unwrap();
                }
            }),
            ("exchanged", |dir| {
                for (one, other) in [("file", "d"), ("file by now", "directory by now"), ("first", "symlink")]
                {
                    let (one, other, flags) =
                        (dir.join(one), dir.join(other), rustix::fs::RenameFlags::EXCHANGE);
                    rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).unwrap();
                }
            }),
            ("made anew", |dir| {
                fs::remove_file(dir.join("file by now")).unwrap();
                fs::create_dir(dir.join("file by now")).unwrap();
                fs::write(dir.join("file by now/new"), "new").unwrap();
                fs::remove_dir_all(dir.join("d")).unwrap();
                fs::create_dir(dir.join("d")).unwrap();
            }),
            ("as it was", |dir| fs::write(dir.join("file"), "file, first").unwrap()),
            ("left alone", |_| ()),
        ]
    }
    let populate: Change = |dir| {
        for name in ["d", "file by now", "file by now/deep"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        for name in
            ["a", "file", "first", "d/x", "d/y", "file by now/x", "file by now/deep/y", "directory by now"]
        {
            fs::write(dir.join(name), format!("{name}, first")).unwrap();
        }
        fs::hard_link(dir.join("first"), dir.join("second")).unwrap();
        std::os::unix::fs::symlink("somewhere", dir.join("symlink")).unwrap();
    };
    let here: Change = |dir| {
        for name in ["file", "d/x"] {
            fs::write(dir.join(name), "changed here").unwrap();
        }
        fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["first", "symlink", "directory by now"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
        fs::remove_dir_all(dir.join("file by now")).unwrap();
        for name in ["first", "file by now"] {
            fs::write(dir.join(name), "made here").unwrap();
        }
        std::os::unix::fs::symlink("elsewhere", dir.join("symlink")).unwrap();
        fs::create_dir(dir.join("directory by now")).unwrap();
        fs::write(dir.join("directory by now/x"), "made here").unwrap();
    };
    let merge: &[&str] = &["--on-conflict", "merge", "--scan", "always"];
    for (case, then) in cases() {
        for (options, seen) in [(merge, true), (&["--on-existing", "local"], false)] {
            let what = format!("{case}, {options:?}");
            let mut lab = Lab::new(Setup::default().with(options).flushing("1h", "1h"));
            populate(&lab.dir());
            lab.flush();
            lab.turn_to(1);
            fs::write(lab.dir().join("a"), "a, newer").unwrap();
            lab.flush();
            if options == merge {
                lab.leave_for(0);
            } else {
                lab.leave_for(2);
                populate(&lab.place());
            }
            here(&lab.place());
            lab.mount();
            assert_eq!(fs::read_to_string(lab.dir().join("file")).unwrap(), "changed here", "{what}");
            if seen {
                then(&lab.dir());
            } else {
                lab.kill();
                harness::detach(&lab.place());
                then(&lab.place());
                lab.mount();
            }
            let before = Tree::take(&lab.dir(), KEPT);
            lab.flush();
            let version = Tree::take(&lab.restored(None), KEPT);
            before.assert_same(&version, &what);
            lab.unmount();
            lab.mount();
            Tree::take(&lab.dir(), KEPT).assert_same(&version, &what);
            lab.turn_to(1);
            Tree::take(&lab.dir(), KEPT).assert_same(&version, &format!("{what}, the other machine"));
        }
    }
}
