//! A version made after a move refers to content that is not here, and nothing is brought for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{Lab, Mode, Setup, Subject, TIMELESS, Tree};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const FILES: usize = 200;

fn populate(dir: &Path) {
    fs::create_dir_all(dir.join("top/deep/er")).unwrap();
    for n in 0..FILES {
        fs::write(dir.join(format!("top/{n:03}")), format!("content {n}\n").repeat(n)).unwrap();
    }
    let large: Vec<u8> = (0..9u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(dir.join("top/deep/large"), large).unwrap();
    fs::write(dir.join("top/deep/er/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("top/deep/er/tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    let sparse = fs::File::create(dir.join("top/deep/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 1 << 20).unwrap();
    symlink("../large", dir.join("top/deep/er/link")).unwrap();
    fs::write(dir.join("apart"), "not moved").unwrap();
}

fn arrived(mode: Mode, more: &[&str]) -> Lab {
    Lab::arrived(Setup::mode(mode).with(&[&["--no-prefetch"], more].concat()), populate).0
}

fn twin(work: impl Fn(&Path)) -> Tree {
    Tree::made_by(populate, work)
}

/// SEMANTICS, Restore: "it refers to the content where that stands, without bringing it".
#[test]
fn a_flush_after_a_move_brings_nothing() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = arrived(mode, &[]);
        // One that is no single range of a layer is brought.
        fs::read(lab.dir().join("top/deep/sparse")).unwrap();
        let (before, left) = (lab.downloads(), lab.absent_files());
        let work = |dir: &Path| fs::rename(dir.join("top"), dir.join("moved")).unwrap();
        work(&lab.dir());
        let version = lab.flush();
        assert_eq!((lab.downloads(), lab.absent_files()), (before, left), "{mode:?}: it was brought");
        assert_eq!(lab.flush(), version, "{mode:?}: nothing changed, and there is another version");
        let expected = twin(work);
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        // What comes later is as that version has it.
        assert_eq!(fs::read(lab.dir().join("moved/007")).unwrap(), "content 7\n".repeat(7).as_bytes());
        assert!(lab.absent_files() < left, "{mode:?}: it did not come");
        assert_eq!(lab.flush(), version, "{mode:?}: what came is saved again");
        lab.remount();
        assert_eq!(lab.flush(), version, "{mode:?}: a remount saved something");
        lab.crash();
        assert_eq!(lab.flush(), version, "{mode:?}: a crash saved something");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
        let remote = lab.remote();
        lab.call(["verify", "--remote", &remote, "--name", &lab.setup.name]).must("verify");
    }
}

/// What is done to such a tree after it was saved.
fn later(dir: &Path) {
    let path = |name: &str| dir.join(name);
    fs::remove_file(path("moved/001")).unwrap();
    fs::write(path("moved/002"), "overwritten").unwrap();
    fs::rename(path("moved/003"), path("moved/004")).unwrap();
    fs::rename(path("moved/005"), path("outside")).unwrap();
    fs::set_permissions(path("moved/006"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(path("moved/deep"), path("shallow")).unwrap();
    fs::remove_file(path("shallow/er/tool")).unwrap();
    fs::create_dir(path("moved/deep")).unwrap();
    fs::write(path("moved/deep/large"), "a small one").unwrap();
    fs::rename(path("moved"), path("again")).unwrap();
    fs::create_dir(path("top")).unwrap();
    fs::write(path("top/001"), "another").unwrap();
}

/// SEMANTICS, Restore: "A version made after such a change has everything as it is then".
#[test]
fn what_was_saved_by_reference_changes_like_anything_else() {
    for (mode, crash) in [(Mode::Passthrough, false), (Mode::Classic, false), (Mode::Passthrough, true)] {
        let mut lab = arrived(mode, &[]);
        fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
        lab.flush();
        later(&lab.dir());
        if crash {
            lab.crash();
        }
        let expected = twin(|dir| {
            fs::rename(dir.join("top"), dir.join("moved")).unwrap();
            later(dir);
        });
        let version = lab.flush();
        let what = format!("{mode:?}, crash {crash}");
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), &format!("{what}: the version"));
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("{what}: the tree"));
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("{what}: elsewhere"));
    }
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing and brings nothing back".
#[test]
fn removals_of_what_was_saved_by_reference_survive_a_crash() {
    let work = |dir: &Path| {
        fs::remove_file(dir.join("moved/010")).unwrap();
        fs::remove_dir_all(dir.join("moved/deep")).unwrap();
    };
    let mut lab = arrived(Mode::Passthrough, &[]);
    fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
    lab.flush();
    work(&lab.dir());
    lab.crash();
    let version = lab.flush();
    let expected = twin(|dir| {
        fs::rename(dir.join("top"), dir.join("moved")).unwrap();
        work(dir);
    });
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    lab.crash();
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
}

/// Merging, pruning and many versions leave what is referred to where it can be read.
#[test]
fn chains_of_moves_keep_what_they_refer_to() {
    let mut lab = arrived(Mode::Passthrough, &["--chain", "4", "--keep", "1", "--delete-after", "0h"]);
    let mut place = "top".to_owned();
    for round in 0..14 {
        let next = format!("place{round}");
        fs::rename(lab.dir().join(&place), lab.dir().join(&next)).unwrap();
        place = next;
        fs::write(lab.dir().join("round"), format!("{round}")).unwrap();
        lab.flush();
        if round == 6 {
            lab.remount();
        }
    }
    let expected = twin(|dir| {
        fs::rename(dir.join("top"), dir.join(&place)).unwrap();
        fs::write(dir.join("round"), "13").unwrap();
    });
    let version = lab.flush();
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    lab.remount(); // what is tidied up after the last flush is done then
    let remote = lab.remote();
    lab.call(["verify", "--remote", &remote, "--name", &lab.setup.name]).must("verify");
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
    lab.elsewhere();
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "elsewhere");
}

/// Another machine goes on from such a version, and this one follows.
#[test]
fn another_machine_goes_on_from_references() {
    let mut lab = arrived(Mode::Passthrough, &[]);
    fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
    lab.flush();
    lab.elsewhere();
    fs::rename(lab.dir().join("moved"), lab.dir().join("once more")).unwrap();
    fs::remove_file(lab.dir().join("once more/020")).unwrap();
    let version = lab.flush();
    let expected = twin(|dir| {
        fs::rename(dir.join("top"), dir.join("once more")).unwrap();
        fs::remove_file(dir.join("once more/020")).unwrap();
    });
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    lab.elsewhere();
    lab.verb("hydrate", &[]).must("hydrate");
    assert_eq!(lab.absent_files(), 0);
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "all of it");
    assert_eq!(lab.flush(), version, "bringing it made a version");
}

