//! Versions that are mounted beside the living directory.
use crate::harness::lab::signal;
use crate::harness::{Finished, KEPT, LIMIT, Lab, Setup, Subject, TIMELESS, Tree, eventually, is_root, tool};
use crate::{json, offline, three_versions};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory in a lab that shows a version.
pub struct Shown<'a> {
    lab: &'a Lab,
    pub dir: PathBuf,
    state: PathBuf,
}

impl<'a> Shown<'a> {
    /// Nothing is mounted yet.
    pub fn prepare(lab: &'a Lab, name: &str) -> Self {
        let dir = lab.root().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self { lab, dir, state: lab.root().join(format!("{name}-state")) }
    }

    pub fn try_mount(&self, options: &[&str]) -> Finished {
        let remote = self.lab.remote();
        let (dir, state) = (self.dir.to_str().unwrap(), self.state.to_str().unwrap());
        let mut args = vec!["mount", dir, "--remote", &remote, "--name", &self.lab.setup.name];
        args.extend(["--state-dir", state]);
        args.extend(self.lab.setup.remote_options.iter().map(String::as_str));
        args.extend(options);
        self.lab.call(args)
    }

    #[track_caller]
    pub fn mount(self, options: &[&str]) -> Self {
        self.try_mount(options).must("mount --version");
        self
    }

    #[track_caller]
    pub fn verb(&self, verb: &str, options: &[&str]) -> Finished {
        let mut args = vec![verb, self.dir.to_str().unwrap()];
        args.extend(options);
        self.lab.call(args)
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        json(&self.verb("status", &["--json"]).must("status"))
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap()
    }
}

/// SEMANTICS, Versions in a mount: "`mount --version` shows a version by number or tag, `--at` by time, as it was: names,
/// attributes and content."
#[test]
fn a_version_is_shown_beside_the_living_mount() {
    let mut lab = Lab::new(Setup::default());
    fs::create_dir(lab.dir().join("d")).unwrap();
    for n in 0..50 {
        fs::write(lab.dir().join(format!("d/{n}")), format!("content {n}\n").repeat(n)).unwrap();
    }
    fs::hard_link(lab.dir().join("d/7"), lab.dir().join("seven")).unwrap();
    std::os::unix::fs::symlink("d/7", lab.dir().join("link")).unwrap();
    fs::set_permissions(lab.dir().join("d/8"), fs::Permissions::from_mode(0o4751)).unwrap();
    let large: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(lab.dir().join("large"), &large).unwrap();
    let tree = Tree::take(&lab.dir(), KEPT);
    assert_eq!(lab.flush(), "1");
    offline(&lab, "tag", &["first"]).must("tag");
    fs::remove_dir_all(lab.dir().join("d")).unwrap();
    fs::write(lab.dir().join("large"), "2").unwrap();
    assert_eq!(lab.flush(), "2");
    let log = json(&offline(&lab, "log", &["--json"]));
    let time = log[1]["time"].as_str().unwrap().to_owned();

    let chosen = [["--version", "1"], ["--version", "first"], ["--at", &time]];
    for (number, options) in chosen.iter().enumerate() {
        let done = Shown::prepare(&lab, &format!("shown{number}")).mount(options);
        let status = done.status();
        assert_eq!(
            (&status["version"], &status["read_only"]),
            (&"1".into(), &true.into()),
            "{options:?}: {status}"
        );
        tree.assert_same(&Tree::take(&done.dir, KEPT), "the version that is shown");
    }
    // All at the same time, and the living one goes on.
    fs::write(lab.dir().join("large"), "3").unwrap();
    assert_eq!(lab.flush(), "3");
    assert_eq!(lab.status()["read_only"], false);
    let shown = Shown::prepare(&lab, "later").mount(&["--version", "3"]);
    assert_eq!(shown.read("large"), "3");
    assert_eq!(fs::read(lab.root().join("shown0/large")).unwrap(), large);
    let table = lab.call(["status"]).must("status").stdout;
    let mut ours = table.lines().filter(|line| line.contains(lab.root().to_str().unwrap()));
    assert_eq!(ours.clone().count(), 5, "{table}");
    assert_eq!(ours.by_ref().filter(|line| line.contains("version 1, read-only")).count(), 3, "{table}");
}

