//! Names and attributes of files that are not here change without their content.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{Lab, Mode, Setup, Subject, TIMELESS, Tree, skip};
use rustix::fs::{IFlags, XattrFlags, ioctl_getflags, ioctl_setflags, lgetxattr, lremovexattr, lsetxattr};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

const FILES: usize = 60;

fn populate(dir: &Path) {
    fs::create_dir_all(dir.join("top/deep")).unwrap();
    fs::create_dir_all(dir.join("apart")).unwrap();
    for n in 0..FILES {
        fs::write(dir.join(format!("top/{n:03}")), format!("content {n}\n").repeat(n + 1)).unwrap();
    }
    let large: Vec<u8> = (0..9u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(dir.join("top/deep/large"), large).unwrap();
    fs::set_permissions(dir.join("top/010"), fs::Permissions::from_mode(0o6755)).unwrap();
    lsetxattr(dir.join("top/011"), "user.old", b"old", XattrFlags::empty()).unwrap();
    fs::hard_link(dir.join("top/012"), dir.join("apart/twelve")).unwrap();
    fs::write(dir.join("apart/stays"), "as it was").unwrap();
}

fn arrived(mode: Mode) -> Lab {
    Lab::arrived(Setup::mode(mode).with(&["--no-prefetch"]), populate).0
}

fn twin(work: impl Fn(&Path)) -> Tree {
    Tree::made_by(populate, work)
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// Nothing here needs a byte of content.
fn restate(dir: &Path) {
    let path = |name: &str| dir.join(name);
    // Names: beside it, in another directory, in one that no version has, and in one within that.
    fs::rename(path("top/000"), path("top/aside")).unwrap();
    fs::rename(path("top/001"), path("apart/one")).unwrap();
    fs::create_dir_all(path("new/er")).unwrap();
    fs::rename(path("top/002"), path("new/two")).unwrap();
    fs::rename(path("top/003"), path("new/er/three")).unwrap();
    // In place of another; there and back; further; and gone.
    fs::rename(path("top/004"), path("top/005")).unwrap();
    fs::rename(path("top/006"), path("top/six")).unwrap();
    fs::rename(path("top/six"), path("top/006")).unwrap();
    for (from, to) in [("top/007", "seven"), ("seven", "new/seven"), ("new/seven", "apart/7")] {
        fs::rename(path(from), path(to)).unwrap();
    }
    fs::rename(path("top/008"), path("eight")).unwrap();
    fs::remove_file(path("eight")).unwrap();
    // Another takes the old name.
    fs::rename(path("top/009"), path("top/nine")).unwrap();
    fs::write(path("top/009"), "another").unwrap();
    // Attributes.
    chown(path("top/010"), Some(7), Some(8)).unwrap();
    lsetxattr(path("top/011"), "user.new", b"new", XattrFlags::CREATE).unwrap();
    lsetxattr(path("top/011"), "user.old", b"newer", XattrFlags::REPLACE).unwrap();
    lsetxattr(path("top/013"), "user.gone", b"soon", XattrFlags::empty()).unwrap();
    lremovexattr(path("top/013"), "user.gone").unwrap();
    fs::set_permissions(path("apart/twelve"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(path("top/deep/large"), fs::Permissions::from_mode(0o4700)).unwrap();
    fs::rename(path("top/deep/large"), path("new/large")).unwrap();
    // More names, of one that has another name already, too.
    fs::hard_link(path("top/014"), path("top/fourteen")).unwrap();
    fs::hard_link(path("top/fourteen"), path("new/14")).unwrap();
    fs::rename(path("top/014"), path("top/xiv")).unwrap();
    fs::hard_link(path("top/012"), path("new/er/12")).unwrap();
    fs::hard_link(path("top/015"), path("fifteen")).unwrap();
    fs::remove_file(path("top/015")).unwrap();
    // And what holds them moves.
    fs::rename(path("new"), path("newer")).unwrap();
    fs::rename(path("top"), path("down")).unwrap();
    fs::rename(path("down/016"), path("newer/er/16")).unwrap();
}

/// SEMANTICS, Restore: "Renaming, linking and changing attributes (mode, owner, times, `user.` attributes of at most 1 KiB) costs no request".
#[test]
fn names_and_attributes_change_without_content() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = arrived(mode);
        let (before, left) = (lab.downloads(), lab.absent_files());
        restate(&lab.dir());
        assert_eq!(lab.downloads(), before, "{mode:?}: something was brought");
        // 005 and 008 are no more.
        assert_eq!(lab.absent_files(), left - 2, "{mode:?}");
        let expected = twin(restate);
        let version = lab.flush();
        assert_eq!(
            (lab.downloads(), lab.absent_files()),
            (before, left - 2),
            "{mode:?}: a flush has brought it"
        );
        assert_eq!(lab.flush(), version, "{mode:?}: nothing changed, and there is another version");
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        lab.remount();
        assert_eq!(lab.flush(), version, "{mode:?}: a remount saved something");
        assert_eq!(lab.downloads(), 0, "{mode:?}: a remount has brought something");
        lab.crash();
        assert_eq!(lab.flush(), version, "{mode:?}: a crash saved something");
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
        // Who waits for a file is told before it is counted.
        lab.await_status("everything is here", |status| status["absent_files"] == 0);
        assert_eq!(lab.flush(), version, "{mode:?}: what came is saved again");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
        let remote = lab.remote();
        lab.call(["verify", "--remote", &remote, "--name", &lab.setup.name]).must("verify");
    }
}

/// Nobody has saved it yet.
#[test]
fn a_killed_daemon_forgets_no_name_and_no_attribute() {
    for (mode, brought) in [(Mode::Passthrough, false), (Mode::Classic, true)] {
        let mut lab = arrived(mode);
        restate(&lab.dir());
        lab.crash();
        let expected = twin(restate);
        if brought {
            expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("{mode:?}: the tree"));
        }
        let version = lab.flush();
        expected
            .assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), &format!("{mode:?}: the version"));
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), &format!("{mode:?}: the tree afterwards"));
        assert_eq!(lab.flush(), version, "{mode:?}: what came is saved again");
    }
}

