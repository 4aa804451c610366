//! Files that take each other's place all the time: the backing gives the inode of a deleted one to the next, and the
//! kernel must not take what is open for something else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Lab, Mode, Setup, Subject};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const THREADS: usize = 6;
const TURNS: usize = 6_000;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// One thing that a program may do with a file that others replace.
fn step(dir: &Path, n: usize) -> io::Result<()> {
    let (path, aside) = (dir.join(NAMES[n / 7 % 3]), dir.join(format!("{}.new", NAMES[n / 7 % 3])));
    match n % 8 {
        0..=2 => {
            fs::File::create(&aside)?.write_all(&[7; 1000])?;
            fs::rename(&aside, &path)
        }
        3 => fs::remove_file(&path),
        4 => fs::set_permissions(&path, Permissions::from_mode(0o600)),
        5 => fs::symlink_metadata(&path).map(drop),
        6 => fs::read(&path).map(drop),
        _ => OpenOptions::new().write(true).open(&path)?.set_len(5),
    }
}

/// A name may be gone; nothing else goes wrong.
fn nothing_but_missing_names(mode: Mode) {
    let lab = Lab::new(Setup::mode(mode));
    let dir = lab.dir();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let dir = &dir;
                // Each goes its own way, and the same in every run.
                let mut n = thread * 7919 + 1;
                scope.spawn(move || {
                    let mut wrong = Vec::new();
                    for _ in 0..TURNS {
                        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        match step(dir, n >> 33) {
                            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                                wrong.push(format!("{}: {e}", (n >> 33) % 8))
                            }
                            _ => {}
                        }
                    }
                    wrong
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn files_that_replace_each_other_passthrough() {
    nothing_but_missing_names(Mode::Passthrough);
}

#[test]
fn files_that_replace_each_other_classic() {
    nothing_but_missing_names(Mode::Classic);
}
