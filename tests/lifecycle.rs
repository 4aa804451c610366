//! From the first mount to the last unmount: in place, adoption, union, restart, every way to stop, and
//! everything that must be refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::lab::{NEVER, detach, mounted, signal};
use harness::{KEPT, LIMIT, Lab, Mode, Setup, Subject, Tree, eventually, run, skip};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Every regular file below `dir` with this content.
fn files_with(dir: &Path, content: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => found.extend(files_with(&path, content)),
            Ok(meta) if meta.is_file() && fs::read(&path).is_ok_and(|b| b == content.as_bytes()) => {
                found.push(path);
            }
            _ => {}
        }
    }
    found
}

/// Makes the directory remote unreachable without touching its content: its place is taken by a file.
fn cut_off(lab: &Lab) -> PathBuf {
    let away = lab.root().join("remote-away");
    fs::rename(lab.remote_dir(), &away).unwrap();
    fs::write(lab.remote_dir(), b"not a directory").unwrap();
    away
}

fn reconnect(lab: &Lab) {
    fs::remove_file(lab.remote_dir()).unwrap();
    fs::rename(lab.root().join("remote-away"), lab.remote_dir()).unwrap();
}

/// SEMANTICS, Mount: "What is in the directory stays visible under the mount, and what is written through the mount is
/// simply there after unmount."
#[test]
fn in_place() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::prepare(Setup::mode(mode));
        fs::create_dir(lab.place().join("old dir")).unwrap();
        fs::write(lab.place().join("old dir/old"), b"was here").unwrap();
        let before = Tree::take(&lab.place(), KEPT);
        lab.mount();
        before.assert_same(&Tree::take(&lab.place(), KEPT), "what was there, under the mount");
        fs::write(lab.place().join("new"), b"written").unwrap();
        fs::write(lab.place().join("old dir/old"), b"changed").unwrap();
        let through = Tree::take(&lab.place(), KEPT);
        lab.unmount();
        through.assert_same(&Tree::take(&lab.place(), KEPT), "what is there after unmount");
    }
}

/// SEMANTICS, Mount: "A directory with content and no version yet becomes version 1."
#[test]
fn content_is_adopted_as_the_first_version() {
    let mut lab = Lab::prepare(Setup::default());
    fs::write(lab.place().join("mine"), b"adopted").unwrap();
    symlink("mine", lab.place().join("link")).unwrap();
    let before = Tree::take(&lab.place(), KEPT);
    lab.mount();
    let version = lab.flush();
    before.assert_same(&Tree::take(&lab.checkout(&version), KEPT), "the first version");
    lab.elsewhere();
    before.assert_same(&Tree::take(&lab.dir(), KEPT), "the adopted tree elsewhere");
}

/// A remote that has `both` and `theirs`, and a fresh directory that has `both` and `ours`.
fn two_sides(options: &[&str]) -> Lab {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("both"), b"remote version").unwrap();
    fs::write(lab.dir().join("theirs"), b"only remote").unwrap();
    lab.flush();
    lab.kill();
    lab.wipe();
    fs::write(lab.place().join("both"), b"local version").unwrap();
    fs::write(lab.place().join("ours"), b"only local").unwrap();
    lab.setup = lab.setup.clone().with(options);
    lab
}

/// SEMANTICS, Mount: "If the directory and the remote both have content and no journal knows why, the union is shown; where
/// both have a path, the remote's version is shown and the local one is moved into the state directory, never lost."
#[test]
fn union_keeps_both_sides() {
    for options in [&[][..], &["--on-existing", "merge"]] {
        let mut lab = two_sides(options);
        lab.mount();
        let dir = lab.place();
        assert_eq!(
            (read(dir.join("both")), read(dir.join("theirs")), read(dir.join("ours"))),
            ("remote version".into(), "only remote".into(), "only local".into())
        );
        let aside = files_with(&lab.state(), "local version");
        assert_eq!(
            aside.len(),
            1,
            "the local version of a conflict is not (once) in the state directory: {aside:?}"
        );
        let version = lab.flush();
        let tree = lab.checkout(&version);
        assert_eq!(read(tree.join("ours")), "only local", "the union is not saved");
        assert_eq!(read(tree.join("both")), "remote version");
    }
}

