//! Two machines that share a name and are used one after the other: the one that only looked has nothing to save.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, Lab, Setup, Subject, Tree};
use std::fs;
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
