//! Versions as scripts meet them: looked at, found by time, listed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "support/cloud.rs"]
mod cloud;
mod harness;
#[path = "versions/remote.rs"]
mod remote;
mod support;

use harness::lab::signal;
use harness::{Finished, KEPT, LIMIT, Lab, Setup, Subject, TIMELESS, Tree, eventually, is_root, tool};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A verb that works on the remote of a lab.
#[track_caller]
fn offline(lab: &Lab, verb: &str, options: &[&str]) -> Finished {
    let remote = lab.remote();
    let mut args = vec![verb, "--remote", &remote, "--name", &lab.setup.name];
    args.extend(lab.setup.remote_options.iter().map(String::as_str));
    args.extend(options);
    lab.call(args)
}

#[track_caller]
fn json(done: &Finished) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("no JSON: {e}: {}", done.said()))
}

/// Three versions: `f` says which one it is, `large` came with the first, `gone` left with the second.
fn three_versions() -> Lab {
    let mut lab = Lab::new(Setup::default());
    make_three_versions(&mut lab);
    lab
}

fn make_three_versions(lab: &mut Lab) {
    fs::write(lab.dir().join("f"), "1").unwrap();
    fs::write(lab.dir().join("gone"), "1").unwrap();
    let noise: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(lab.dir().join("large"), noise).unwrap();
    fs::hard_link(lab.dir().join("large"), lab.dir().join("name")).unwrap();
    assert_eq!(lab.flush(), "1");
    fs::write(lab.dir().join("f"), "2").unwrap();
    fs::remove_file(lab.dir().join("gone")).unwrap();
    assert_eq!(lab.flush(), "2");
    fs::write(lab.dir().join("f"), "3").unwrap();
    assert_eq!(lab.flush(), "3");
}

/// The layers in the remote, oldest first, by what HEAD says.
fn layers(lab: &Lab) -> Vec<PathBuf> {
    let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
    let keys = head["layers"].as_array().unwrap().iter();
    keys.map(|layer| lab.remote_dir().join(layer["key"].as_str().unwrap())).collect()
}

fn flip(layer: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = fs::read(layer).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x40;
    fs::write(layer, bytes).unwrap();
}

/// SEMANTICS, Verify: "`verify` ends with 0 only if every byte of every layer of the version is what was written"
#[test]
fn a_sound_version_is_called_sound() {
    let lab = three_versions();
    let before = lab.objects();
    for options in [&[][..], &["--quick"], &["2"], &["--quick", "1"]] {
        let done = offline(&lab, "verify", options).must("verify");
        assert!(done.stdout.contains("well") && done.stdout.lines().count() == 1, "{}", done.said());
        let done = offline(&lab, "verify", &[options, &["--json"]].concat()).must("verify --json");
        let report = json(&done);
        assert_eq!((&report["ok"], &report["tree"]), (&true.into(), &true.into()), "{report}");
        assert!(
            report["entries"].as_u64().unwrap() >= 4 && report["bytes"].as_u64().unwrap() > 0,
            "{report}"
        );
        assert_eq!(report["damaged"], Value::Array(Vec::new()));
    }
    let whole = json(&offline(&lab, "verify", &["--json"]));
    let layers: u64 = layers(&lab).iter().map(|layer| layer.metadata().unwrap().len()).sum();
    assert!(
        (layers..layers + 10_000).contains(&whole["bytes"].as_u64().unwrap()),
        "{whole}, layers: {layers}"
    );
    assert!(json(&offline(&lab, "verify", &["--quick", "--json"]))["bytes"].as_u64().unwrap() < 10_000);
    assert_eq!(lab.objects(), before, "verify wrote something");
}

