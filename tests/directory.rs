//! A directory that no mount shows: what changed is found by a scan, and nothing is missed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "support/cloud.rs"]
mod cloud;
mod harness;
mod support;

use cloud::Cloud;
use harness::{Dice, Finished, KEPT, LIMIT, Lab, Layers, Overlay, Setup, Tree, is_root, run, skip, slice};
use icecache::ErrorKind;
use icecache::config::{ConfigFile, Environment, Merged, MountSettings, OnConflict};
use icecache::serve::directory::{Claim, Saved, Session, Stray};
use icecache::serve::startup::StatusPipe;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

#[track_caller]
fn exec(lab: &Lab, options: &[&str], script: &str) -> Finished {
    let (remote, place, state) = (lab.remote(), lab.place(), lab.state());
    let mut command = lab.command(["exec", "--mode", "directory", "--dir"]);
    command.arg(&place).arg("--state-dir").arg(&state).args(["--remote", &remote, "--name", &lab.setup.name]);
    command.args(&lab.setup.remote_options).args(options).args(["--", "sh", "-c", script]);
    run(command.current_dir(&place), LIMIT)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// What a session of the library is told.
fn settings(lab: &Lab) -> MountSettings {
    let flags: Vec<(&'static str, OsString)> =
        vec![("remote", lab.remote().into()), ("name", "work".into()), ("state-dir", lab.state().into())];
    let environment = Environment::default();
    let mut merged = Merged::new(flags, &environment, &ConfigFile::default(), None).unwrap();
    MountSettings::resolve(&lab.place(), &mut merged, &environment, false).unwrap()
}

fn session(lab: &Lab) -> Session {
    Session::open(&settings(lab), Stray::Keep, &StatusPipe::new(Box::new(|_| {}))).unwrap()
}

#[track_caller]
fn save(session: &Session) -> Saved {
    let saved = session.save(None).unwrap();
    assert!(saved.stuck.is_empty() && saved.fork.is_none(), "{saved:?}");
    saved
}

/// Everything that a tree can have.
fn furnish(dir: &Path) {
    fs::create_dir_all(dir.join("deep/er/est")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("deep/file"), b"text").unwrap();
    fs::write(dir.join("deep/er/big"), vec![7; 300_000]).unwrap();
    fs::hard_link(dir.join("deep/file"), dir.join("deep/er/link")).unwrap();
    symlink("../nowhere", dir.join("deep/symbolic")).unwrap();
    fs::set_permissions(dir.join("deep/er"), fs::Permissions::from_mode(0o750)).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_all_at(b"x", 3 << 20).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    rustix::fs::setxattr(dir.join("deep/file"), "user.note", b"kept", rustix::fs::XattrFlags::empty())
        .unwrap();
}

/// FUNCTIONS, Modes: "The same state moves between them."
#[test]
fn the_same_tree_moves_between_a_mount_and_a_directory() {
    let mut lab = Lab::prepare(Setup::default());
    furnish(&lab.place());
    exec(&lab, &[], "true").must("exec");
    let first = Tree::take(&lab.place(), KEPT);
    lab.wipe();
    lab.mount();
    first.assert_same(&Tree::take(&lab.place(), KEPT), "from a directory to a mount");
    let place = lab.place();
    fs::write(place.join("by the mount"), b"mount").unwrap();
    fs::remove_file(place.join("deep/er/link")).unwrap();
    fs::rename(place.join("deep/er"), place.join("moved")).unwrap();
    lab.unmount();
    let second = Tree::take(&lab.place(), KEPT);
    // Also with the state that the mount has left.
    exec(&lab, &[], "[ -e 'by the mount' ] && chmod 600 sparse").must("exec");
    let third = Tree::take(&lab.place(), KEPT);
    lab.wipe();
    exec(&lab, &[], "true").must("exec");
    third.assert_same(&Tree::take(&lab.place(), KEPT), "from a mount to a directory");
    lab.mount();
    third.assert_same(&Tree::take(&lab.place(), KEPT), "and to a mount with the state of the directory");
    lab.unmount();
    assert_eq!(second.diff(&third).len(), 1, "{:?}", second.diff(&third));
}

/// FUNCTIONS, Directory: "What a mount had left in the remote is brought."
#[test]
fn what_a_mount_has_not_brought_yet_comes() {
    let mut lab = Lab::prepare(Setup::default().with(&["--no-prefetch"]));
    furnish(&lab.place());
    exec(&lab, &[], "true").must("exec");
    let tree = Tree::take(&lab.place(), KEPT);
    lab.wipe();
    lab.mount();
    assert_eq!(read(lab.place().join("deep/file")), "text");
    lab.unmount();
    exec(&lab, &[], "true").must("exec");
    tree.assert_same(&Tree::take(&lab.place(), KEPT), "after a lazy mount");
}

/// FUNCTIONS, Directory: "If nothing changed nothing is sent."
#[test]
fn nothing_is_sent_if_nothing_changed() {
    let cloud = Cloud::prepare();
    let lab = cloud.lab;
    exec(&lab, &[], "for n in 1 2 3; do echo $n > $n; done").must("exec");
    let before = cloud.server.control().log().len();
    let done = exec(&lab, &[], "cat 1 > /dev/null").must("exec");
    assert!(done.stderr.contains("nothing changed"), "{}", done.said());
    let log = cloud.server.control().log();
    let asked: Vec<&str> = log[before..].iter().map(|request| request.operation).collect();
    assert_eq!(asked, ["GetObject"], "more than HEAD at the start");
    // And what one file costs: its layer, and HEAD. The layer of the version before came with HEAD: it is made sure that
    // it is there as well.
    let earlier: Vec<String> = log
        .iter()
        .filter(|request| request.operation == "PutObject")
        .map(|request| request.key.clone())
        .collect();
    let before = log.len();
    exec(&lab, &[], "echo more >> 1").must("exec");
    let log = cloud.server.control().log();
    let sent: Vec<_> = log[before..].iter().filter(|request| request.operation != "GetObject").collect();
    assert!(sent.iter().all(|request| request.operation == "PutObject"), "{sent:?}");
    let again =
        sent.iter().filter(|request| request.key.contains("layers/") && earlier.contains(&request.key));
    assert_eq!((sent.len(), again.count()), (3, 1), "{sent:?}");
}

/// FUNCTIONS, Directory: "Files that were there before".
#[test]
fn stray_files_are_kept_or_deleted() {
    for (stray, stays) in [("keep", true), ("delete", false)] {
        let mut lab = Lab::prepare(Setup::default());
        fs::write(lab.place().join("first"), b"mine").unwrap();
        // Nothing is deleted where there is no version yet.
        exec(&lab, &["--stray", stray], "mkdir d; echo 1 > d/n").must("exec");
        assert_eq!(read(lab.place().join("first")), "mine");
        lab.wipe();
        for dir in ["stray dir/below", "d"] {
            fs::create_dir_all(lab.place().join(dir)).unwrap();
        }
        for file in ["stray", "d/stray", "stray dir/below/file"] {
            fs::write(lab.place().join(file), b"stray").unwrap();
        }
        symlink("d", lab.place().join("link")).unwrap();
        fs::write(lab.root().join("outside"), b"safe").unwrap();
        let done = exec(&lab, &["--stray", stray], "find . -name 'stray*' | wc -l").must("exec");
        for file in ["stray", "d/stray", "stray dir/below/file", "link"] {
            assert_eq!(fs::symlink_metadata(lab.place().join(file)).is_ok(), stays, "{stray}: {file}");
            assert_eq!(lab.restored(None).join(file).symlink_metadata().is_ok(), stays, "{stray}: {file}");
        }
        assert_eq!(read(lab.place().join("d/n")), "1\n");
        assert_eq!(done.stderr.contains("nothing changed"), !stays, "{stray}: {}", done.said());
        // What an earlier session here has left unsaved is nobody's stray.
        fs::write(lab.place().join("unsaved"), b"work").unwrap();
        exec(&lab, &["--stray", stray], "true").must("exec");
        assert_eq!(read(lab.restored(None).join("unsaved")), "work");
    }
}

/// FUNCTIONS, Directory: "Sockets are no part of a version, and nothing blocks."
#[test]
fn fifos_sockets_and_unreadable_files_block_nothing() {
    let mut lab = Lab::prepare(Setup::default());
    furnish(&lab.place());
    let _socket = std::os::unix::net::UnixListener::bind(lab.place().join("socket")).unwrap();
    exec(&lab, &[], "true").must("exec");
    let restored = lab.restored(None);
    assert!(restored.join("fifo").symlink_metadata().is_ok_and(|m| !m.is_file()));
    assert!(restored.join("socket").symlink_metadata().is_err());
    assert_eq!(read(restored.join("deep/file")), "text");
    lab.wipe();
    if !is_root() {
        let done = exec(&lab, &[], "echo secret > secret; echo open > open; chmod 000 secret");
        assert_eq!(done.code, 125, "{}", done.said());
        assert!(done.stderr.contains("not saved: secret"), "{}", done.said());
        assert_eq!(read(lab.restored(None).join("open")), "open\n");
    }
}

/// FUNCTIONS, State: "Where there is no place for it the state is in memory".
#[test]
fn without_a_place_for_the_state_it_is_in_memory() {
    let lab = Lab::prepare(Setup::default());
    let place = lab.place();
    let run_in = |script: &str| {
        let mut command = lab.command(["exec", "--dir"]);
        command.arg(&place).args(["--remote", &lab.remote(), "--name", "work", "--", "sh", "-c", script]);
        // As where only the directory can be written: its home is in it. Root's place is elsewhere.
        command.env("HOME", &place).current_dir(&place);
        if !is_root() {
            return run(&mut command, LIMIT);
        }
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "sh", "-ec", "mount -t tmpfs -o ro none /var/lib; exec \"$@\"", "sh"]);
        outer.arg(command.get_program()).args(command.get_args()).current_dir(&place).env_clear();
        outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(outer.env("PATH", std::env::var_os("PATH").unwrap()), LIMIT)
    };
    let done = run_in("echo 1 > n").must("exec");
    assert!(done.stderr.contains("in memory"), "{}", done.said());
    run_in("[ $(cat n) = 1 ] && echo 2 > n").must("exec");
    assert_eq!(read(lab.restored(None).join("n")), "2\n");
}

