//! Files that take each other's place all the time: the backing gives the inode of a deleted one to the next, and the
//! kernel must not take what is open for something else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Lab, Layers, Mode, Overlay, Setup, Subject, is_root, skip};
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
                        let done = step(dir, n >> 33);
                        if let Some(e) = done.err().filter(|e| e.kind() != io::ErrorKind::NotFound) {
                            wrong.push(format!("{}: {e}", (n >> 33) % 8));
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

/// A file of an image gets another birth time with its first change, and is the same: whoever has it open reaches it
/// whatever becomes of its name, and not the file that has that name then.
#[test]
fn a_file_of_an_image_is_the_same_after_its_first_change() {
    if !is_root() {
        return skip("replaced", "only root mounts an overlayfs");
    }
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::prepare(Setup::mode(mode));
        let fill = |image: &Path| {
            for name in ["log", "gone"] {
                fs::write(image.join(name), "of the image").unwrap();
            }
        };
        let Some(overlay) = Overlay::over(&lab, Layers::Together, fill) else {
            return skip("replaced", "no overlayfs can be mounted here");
        };
        lab.mount();
        let dir = lab.place();
        let append = |name: &str| OpenOptions::new().append(true).open(dir.join(name)).unwrap();
        // A log that is rotated while somebody writes to it.
        let mut log = append("log");
        log.write_all(b", written").unwrap();
        fs::rename(dir.join("log"), dir.join("log.1")).unwrap();
        fs::write(dir.join("log"), "a new one").unwrap();
        log.write_all(b" and rotated").unwrap();
        log.set_len(20).unwrap();
        log.set_permissions(Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "a new one");
        assert_eq!(fs::read_to_string(dir.join("log.1")).unwrap(), "of the image, writte");
        assert_ne!(fs::metadata(dir.join("log")).unwrap().permissions().mode() & 0o777, 0o600);
        // One that has lost its name, with and without another in its place.
        let mut gone = append("gone");
        gone.write_all(b", written").unwrap();
        fs::remove_file(dir.join("gone")).unwrap();
        gone.set_len(2).unwrap();
        assert_eq!(gone.metadata().unwrap().len(), 2);
        fs::write(dir.join("gone"), "a new one").unwrap();
        gone.set_len(1).unwrap();
        assert_eq!(fs::read_to_string(dir.join("gone")).unwrap(), "a new one");
        drop((log, gone));
        // The overlayfs stays, so that this is still a mount.
        lab.verb("unmount", &[]).must("unmount");
        drop(overlay);
    }
}

/// SEMANTICS, Flush: "What was deleted before a flush is not in its version": of a directory that something else took the
/// place of for a moment, too.
#[test]
fn a_directory_that_was_exchanged_leaves_nothing_at_its_place() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    for (one, other) in [("a", "d"), ("d", "z")] {
        let mut lab = Lab::new(Setup::default());
        let dir = lab.dir();
        fs::create_dir_all(dir.join("d/below")).unwrap();
        fs::write(dir.join("d/x"), "of the directory").unwrap();
        let file = if one == "d" { other } else { one };
        fs::write(dir.join(file), "a file").unwrap();
        lab.flush();
        renameat_with(CWD, dir.join(one), CWD, dir.join(other), RenameFlags::EXCHANGE).unwrap();
        fs::remove_file(dir.join("d")).unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        lab.flush();
        let version = lab.restored(None);
        assert_eq!(fs::read_to_string(version.join(file).join("x")).unwrap(), "of the directory");
        assert_eq!(fs::read_dir(version.join("d")).unwrap().count(), 0, "{one} and {other}");
    }
}
