//! What once went wrong with a directory that is usable before its content is there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{LIMIT, Lab, Mode, Setup, Subject, TIMELESS, Tree};
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxFlags};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};

const BOTH: [Mode; 2] = [Mode::Passthrough, Mode::Classic];

fn populate(dir: &Path) {
    for sub in ["a/b", "many", "other"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for n in 0..100 {
        fs::write(dir.join(format!("many/{n}")), format!("content {n}\n")).unwrap();
    }
    for name in ["a/file", "a/b/deep", "other/one", "top"] {
        fs::write(dir.join(name), format!("this is {name}\n")).unwrap();
    }
    fs::hard_link(dir.join("a/file"), dir.join("other/second name")).unwrap();
    fs::hard_link(dir.join("a/file"), dir.join("third")).unwrap();
}

/// A machine that has just got a directory back; nothing of it is here.
fn arrived(mode: Mode) -> Lab {
    let mut lab = Lab::new(Setup::mode(mode).with(&["--no-prefetch"]));
    populate(&lab.dir());
    lab.flush();
    lab.elsewhere();
    lab
}

fn absent(lab: &Lab) -> u64 {
    lab.status_number("absent_files")
}

/// One more machine that shares the remote of a lab.
struct Machine<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    state: PathBuf,
}

impl<'a> Machine<'a> {
    fn new(lab: &'a Lab, name: &str) -> Self {
        let dir = lab.root().join(name);
        fs::create_dir(&dir).unwrap();
        Self { lab, dir, state: lab.root().join(format!("{name}.state")) }
    }

    fn mount(&self) -> String {
        self.lab.try_mount_at(&self.dir, &self.state).must("mount").stderr
    }

    fn unmount(&self) {
        self.lab.call(["unmount".as_ref(), self.dir.as_os_str()]).must("unmount");
    }
}

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn a_machine_that_only_read_takes_the_newer_version() {
    for options in [&[][..], &["--no-prefetch"][..]] {
        let lab = Lab::prepare(Setup::default().with(options));
        let (writer, reader) = (Machine::new(&lab, "writer"), Machine::new(&lab, "reader"));
        writer.mount();
        populate(&writer.dir);
        writer.unmount();
        reader.mount();
        for name in ["a/file", "many/3", "other/one", "top"] {
            fs::read(reader.dir.join(name)).unwrap();
        }
        reader.unmount();
        writer.mount();
        fs::write(writer.dir.join("many/3"), "newer").unwrap();
        writer.unmount();
        let said = reader.mount();
        assert!(!said.contains("unsaved"), "{options:?}: {said}");
        assert_eq!(fs::read_to_string(reader.dir.join("many/3")).unwrap(), "newer", "{options:?}");
        reader.unmount();
    }
}

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn a_scan_finds_no_change_in_what_came() {
    for mode in BOTH {
        let mut lab = arrived(mode);
        lab.setup.options.push("--scan=always".into());
        fs::read(lab.dir().join("a/file")).unwrap();
        fs::read(lab.dir().join("many/1")).unwrap();
        lab.remount();
        assert_eq!(lab.flush(), "1", "{mode:?}: what came made a version");
        // The same in a directory that has changes of its own, before and after they are saved.
        fs::write(lab.dir().join("many/new"), "new").unwrap();
        fs::read(lab.dir().join("many/2")).unwrap();
        assert_eq!(lab.flush(), "2");
        fs::read(lab.dir().join("many/3")).unwrap();
        lab.remount();
        assert_eq!(lab.flush(), "2", "{mode:?}: what came made a version");
        // And what was changed there is found all the same.
        lab.unmount();
        fs::set_permissions(lab.dir().join("many"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        lab.mount();
        assert_eq!(lab.flush(), "3", "{mode:?}: a change was taken for something that came");
    }
}

/// SEMANTICS, Restore: "However many wait at once".
#[test]
fn more_opens_than_the_daemon_has_threads_are_all_answered() {
    const OPENERS: usize = 1100;
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    for n in 0..OPENERS {
        fs::write(lab.dir().join(n.to_string()), n.to_string()).unwrap();
    }
    lab.flush();
    lab.elsewhere();
    let (together, (tell, told)) = (Arc::new(Barrier::new(OPENERS)), mpsc::channel());
    for n in 0..OPENERS {
        let (path, together, tell) = (lab.dir().join(n.to_string()), together.clone(), tell.clone());
        std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                together.wait();
                let _nobody_waits = tell.send((n, fs::read_to_string(path).ok()));
            })
            .unwrap();
    }
    for answered in 0..OPENERS {
        let (n, read) =
            told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{answered} of {OPENERS} were answered"));
        assert_eq!(read, Some(n.to_string()));
    }
    assert_eq!(absent(&lab), 0);
}

/// SEMANTICS, Restore: "Every operation works on what is not here yet".
#[test]
fn an_absent_file_changes_places_with_a_directory_of_absent_files() {
    for mode in BOTH {
        let twin = tempfile::tempdir().unwrap();
        populate(twin.path());
        let exchange = |dir: &Path| {
            let swap = |a: &str, b: &str| {
                rustix::fs::renameat_with(CWD, dir.join(a), CWD, dir.join(b), RenameFlags::EXCHANGE)
            };
            swap("top", "a").unwrap();
            swap("many", "third").unwrap();
            swap("other/one", "many").unwrap();
        };
        exchange(twin.path());
        let mut lab = arrived(mode);
        exchange(&lab.dir());
        let version = lab.flush();
        let expected = Tree::take(twin.path(), TIMELESS);
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
    }
}

/// SEMANTICS, Restore: "What comes to the directory is no change of it".
#[test]
fn what_a_program_does_to_a_directory_stays_while_files_come_to_it() {
    let lab = arrived(Mode::Passthrough);
    let many = lab.dir().join("many");
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (many, done) = (many.clone(), done.clone());
        std::thread::spawn(move || {
            for n in 0..100 {
                fs::read(many.join(n.to_string())).unwrap();
            }
            done.store(true, Ordering::Release);
        })
    };
    let mut second = 1_000_000;
    while !done.load(Ordering::Acquire) {
        second += 1;
        let time = rustix::fs::Timespec { tv_sec: second, tv_nsec: 7 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &many, &times, AtFlags::empty()).unwrap();
        let statx = || {
            rustix::fs::statx(CWD, &many, AtFlags::from_bits_retain(0x2000), StatxFlags::BASIC_STATS).unwrap()
        };
        assert_eq!(statx().stx_mtime.tv_sec, second, "another time than was set");
    }
    reader.join().unwrap();
    assert_eq!(fs::metadata(&many).unwrap().mtime(), second, "the last time that was set is lost");
}
