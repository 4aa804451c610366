//! How many requests each thing a program does costs: FUSE requests to the daemon, and requests to the remote.
//!
//! Counts are exact and do not depend on the machine, so they guard what the figures rest on. Not counted are
//! requests that nobody waits for (FORGET) and those the kernel asks once per mount to learn that they are not served
//! (OPENDIR, FLUSH, ACCESS).
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod harness;

use harness::{LIMIT, Lab, Mode, Setup, Subject, eventually, is_root, run, skip};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

/// Files per phase. One directory of so many entries is one READDIRPLUS of the kernel's buffer and one for the end.
const FILES: u64 = 100;

/// Requests nobody waits for, and calls of ours that are no requests.
const OFF_THE_PATH: [&str; 3] = ["forget", "backing_open", "forget_listing"];

type Counts = BTreeMap<String, u64>;

/// What was asked since the mount, by name.
fn operations(lab: &Lab) -> Counts {
    let Value::Object(counts) = lab.stats()["operations"].clone() else { panic!("stats has no operations") };
    let counts = counts.into_iter().map(|(name, n)| (name, n.as_u64().unwrap()));
    counts.filter(|(name, _)| !OFF_THE_PATH.contains(&name.as_str())).collect()
}

/// What `work` costs in requests. Every open is released when this returns: RELEASE comes after close(2) is done.
fn cost(lab: &Lab, work: impl FnOnce()) -> Counts {
    let before = operations(lab);
    work();
    let of = |counts: &Counts, name: &str| counts.get(name).copied().unwrap_or(0);
    let after = eventually("the releases", LIMIT, || {
        let now = operations(lab);
        let opened = of(&now, "open") + of(&now, "create");
        (of(&now, "release") == opened).then_some(now)
    });
    let grown = after.into_iter().map(|(name, n)| (name.clone(), n - of(&before, &name)));
    grown.filter(|(_, n)| *n > 0).collect()
}

#[track_caller]
fn assert_cost(what: &str, counts: &Counts, expected: &[(&str, u64)]) {
    let expected: Counts = expected.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    assert_eq!(*counts, expected, "requests of {what}");
}

/// A mount with as few requests as the kernel allows: nobody but the owner, no extended attributes.
fn lean() -> Option<Lab> {
    let lab = Lab::new(Setup::mode(Mode::Passthrough).with(&["--access", "owner", "--xattr", "off"]));
    if lab.status()["mode"] != "passthrough" {
        skip("counts of requests", "no kernel passthrough here, so data passes the daemon");
        return None;
    }
    Some(lab)
}

fn path(dir: &Path, i: u64) -> std::path::PathBuf {
    dir.join(format!("file{i:04}"))
}

fn fill(dir: &Path, files: u64) {
    for i in 0..files {
        File::create_new(path(dir, i)).unwrap().write_all(b"some content").unwrap();
    }
}

fn tool(program: &str, args: &[&str], dir: &Path) {
    run(Command::new(program).args(args).current_dir(dir), LIMIT).must(program);
}

#[test]
fn files_one_by_one() {
    let Some(lab) = lean() else { return };
    let dir = lab.place().join("dir");
    fs::create_dir(&dir).unwrap();
    // The first file teaches the kernel what is not served.
    fill(&dir, 1);
    fs::remove_file(path(&dir, 0)).unwrap();
    assert_cost("asking for the counts", &cost(&lab, || ()), &[]);

    let made = cost(&lab, || fill(&dir, FILES));
    // The kernel judges by the mode of the directory, and a name made or removed in it makes it ask again.
    let asked = [("lookup", FILES), ("getattr", FILES), ("create", FILES), ("release", FILES)];
    assert_cost("create, write, close", &made, &asked);

    let look = || (0..FILES).for_each(|i| assert_eq!(path(&dir, i).symlink_metadata().unwrap().len(), 12));
    assert_cost("the first stat after a write", &cost(&lab, look), &[("getattr", FILES + 1)]);
    assert_cost("a repeated stat", &cost(&lab, look), &[]);

    let read = || {
        for i in 0..FILES {
            // Not fs::read, which asks for the size first.
            let mut content = [0; 64];
            let length = File::open(path(&dir, i)).unwrap().read(&mut content).unwrap();
            assert_eq!(content[..length], *b"some content");
        }
    };
    assert_cost("open, read, close", &cost(&lab, read), &[("open", FILES), ("release", FILES)]);

    let removed = cost(&lab, || (0..FILES).for_each(|i| fs::remove_file(path(&dir, i)).unwrap()));
    assert_cost("unlink", &removed, &[("getattr", FILES - 1), ("unlink", FILES)]);
    // The kernel forgets a removed name altogether; that it is absent it learns once.
    let look = || assert!((0..FILES).all(|i| !path(&dir, i).exists()));
    assert_cost("a look for removed names", &cost(&lab, look), &[("getattr", 1), ("lookup", FILES)]);
    assert_cost("another look for absent names", &cost(&lab, look), &[]);
}