/// SEMANTICS, Versions in a mount: "Every call that would change something fails with EROFS"
#[test]
fn a_shown_version_cannot_be_changed() {
    use rustix::fs::{AtFlags, CWD, FileType, Mode as Bits, RenameFlags, Timestamps, XattrFlags};
    use rustix::io::Errno;
    let lab = three_versions();
    let shown = Shown::prepare(&lab, "shown").mount(&["--version", "1"]);
    let path = |name: &str| shown.dir.join(name);
    let before = lab.objects();
    let open = |flags| rustix::fs::open(path("f"), flags, Bits::empty()).map(drop);
    let new = path("new");
    let now = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    use rustix::fs::OFlags as O;
    let calls: Vec<(&str, Result<(), Errno>)> = vec![
        ("open for writing", open(O::WRONLY)),
        ("open for both", open(O::RDWR)),
        ("open to empty", open(O::RDONLY | O::TRUNC)),
        ("open to append", open(O::WRONLY | O::APPEND)),
        ("create", rustix::fs::open(&new, O::CREATE | O::WRONLY, Bits::RUSR).map(drop)),
        ("mkdir", rustix::fs::mkdir(&new, Bits::RWXU)),
        ("mknod", rustix::fs::mknodat(CWD, &new, FileType::Fifo, Bits::RUSR, 0)),
        ("symlink", rustix::fs::symlink("x", &new)),
        ("link", rustix::fs::link(path("f"), &new)),
        ("rename", rustix::fs::rename(path("f"), &new)),
        ("exchange", rustix::fs::renameat_with(CWD, path("f"), CWD, path("gone"), RenameFlags::EXCHANGE)),
        ("unlink", rustix::fs::unlink(path("f"))),
        ("chmod", rustix::fs::chmod(path("f"), Bits::RWXU)),
        ("chown", rustix::fs::chown(path("f"), Some(rustix::fs::Uid::from_raw(1)), None)),
        ("times", rustix::fs::utimensat(CWD, path("f"), &now, AtFlags::empty())),
        ("truncate", truncate(&path("f"))),
        ("setxattr", rustix::fs::setxattr(path("f"), "user.x", b"x", XattrFlags::empty())),
        ("chmod of the directory", rustix::fs::chmod(&shown.dir, Bits::RWXU)),
    ];
    for (call, result) in calls {
        assert_eq!(result, Err(Errno::ROFS), "{call}");
    }
    assert_eq!((shown.read("f").as_str(), shown.read("gone").as_str()), ("1", "1"));

    // The kernel refuses all that; if it no longer does, the daemon does.
    if is_root() {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount_remount(&shown.dir, flags, "").unwrap();
        assert_eq!(open(O::WRONLY), Err(Errno::ROFS));
        assert_eq!(open(O::RDONLY | O::TRUNC), Err(Errno::ROFS));
        assert_eq!(rustix::fs::unlink(path("f")), Err(Errno::ROFS));
        assert_eq!(rustix::fs::mkdir(&new, Bits::RWXU), Err(Errno::ROFS));
        assert_eq!(rustix::fs::chmod(path("f"), Bits::RWXU), Err(Errno::ROFS));
    }
    let flushed = shown.verb("flush", &["--wait"]);
    assert!(
        flushed.code == 1
            && flushed.stderr.contains("version 1 is mounted read-only")
            && !flushed.stderr.contains("SEMANTICS"),
        "{}",
        flushed.said()
    );
    assert_eq!(lab.objects(), before, "a mount of a version wrote to the remote");
}

fn truncate(path: &Path) -> Result<(), rustix::io::Errno> {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a path that ends with a zero byte and lives until the call is over.
    match unsafe { libc::truncate(path.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

/// SEMANTICS, Versions in a mount: "What the directory itself has is neither shown nor changed, and is there again after the
/// unmount; so is its own state."
#[test]
fn what_the_directory_has_is_hidden_and_kept() {
    let mut lab = three_versions();
    fs::write(lab.dir().join("unsaved"), "x").unwrap();
    lab.kill();
    let state = Tree::take(&lab.state(), TIMELESS);
    // In the directory and with the state directory of the mount that was killed.
    let place = lab.place();
    let (place, own) = (place.to_str().unwrap(), lab.state());
    let remote = lab.remote();
    let mut args = vec!["mount", place, "--remote", &remote, "--name", "work"];
    args.extend(["--state-dir", own.to_str().unwrap(), "--version", "1"]);
    lab.call(&args).must("mount --version");
    let names: Vec<_> = fs::read_dir(place).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "unsaved"), "{names:?}");
    assert_eq!(fs::read_to_string(lab.dir().join("f")).unwrap(), "1");
    let again = lab.call(&args);
    assert!(again.code == 4 && again.stderr.contains("already mounted"), "{}", again.said());
    let done = lab.unmount();
    assert!(done.stderr.contains("showed version 1") && !done.stderr.contains("saved"), "{}", done.said());
    state.assert_same(&Tree::take(&lab.state(), TIMELESS), "the state directory");
    assert_eq!(fs::read_to_string(lab.dir().join("f")).unwrap(), "3");

    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("unsaved")).unwrap(), "x");
    assert_eq!(lab.flush(), "4");
    assert_eq!(lab.status()["fork"], Value::Null);
}