/// SEMANTICS, Verify: "Damage is told with the key of its layer, and the exit code is 9."
#[test]
fn a_damaged_layer_is_named() {
    let lab = three_versions();
    let [first, second, _] = &layers(&lab)[..] else { panic!("not three layers") };
    let key = |layer: &Path| format!("layers/{}", layer.file_name().unwrap().to_str().unwrap());
    let good = fs::read(first).unwrap();

    // In the content: the quick look does not see it.
    flip(first, |length| length / 2);
    let found = offline(&lab, "verify", &[]);
    assert_eq!(found.code, 9, "{}", found.said());
    assert!(found.stdout.starts_with(&key(first)), "{}", found.said());
    assert!(found.stdout.contains("1 of 3 layers damaged"), "{}", found.said());
    let found = offline(&lab, "verify", &["--json"]);
    let report = json(&found);
    assert_eq!((found.code, &report["ok"], &report["tree"]), (9, &false.into(), &true.into()), "{report}");
    assert_eq!(report["damaged"][0]["layer"], key(first));
    assert_eq!((&report["damaged"][0]["version"], &report["version"]), (&"1".into(), &"3".into()));
    offline(&lab, "verify", &["--quick"]).must("a quick look");

    // In the table, and both at once; versions before the damage are sound.
    fs::write(first, &good).unwrap();
    flip(second, |length| length - 100);
    for options in [&[][..], &["--quick"]] {
        let found = offline(&lab, "verify", options);
        assert_eq!(found.code, 9, "{}", found.said());
        assert!(found.stdout.starts_with(&key(second)), "{}", found.said());
    }
    offline(&lab, "verify", &["1"]).must("the version before");
    fs::remove_file(first).unwrap();
    let found = offline(&lab, "verify", &[]);
    assert_eq!((found.code, found.stdout.lines().count()), (9, 3), "{}", found.said());
    assert!(found.stdout.contains("not there"), "{}", found.said());
}

/// SEMANTICS, Verify: "Damage is told with the key of its layer, and the exit code is 9." It is for other verbs, too.
#[test]
fn who_meets_damage_is_told_what_can_be_done() {
    let lab = three_versions();
    let to = lab.root().join("new/place");
    let restore =
        |options: &[&str]| offline(&lab, "restore", &[options, &["--to", to.to_str().unwrap()]].concat());
    // Nothing was wrong but the question: nothing is left of it.
    for (options, code) in [(&["7"][..], 5), (&["--at", "2d"], 5), (&["--at", "8w"], 5)] {
        let refused = restore(options);
        assert_eq!(refused.code, code, "{options:?}: {}", refused.said());
        assert!(!lab.root().join("new").exists(), "{options:?}: an empty directory stayed");
    }
    // A layer is gone: what is of another one may be there by then.
    let first = &layers(&lab)[0];
    let good = fs::read(first).unwrap();
    fs::remove_file(first).unwrap();
    let lost = restore(&[]);
    assert_eq!(lost.code, 9, "{}", lost.said());
    assert!(lost.stderr.contains("icecache verify"), "{}", lost.said());
    assert_eq!(lost.stderr.contains("incomplete, remove it"), to.exists(), "{}", lost.said());
    fs::write(first, good).unwrap();
    // It is damaged at its end: what is in it is there by then.
    flip(first, |length| length / 2);
    let torn = offline(&lab, "restore", &["1", "--to", lab.root().join("torn").to_str().unwrap()]);
    assert_eq!(torn.code, 9, "{}", torn.said());
    assert_eq!(
        torn.stderr.contains("incomplete, remove it"),
        lab.root().join("torn").exists(),
        "{}",
        torn.said()
    );
    // Without HEAD nothing can be listed.
    let head = fs::read_to_string(lab.head()).unwrap();
    for wrong in
        [head.replace("\"layers\"", "\"lawyers\""), head[..head.len() / 2].to_owned(), "{}".to_owned()]
    {
        fs::write(lab.head(), wrong).unwrap();
        let found = offline(&lab, "verify", &[]);
        assert_eq!(found.code, 9, "{}", found.said());
        assert!(
            found.stderr.contains("earlier HEAD") && !found.stderr.contains("icecache log"),
            "{}",
            found.said()
        );
    }
}