#[test]
fn an_archive_and_a_tree() {
    let Some(lab) = lean() else { return };
    const DIRS: u64 = 5;
    let source = lab.root().join("source");
    for (name, files) in [("small", FILES), ("large", 2 * FILES)] {
        fs::create_dir_all(source.join(name)).unwrap();
        fill(&source.join(name), files);
        tool("tar", &["-cf", &format!("{name}.tar"), name], &source);
    }
    let place = lab.place();
    tool("tar", &["-xf", source.join("small.tar").to_str().unwrap(), "--one-top-level=warm"], &place);
    let extract = |name: &str| {
        let archive = source.join(format!("{name}.tar"));
        cost(&lab, || tool("tar", &["-xf", archive.to_str().unwrap()], &place))
    };
    let (small, large) = (extract("small"), extract("large"));
    // What the directory itself costs is in both.
    let per_file =
        |name: &str| (large.get(name).unwrap_or(&0) - small.get(name).unwrap_or(&0)) as f64 / FILES as f64;
    let names: Vec<&str> = large.keys().map(String::as_str).filter(|name| per_file(name) != 0.0).collect();
    // As root tar sets owner, mode and time; as another user it has no owner to set.
    let attributes = if is_root() { 3.0 } else { 2.0 };
    assert_eq!(names, ["create", "getattr", "lookup", "release", "setattr"], "{large:?}");
    assert!(
        names.iter().all(|name| per_file(name) == if *name == "setattr" { attributes } else { 1.0 }),
        "{large:?}"
    );

    for dir in 0..DIRS {
        let dir = place.join(format!("tree/dir{dir}"));
        fs::create_dir_all(&dir).unwrap();
        fill(&dir, FILES);
    }
    drop(lab.unmount());
    lab.mount();
    let tree = place.join("tree");
    let find = || tool("find", &[".", "-size", "+1000000c"], &tree);
    // The directory find starts in is looked up by name, and find asks once what file system it is on; the
    // kernel may ask for the mode of the directory above it.
    let listing = || {
        let mut counts = cost(&lab, find);
        counts.retain(|name, n| !["lookup", "statfs", "getattr"].contains(&name.as_str()) || *n > 1);
        counts
    };
    assert_cost("the first find", &listing(), &[("readdirplus", 2 * (DIRS + 1))]);
    // Listing a directory is a read of it, so the kernel asks for its access time again; for no file.
    assert_cost("find again", &listing(), &[("getattr", DIRS + 1)]);
    let read = cost(&lab, || tool("grep", &["-r", "-c", "some", "."], &tree));
    assert_eq!((read.get("open"), read.get("lookup")), (Some(&(DIRS * FILES)), None), "{read:?}");
    let after = listing();
    let listed = *after.get("readdirplus").unwrap_or(&0);
    assert!(listed <= 2 * (DIRS + 1), "find after reading every file: {after:?}");
    let asked = *after.get("getattr").unwrap_or(&0);
    assert!(asked <= DIRS + 1, "find asks for each file: {after:?}");
}

