//! Directories that are moved with content that is not here. Nothing comes by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{LIMIT, Lab, Mode, Setup, Subject, TIMELESS, Tree, detach, eventually};
use rustix::fs::{CWD, RenameFlags};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const BOTH: [Mode; 2] = [Mode::Passthrough, Mode::Classic];
const FILES: usize = 300;

fn populate(dir: &Path) {
    for sub in ["top/many", "top/deep/er/still", "top/empty", "other/x", "other/y", "apart"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for n in 0..FILES {
        fs::write(dir.join(format!("top/many/{n:03}")), format!("content {n}\n").repeat(n)).unwrap();
    }
    for name in [
        "top/one",
        "top/deep/two",
        "top/deep/er/three",
        "top/deep/er/still/four",
        "other/x/five",
        "other/y/six",
    ] {
        fs::write(dir.join(name), format!("this is {name}\n")).unwrap();
    }
    let large: Vec<u8> = (0..9u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(dir.join("top/deep/large"), large).unwrap();
    fs::hard_link(dir.join("top/one"), dir.join("apart/other name of one")).unwrap();
    fs::hard_link(dir.join("top/deep/two"), dir.join("top/many/second")).unwrap();
    symlink("../one", dir.join("top/deep/link")).unwrap();
    fs::hard_link(dir.join("top/deep/link"), dir.join("apart/link")).unwrap();
    fs::set_permissions(dir.join("top/deep"), fs::Permissions::from_mode(0o2750)).unwrap();
}

fn arrived(mode: Mode) -> Lab {
    Lab::arrived(Setup::mode(mode).with(&["--no-prefetch"]), populate).0
}

/// What the same does to a directory of this machine.
fn twin(work: impl Fn(&Path)) -> Tree {
    Tree::made_by(populate, work)
}

/// SEMANTICS, Restore: "costs no request, and neither does moving a directory, whatever is in it".
#[test]
fn a_move_brings_nothing() {
    for mode in BOTH {
        let mut lab = arrived(mode);
        let (before, files) = (lab.downloads(), lab.absent_files());
        let work = |dir: &Path| fs::rename(dir.join("top"), dir.join("moved")).unwrap();
        work(&lab.dir());
        assert_eq!((lab.downloads(), lab.absent_files()), (before, files), "{mode:?}");
        assert!(!lab.dir().join("top").exists(), "{mode:?}");
        assert_eq!(fs::read_dir(lab.dir().join("moved/many")).unwrap().count(), FILES + 1, "{mode:?}");
        assert_eq!(lab.downloads(), before, "{mode:?}: looking brought something");
        lab.verb("hydrate", &["moved/deep"]).must("hydrate");
        assert_eq!(lab.absent_files(), files - 4, "{mode:?}: by its new name");
        let text = fs::read_to_string(lab.dir().join("moved/many/007")).unwrap();
        assert_eq!(text, "content 7\n".repeat(7), "{mode:?}");
        assert!(lab.absent_files() < files, "{mode:?}: it came to another place");
        let expected = twin(work);
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        assert!(lab.absent_files() > FILES as u64 - 20, "{mode:?}: what could be referred to was brought");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        assert_eq!(lab.flush(), version, "{mode:?}: nothing changed, and there is another version");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
    }
}

/// Moves within what was moved, and into each other.
fn work(dir: &Path) {
    let path = |name: &str| dir.join(name);
    let mv = |from: &str, to: &str| fs::rename(path(from), path(to)).unwrap();
    fs::create_dir(path("new")).unwrap();
    mv("top", "new/first");
    mv("new", "newer");
    mv("newer/first/deep", "out");
    fs::create_dir(path("top")).unwrap();
    fs::write(path("top/one"), "another").unwrap();
    fs::remove_file(path("newer/first/many/001")).unwrap();
    fs::rename(path("newer/first/many/002"), path("newer/first/many/003")).unwrap();
    fs::rename(path("newer/first/many/004"), path("apart/004")).unwrap();
    fs::write(path("newer/first/many/005"), "overwritten").unwrap();
    fs::set_permissions(path("newer/first/many/006"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(path("out/er/three"), path("apart/three")).unwrap();
    fs::remove_dir(path("newer/first/empty")).unwrap();
    assert!(fs::remove_dir(path("out/er")).is_err(), "a directory with absent files was removed");
    assert!(fs::rename(path("other/x"), path("out/er")).is_err(), "and so was one that was replaced");
    rustix::fs::renameat_with(CWD, path("other/x"), CWD, path("other/y"), RenameFlags::EXCHANGE).unwrap();
    rustix::fs::renameat_with(CWD, path("out/er"), CWD, path("other/y"), RenameFlags::EXCHANGE).unwrap();
    // There and back again, without one of its files.
    mv("newer/first", "there");
    fs::remove_file(path("there/many/009")).unwrap();
    mv("there", "newer/first");
    assert!(fs::rename(path("out"), path("out/er/inside")).is_err(), "into itself");
    assert!(fs::rename(path("out"), path("newer")).is_err(), "over one that is not empty");
}

/// SEMANTICS, Restore: "A version made after such a change has everything as it is then".
#[test]
fn moves_of_every_kind() {
    for mode in BOTH {
        let expected = twin(work);
        let mut lab = arrived(mode);
        let before = lab.absent_files();
        work(&lab.dir());
        assert!(lab.absent_files() > before - 12, "{mode:?}: {} of {before}", lab.absent_files());
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        lab.remount();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "after a remount");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "elsewhere");
    }
}

/// Back at its place it is as before, but for what was removed from it meanwhile.
#[test]
fn back_at_its_place_without_a_file() {
    let work = |dir: &Path| {
        fs::rename(dir.join("top"), dir.join("away")).unwrap();
        fs::remove_file(dir.join("away/many/010")).unwrap();
        fs::remove_file(dir.join("away/deep/er/still/four")).unwrap();
        fs::remove_dir(dir.join("away/deep/er/still")).unwrap();
        fs::rename(dir.join("away"), dir.join("top")).unwrap();
    };
    for crash in [false, true] {
        let expected = twin(work);
        let mut lab = arrived(Mode::Passthrough);
        work(&lab.dir());
        if crash {
            lab.crash();
        }
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "elsewhere");
    }
}

/// SEMANTICS, Restore: "what was removed before it ever came stays removed".
#[test]
fn a_directory_made_anew_has_nothing_of_before() {
    let work = |dir: &Path| {
        fs::remove_file(dir.join("top/deep/er/still/four")).unwrap();
        fs::remove_dir(dir.join("top/deep/er/still")).unwrap();
        fs::create_dir(dir.join("top/deep/er/still")).unwrap();
        fs::remove_file(dir.join("other/x/five")).unwrap();
        fs::rename(dir.join("other/x"), dir.join("other/z")).unwrap();
        fs::create_dir(dir.join("other/x")).unwrap();
        fs::write(dir.join("other/x/new"), "new").unwrap();
    };
    for crash in [false, true] {
        let expected = twin(work);
        let mut lab = arrived(Mode::Passthrough);
        work(&lab.dir());
        if crash {
            lab.crash();
        }
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        lab.crash();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
    }
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing and brings nothing back".
#[test]
fn a_killed_daemon_finds_again_what_was_moved() {
    for mode in BOTH {
        let expected = twin(work);
        let mut lab = arrived(mode);
        work(&lab.dir());
        let left = lab.absent_files();
        lab.crash();
        assert_eq!(lab.absent_files(), left, "{mode:?}: another number of files is absent");
        assert_eq!(
            fs::read_to_string(lab.dir().join("newer/first/many/011")).unwrap(),
            "content 11\n".repeat(11)
        );
        // Moved on by the next daemon, and found by the one after.
        fs::rename(lab.dir().join("newer"), lab.dir().join("newest")).unwrap();
        lab.crash();
        fs::rename(lab.dir().join("newest"), lab.dir().join("newer")).unwrap();
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        lab.crash();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree after the crashes");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "elsewhere");
    }
}

/// All of it came, was saved where it was moved to, and it is back: that is a change, also for who was killed meanwhile.
#[test]
fn what_is_back_at_its_place_is_saved_there_after_a_kill() {
    let populate = |dir: &Path| {
        fs::create_dir_all(dir.join("top/deep")).unwrap();
        fs::write(dir.join("top/deep/file"), "content\n").unwrap();
    };
    let expected = Tree::made_by(populate, |_| {});
    let mut lab = Lab::arrived(Setup::default().with(&["--no-prefetch"]), populate).0;
    fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
    assert_eq!(fs::read_to_string(lab.dir().join("moved/deep/file")).unwrap(), "content\n");
    lab.flush();
    fs::rename(lab.dir().join("moved"), lab.dir().join("top")).unwrap();
    lab.crash();
    let version = lab.flush();
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    lab.elsewhere();
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
}

/// Killed between a rename and the word about it: what stands at that place now is what was moved there, not what was
/// moved away.
#[test]
fn a_daemon_killed_in_a_rename_takes_no_directory_for_another() {
    let populate = |dir: &Path| {
        fs::create_dir_all(dir.join("top/deep")).unwrap();
        fs::create_dir(dir.join("place")).unwrap();
        fs::write(dir.join("top/deep/file"), "content\n").unwrap();
    };
    let work = |dir: &Path| {
        assert_eq!(fs::read_dir(dir.join("place")).unwrap().count(), 0);
        fs::rename(dir.join("top"), dir.join("first")).unwrap();
        fs::rename(dir.join("place"), dir.join("gone")).unwrap();
        fs::rename(dir.join("first"), dir.join("place")).unwrap();
    };
    let expected = Tree::made_by(populate, work);
    let mut lab = Lab::arrived(Setup::default().with(&["--no-prefetch"]), populate).0;
    work(&lab.dir());
    lab.kill();
    detach(&lab.place());
    // The last record, of 16 bytes, says that the empty directory has left its place.
    let log = fs::OpenOptions::new().write(true).open(lab.state().join("absent/log")).unwrap();
    log.set_len(log.metadata().unwrap().len() - 16).unwrap();
    lab.mount();
    let version = lab.flush();
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
    lab.elsewhere();
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
}

/// SEMANTICS, Outage: "While the store fails the flush is tried again".
#[test]
fn without_the_store_it_moves_and_is_saved_later() {
    let mut lab = arrived(Mode::Passthrough);
    let away = lab.root().join("away");
    fs::rename(lab.remote_dir(), &away).unwrap();
    fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
    assert_eq!(fs::metadata(lab.dir().join("moved/many/100")).unwrap().len(), 1200);
    assert!(!lab.verb("flush", &["--wait"]).ok(), "a version without what was moved");
    fs::rename(&away, lab.remote_dir()).unwrap();
    let expected = twin(|dir| fs::rename(dir.join("top"), dir.join("moved")).unwrap());
    eventually("the flush after the outage", LIMIT, || lab.verb("flush", &["--wait"]).ok().then_some(()));
    let version = lab.flush();
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    lab.unmount();
    expected.assert_same(&Tree::take(&lab.restored(None), TIMELESS), "the newest version");
}

/// The background brings what was moved to where it is, in the middle of moves and flushes.
#[test]
fn moves_while_everything_comes() {
    for round in 0..3 {
        let mut lab = Lab::new(Setup::default().with(&["--no-prefetch=off"]));
        populate(&lab.dir());
        lab.flush();
        lab.elsewhere();
        let expected = twin(|dir| {
            fs::rename(dir.join("top/many"), dir.join("apart/many")).unwrap();
            fs::rename(dir.join("top"), dir.join("moved")).unwrap();
        });
        fs::rename(lab.dir().join("top/many"), lab.dir().join("apart/many")).unwrap();
        if round > 0 {
            lab.flush();
        }
        fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
        if round > 1 {
            lab.await_status("everything is here", |status| status["absent_files"] == 0);
        }
        let version = lab.flush();
        expected
            .assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), &format!("version, round {round}"));
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("tree, round {round}"));
    }
}