/// The advice is of the error that was made.
#[test]
fn advice_is_of_use() {
    let lab = three_versions();
    let full = offline(&lab, "restore", &["--to", lab.remote_dir().to_str().unwrap()]);
    assert!(full.code == 2 && full.stderr.contains("an empty directory"), "{}", full.said());
    let tag = offline(&lab, "tag", &["17"]);
    assert!(tag.code == 2 && !tag.stderr.contains("icecache config"), "{}", tag.said());
    let wrong = offline(&lab, "restore", &["--json"]);
    let error: Value =
        serde_json::from_str(&wrong.stderr).unwrap_or_else(|e| panic!("{e}: {}", wrong.said()));
    assert_eq!((wrong.code, &error["error"]["kind"]), (2, &"invalid".into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("--to"), "{error}");
}

/// SEMANTICS, Verify: "a remote that cannot be read is no damage and has its own code"
#[test]
fn what_cannot_be_read_is_not_called_damaged() {
    let lab = three_versions();
    assert_eq!(offline(&lab, "verify", &["7"]).code, 5);
    let remote = lab.remote();
    let other = lab.call(["verify", "--remote", &remote, "--name", "other"]);
    assert_eq!(other.code, 5, "{}", other.said());
    let single = offline(&lab, "verify", &["--layout", "single"]);
    assert!(single.code == 1 && single.stderr.contains("zstd -t"), "{}", single.said());
}

/// SEMANTICS, Log: "`restore --at` takes the newest version whose time is not after the one given"
#[test]
fn a_version_is_found_by_its_time() {
    let lab = three_versions();
    let log = json(&offline(&lab, "log", &["--json"]));
    let time = |version: usize| log[3 - version]["time"].as_str().unwrap().to_owned();
    let mut restores = 0;
    let mut at = |time: &str| {
        restores += 1;
        let to = lab.root().join(format!("at{restores}"));
        let done = offline(&lab, "restore", &["--to", to.to_str().unwrap(), "--at", time]);
        (done, to)
    };
    for (when, text) in [(time(1), "1"), (time(2), "2"), (time(3), "3"), ("0s".to_owned(), "3")] {
        let (done, to) = at(&when);
        let done = done.must("restore --at");
        assert_eq!(fs::read_to_string(to.join("f")).unwrap(), text, "{when}");
        assert_eq!(done.stdout.trim(), text, "{}", done.said());
    }
    let (early, _) = at("1h");
    assert_eq!(early.code, 5, "{}", early.said());
    assert!(early.stderr.contains("the oldest is version 1 of"), "{}", early.said());
    assert!(early.stderr.contains(&time(1)), "{}", early.said());
}

/// SEMANTICS, Log: "`log` tells of each version when and by whom it was written, its bytes, and how many paths it set and
/// removed."
#[test]
fn the_log_says_what_each_version_did() {
    let lab = three_versions();
    let writer = {
        let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
        head["writer"].as_str().unwrap().to_owned()
    };
    let sizes: Vec<u64> = layers(&lab).iter().map(|layer| layer.metadata().unwrap().len()).collect();
    let mounted = json(&lab.verb("log", &["--json"]).must("log"));
    let remote = json(&offline(&lab, "log", &["--json"]).must("log"));
    assert_eq!(mounted, remote);
    let lines = mounted.as_array().unwrap();
    assert_eq!(lines.len(), 3);
    for (line, version) in lines.iter().rev().zip(1u64..) {
        assert_eq!(line["version"], version.to_string());
        assert_eq!(line["writer"], writer.as_str());
        assert_eq!(line["bytes"], sizes[version as usize - 1]);
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(line["changed"].as_u64().unwrap() >= 1, "{line}");
        assert_eq!(line["removed"], u64::from(version == 2), "{line}");
    }
    let table = lab.verb("log", &[]).must("log").stdout;
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head[..7], ["VERSION", "TIME", "WRITER", "ENTRIES", "CHANGED", "REMOVED", "SIZE"]);
    assert!(table.lines().nth(2).unwrap().contains(&writer), "{table}");
}