/// SEMANTICS, Mount: "`--on-existing local`: the directory wins; the remote's version stays in the history."
#[test]
fn on_existing_local() {
    let mut lab = two_sides(&["--on-existing", "local"]);
    let before = lab.restored(None);
    lab.mount();
    assert_eq!(read(lab.place().join("both")), "local version");
    assert_eq!(read(lab.place().join("ours")), "only local");
    let version = lab.flush();
    assert_eq!(read(lab.checkout(&version).join("both")), "local version");
    assert_eq!(read(before.join("both")), "remote version");
}

/// SEMANTICS, Mount: "`--on-existing fail`: the mount is refused and neither side is changed."
#[test]
fn on_existing_fail() {
    let lab = two_sides(&["--on-existing", "fail"]);
    let (objects, tree) = (lab.objects(), Tree::take(&lab.place(), KEPT));
    let refused = lab.try_mount();
    assert!(!refused.ok() && !refused.stderr.is_empty(), "not refused: {}", refused.said());
    assert!(!lab.mounted());
    assert_eq!(lab.objects(), objects, "a refused mount wrote to the remote");
    tree.assert_same(&Tree::take(&lab.place(), KEPT), "the directory after a refused mount");
}

/// SEMANTICS, Mount: "A second daemon on the same directory or the same state is refused; the first is not disturbed."
#[test]
fn second_daemon_is_refused() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("f"), b"first").unwrap();
    let pid = lab.pid();
    let other = lab.root().join("other");
    fs::create_dir(&other).unwrap();
    let attempts = [
        ("same directory and state", lab.place(), lab.state()),
        ("same directory", lab.place(), lab.root().join("state-other")),
        ("same state", other.clone(), lab.state()),
    ];
    for (what, place, state) in attempts {
        let refused = lab.try_mount_at(&place, &state);
        assert!(!refused.ok(), "{what}: a second daemon was let in");
        assert!(!refused.stderr.trim().is_empty(), "{what}: refused without a word");
        assert!(!mounted(&other), "{what}: something is mounted");
    }
    // Nor is what the first one shows anybody's backing.
    lab.setup = lab.setup.clone().with(&["--backing", lab.place().to_str().unwrap()]);
    let refused = lab.try_mount_at(&other, &lab.root().join("state-other"));
    assert!(refused.code == 4 && !mounted(&other), "{}", refused.said());
    assert_eq!(lab.pid(), pid);
    assert_eq!(read(lab.dir().join("f")), "first");
    lab.flush();
}

/// SEMANTICS, Restore: "A restart on the same disk downloads nothing that is there."
#[test]
fn restart_downloads_nothing() {
    let mut lab = Lab::new(Setup::default());
    for i in 0..50 {
        fs::write(lab.dir().join(format!("f{i}")), vec![i; 10_000]).unwrap();
    }
    let before = Tree::take(&lab.dir(), KEPT);
    lab.flush();
    // Without the layers only HEAD can be read: anything downloaded would be missed.
    let layers =
        |lab: &Lab| lab.objects().into_iter().filter(|o| o.0.extension().is_some_and(|e| e == "zst"));
    for clean in [true, false] {
        if clean {
            drop(lab.unmount());
        } else {
            lab.kill();
        }
        let mut moved = Vec::new();
        for (path, _) in layers(&lab) {
            let away = lab.root().join(format!("away{}", moved.len()));
            fs::rename(&path, &away).unwrap();
            moved.push((path, away));
        }
        assert!(!moved.is_empty(), "no layers found: the check is void");
        lab.mount();
        before.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree after a restart without layers");
        for (path, away) in moved {
            fs::rename(away, path).unwrap();
        }
    }
    lab.elsewhere();
    before.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree elsewhere");
}

/// SEMANTICS, Restore: "What was changed in the directory while no daemon ran is shown in any case; with `--scan always`, or
/// after an unclean stop, it is found and saved as well."
#[test]
fn changes_beneath_a_stopped_mount_are_kept() {
    let mut lab = Lab::new(Setup::default());
    for name in ["kept", "changed", "deleted"] {
        fs::write(lab.dir().join(name), name).unwrap();
    }
    lab.flush();
    lab.unmount();
    lab.setup = lab.setup.clone().with(&["--scan", "always"]);
    fs::write(lab.place().join("changed"), b"by another program").unwrap();
    fs::write(lab.place().join("added"), b"added").unwrap();
    lab.mount();
    let dir = lab.dir();
    assert_eq!(
        (read(dir.join("changed")), read(dir.join("added"))),
        ("by another program".into(), "added".into())
    );
    let version = lab.flush();
    let tree = lab.checkout(&version);
    assert_eq!(
        (read(tree.join("changed")), read(tree.join("added"))),
        ("by another program".into(), "added".into())
    );
    assert_eq!(read(tree.join("kept")), "kept");
}