/// SEMANTICS, Crash: "every completed operation is in the backing".
#[test]
fn a_file_open_below_a_move_is_written_where_it_is() {
    use std::os::unix::fs::FileExt;
    for mode in BOTH {
        let mut lab = arrived(mode);
        let large = fs::File::open(lab.dir().join("top/deep/large")).unwrap();
        let mut bytes = [0; 10];
        large.read_exact_at(&mut bytes, 5 << 20).unwrap();
        fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
        let writer = fs::OpenOptions::new().write(true).open(lab.dir().join("moved/deep/large")).unwrap();
        writer.write_all_at(b"0123456789", 5 << 20).unwrap();
        large.read_exact_at(&mut bytes, 5 << 20).unwrap();
        assert_eq!(&bytes, b"0123456789", "{mode:?}");
        let version = lab.flush();
        let saved = fs::read(lab.checkout(&version).join("moved/deep/large")).unwrap();
        assert_eq!(&saved[5 << 20..(5 << 20) + 10], b"0123456789", "{mode:?}");
        assert_eq!(saved.len(), 9 << 20, "{mode:?}");
    }
}

/// SEMANTICS, Restore: "Directories that somebody moves while nothing is mounted".
#[test]
fn a_directory_that_is_moved_beneath_keeps_what_is_not_here() {
    // What is done beneath after a clean end is looked for only if that is asked for; but for the move.
    for (crash, scan) in [(true, "auto"), (false, "always"), (false, "auto")] {
        let what = format!("crash {crash}, scan {scan}");
        let mut lab = Lab::new(Setup::mode(Mode::Passthrough).with(&["--no-prefetch", "--scan", scan]));
        populate(&lab.dir());
        lab.flush();
        lab.elsewhere();
        fs::read(lab.dir().join("top/one")).unwrap(); // some of it is here
        fs::metadata(lab.dir().join("other/x")).unwrap();
        let work = |dir: &Path| {
            let path = |name: &str| dir.join(name);
            fs::create_dir(path("shelf")).unwrap();
            fs::rename(path("top"), path("shelf/moved")).unwrap();
            if crash || scan == "always" {
                // One that takes a place is another, and so is one that gets its number.
                fs::create_dir(path("top")).unwrap();
                fs::remove_dir_all(path("other")).unwrap();
                for n in 0..9 {
                    fs::create_dir(path(&format!("another {n}"))).unwrap();
                }
            }
        };
        if crash {
            lab.strike();
            detach(&lab.dir());
        } else {
            lab.unmount().must("unmount");
        }
        work(&lab.dir());
        let noted = lab.try_mount().must("mount").stderr;
        let expected = twin(work);
        let version = lab.flush();
        assert_eq!(noted.contains("other was removed"), crash || scan == "always", "{what}: {noted}");
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), &format!("{what}: the version"));
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("{what}: the tree"));
        assert_eq!(lab.flush(), version, "{what}: what came is saved again");
    }
}