/// FUNCTIONS, Directory: "If nothing changed nothing is sent", also where the directory is there still and nothing is known of
/// it, as when a sandbox begins anew.
#[test]
fn nothing_is_sent_where_a_directory_is_as_the_version_has_it() {
    let lab = Lab::prepare(Setup::default());
    let again = |script: &str| {
        let mut command = lab.command(["exec", "--mode", "directory", "--remote", &lab.remote(), "--dir"]);
        command.arg(lab.place()).args(["--state-dir", icecache::config::place::NO_STATE, "--name", "work"]);
        run(command.args(["--", "sh", "-c", script]).current_dir(lab.place()), LIMIT).must("exec");
        lab.objects()
    };
    let first = again("mkdir d; echo 1 > d/n; echo 2 > m");
    assert_eq!(again("cat d/n m"), first);
    assert_eq!(again("true"), first);
}

fn set_mtime(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// FUNCTIONS, Directory: "no change is missed": any edits between saves, also such as leave size and time as they were.
#[test]
fn no_change_is_missed() {
    let mut dice = Dice::seeded("no_change_is_missed");
    let lab = Lab::prepare(Setup::default());
    let place = lab.place();
    let names: Vec<PathBuf> = ["d/a", "d/b", "d/c", "d/d/a", "d/d/b", "d/d/e/a", "f/a"]
        .iter()
        .map(|name| place.join(name))
        .collect();
    let session = session(&lab);
    for round in 0..slice(25, 400) {
        for _ in 0..=dice.below(6) {
            let (one, other) = (&names[dice.below(7) as usize], &names[dice.below(7) as usize]);
            edit(&mut dice, one, other);
        }
        let saved = save(&session);
        let here = Tree::take(&place, KEPT);
        if saved.version.is_some() {
            here.assert_same(&Tree::take(&lab.restored(None), KEPT), &format!("round {round}"));
        }
        let again = save(&session);
        assert!(!again.committed, "round {round}: a version of nothing: {again:?}");
    }
}

/// FUNCTIONS, Directory: "A directory that was removed or replaced meanwhile is not taken for an empty one."
#[test]
fn a_directory_that_was_replaced_is_not_taken_for_an_empty_one() {
    let lab = Lab::prepare(Setup::default());
    let here = lab.place();
    exec(&lab, &[], "echo good > file").must("exec");
    for script in ["rm -rf '{}' && mkdir '{}' && echo new > '{}/other'", "rm -rf '{}'"] {
        let done = exec(&lab, &[], &format!("cd / && {}", script.replace("{}", here.to_str().unwrap())));
        assert_eq!(done.code, 125, "{}", done.said());
        assert!(done.stderr.contains("removed or replaced"), "{}", done.said());
        assert_eq!(read(lab.restored(None).join("file")), "good\n");
        if here.exists() {
            // Nobody has removed what was in the other one.
            exec(&lab, &[], "true").must("what is there now");
            let restored = lab.restored(None);
            assert!(restored.join("file").exists() && restored.join("other").exists());
            exec(&lab, &[], "rm other").must("exec");
        }
    }
}

/// The same where nobody could read the remote when the command began.
#[test]
fn a_session_that_joins_late_does_not_take_another_directory_for_its_own() {
    let lab = Lab::prepare(Setup::default());
    exec(&lab, &[], "echo good > file").must("exec");
    fs::remove_dir_all(lab.place()).unwrap();
    fs::create_dir(lab.place()).unwrap();
    let silent = StatusPipe::new(Box::new(|_| {}));
    let joined = Claim::take(&settings(&lab)).unwrap().join_late(None, &silent);
    assert_eq!(joined.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(read(lab.restored(None).join("file")), "good\n");
}

/// FUNCTIONS, Directory: "The chain of versions is shortened when nobody waits any more."
#[test]
fn saves_do_not_wait_until_layers_are_merged() {
    let lab = Lab::prepare(Setup::default());
    let session = Session::open(
        &MountSettings { chain: 4, ..settings(&lab) },
        Stray::Keep,
        &StatusPipe::new(Box::new(|_| {})),
    )
    .unwrap();
    for n in 0..8 {
        fs::write(lab.place().join(format!("{n}")), format!("{n}")).unwrap();
        assert!(save(&session).committed);
    }
    let layers = || session.committer().head().unwrap().layers.len();
    assert_eq!(layers(), 8);
    session.tidy_until(Some(Instant::now()));
    session.tidy();
    assert_eq!(layers(), 8, "there was no time for it");
    fs::write(lab.place().join("more"), "").unwrap();
    save(&session);
    session.tidy_until(None);
    session.tidy();
    assert!(layers() <= 4, "{}", layers());
    drop(session);
    assert_eq!(fs::read_dir(lab.restored(None)).unwrap().count(), 9);
}

/// FUNCTIONS, Directory: "another file system that is mounted there".
#[test]
fn no_other_file_system_is_emptied_for_being_stray() {
    if !is_root() {
        return skip("stray", "only root may mount a tmpfs");
    }
    let mut lab = Lab::prepare(Setup::default());
    exec(&lab, &[], "echo 1 > n").must("exec");
    lab.wipe();
    let at = lab.place().join("mnt");
    fs::create_dir(&at).unwrap();
    let none: Option<&std::ffi::CStr> = None;
    rustix::mount::mount("stray", &at, "tmpfs", rustix::mount::MountFlags::empty(), none).unwrap();
    fs::write(at.join("precious"), "mine").unwrap();
    let done = exec(&lab, &["--stray", "delete"], "cat n");
    let there = fs::read_to_string(at.join("precious"));
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(there.unwrap(), "mine", "{}", done.said());
    assert!(done.must("exec").stderr.contains("not deleted: mnt"));
}

/// One change, as far as the file system allows it.
fn edit(dice: &mut Dice, one: &Path, other: &Path) {
    let _there = fs::create_dir_all(one.parent().unwrap());
    match dice.below(12) {
        0..=2 => drop(fs::write(one, vec![dice.next() as u8; dice.below(5000) as usize])),
        // The same size and the same time of modification: only the change time tells.
        3..=5 => {
            let Ok(meta) = fs::symlink_metadata(one) else { return };
            if meta.is_file() && meta.len() > 0 {
                let file = File::options().write(true).open(one).unwrap();
                file.write_all_at(&[dice.next() as u8], dice.below(meta.len())).unwrap();
                set_mtime(one, meta.modified().unwrap());
            }
        }
        6 => drop(fs::remove_file(one).or_else(|_| fs::remove_dir_all(one.parent().unwrap()))),
        7 => drop(fs::rename(one, other)),
        8 => drop(fs::hard_link(one, other)),
        9 => drop(symlink("target", one)),
        10 => {
            if fs::symlink_metadata(one).is_ok_and(|m| !m.is_symlink()) {
                fs::set_permissions(one, fs::Permissions::from_mode(0o600 | dice.below(0o100) as u32))
                    .unwrap();
            }
        }
        _ => {
            let value = [dice.next() as u8; 3];
            let _refused = rustix::fs::lsetxattr(one, "user.n", &value, rustix::fs::XattrFlags::empty());
        }
    }
}

/// FUNCTIONS, Directory: "Stores through a mapping that outlives a save".
#[test]
fn stores_through_a_mapping_are_not_missed() {
    stores_are_not_missed(&Lab::prepare(Setup::default()));
}

/// The same in a container, whose pages are those of another layer's file; and a start changes nothing there.
#[test]
fn in_an_overlayfs_stores_are_not_missed_and_starts_change_nothing() {
    if !is_root() {
        return skip("overlayfs", "only root mounts an overlayfs");
    }
    let lab = Lab::prepare(Setup::default());
    let Some(overlay) = Overlay::over(&lab, Layers::Together, |image| {
        fs::write(image.join("of the image"), b"x").unwrap();
    }) else {
        return skip("overlayfs", "no overlayfs can be mounted here");
    };
    stores_are_not_missed(&lab);
    let before = exec(&lab, &[], "true").must("exec").stderr;
    let again = exec(&lab, &[], "true").must("exec").stderr;
    assert_eq!(before.lines().last(), again.lines().last(), "nothing changed, and there is another version");
    drop(overlay);
}

fn stores_are_not_missed(lab: &Lab) {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let path = lab.place().join("mapped");
    fs::write(&path, [0; 8192]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: a new mapping of a file that stays as long as it is, at a place that the kernel chooses.
    let at = unsafe {
        mmap(std::ptr::null_mut(), 8192, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
    };
    let at = at.unwrap();
    let session = session(lab);
    for byte in 1..20_u8 {
        // SAFETY: within the mapping, which nobody else uses.
        unsafe { at.cast::<u8>().add(usize::from(byte) * 100).write_volatile(byte) };
        session.save(None).unwrap();
        let there = fs::read(lab.restored(None).join("mapped")).unwrap();
        assert_eq!(there[usize::from(byte) * 100], byte, "a store was missed");
    }
    // SAFETY: within the mapping, and its end.
    unsafe {
        at.cast::<u8>().write_volatile(99);
        munmap(at, 8192).unwrap();
    }
    session.save(None).unwrap();
    assert_eq!(fs::read(lab.restored(None).join("mapped")).unwrap()[0], 99, "the last store was missed");
}

/// LAMBDA, SnapStart: what was copied while it ran goes on as a writer of its own, on what others have saved.
#[test]
fn a_session_is_made_anew_on_what_others_have_saved() {
    let lab = Lab::prepare(Setup::default());
    fs::write(lab.place().join("file"), "one").unwrap();
    let session = session(&lab);
    let writer = || {
        let head: serde_json::Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
        head["writer"].clone()
    };
    save(&session);
    let (first, other) = (writer(), lab.root().join("other"));
    fs::create_dir(&other).unwrap();
    let mut elsewhere =
        lab.command(["exec", "--mode", "directory", "--remote", &lab.remote(), "--name", "work"]);
    elsewhere.arg("--dir").arg(&other).arg("--state-dir").arg(lab.root().join("s2"));
    run(elsewhere.args(["--", "sh", "-c", "echo two > file; echo new > new"]).current_dir(&other), LIMIT)
        .must("exec");
    let session = session.anew(&StatusPipe::new(Box::new(|_| {})), None).unwrap();
    assert_eq!(
        (read(lab.place().join("file")), read(lab.place().join("new"))),
        ("two\n".into(), "new\n".into())
    );
    fs::write(lab.place().join("file"), "three").unwrap();
    let saved = save(&session);
    assert_eq!((saved.version.as_deref(), saved.merge), (Some("3"), None));
    assert_ne!(writer(), first, "a copy would be the same writer");
    // Nothing to do, and nothing lost.
    fs::write(lab.place().join("file"), "four").unwrap();
    let session = session.anew(&StatusPipe::new(Box::new(|_| {})), None).unwrap();
    assert!(save(&session).committed);
    assert_eq!(read(lab.restored(None).join("file")), "four");
}

/// Runs a command on another directory of the same name: another writer.
fn exec_elsewhere(lab: &Lab, script: &str) {
    let other = lab.root().join("other");
    fs::create_dir_all(&other).unwrap();
    let mut elsewhere =
        lab.command(["exec", "--mode", "directory", "--remote", &lab.remote(), "--name", "work"]);
    elsewhere.arg("--dir").arg(&other).arg("--state-dir").arg(lab.root().join("s2"));
    run(elsewhere.args(["--", "sh", "-c", script]).current_dir(&other), LIMIT).must("exec elsewhere");
}

/// A process that has files beneath a directory open, until it is dropped.
struct Holder(std::process::Child);

impl Holder {
    fn of(dir: &Path, opens: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {opens}; echo; read end")]).current_dir(dir);
        let piped = std::process::Stdio::piped;
        let mut child = command.stdin(piped()).stdout(piped()).spawn().unwrap();
        let mut told = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

/// LAMBDA: "Nothing takes the place of files that are open".
#[test]
fn a_session_is_not_made_anew_beneath_files_that_are_open() {
    let lab = Lab::prepare(Setup::default());
    fs::write(lab.place().join("log"), "one\n").unwrap();
    let status = StatusPipe::new(Box::new(|_| {}));
    let settings = MountSettings { on_conflict: OnConflict::Merge, ..settings(&lab) };
    let session = Session::open(&settings, Stray::Keep, &status).unwrap();
    save(&session);
    let holder = Holder::of(&lab.place(), "3>>log");
    let session = session.anew(&status, None).unwrap();
    exec_elsewhere(&lab, "echo new > new");
    let refused = session.anew(&status, None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    assert!(!session.is_torn() && !lab.place().join("new").exists(), "nothing was changed");
    fs::write(lab.place().join("mine"), "mine").unwrap();
    assert!(save(&session).merge.is_some(), "what is here is saved all the same");
    drop(holder);
    let session = session.anew(&status, None).unwrap();
    assert!(!save(&session).committed && lab.place().join("new").exists());
    assert!(lab.restored(None).join("mine").exists());
}

/// FUNCTIONS, Exec: "does not take the place of files that such a process has open".
#[test]
fn a_newer_version_does_not_come_beneath_a_process_that_was_left_running() {
    let lab = Lab::prepare(Setup::default());
    exec(&lab, &[], "echo one > log; echo one > read; echo one > file").must("exec");
    let holder = Holder::of(&lab.place(), "3>>log 4<read 5>>new");
    exec(&lab, &[], "echo two > file").must("nobody else has saved");
    exec_elsewhere(&lab, "echo elsewhere > log; echo elsewhere > read; rm file");
    let refused = exec(&lab, &[], "echo ran > ran");
    assert_eq!(refused.code, 125, "{}", refused.said());
    assert!(refused.stderr.contains("log (process "), "{}", refused.said());
    assert!(refused.stderr.contains("end these processes"), "{}", refused.said());
    let stood = ["log", "read", "file", "ran"].map(|name| fs::read_to_string(lab.place().join(name)).ok());
    let one = || Some("one\n".to_owned());
    assert_eq!(stood, [one(), one(), Some("two\n".to_owned()), None], "nothing was changed");
    drop(holder);
    exec(&lab, &[], "[ $(cat log) = elsewhere ] && [ ! -e file ]").must("it has ended");
    let holder = Holder::of(&lab.place(), "4<read");
    exec_elsewhere(&lab, "echo again > read");
    exec(&lab, &[], "[ $(cat read) = again ]").must("who only reads goes on with what was there");
    drop(holder);
}

/// A small file system, for as long as this lives.
struct Small(PathBuf);

impl Small {
    fn mounted(place: PathBuf) -> Self {
        fs::create_dir_all(&place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=20m", "small"]).arg(&place);
        run(&mut mount, LIMIT).must("mount");
        Self(place)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// FUNCTIONS, Directory: "What stands there already needs no room for a second one."
#[test]
fn a_state_that_fills_most_of_the_disk_can_start_again_where_it_stands() {
    if !is_root() {
        return skip("a small disk", "only root mounts one here");
    }
    let lab = Lab::prepare(Setup::default());
    let small = Small::mounted(lab.root().join("small"));
    let dir = small.0.join("dir");
    fs::create_dir(&dir).unwrap();
    let start = |script: &str| {
        let mut command =
            lab.command(["exec", "--mode", "directory", "--remote", &lab.remote(), "--name", "work"]);
        let state = icecache::config::place::NO_STATE;
        command.arg("--dir").arg(&dir).args(["--state-dir", state, "--", "sh", "-c", script]);
        run(command.current_dir(&dir), LIMIT)
    };
    start("head -c 12000000 /dev/urandom > big").must("first");
    let before = fs::read(dir.join("big")).unwrap();
    let inode = fs::metadata(dir.join("big")).unwrap().ino();
    start("true").must("again");
    assert!(fs::read(dir.join("big")).unwrap() == before);
    assert_eq!(fs::metadata(dir.join("big")).unwrap().ino(), inode, "it is the same file");
    drop(small);
}

/// SEMANTICS, Restore: "A log of SQLite that is not the version's does not stay beside a database of it".
#[test]
fn a_log_is_not_left_beside_another_database() {
    let lab = Lab::prepare(Setup::default());
    let open = |dir: &Path| {
        let db = rusqlite::Connection::open(dir.join("db")).unwrap();
        db.query_row("pragma journal_mode=wal", [], |_| Ok(())).unwrap();
        db
    };
    let rows = |dir: &Path| -> String {
        let db = open(dir);
        let verdict: String = db.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
        db.query_row("select group_concat(text) from t", [], |row| row.get(0)).unwrap()
    };
    let insert = |db: &rusqlite::Connection, text: &str| {
        db.execute("insert into t values(?1)", [text]).unwrap();
    };
    let db = open(&lab.place());
    db.execute_batch("create table t(text)").unwrap();
    insert(&db, "first");
    drop(db);
    exec(&lab, &[], "true").must("exec");
    // What a program leaves that is killed: its last words are in the log.
    let killed = |text: &str| {
        let db = open(&lab.place());
        insert(&db, text);
        for name in ["db", "db-wal"] {
            fs::copy(lab.place().join(name), lab.root().join(name)).unwrap();
        }
        drop(db);
        for name in ["db", "db-wal"] {
            fs::copy(lab.root().join(name), lab.place().join(name)).unwrap();
        }
        // Nothing is known of the directory, as in a function whose sandbox starts anew.
        fs::remove_dir_all(lab.state()).unwrap();
    };
    killed("killed");
    exec(&lab, &[], "true").must("nobody else has written");
    assert_eq!(rows(&lab.place()), "first,killed", "a log beside its own database is no stray");
    exec(&lab, &[], "true").must("exec");
    killed("lost");
    let other = lab.root().join("other");
    fs::create_dir(&other).unwrap();
    let mut elsewhere =
        lab.command(["exec", "--mode", "directory", "--remote", &lab.remote(), "--name", "work"]);
    elsewhere.arg("--dir").arg(&other).arg("--state-dir").arg(lab.root().join("s2")).args(["--", "true"]);
    run(elsewhere.current_dir(&other), LIMIT).must("restored elsewhere");
    let db = open(&other);
    for n in 0..500 {
        insert(&db, &format!("other {n}"));
    }
    drop(db);
    run(elsewhere.current_dir(&other), LIMIT).must("saved elsewhere");
    let done = exec(&lab, &[], "true").must("exec");
    assert!(done.stderr.contains("db-wal"), "{}", done.said());
    assert!(rows(&lab.place()).ends_with("other 499"), "the log of another database was replayed");
    assert!(!rows(&lab.place()).contains("lost"));
}

/// Ends whoever looks at it, also when the test fails: a scope waits for its threads.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// FUNCTIONS, Directory: "A file that is written while it is saved is not taken for saved."
#[test]
fn a_file_that_is_written_while_it_is_saved_is_saved_in_the_end() {
    let lab = Lab::prepare(Setup::default());
    let place = lab.place();
    let stop = AtomicBool::new(false);
    let session = session(&lab);
    std::thread::scope(|scope| {
        let stopping = Stopping(&stop);
        scope.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let text = format!("{n:08}").repeat(2000);
                fs::write(place.join(format!("f{}", n % 5)), &text).unwrap();
                drop(fs::rename(place.join(format!("f{}", n % 3)), place.join("moved")));
            }
        });
        let saves: Vec<_> = (0..slice(5, 50)).map(|_| session.save(None)).collect();
        drop(stopping);
        for saved in saves {
            saved.unwrap();
        }
    });
    assert!(save(&session).version.is_some());
    Tree::take(&place, KEPT).assert_same(&Tree::take(&lab.restored(None), KEPT), "when it is quiet");
}

/// FUNCTIONS, State: "An end that nobody had time to save is made up for by the next start."
#[test]
fn what_a_killed_session_left_is_saved_by_the_next() {
    let lab = Lab::prepare(Setup::default());
    exec(&lab, &[], "echo 1 > n").must("exec");
    let done = exec(&lab, &[], "echo 2 > n; kill -9 $PPID; sleep 0.2");
    assert_eq!(done.code, 137, "{}", done.said());
    assert_eq!(read(lab.restored(None).join("n")), "1\n");
    exec(&lab, &[], "[ $(cat n) = 2 ]").must("exec");
    assert_eq!(read(lab.restored(None).join("n")), "2\n");
    assert!(lab.place().metadata().unwrap().mode() & 0o777 != 0);
}

/// FUNCTIONS, Directory: one session has a directory; a second one is told.
#[test]
fn one_at_a_time() {
    let lab = Lab::prepare(Setup::default());
    let _first = session(&lab);
    let mut second = Command::new(harness::lab::BIN);
    second
        .args(["exec", "--mode", "directory", "--dir"])
        .arg(lab.place())
        .arg("--state-dir")
        .arg(lab.root().join("s2"));
    second.args(["--remote", &lab.remote(), "--name", "work", "--", "true"]);
    let refused = run(&mut second, LIMIT);
    assert_eq!(refused.code, 125, "{}", refused.said());
    assert!(refused.stderr.contains("another icecache uses this directory"), "{}", refused.said());
}

/// FUNCTIONS, Layouts: "from the archive of the original tool to layers, and back".
#[test]
fn a_state_moves_from_the_layout_of_the_original_to_layers_and_back() {
    let lab = Lab::prepare(Setup::default());
    furnish(&lab.place());
    exec(&lab, &["--layout", "single"], "true").must("exec");
    let tree = Tree::take(&lab.place(), KEPT);
    let remote = lab.remote();
    let call = |arguments: &[&str]| lab.call([arguments, &["--remote", &remote]].concat());
    assert_eq!(call(&["import", "--from-single", "--name", "none"]).code, 5);
    call(&["import", "--from-single", "--name", "work"]).must("import");
    tree.assert_same(&Tree::take(&lab.restored(None), KEPT), "from single to layered");
    let archive = lab.root().join("archive.tar.zst");
    let archive = archive.to_str().unwrap();
    call(&["export", "--name", "work", "--to", archive]).must("export");
    assert_eq!(call(&["export", "--name", "work", "--to", archive]).code, 4, "the archive was replaced");
    call(&["import", archive, "--name", "again", "--layout", "single"]).must("import");
    let to = lab.root().join("again");
    call(&["restore", "--name", "again", "--layout", "single", "--to", to.to_str().unwrap()]).must("restore");
    tree.assert_same(&Tree::take(&to, KEPT), "and back");
}