/// The ways to stop a mount that end with a final flush.
fn stops(what: &str, stop: impl Fn(&Lab)) {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode));
        fs::write(lab.place().join("f"), b"not flushed yet").unwrap();
        let pid = lab.pid();
        stop(&lab);
        assert!(harness::command::wait_pid(pid, LIMIT), "{what}: the daemon goes on");
        assert!(!lab.mounted(), "{what}: still mounted");
        assert_eq!(read(lab.restored(None).join("f")), "not flushed yet", "{what}: no final flush");
        assert_eq!(read(lab.place().join("f")), "not flushed yet", "{what}: the file is not in the backing");
    }
}

/// SEMANTICS, Unmount: "`icecache unmount`, SIGTERM, SIGINT, `umount` and `fusermount3 -u` each end with a final flush."
#[test]
fn unmount_flushes() {
    stops("unmount", |lab| drop(lab.unmount()));
}

/// SEMANTICS, Unmount: the same paragraph.
#[test]
fn signals_flush() {
    stops("SIGTERM", |lab| signal(lab.pid(), Signal::TERM));
    stops("SIGINT", |lab| signal(lab.pid(), Signal::INT));
}

/// SEMANTICS, Unmount: the same paragraph.
#[test]
fn umount_flushes() {
    if !harness::is_root() {
        return skip("umount", "only root may");
    }
    stops("umount", |lab| drop(run(Command::new("umount").arg(lab.place()), LIMIT).must("umount")));
}

/// SEMANTICS, Unmount: the same paragraph.
#[test]
fn fusermount_flushes() {
    if Command::new("fusermount3").arg("-V").output().is_err() {
        return skip("fusermount3", "not installed");
    }
    stops("fusermount3 -u", |lab| {
        drop(run(Command::new("fusermount3").arg("-u").arg(lab.place()), LIMIT).must("fusermount3"));
    });
}

/// SEMANTICS, Unmount: "If anything stays unsaved the exit code is not zero and the paths are listed. Nothing is lost: the
/// next mount shows and saves it."
#[test]
fn unreachable_remote_at_unmount() {
    let mut lab = Lab::new(Setup::default().with(&["--unmount-timeout", "2s"]));
    fs::write(lab.dir().join("saved"), b"saved").unwrap();
    lab.flush();
    fs::write(lab.dir().join("unsaved file"), b"precious").unwrap();
    cut_off(&lab);
    let done = lab.verb("unmount", &[]);
    assert!(!done.ok(), "unmount says all is well: {}", done.said());
    assert!(done.said().contains("unsaved file"), "the unsaved path is not listed: {}", done.said());
    detach(&lab.place());
    assert_eq!(read(lab.place().join("unsaved file")), "precious");
    reconnect(&lab);
    eventually("the next mount", LIMIT, || lab.try_mount().ok().then_some(()));
    assert_eq!(read(lab.dir().join("unsaved file")), "precious");
    let version = lab.flush();
    assert_eq!(read(lab.checkout(&version).join("unsaved file")), "precious");
}

/// SEMANTICS, Restore: "Only a remote that says `not found` is empty. Any other failure to read HEAD refuses the mount, and
/// nothing is written."
#[test]
fn unreadable_head_is_not_an_empty_start() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("good"), b"good state").unwrap();
    lab.flush();
    lab.kill();
    lab.wipe();
    let head = lab.head();
    let good = fs::read(&head)
        .unwrap_or_else(|e| panic!("HEAD is not where FORMAT.md says: {}: {e}", head.display()));
    type Break<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let breaks: [Break<'_>; 4] = [
        ("garbage", Box::new(|| fs::write(&head, b"{ not a head").unwrap())),
        ("empty", Box::new(|| fs::write(&head, b"").unwrap())),
        ("cut short", Box::new(|| fs::write(&head, &good[..good.len() / 2]).unwrap())),
        (
            "a directory in its place",
            Box::new(|| {
                fs::remove_file(&head).unwrap();
                fs::create_dir(&head).unwrap();
            }),
        ),
    ];
    for (what, spoil) in breaks {
        spoil();
        let objects = lab.objects();
        let refused = lab.try_mount();
        assert!(!refused.ok(), "{what}: mounted over an unreadable HEAD");
        assert!(!refused.stderr.trim().is_empty(), "{what}: refused without a word");
        assert!(!lab.mounted(), "{what}: mounted");
        assert_eq!(lab.objects(), objects, "{what}: the remote was changed");
    }
    fs::remove_dir(&head).unwrap();
    fs::write(&head, &good).unwrap();
    lab.mount();
    assert_eq!(read(lab.dir().join("good")), "good state");
}