/// Directories within those that were moved before, or that somebody moves as well, are found like any other.
#[test]
fn what_is_moved_beneath_within_what_was_moved_is_found() {
    for crash in [false, true] {
        let mut lab = Lab::new(Setup::mode(Mode::Passthrough).with(&["--no-prefetch", "--scan", "always"]));
        populate(&lab.dir());
        lab.flush();
        lab.elsewhere();
        let first = |dir: &Path| fs::rename(dir.join("top"), dir.join("moved")).unwrap();
        first(&lab.dir());
        for name in ["moved/deep/er/still", "moved/many", "other/x"] {
            fs::metadata(lab.dir().join(name)).unwrap();
        }
        lab.flush();
        if crash {
            lab.strike();
            detach(&lab.dir());
        } else {
            lab.unmount();
        }
        let beneath = |dir: &Path| {
            let rename = |from: &str, to: &str| fs::rename(dir.join(from), dir.join(to)).unwrap();
            rename("moved/deep/er", "out");
            rename("out/still", "moved/many/quiet");
            rename("other/x", "other/z");
            rename("other", "apart/others");
            fs::create_dir(dir.join("other")).unwrap();
        };
        beneath(&lab.dir());
        lab.mount();
        let expected = twin(|dir| {
            first(dir);
            beneath(dir);
        });
        let version = lab.flush();
        let what = format!("crash {crash}");
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), &format!("{what}: the version"));
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("{what}: the tree"));
    }
}

