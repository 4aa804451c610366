//! Files with several names, changed on two machines, come together at a start.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, Lab, Setup, Subject, Tree};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const WORK: &str = "a day of work";
const FIRST: &str = "as it was at first";

type Change = fn(&Path);

/// A machine that saved files with two names each and changes the directory by `here`, while another one makes a version
/// by `elsewhere`; then both come together, after as many starts that break off as `broken` says.
fn together(broken: usize, restore: &str, here: Change, elsewhere: Change) -> Lab {
    let options = ["--on-conflict", "merge", "--scan", "always", "--restore", restore];
    let mut lab = Lab::new(Setup::default().with(&options));
    let dir = lab.dir();
    for name in ["a", "m", "z"] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("f"), FIRST).unwrap();
    }
    for (name, other) in [("a/f", "one"), ("m/f", "two"), ("z/f", "z/g")] {
        fs::hard_link(dir.join(name), dir.join(other)).unwrap();
    }
    lab.flush();
    lab.turn_to(1);
    elsewhere(&lab.dir());
    fs::write(lab.dir().join("newer"), "of another machine").unwrap();
    lab.flush();
    fs::write(lab.dir().join("newest"), "of another machine").unwrap();
    assert_eq!(lab.flush(), "3");
    lab.leave_for(0);
    here(&lab.place());
    let layers = lab.layer_files();
    for layer in layers.iter().take(broken) {
        lab.break_off(layer);
    }
    lab.mount();
    lab.flush();
    let version = lab.restored(None);
    Tree::take(&lab.dir(), KEPT).assert_same(&Tree::take(&version, KEPT), "the newest version");
    assert_eq!(fs::read_to_string(version.join("newest")).unwrap(), "of another machine");
    lab
}

/// In all ways of coming together.
fn in_all_ways(here: Change, elsewhere: Change, check: impl Fn(&Path)) {
    for restore in ["lazy", "eager"] {
        for broken in 0..=3 {
            let lab = together(broken, restore, here, elsewhere);
            check(&lab.dir());
        }
    }
}

fn read(dir: &Path, name: &str) -> Option<String> {
    fs::read_to_string(dir.join(name)).ok()
}

fn is_one_file(dir: &Path, one: &str, other: &str) -> bool {
    let id = |name: &str| dir.join(name).symlink_metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    id(one).is_some() && id(one) == id(other)
}

/// SEMANTICS, Writers: "With `--on-conflict merge` changes of different paths are both in the next version".
#[test]
fn what_was_written_by_one_name_and_lost_the_other_stays() {
    in_all_ways(
        |dir| {
            for (written, removed) in [("one", "a/f"), ("m/f", "two"), ("z/g", "z/f")] {
                fs::write(dir.join(written), WORK).unwrap();
                fs::remove_file(dir.join(removed)).unwrap();
            }
        },
        |_| (),
        |dir| {
            for (written, removed) in [("one", "a/f"), ("m/f", "two"), ("z/g", "z/f")] {
                assert_eq!(read(dir, written).as_deref(), Some(WORK), "{written}");
                assert_eq!(read(dir, removed), None, "{removed}");
            }
        },
    );
}

/// The same: a directory that moved takes its names of files along.
#[test]
fn names_in_a_directory_that_moved_stay_names_of_their_files() {
    in_all_ways(
        |dir| {
            fs::rename(dir.join("a"), dir.join("moved")).unwrap();
            fs::rename(dir.join("m"), dir.join("z/moved")).unwrap();
        },
        |_| (),
        |dir| {
            assert!(is_one_file(dir, "moved/f", "one"), "of the first name");
            assert!(is_one_file(dir, "z/moved/f", "two"), "of the other one");
            assert_eq!(read(dir, "one").as_deref(), Some(FIRST));
        },
    );
}

/// The same: a further name is one of the file as it was changed here, and that is saved.
#[test]
fn names_that_a_file_got_elsewhere_are_those_of_what_was_written_here() {
    in_all_ways(
        |dir| fs::write(dir.join("one"), WORK).unwrap(),
        |dir| fs::hard_link(dir.join("a/f"), dir.join("third")).unwrap(),
        |dir| {
            for name in ["a/f", "one", "third"] {
                assert_eq!(read(dir, name).as_deref(), Some(WORK), "{name}");
                assert!(is_one_file(dir, name, "one"), "{name}");
            }
        },
    );
}

/// The same: what took one of the names here is no other name of what has the rest.
#[test]
fn names_of_a_file_that_another_one_replaced_here_keep_its_content() {
    let here: [Change; 3] = [
        |dir| {
            fs::write(dir.join("new"), WORK).unwrap();
            fs::rename(dir.join("new"), dir.join("a/f")).unwrap();
        },
        |dir| {
            fs::remove_file(dir.join("a/f")).unwrap();
            fs::create_dir(dir.join("a/f")).unwrap();
        },
        |dir| {
            fs::remove_dir_all(dir.join("a")).unwrap();
            fs::write(dir.join("a"), WORK).unwrap();
        },
    ];
    for here in here {
        in_all_ways(
            here,
            |dir| {
                fs::write(dir.join("one"), "as it is elsewhere").unwrap();
                fs::hard_link(dir.join("one"), dir.join("third")).unwrap();
            },
            |dir| {
                for name in ["one", "third"] {
                    assert_eq!(read(dir, name).as_deref(), Some("as it is elsewhere"), "{name}");
                }
                assert!(is_one_file(dir, "one", "third"));
                assert!(!is_one_file(dir, "one", "a/f"));
                assert_ne!(read(dir, "a/f").as_deref(), Some("as it is elsewhere"));
            },
        );
    }
}