/// SEMANTICS, Restore: "A layer that is missing or damaged refuses the mount with its name; no part of it is passed off as
/// the whole."
#[test]
fn damaged_layer_is_refused() {
    let mut lab = Lab::new(Setup::default().with(&["--restore", "eager"]));
    fs::write(lab.dir().join("f"), vec![7; 100_000]).unwrap();
    lab.flush();
    lab.kill();
    lab.wipe();
    let (layer, _) =
        lab.objects().into_iter().find(|o| o.0.extension().is_some_and(|e| e == "zst")).expect("a layer");
    let good = fs::read(&layer).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 3] ^= 0x40;
    for (what, bytes) in
        [("cut short", &good[..good.len() / 2]), ("a flipped bit", &flipped[..]), ("empty", &[])]
    {
        fs::write(&layer, bytes).unwrap();
        let refused = lab.try_mount();
        assert!(!refused.ok(), "{what}: mounted from a damaged layer");
        assert!(!lab.mounted());
        let to = lab.root().join("to");
        let path = to.to_str().unwrap();
        let remote = lab.remote();
        let done = lab.call(["restore", "--remote", &remote, "--name", "work", "--to", path]);
        assert!(!done.ok(), "{what}: restored from a damaged layer");
        let _ = fs::remove_dir_all(&to);
    }
    fs::write(&layer, &good).unwrap();
    lab.mount();
    assert_eq!(fs::read(lab.dir().join("f")).unwrap(), vec![7; 100_000]);
}

/// SEMANTICS, Crash: "A dead mount left by a killed daemon is no obstacle to the next start."
#[test]
fn stale_mount_point_is_tolerated() {
    let lab = Lab::new(Setup::default());
    fs::write(lab.place().join("f"), b"still here").unwrap();
    for _ in 0..3 {
        lab.kill();
        assert!(
            lab.mounted() && rustix::fs::statfs(lab.place().as_path()).is_err(),
            "the mount is not dead: the check is void"
        );
        lab.mount();
        assert_eq!(read(lab.place().join("f")), "still here");
    }
    lab.unmount();
    assert_eq!(read(lab.place().join("f")), "still here", "dead mounts are stacked below");
}

/// SEMANTICS, Crash: "A dead mount left by a killed daemon is no obstacle to the next start." Who has taken it away by other means
/// is told what is left to do, not to do it again.
#[test]
fn dead_mount_that_others_have_taken_away() {
    let lab = Lab::new(Setup::default());
    fs::write(lab.place().join("f"), b"still here").unwrap();
    lab.kill();
    rustix::mount::unmount(lab.place(), rustix::mount::UnmountFlags::DETACH).unwrap();
    let done = lab.verb("unmount", &[]);
    assert_eq!(done.code, 3, "{}", done.said());
    assert!(done.stderr.contains("nothing is mounted there any more"), "{}", done.said());
    assert!(done.stderr.contains("mount again to save"), "{}", done.said());
    let done = lab.verb("unmount", &[]);
    assert!(done.code == 5 && done.stderr.contains("not mounted by icecache"), "{}", done.said());
    lab.mount();
    assert_eq!(read(lab.dir().join("f")), "still here");
    lab.verb("flush", &["--wait"]).must("flush");
    lab.unmount();
}