/// The number of an inode says nothing of a directory that was made later.
#[test]
fn a_directory_with_the_number_of_a_moved_one_is_another() {
    let mut lab = Lab::new(Setup::mode(Mode::Passthrough).with(&["--no-prefetch", "--scan", "always"]));
    populate(&lab.dir());
    lab.flush();
    lab.elsewhere();
    let work = |dir: &Path| {
        fs::rename(dir.join("other"), dir.join("moved")).unwrap();
    };
    let beneath = |dir: &Path| {
        fs::remove_dir_all(dir.join("moved")).unwrap();
        for n in 0..20 {
            fs::create_dir(dir.join(format!("new {n}"))).unwrap();
        }
    };
    work(&lab.dir());
    lab.unmount();
    beneath(&lab.dir());
    let noted = lab.try_mount().must("mount").stderr;
    assert!(noted.contains("was removed or replaced"), "nobody is told: {noted}");
    let version = lab.flush();
    let expected = twin(|dir| {
        work(dir);
        beneath(dir);
    });
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
}

/// Whoever plans a version looks at directories by names that others change meanwhile.
#[test]
fn a_directory_is_renamed_back_and_forth_while_versions_are_made() {
    let setup = Setup::mode(Mode::Passthrough).with(&["--no-prefetch"]).flushing("10ms", "20ms");
    let (mut lab, _) = Lab::arrived(setup, |dir| {
        fs::create_dir_all(dir.join("big/s")).unwrap();
        fs::create_dir(dir.join("apart")).unwrap();
        for n in 0..1500 {
            fs::write(dir.join(format!("big/{n}")), n.to_string()).unwrap();
        }
        for name in ["big/s/x", "apart/y"] {
            fs::write(dir.join(name), name).unwrap();
        }
    });
    let (dir, mut renames) = (lab.dir(), 0);
    let version = || lab.status()["version"].as_str().unwrap().parse::<u64>().unwrap();
    let first = version();
    for n in 0..1500 {
        fs::read(dir.join(format!("big/{n}"))).unwrap();
    }
    let before = Tree::take(&dir, TIMELESS);
    while renames < 20 || version() < first + 6 {
        for _ in 0..20 {
            fs::rename(dir.join("big"), dir.join("large")).unwrap();
            fs::rename(dir.join("large"), dir.join("big")).unwrap();
        }
        renames += 1;
        assert!(renames < 3000, "no versions are made");
    }
    lab.flush();
    before.assert_same(&Tree::take(&lab.restored(None), TIMELESS), "the newest version");
    lab.elsewhere();
    before.assert_same(&Tree::take(&lab.dir(), TIMELESS), "elsewhere");
}