/// SEMANTICS, Restore: "what is not here comes under the names and with the attributes that it has by then".
/// What came between the change and the flush is saved as it is then.
#[test]
fn what_comes_after_a_change_comes_as_it_is_then() {
    let mut lab = arrived(Mode::Passthrough);
    let restated = |dir: &Path| {
        restate(dir);
        for name in ["down/aside", "newer/two", "down/005", "down/010", "down/fourteen", "newer/er/12"] {
            fs::read(dir.join(name)).unwrap();
        }
        fs::write(dir.join("down/xiv"), "written under one of its names").unwrap();
    };
    restated(&lab.dir());
    let expected = twin(restated);
    let version = lab.flush();
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
    lab.elsewhere();
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
}

#[test]
fn times_are_as_they_were_set() {
    let mut lab = arrived(Mode::Passthrough);
    let file = lab.dir().join("top/020");
    let before = lab.downloads();
    let (atime, mtime) = (long_ago(), long_ago() + Duration::from_nanos(1_500_000_001));
    let set = |time: SystemTime| {
        let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        rustix::fs::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
    };
    let times = rustix::fs::Timestamps { last_access: set(atime), last_modification: set(mtime) };
    let flags = rustix::fs::AtFlags::empty();
    rustix::fs::utimensat(rustix::fs::CWD, &file, &times, flags).unwrap();
    let stat = fs::metadata(&file).unwrap();
    assert_eq!((stat.accessed().unwrap(), stat.modified().unwrap()), (atime, mtime));
    assert!(stat.ctime() > stat.mtime(), "its change is no change");
    assert_eq!(lab.downloads(), before);
    let dir = fs::metadata(lab.dir().join("top")).unwrap().modified().unwrap();
    fs::rename(&file, lab.dir().join("top/renamed")).unwrap();
    assert!(
        fs::metadata(lab.dir().join("top")).unwrap().modified().unwrap() > dir,
        "the directory has changed"
    );
    lab.flush();
    lab.elsewhere();
    assert_eq!(fs::metadata(lab.dir().join("top/renamed")).unwrap().modified().unwrap(), mtime);
    fs::read(lab.dir().join("top/renamed")).unwrap();
    assert_eq!(fs::metadata(lab.dir().join("top/renamed")).unwrap().modified().unwrap(), mtime);
}