/// SEMANTICS, Writers: "HEAD moves only from the version we built on. Who finds that another moved it saves its changes as a
/// fork, says so, and overwrites nothing."
#[test]
fn two_writers_lose_nothing() {
    let mut first = Lab::new(Setup::default());
    fs::write(first.dir().join("common"), b"common").unwrap();
    first.flush();
    let second = Lab::new(Setup { remote: Some(first.remote()), ..Setup::default() });
    assert_eq!(read(second.place().join("common")), "common");
    fs::write(first.dir().join("from first"), b"data of the first").unwrap();
    fs::write(second.place().join("from second"), b"data of the second").unwrap();
    first.flush();
    let head = fs::read(first.head()).unwrap();
    let late = second.verb("flush", &["--wait"]);
    assert_eq!(
        fs::read(first.head()).unwrap(),
        head,
        "the second writer moved HEAD away from the first one's version"
    );
    assert!(late.said().contains("fork"), "the fork is not announced: {}", late.said());
    assert_eq!(read(first.restored(None).join("from first")), "data of the first");
    assert_eq!(read(second.place().join("from second")), "data of the second");
    // The fork is a name of its own beside ours.
    let remote = first.remote_dir();
    let names = fs::read_dir(&remote).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let forks: Vec<String> = names.filter(|n| n != "work" && remote.join(n).join("HEAD").is_file()).collect();
    assert_eq!(forks.len(), 1, "not exactly one fork: {forks:?}");
    let to = first.root().join("fork");
    let args = ["restore", "--remote", &first.remote(), "--name", &forks[0], "--to", to.to_str().unwrap()];
    first.call(args).must("restore of the fork");
    assert_eq!(read(to.join("from second")), "data of the second");
    assert_eq!(read(to.join("common")), "common");
}

/// SEMANTICS, Mount: "`mount` returns when the directory is usable."
#[test]
fn mount_is_usable_when_it_returns() {
    let lab = Lab::prepare(Setup::default());
    for _ in 0..5 {
        lab.try_mount().must("mount");
        fs::write(lab.place().join("at once"), b"x").unwrap();
        lab.unmount();
    }
}

/// SEMANTICS, Per call: "what is unlinked while open lives on for its descriptors". Nobody tells the daemon
/// who has a fifo open, or a name by `O_PATH`.
#[test]
fn unlinked_nodes_live_on_for_their_descriptors() {
    use rustix::fs::{CWD, FileType, Mode as Bits, OFlags};
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode));
        let (fifo, link) = (lab.dir().join("fifo"), lab.dir().join("link"));
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Bits::from_raw_mode(0o600), 0).unwrap();
        symlink("nowhere", &link).unwrap();
        let nonblock = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&fifo, nonblock, Bits::empty()).unwrap();
        let named = rustix::fs::open(&link, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Bits::empty())
            .unwrap();
        fs::remove_file(&fifo).unwrap();
        fs::write(lab.dir().join("other"), "").unwrap();
        fs::rename(lab.dir().join("other"), &link).unwrap();
        rustix::fs::fchmod(&opened, Bits::from_raw_mode(0o640)).unwrap();
        let (fifo, link) = (rustix::fs::fstat(&opened).unwrap(), rustix::fs::fstat(&named).unwrap());
        assert_eq!((fifo.st_mode & 0o777, fifo.st_nlink), (0o640, 0), "{mode:?}");
        assert!(FileType::from_raw_mode(link.st_mode).is_symlink() && link.st_nlink == 0, "{mode:?}");
    }
}

/// A device, too, which must not be opened to be asked or changed.
#[test]
fn an_unlinked_device_can_be_changed_by_its_descriptors() {
    use rustix::fs::{CWD, FileType, Gid, Mode as Bits, OFlags, Timespec, Timestamps, Uid};
    if !harness::is_root() {
        return skip("lifecycle", "only root makes devices");
    }
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::new(Setup::mode(mode));
        let path = lab.dir().join("null");
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Bits::from_raw_mode(0o666), null).unwrap();
        let Ok(opened) = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Bits::empty()) else {
            return skip("lifecycle", "no device can be opened here");
        };
        fs::remove_file(&path).unwrap();
        rustix::fs::fchmod(&opened, Bits::from_raw_mode(0o640)).unwrap();
        rustix::fs::fchown(&opened, Some(Uid::from_raw(7)), Some(Gid::from_raw(8))).unwrap();
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&opened, &times).unwrap();
        let now = rustix::fs::fstat(&opened).unwrap();
        assert_eq!((now.st_mode & 0o777, now.st_uid, now.st_gid), (0o640, 7, 8), "{mode:?}");
        assert_eq!((now.st_mtime, now.st_mtime_nsec, now.st_nlink), (1_000_000_000, 7, 0), "{mode:?}");
    }
}