/// What is absent comes to a directory that left the tree with one above it: it stays with that.
#[test]
fn what_came_to_a_directory_below_one_that_was_moved_stays_with_it() {
    let work = |dir: &Path| {
        let path = |name: &str| dir.join(name);
        let list = |name: &str| fs::read_dir(path(name)).unwrap().count();
        assert_eq!((list("empty"), list("empty/within"), list("empty/within/it")), (1, 1, 0));
        fs::rename(path("empty"), path("elsewhere")).unwrap(); // nothing absent is in it
        fs::hard_link(path("a"), path("elsewhere/within/it/b")).unwrap();
        fs::rename(path("c"), path("elsewhere/within/it/d")).unwrap();
        assert_eq!((list("elsewhere/within"), list("elsewhere/within/it")), (1, 2));
        assert!(fs::remove_dir(path("elsewhere/within/it")).is_err(), "it is not empty");
        fs::rename(path("elsewhere/within/it"), path("out")).unwrap();
        assert_eq!((list("elsewhere/within"), list("out")), (0, 2));
        fs::create_dir(path("over")).unwrap();
        assert!(fs::rename(path("over"), path("out")).is_err(), "over one that is not empty");
    };
    let populate = |dir: &Path| {
        fs::create_dir_all(dir.join("empty/within/it")).unwrap();
        fs::write(dir.join("a"), "first\n").unwrap();
        fs::write(dir.join("c"), "second\n").unwrap();
    };
    for mode in BOTH {
        let expected = Tree::made_by(populate, work);
        let mut lab = Lab::arrived(Setup::mode(mode).with(&["--no-prefetch"]), populate).0;
        work(&lab.dir());
        assert_eq!(lab.absent_files(), 2, "{mode:?}: it was brought");
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
    }
}