/// `ls -l` asks each file for its label and its ACL. Where the kernel has no labels it is told so once; an ACL the
/// kernel remembers, also that there is none.
#[test]
fn a_long_listing() {
    let lab = Lab::new(Setup::mode(Mode::Passthrough));
    if fs::read_to_string("/proc/filesystems").unwrap().contains("selinuxfs") {
        return skip("counts of a long listing", "this kernel has SELinux");
    }
    let dir = lab.place().join("dir");
    fs::create_dir(&dir).unwrap();
    fill(&dir, FILES);
    drop(lab.unmount());
    lab.mount();
    let list = || cost(&lab, || tool("ls", &["-l", "dir"], &lab.place()));
    let few = |counts: &Counts, name: &str| counts.get(name).is_none_or(|n| *n <= 4);
    let first = list();
    assert!(first["getxattr"] >= FILES && first["getxattr"] <= FILES + 4, "{first:?}");
    assert!(few(&first, "lookup") && few(&first, "getattr") && few(&first, "readdirplus"), "{first:?}");
    let again = list();
    assert!(again.keys().all(|name| few(&again, name)), "{again:?}");

    let file = CString::new(path(&dir, 0).into_os_string().into_encoded_bytes()).unwrap();
    let label = |value: &mut [u8]| rustix::fs::getxattr(&file, "security.selinux", value);
    assert_eq!(label(&mut [0; 8]), Err(rustix::io::Errno::OPNOTSUPP));
    if is_root() {
        rustix::fs::setxattr(&file, "security.selinux", b"of:us", rustix::fs::XattrFlags::CREATE).unwrap();
        let mut value = [0; 8];
        assert_eq!(label(&mut value).map(|n| value[..n].to_vec()).as_deref(), Ok(b"of:us".as_slice()));
    }
}

fn requests(lab: &Lab) -> Value {
    lab.stats()["requests"].clone()
}

/// What the remote was asked between two looks: reads of small objects, downloads, small writes, uploads.
fn asked(before: &Value, after: &Value) -> [u64; 4] {
    ["get", "download", "put", "upload"].map(|what| {
        let of = |value: &Value| value[what].as_u64().unwrap_or_else(|| panic!("no {what} in {value}"));
        of(after) - of(before)
    })
}

/// SEMANTICS, Restore: "A restart on the same disk downloads nothing that is there."
#[test]
fn remote_requests() {
    let mut lab = Lab::new(Setup::default());
    for dir in 0..5 {
        let dir = lab.dir().join(format!("dir{dir}"));
        fs::create_dir(&dir).unwrap();
        fill(&dir, FILES);
    }
    lab.flush();
    let before = requests(&lab);
    fs::write(lab.dir().join("dir3/file0042"), b"changed").unwrap();
    lab.flush();
    let after = requests(&lab);
    let [get, download, put, upload] = asked(&before, &after);
    assert_eq!((get, download, put + upload), (0, 0, 2), "a flush of one file: {before} to {after}");

    lab.flush();
    assert_eq!(asked(&after, &requests(&lab)), [0; 4], "a flush of nothing asks the remote");

    for clean in [true, false] {
        if clean {
            drop(lab.unmount());
        } else {
            lab.kill();
        }
        lab.mount();
        assert_eq!(fs::read(lab.dir().join("dir3/file0042")).unwrap(), b"changed");
        lab.flush();
        let now = requests(&lab);
        let zero = serde_json::json!({"get": 0, "download": 0, "put": 0, "upload": 0});
        let [_, download, put, upload] = asked(&zero, &now);
        assert_eq!((download, put + upload), (0, 0), "a restart (clean: {clean}): {now}");
    }
}

/// A change beneath the mount passes nobody: only a walk would find it. So what a flush takes tells whether it walks.
#[test]
fn a_flush_does_not_walk() {
    let root = tempfile::tempdir().unwrap();
    let backing = root.path().join("backing");
    fs::create_dir_all(backing.join("dir")).unwrap();
    fill(&backing.join("dir"), FILES);
    let mut lab = Lab::new(Setup::default().with(&["--backing", backing.to_str().unwrap()]));
    lab.flush();
    fs::write(backing.join("dir/unseen"), b"beneath").unwrap();
    fs::write(backing.join("dir/file0001"), b"changed beneath, and longer").unwrap();
    fs::write(lab.dir().join("dir/file0002"), b"changed").unwrap();
    let version = lab.flush();
    let tree = lab.checkout(&version);
    assert_eq!(fs::read(tree.join("dir/file0002")).unwrap(), b"changed");
    assert!(!tree.join("dir/unseen").exists(), "the flush listed a directory nobody had touched");
    assert_eq!(
        fs::read(tree.join("dir/file0001")).unwrap(),
        b"some content",
        "the flush looked at an untouched file"
    );
}