/// Programs see the errors that they would see if it were here.
#[test]
fn errors_are_those_of_any_file() {
    let lab = arrived(Mode::Passthrough);
    let path = |name: &str| lab.dir().join(name);
    let error = |result: rustix::io::Result<()>| result.unwrap_err();
    let mut value = [0; 8];
    use rustix::io::Errno;
    assert_eq!(error(lsetxattr(path("top/011"), "user.old", b"x", XattrFlags::CREATE)), Errno::EXIST);
    assert_eq!(error(lsetxattr(path("top/011"), "user.none", b"x", XattrFlags::REPLACE)), Errno::NODATA);
    assert_eq!(error(lremovexattr(path("top/011"), "user.none")), Errno::NODATA);
    assert_eq!(lgetxattr(path("top/011"), "user.old", &mut value), Ok(3));
    assert_eq!(
        fs::hard_link(path("top/020"), path("top/021")).unwrap_err().raw_os_error(),
        Some(libc::EEXIST)
    );
    assert_eq!(fs::rename(path("top/020"), path("top/deep")).unwrap_err().raw_os_error(), Some(libc::EISDIR));
    let renamed = rustix::fs::renameat_with(
        rustix::fs::CWD,
        path("top/020"),
        rustix::fs::CWD,
        path("top/021"),
        rustix::fs::RenameFlags::NOREPLACE,
    );
    assert_eq!(renamed, Err(Errno::EXIST));
    // Nothing stands by the name of what came and was removed since.
    fs::read(path("top/018")).unwrap();
    let rename_to = |to: &str| {
        let (from, to, flags) = (path("top/020"), path(to), rustix::fs::RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)
    };
    assert_eq!(rename_to("top/018"), Err(Errno::EXIST));
    fs::remove_file(path("top/018")).unwrap();
    assert_eq!(rename_to("top/018"), Ok(()));
    assert_eq!(rename_to("top/018").unwrap_err(), Errno::NOENT);
    fs::rename(path("top/018"), path("top/020")).unwrap();
    fs::rename(path("top/022"), path("gone")).unwrap();
    assert_eq!(fs::read(path("top/022")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    // Two names of one file: nothing happens.
    fs::rename(path("top/012"), path("apart/twelve")).unwrap();
    assert!(path("top/012").exists() && path("apart/twelve").exists());
    // A directory with nothing but such a name in it is not empty.
    fs::create_dir(path("only")).unwrap();
    fs::rename(path("top/023"), path("only/it")).unwrap();
    assert_eq!(fs::remove_dir(path("only")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    let names: Vec<_> = fs::read_dir(path("only")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["it"]);
    fs::remove_file(path("only/it")).unwrap();
    fs::remove_dir(path("only")).unwrap();
}

/// What is made here and worked on elsewhere is the same as in a directory that is no mount.
fn as_in_any_directory(make: impl Fn(&Path), work: impl Fn(&Path)) {
    let mut lab = Lab::new(Setup::mode(Mode::Passthrough).with(&["--no-prefetch"]));
    make(&lab.dir());
    lab.flush();
    lab.elsewhere();
    work(&lab.dir());
    let twin = tempfile::tempdir().unwrap();
    make(twin.path());
    work(twin.path());
    let version = lab.flush();
    let expected = Tree::take(twin.path(), TIMELESS);
    expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
}

/// A file that loses one of its names keeps the others.
#[test]
fn a_name_of_several_is_replaced_and_no_other() {
    let make = |dir: &Path| {
        fs::write(dir.join("one"), "linked").unwrap();
        fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
        fs::write(dir.join("precious"), "precious").unwrap();
    };
    let work = |dir: &Path| {
        fs::metadata(dir.join("one")).unwrap();
        fs::metadata(dir.join("two")).unwrap();
        fs::rename(dir.join("precious"), dir.join("two")).unwrap();
        assert_eq!(fs::read(dir.join("two")).unwrap(), b"precious");
        fs::set_permissions(dir.join("one"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.join("one"), "new").unwrap();
        assert_eq!(fs::read(dir.join("two")).unwrap(), b"precious");
    };
    as_in_any_directory(make, work);
}

/// Directories within one that was moved are where it is.
#[test]
fn what_is_renamed_into_a_moved_directory_stays_there() {
    let make = |dir: &Path| {
        fs::create_dir_all(dir.join("old/sub")).unwrap();
        fs::create_dir(dir.join("shelf")).unwrap();
        fs::write(dir.join("a"), "a").unwrap();
        fs::write(dir.join("b"), "b").unwrap();
    };
    let work = |dir: &Path| {
        fs::metadata(dir.join("old/sub")).unwrap();
        fs::rename(dir.join("old"), dir.join("shelf/new")).unwrap();
        fs::rename(dir.join("a"), dir.join("shelf/new/sub/a")).unwrap();
        fs::create_dir_all(dir.join("old/sub")).unwrap();
        fs::hard_link(dir.join("b"), dir.join("shelf/new/sub/b")).unwrap();
        assert_eq!(fs::read(dir.join("shelf/new/sub/a")).unwrap(), b"a");
    };
    as_in_any_directory(make, work);
}

/// Saved again and again, two names stay names of one file.
#[test]
fn names_of_one_file_are_saved_together() {
    let mut lab = arrived(Mode::Passthrough);
    let steps: [fn(&Path); 5] = [
        |dir| fs::rename(dir.join("top/012"), dir.join("top/h")).unwrap(),
        |dir| fs::rename(dir.join("top/h"), dir.join("i")).unwrap(),
        |dir| chown(dir.join("i"), Some(3), Some(3)).unwrap(),
        |dir| fs::rename(dir.join("top/030"), dir.join("top/031")).unwrap(),
        |dir| fs::rename(dir.join("apart"), dir.join("elsewhere")).unwrap(),
    ];
    let before = lab.downloads();
    for count in 1..=steps.len() {
        steps[count - 1](&lab.dir());
        let version = lab.flush();
        let expected = twin(|dir| steps[..count].iter().for_each(|step| step(dir)));
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), &format!("after {count} steps"));
        assert_eq!(
            lab.flush(),
            version,
            "after {count} steps: nothing changed, and there is another version"
        );
    }
    assert_eq!(lab.downloads(), before);
    let expected = twin(|dir| steps.iter().for_each(|step| step(dir)));
    expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree");
}

/// Nobody can change its names, until it is dropped.
struct Immutable(File);

impl Immutable {
    /// `None` where the disk knows no such thing.
    fn make(dir: &Path) -> Option<Self> {
        let dir = File::open(dir).unwrap();
        let flags = ioctl_getflags(&dir).ok()?;
        ioctl_setflags(&dir, flags | IFlags::IMMUTABLE).ok()?;
        Some(Self(dir))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let flags = ioctl_getflags(&self.0).unwrap();
        ioctl_setflags(&self.0, flags - IFlags::IMMUTABLE).unwrap();
    }
}

/// A program that is told that its change of a name failed has changed nothing, here and in the next version.
#[test]
fn where_the_disk_refuses_nothing_changes() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = arrived(mode);
        let dir = lab.dir();
        // What stands above is there.
        assert!(fs::metadata(dir.join("top/000")).is_ok() && fs::metadata(dir.join("apart/stays")).is_ok());
        lab.unmount();
        let Some(immutable) = Immutable::make(&dir.join("top")) else {
            return skip("immutable directories", "needs root and a file system that has them");
        };
        lab.mount();
        let path = |name: &str| dir.join(name);
        let names = |dir: &str| -> BTreeSet<_> {
            fs::read_dir(path(dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let before = (names("top"), names("apart"));
        for (what, result) in [
            ("a removal", fs::remove_file(path("top/000"))),
            ("a move out", fs::rename(path("top/001"), path("apart/one"))),
            ("a move within", fs::rename(path("top/002"), path("top/two"))),
            ("a move over another", fs::rename(path("top/003"), path("top/004"))),
            ("a move in", fs::rename(path("apart/stays"), path("top/stays"))),
            ("a link", fs::hard_link(path("top/005"), path("top/five"))),
        ] {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{mode:?}: {what}: {error}");
        }
        assert_eq!((names("top"), names("apart")), before, "{mode:?}: what failed has changed nothing");
        fs::write(path("apart/new"), "new").unwrap();
        let version = lab.flush();
        let tree = lab.checkout(&version);
        let twin = twin(|dir| fs::write(dir.join("apart/new"), "new").unwrap());
        Tree::take(&tree, TIMELESS).assert_same(&twin, "nor does a version have it");
        drop(immutable);
        lab.unmount();
    }
}