/// What could not be removed, or replaced, is as it was.
#[test]
fn nodes_that_keep_their_names_can_be_changed() {
    use rustix::fs::{AtFlags, CWD, FileType, Mode as Bits};
    if !harness::is_root() {
        return skip("lifecycle", "only root makes devices and mounts");
    }
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::prepare(Setup::mode(mode));
        let place = lab.place();
        fs::create_dir(place.join("nested")).unwrap();
        let nested =
            run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(place.join("nested")), LIMIT);
        if !nested.ok() {
            return skip("lifecycle", "nothing can be mounted here");
        }
        symlink("nowhere", place.join("link")).unwrap();
        let (device, bits) = (rustix::fs::makedev(1, 3), Bits::from_raw_mode(0o666));
        rustix::fs::mknodat(CWD, place.join("null"), FileType::CharacterDevice, bits, device).unwrap();
        fs::write(place.join("file"), "text").unwrap();
        fs::write(place.join("nested/file"), "another").unwrap();
        lab.mount();
        let file = fs::OpenOptions::new().read(true).write(true).open(place.join("file")).unwrap();
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap().count();
        let names = ["link", "null", "file"];
        let stat = |name: &str| fs::symlink_metadata(place.join(name)).unwrap();
        for name in names.iter().chain(&["nested/file"]) {
            stat(name);
        }
        let before = descriptors();
        for name in names {
            // Another file system is mounted beneath, and only there.
            let refused = fs::rename(place.join("nested/file"), place.join(name)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::CrossesDevices, "{mode:?}: {name}");
        }
        eventually("nothing more is open", LIMIT, || (descriptors() <= before).then_some(()));
        for name in names {
            let owner = rustix::fs::Uid::from_raw(7);
            rustix::fs::chownat(CWD, place.join(name), Some(owner), None, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap_or_else(|e| panic!("{mode:?}: {name}: {e}"));
            assert_eq!(stat(name).uid(), 7, "{mode:?}: {name}");
        }
        for name in ["null", "file"] {
            fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(stat(name).mode() & 0o777, 0o640, "{mode:?}: {name}");
        }
        drop(file);
        lab.verb("unmount", &[]).must("unmount");
        detach(&place.join("nested"));
    }
}

/// SEMANTICS, Per call: "what is unlinked while open lives on for its descriptors", extended attributes included.
#[test]
fn an_unlinked_file_keeps_its_extended_attributes() {
    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
    for mode in [Mode::Passthrough, Mode::Classic] {
        let mut lab = Lab::new(Setup::mode(mode));
        let path = lab.dir().join("f");
        fs::write(&path, "text").unwrap();
        rustix::fs::setxattr(&path, "user.before", b"1", XattrFlags::empty()).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fsetxattr(&file, "user.after", b"23", XattrFlags::CREATE).unwrap();
        let mut value = [0; 8];
        assert_eq!(fgetxattr(&file, "user.before", &mut value).unwrap(), 1, "{mode:?}");
        assert_eq!(fgetxattr(&file, "user.after", &mut value).unwrap(), 2, "{mode:?}");
        fremovexattr(&file, "user.before").unwrap();
        let mut names = [0; 64];
        let length = flistxattr(&file, &mut names).unwrap();
        assert_eq!(&names[..length], b"user.after\0", "{mode:?}");
        // Another that has its name now has nothing of it.
        fs::write(&path, "other").unwrap();
        fsetxattr(&file, "user.after", b"4", XattrFlags::REPLACE).unwrap();
        assert!(rustix::fs::getxattr(&path, "user.after", &mut value).is_err(), "{mode:?}");
        lab.flush();
    }
}

/// SEMANTICS, Status: "`status` tells what is not saved yet; after a flush nothing is."
#[test]
fn status_tells_the_truth() {
    let mut lab = Lab::new(Setup::default());
    assert_eq!(lab.status_number("dirty_files"), 0);
    fs::write(lab.dir().join("a"), vec![1; 5000]).unwrap();
    let held = fs::File::create(lab.dir().join("b")).unwrap();
    let status = lab.status();
    assert!(lab.status_number("dirty_files") >= 2, "{status}");
    assert!(lab.status_number("dirty_bytes") >= 5000, "{status}");
    assert_eq!(lab.status_number("open_for_write"), 1, "{status}");
    assert!(
        status["mode"].as_str().is_some_and(|m| m.starts_with("passthrough") || m.starts_with("classic")),
        "{status}"
    );
    let before = status["version"].clone();
    lab.flush();
    drop(held);
    lab.flush();
    let status = lab.status();
    assert_eq!(lab.status_number("dirty_files"), 0, "{status}");
    assert_ne!(status["version"], before, "{status}");
    assert!(status["last_error"].is_null() && !status["last_flush"].is_null(), "{status}");
}