/// SEMANTICS, Log: "A tag names a version until it is moved or deleted, whatever versions are made meanwhile; `restore` and
/// `verify` take it like a number, and `log` shows it"
#[test]
fn a_tag_names_its_version_until_it_is_moved_or_deleted() {
    let mut lab = three_versions();
    let done = offline(&lab, "tag", &["release-1.0", "2", "--json"]).must("tag");
    assert_eq!(done.stdout, "{\"tag\":\"release-1.0\",\"version\":2,\"before\":null}\n");
    fs::write(lab.dir().join("f"), "4").unwrap();
    assert_eq!(lab.flush(), "4");
    assert_eq!(fs::read_to_string(lab.restored(Some("release-1.0")).join("f")).unwrap(), "2");
    let verified = json(&offline(&lab, "verify", &["release-1.0", "--json"]).must("verify"));
    assert_eq!(verified["version"], "2");
    let shown = |lab: &Lab| -> Vec<(String, String)> {
        let log = json(&offline(lab, "log", &["--json"]).must("log"));
        let mut tags = Vec::new();
        for line in log.as_array().unwrap() {
            let version = line["version"].as_str().unwrap();
            let names = line["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap());
            tags.extend(names.map(|tag| (version.to_owned(), tag.to_owned())));
        }
        tags
    };
    let tagged = |version: &str, tag: &str| (version.to_owned(), tag.to_owned());
    assert_eq!(shown(&lab), [tagged("2", "release-1.0")]);
    assert!(offline(&lab, "log", &[]).stdout.contains("release-1.0"));

    let moved = offline(&lab, "tag", &["release-1.0"]).must("tag the newest");
    assert!(moved.stdout.trim() == "4" && moved.stderr.contains("before it was 2"), "{}", moved.said());
    offline(&lab, "tag", &["copy", "release-1.0"]).must("tag by a tag");
    let objects = lab.objects();
    offline(&lab, "tag", &["copy", "4"]).must("tag as it is");
    assert_eq!(lab.objects(), objects, "what is so already was written");
    assert_eq!(shown(&lab), [tagged("4", "copy"), tagged("4", "release-1.0")]);
    offline(&lab, "tag", &["release-1.0", "--delete"]).must("delete");
    assert_eq!(shown(&lab), [tagged("4", "copy")]);

    assert_eq!(offline(&lab, "tag", &["release-1.0", "--delete"]).code, 5);
    assert_eq!(offline(&lab, "tag", &["other", "9"]).code, 5);
    assert_eq!(offline(&lab, "verify", &["release-1.0"]).code, 5);
    for wrong in ["17", "a b", "a/b", ""] {
        assert_eq!(offline(&lab, "tag", &[wrong]).code, 2, "{wrong:?}");
    }
}

/// SEMANTICS, Log: "Setting a tag is not another writer: a mount whose newest version was tagged goes on as before, and its
/// next version keeps the tag."
#[test]
fn a_mount_goes_on_after_its_version_was_tagged() {
    let mut lab = three_versions();
    offline(&lab, "tag", &["while-mounted"]).must("tag");
    fs::write(lab.dir().join("f"), "4").unwrap();
    assert_eq!(lab.flush(), "4");
    assert_eq!(lab.status()["fork"], Value::Null);
    let log = json(&lab.verb("log", &["--json"]).must("log"));
    assert_eq!(log[1]["tags"], serde_json::json!(["while-mounted"]), "{log}");

    // Between two daemons, the second of which has unsaved changes to find.
    lab.unmount();
    offline(&lab, "tag", &["unmounted"]).must("tag");
    lab.mount();
    fs::write(lab.dir().join("f"), "5").unwrap();
    assert_eq!(lab.flush(), "5");

    // On a machine that only restored the version, killed with something unsaved.
    lab.elsewhere();
    fs::write(lab.dir().join("f"), "6").unwrap();
    lab.kill();
    offline(&lab, "tag", &["elsewhere"]).must("tag");
    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("f")).unwrap(), "6");
    assert_eq!(lab.flush(), "6");
    assert_eq!(lab.status()["fork"], Value::Null);
    let names: Vec<_> = fs::read_dir(lab.remote_dir()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains("fork")), "{names:?}");
    let head: Value = serde_json::from_slice(&fs::read(lab.head()).unwrap()).unwrap();
    assert_eq!(head["tags"], serde_json::json!({"elsewhere": 5, "unmounted": 4, "while-mounted": 3}));
}

/// A directory in a lab that shows a version.
struct Shown<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    state: PathBuf,
}

impl<'a> Shown<'a> {
    /// Nothing is mounted yet.
    fn prepare(lab: &'a Lab, name: &str) -> Self {
        let dir = lab.root().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self { lab, dir, state: lab.root().join(format!("{name}-state")) }
    }

    fn try_mount(&self, options: &[&str]) -> Finished {
        let remote = self.lab.remote();
        let (dir, state) = (self.dir.to_str().unwrap(), self.state.to_str().unwrap());
        let mut args = vec!["mount", dir, "--remote", &remote, "--name", &self.lab.setup.name];
        args.extend(["--state-dir", state]);
        args.extend(self.lab.setup.remote_options.iter().map(String::as_str));
        args.extend(options);
        self.lab.call(args)
    }

    #[track_caller]
    fn mount(self, options: &[&str]) -> Self {
        self.try_mount(options).must("mount --version");
        self
    }

    #[track_caller]
    fn verb(&self, verb: &str, options: &[&str]) -> Finished {
        let mut args = vec![verb, self.dir.to_str().unwrap()];
        args.extend(options);
        self.lab.call(args)
    }

    #[track_caller]
    fn status(&self) -> Value {
        json(&self.verb("status", &["--json"]).must("status"))
    }

    fn read(&self, name: &str) -> String {
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
        assert!(!harness::lab::mounted(&shown.dir));
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