/// SEMANTICS, Versions in a mount: "All of it is gone after the unmount"; "only what is touched is brought"
#[test]
fn a_shown_version_brings_what_is_touched_and_leaves_nothing_behind() {
    let lab = three_versions();
    let shown = Shown::prepare(&lab, "shown").mount(&["--version", "1"]);
    assert_eq!(shown.status()["absent_files"], 3, "{}", shown.status());
    assert_eq!(shown.read("f"), "1");
    assert_eq!(fs::metadata(shown.dir.join("name")).unwrap().nlink(), 2);
    let left = shown.status()["absent_files"].as_u64().unwrap();
    assert!((1..=2).contains(&left), "{left}");
    let brought = json(&shown.verb("hydrate", &["--json"]).must("hydrate"));
    assert_eq!((&brought["files"], &brought["absent_files"]), (&left.into(), &0.into()), "{brought}");

    // The archive of it, and the log of the name as it is now.
    let archive = lab.root().join("one.tar.zst");
    let exported = json(&shown.verb("export", &["--to", archive.to_str().unwrap(), "--json"]).must("export"));
    assert_eq!(exported["version"], "1");
    let unpacked = lab.root().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let args = ["--zstd", "-xf", archive.to_str().unwrap(), "-C", unpacked.to_str().unwrap()];
    tool("tar", &args.map(std::ffi::OsStr::new));
    Tree::take(&shown.dir, TIMELESS).assert_same(&Tree::take(&unpacked, TIMELESS), "the archive");
    assert_eq!(json(&shown.verb("log", &["--json"])).as_array().unwrap().len(), 3);

    // In use: it stays, and says so.
    let held = fs::File::open(shown.dir.join("f")).unwrap();
    let busy = shown.verb("unmount", &[]);
    assert!(
        busy.code == 4 && busy.stderr.contains("in use") && !busy.stderr.contains("saved"),
        "{}",
        busy.said()
    );
    drop(held);
    shown.verb("unmount", &[]).must("unmount");
    assert!(!shown.state.exists(), "the state of a mount of a version stayed");

    // Killed: what it brought goes with its mount, or with the next one.
    for end in ["unmount", "mount"] {
        let shown = Shown::prepare(&lab, "shown").mount(&["--version", "1"]);
        assert_eq!(shown.read("f"), "1");
        let pid = shown.status()["pid"].as_u64().unwrap() as u32;
        signal(pid, rustix::process::Signal::KILL);
        let dir = shown.dir.clone();
        eventually("the mount dies with its daemon", LIMIT, || {
            rustix::fs::statfs(&dir).is_err().then_some(())
        });
        if end == "mount" {
            shown.try_mount(&["--version", "2"]).must("mount");
            assert_eq!((shown.read("f").as_str(), shown.dir.join("gone").exists()), ("2", false));
        }
        shown.verb("unmount", &[]).must("unmount");
        assert!(!shown.state.exists(), "{end}: the state of a mount of a version stayed");
    }
}

/// SEMANTICS, Versions in a mount: "A version that there is not is refused; the message says how to list those there are."
#[test]
fn a_version_that_is_not_there_is_refused() {
    let lab = three_versions();
    let shown = Shown::prepare(&lab, "shown");
    for (options, code) in [
        (&["--version", "7"][..], 5),
        (&["--version", "no-such-tag"], 5),
        (&["--version", "0"], 5),
        (&["--version", "a/b"], 2),
        (&["--at", "2h"], 5),
        (&["--at", "never"], 2),
        (&["--version", "1", "--at", "2h"], 2),
        (&["--version", "1", "--layout", "single"], 2),
    ] {
        let refused = shown.try_mount(options);
        assert_eq!(refused.code, code, "{options:?}: {}", refused.said());
        assert!(!crate::harness::lab::mounted(&shown.dir));
        if code == 5 {
            assert!(refused.stderr.contains("icecache log --remote file://"), "{}", refused.said());
        }
    }
    assert!(fs::read_dir(&shown.dir).unwrap().next().is_none());
    // One of the ways in is also the way of the program.
    let said = lab.call(["--version"]).must("--version").stdout;
    assert!(said.starts_with("icecache "), "{said}");
    assert_eq!(shown.mount(&["--version", "3", "--restore", "eager"]).read("f"), "3");
}