/// SEMANTICS, Flush: "A flush of nothing changes nothing: no version, no request that writes."
#[test]
fn idle_flush_writes_nothing() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.dir().join("a"), b"a").unwrap();
    let version = lab.flush();
    let objects = lab.objects();
    assert_eq!(lab.flush(), version);
    assert_eq!(lab.objects(), objects);
    lab.remount();
    assert_eq!(lab.flush(), version, "a clean restart made a version");
    assert_eq!(lab.objects(), objects);
}

/// SEMANTICS, fsync: "`--fsync remote`: fsync returns when a version that contains the data is committed."
#[test]
fn fsync_remote_is_durable_elsewhere() {
    use std::io::Write;
    let mut lab = Lab::new(Setup::default().flushing("50ms", NEVER).with(&["--fsync", "remote"]));
    let mut file = fs::File::create(lab.dir().join("f")).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_all().unwrap();
    lab.elsewhere();
    assert_eq!(read(lab.dir().join("f")), "durable");
}

/// SEMANTICS, Log: "Every kept version stays restorable by the number that `flush` printed and `log` lists."
#[test]
fn log_lists_what_can_be_restored() {
    let mut lab = Lab::new(Setup::default());
    let versions: Vec<String> = (0..4)
        .map(|i| {
            fs::write(lab.dir().join("f"), i.to_string()).unwrap();
            lab.flush()
        })
        .collect();
    let log = lab.verb("log", &[]).must("log").stdout;
    let remote = lab.remote();
    let from_remote = lab.call(["log", "--remote", &remote, "--name", "work"]).must("log --remote").stdout;
    for (i, version) in versions.iter().enumerate() {
        assert!(
            log.contains(version.as_str()) && from_remote.contains(version.as_str()),
            "{version} is not in:\n{log}"
        );
        assert_eq!(read(lab.checkout(version).join("f")), i.to_string());
    }
}

/// SEMANTICS, Mount: "With `--access owner` nobody else enters; with `--access all` owners and modes decide."
#[test]
fn access_is_as_asked() {
    if !harness::is_root() {
        return skip("access", "needs root to become another user");
    }
    for (access, enters) in [("owner", false), ("all", true)] {
        let lab = Lab::prepare(Setup::default().with(&["--access", access]));
        fs::set_permissions(lab.root(), fs::Permissions::from_mode(0o755)).unwrap();
        lab.mount();
        fs::write(lab.place().join("f"), b"f").unwrap();
        fs::write(lab.place().join("secret"), b"s").unwrap();
        fs::set_permissions(lab.place().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let reads = |name: &str| {
            use std::os::unix::process::CommandExt;
            let mut cat = Command::new("cat");
            cat.arg(lab.place().join(name)).uid(65534).gid(65534);
            run(&mut cat, LIMIT).ok()
        };
        assert_eq!(reads("f"), enters, "--access {access}");
        assert!(!reads("secret"), "--access {access}: modes are not enforced");
    }
}

/// The guard detaches its own mount points and no other, also when a test panics.
#[test]
fn guard_selftest() {
    if !harness::is_root() {
        return skip("guard", "only root may mount a tmpfs");
    }
    let tmpfs = |at: &Path| {
        let none: Option<&std::ffi::CStr> = None;
        rustix::mount::mount("guard", at, "tmpfs", rustix::mount::MountFlags::empty(), none).unwrap();
    };
    let other = tempfile::tempdir().unwrap();
    tmpfs(other.path());
    let mut place = PathBuf::new();
    let report = harness::must_notice("a panic", || {
        let lab = Lab::prepare(Setup::default());
        place = lab.place();
        tmpfs(&place);
        tmpfs(&place);
        assert!(lab.mounted());
        panic!("as a failed check does");
    });
    assert_eq!(report, "as a failed check does");
    assert!(!mounted(&place) && !place.exists(), "left behind: {}", place.display());
    assert!(mounted(other.path()), "detached a mount that is not its own");
    detach(other.path());
    assert!(!mounted(other.path()));
}