/// Nothing else is absent any more, and the removals of the move are saved: what was moved still is to come.
#[test]
fn what_was_moved_alone_is_left_to_come() {
    for crash in [false, true] {
        let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
        populate(&lab.dir());
        fs::remove_file(lab.dir().join("apart")).unwrap();
        fs::remove_file(lab.dir().join("top/deep/sparse")).unwrap();
        lab.flush();
        lab.elsewhere();
        fs::rename(lab.dir().join("top"), lab.dir().join("moved")).unwrap();
        let version = lab.flush();
        let left = lab.absent_files();
        assert!(left > FILES as u64, "{left} are left");
        if crash {
            lab.crash();
        } else {
            lab.remount();
        }
        assert_eq!(lab.absent_files(), left);
        fs::write(lab.dir().join("moved/new"), "new").unwrap();
        fs::remove_file(lab.dir().join("moved/011")).unwrap();
        let next = lab.flush();
        assert_ne!(next, version);
        lab.crash();
        assert_eq!(lab.flush(), next);
        let saved = Tree::take(&lab.checkout(&next), TIMELESS);
        assert!(!lab.dir().join("moved/011").exists());
        saved.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        assert_eq!(fs::read(lab.dir().join("moved/010")).unwrap(), "content 10\n".repeat(10).as_bytes());
    }
}
