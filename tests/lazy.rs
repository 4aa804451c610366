//! A directory that is usable before its content is there. Every case runs without prefetch, so that
//! what is absent stays absent until an operation asks for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, Lab, Mode, Setup, Subject, TIMELESS, Tree};
use rustix::fs::{CWD, FileType, Mode as Bits, OFlags, RawDir, RenameFlags, XattrFlags};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Larger than a frame, so that its parts lie in several.
const LARGE: usize = 3 << 20;

fn setup(mode: Mode) -> Setup {
    Setup::mode(mode).with(&["--no-prefetch"])
}

/// Something of every kind.
fn populate(dir: &Path) {
    for sub in ["a/b/c", "many", "to/move/deep", "empty", "gone/all"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    for n in 0..200 {
        fs::write(dir.join(format!("many/{n}")), format!("content {n}\n").repeat(n)).unwrap();
    }
    for name in ["a/file", "a/b/changed", "a/b/cut", "a/b/grown", "to/move/one", "to/move/deep/two", "gone/f"]
    {
        fs::write(dir.join(name), format!("this is {name}\n")).unwrap();
    }
    let large: Vec<u8> = (0..LARGE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(dir.join("large"), large).unwrap();
    fs::write(dir.join("nothing"), "").unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 8 << 20).unwrap();
    fs::hard_link(dir.join("a/file"), dir.join("many/other name")).unwrap();
    fs::hard_link(dir.join("a/file"), dir.join("third")).unwrap();
    symlink("a/file", dir.join("link")).unwrap();
    symlink("nowhere", dir.join("a/dangling")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("pipe"), FileType::Fifo, Bits::from_raw_mode(0o640), 0).unwrap();
    rustix::fs::lsetxattr(dir.join("large"), "user.kind", b"large", XattrFlags::empty()).unwrap();
    fs::set_permissions(dir.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(dir.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// A machine that has just got a populated directory back, and what the tree is.
fn arrived(mode: Mode) -> (Lab, Tree) {
    Lab::arrived(setup(mode), populate)
}

/// SEMANTICS, Restore: "names, attributes, extended attributes and links are there without a request for content".
#[test]
fn what_is_not_content_costs_no_request() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let (lab, _) = arrived(mode);
        let (before, files) = (lab.downloads(), lab.absent_files());
        assert_eq!(files, 200 + 7 + 3, "{mode:?}: all of them are absent");
        let mut names = 0;
        let mut stack = vec![lab.dir()];
        while let Some(dir) = stack.pop() {
            let listed: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap()).collect();
            let mut paths: Vec<_> = listed.iter().map(fs::DirEntry::path).collect();
            paths.sort();
            paths.dedup();
            assert_eq!(paths.len(), listed.len(), "{mode:?}: a name is listed twice in {}", dir.display());
            for entry in listed {
                let meta = entry.path().symlink_metadata().unwrap();
                assert_eq!(entry.file_type().unwrap().is_dir(), meta.is_dir());
                names += 1;
                if meta.is_dir() {
                    stack.push(entry.path());
                }
            }
        }
        assert_eq!(names, 10 + 200 + 7 + 3 + 2 + 3, "{mode:?}");
        let meta = fs::metadata(lab.dir().join("third")).unwrap();
        assert_eq!((meta.nlink(), meta.mode() & 0o7777), (3, 0o4751), "{mode:?}");
        assert_eq!(meta.ino(), fs::metadata(lab.dir().join("a/file")).unwrap().ino(), "{mode:?}");
        assert_eq!(fs::read_link(lab.dir().join("link")).unwrap(), Path::new("a/file"));
        let mut value = [0; 16];
        let length = rustix::fs::lgetxattr(lab.dir().join("large"), "user.kind", &mut value).unwrap();
        assert_eq!(&value[..length], b"large");
        assert_eq!(rustix::fs::llistxattr(lab.dir().join("large"), &mut value).unwrap(), 10);
        assert_eq!(fs::metadata(lab.dir().join("large")).unwrap().len(), LARGE as u64);
        assert_eq!(
            (lab.downloads(), lab.absent_files()),
            (before, files),
            "{mode:?}: looking brought something"
        );
        let text = fs::read_to_string(lab.dir().join("many/7")).unwrap();
        assert_eq!(text, "content 7\n".repeat(7));
        assert_eq!(
            (lab.downloads(), lab.absent_files()),
            (before + 1, files - 1),
            "{mode:?}: one file, one request"
        );
    }
}

/// POSIX readdir: an entry that is in the directory all the time is returned once.
#[test]
fn a_name_is_listed_once_whatever_a_version_says_of_it_meanwhile() {
    const FILES: usize = 400;
    let name = |n: usize| format!("{n:0>200}");
    for mode in [Mode::Passthrough, Mode::Classic] {
        let (lab, _) = Lab::arrived(setup(mode), |dir| {
            fs::create_dir(dir.join("d")).unwrap();
            for n in 0..FILES {
                fs::write(dir.join("d").join(name(n)), format!("content {n}")).unwrap();
            }
        });
        let dir = lab.dir().join("d");
        // Ones that come, to be replaced; one that is replaced before it comes; one that comes and stays.
        for n in [0, 3, FILES - 1] {
            fs::read(dir.join(name(n))).unwrap();
        }
        for n in [0, 1, FILES - 1] {
            fs::remove_file(dir.join(name(n))).unwrap();
        }
        let fd = rustix::fs::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY, Bits::empty()).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut pass = RawDir::new(fd, &mut buffer);
        let mut names: Vec<Vec<u8>> = Vec::new();
        for n in [0, 1, FILES - 1] {
            fs::write(dir.join(name(n)), "another").unwrap();
        }
        while names.len() < 8 {
            names.push(pass.next().unwrap().unwrap().file_name().to_bytes().to_vec());
        }
        // Each is gone in one version and back in the next.
        for n in [0, 1, FILES - 1] {
            fs::rename(dir.join(name(n)), lab.dir().join(name(n))).unwrap();
        }
        lab.verb("flush", &[]).must("flush");
        for n in [0, 1, FILES - 1] {
            fs::rename(lab.dir().join(name(n)), dir.join(name(n))).unwrap();
        }
        while let Some(entry) = pass.next() {
            names.push(entry.unwrap().file_name().to_bytes().to_vec());
        }
        names.retain(|name| name != b"." && name != b"..");
        names.sort();
        let expected: Vec<Vec<u8>> = (0..FILES).map(|n| name(n).into_bytes()).collect();
        let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert_eq!(twice, Vec::<&[Vec<u8>]>::new(), "{mode:?}");
        assert_eq!(names, expected, "{mode:?}");
    }
}

/// SEMANTICS, Restore: "what is read is the version's content".
#[test]
fn everything_that_is_read_is_what_was_saved() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let (mut lab, tree) = arrived(mode);
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree elsewhere");
        // It is counted a moment after it can be read.
        lab.await_status("nothing absent", |status| status["absent_files"] == 0);
        let version = lab.flush();
        assert_eq!(version, "1", "{mode:?}: reading changed something");
        lab.remount();
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree after a remount");
    }
}

/// By its name: no descriptor, so no open.
fn truncate(path: &Path, length: i64) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with a NUL and outlives the call.
    assert_eq!(unsafe { libc::truncate(path.as_ptr(), length) }, 0);
}

/// What programs do with files that are not there yet.
fn work(dir: &Path) {
    let path = |name: &str| dir.join(name);
    fs::remove_file(path("many/1")).unwrap();
    fs::remove_file(path("third")).unwrap();
    fs::rename(path("many/2"), path("renamed")).unwrap();
    fs::rename(path("many/3"), path("many/4")).unwrap();
    fs::write(path("fresh"), "new").unwrap();
    fs::rename(path("fresh"), path("many/5")).unwrap();
    fs::rename(path("to/move"), path("moved")).unwrap();
    fs::create_dir(path("to/move")).unwrap();
    fs::write(path("to/move/one"), "another one").unwrap();
    rustix::fs::renameat_with(CWD, path("many/6"), CWD, path("many/7"), RenameFlags::EXCHANGE).unwrap();
    rustix::fs::renameat_with(CWD, path("a/b"), CWD, path("empty"), RenameFlags::EXCHANGE).unwrap();
    let kept = rustix::fs::renameat_with(CWD, path("many/8"), CWD, path("many/9"), RenameFlags::NOREPLACE);
    assert_eq!(kept, Err(rustix::io::Errno::EXIST));
    assert!(fs::remove_dir(path("gone")).is_err(), "a directory with absent files was removed");
    fs::remove_file(path("gone/f")).unwrap();
    fs::remove_dir(path("gone/all")).unwrap();
    fs::remove_dir(path("gone")).unwrap();
    fs::write(path("gone"), "a file now").unwrap();
    fs::hard_link(path("many/10"), path("linked")).unwrap();
    fs::set_permissions(path("many/11"), fs::Permissions::from_mode(0o600)).unwrap();
    rustix::fs::lsetxattr(path("many/12"), "user.new", b"x", XattrFlags::empty()).unwrap();
    rustix::fs::lremovexattr(path("large"), "user.kind").unwrap();
    OpenOptions::new().write(true).open(path("empty/cut")).unwrap().set_len(4).unwrap();
    OpenOptions::new().write(true).truncate(true).open(path("many/13")).unwrap();
    OpenOptions::new().write(true).open(path("many/14")).unwrap().set_len(3).unwrap();
    truncate(&path("many/15"), 0);
    truncate(&path("many/19"), 5);
    OpenOptions::new().append(true).open(path("empty/grown")).unwrap().write_all(b"more").unwrap();
    OpenOptions::new().write(true).open(path("large")).unwrap().write_all_at(b"patch", 2 << 20).unwrap();
    OpenOptions::new().write(true).open(path("nothing")).unwrap().write_all(b"something").unwrap();
    assert!(fs::create_dir(path("many/16")).is_err(), "a directory took the place of an absent file");
    assert!(OpenOptions::new().write(true).create_new(true).open(path("many/17")).is_err());
    fs::remove_file(path("many/18")).unwrap();
    fs::write(path("many/18"), "again").unwrap();
}

/// SEMANTICS, Restore: "Every operation works on what is not here yet".
#[test]
fn every_operation_works_on_what_is_absent() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let twin = tempfile::tempdir().unwrap();
        populate(twin.path());
        work(twin.path());
        let expected = Tree::take(twin.path(), TIMELESS);
        let (mut lab, _) = arrived(mode);
        work(&lab.dir());
        assert!(lab.absent_files() > 100, "{mode:?}: the work brought what it did not need");
        // The version is made before anything else is there.
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        assert!(lab.absent_files() > 100, "{mode:?}: the flush brought what did not change");
        lab.remount();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree after a remount");
        lab.elsewhere();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree elsewhere");
    }
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing and brings nothing back".
#[test]
fn a_killed_daemon_goes_on_where_it_was() {
    for mode in [Mode::Passthrough, Mode::Classic] {
        let twin = tempfile::tempdir().unwrap();
        populate(twin.path());
        work(twin.path());
        let expected = Tree::take(twin.path(), TIMELESS);
        let (mut lab, _) = arrived(mode);
        work(&lab.dir());
        let left = lab.absent_files();
        lab.crash();
        assert_eq!(lab.absent_files(), left, "{mode:?}: another number of files is absent");
        lab.crash();
        let version = lab.flush();
        expected.assert_same(&Tree::take(&lab.checkout(&version), TIMELESS), "the version");
        assert_eq!(lab.absent_files(), left, "{mode:?}: it brings what it could refer to");
        assert_eq!(lab.flush(), version, "{mode:?}: nothing was changed, and there is another version");
        lab.crash();
        expected.assert_same(&Tree::take(&lab.dir(), TIMELESS), "the tree after the crashes");
    }
}

/// SEMANTICS, Restore: "A store that cannot be reached makes opening, or reading by range, fail with EIO after bounded retries, never with wrong content".
#[test]
fn without_the_store_opening_fails_and_recovers() {
    let (lab, _) = arrived(Mode::Passthrough);
    let away = lab.root().join("away");
    fs::rename(lab.remote_dir(), &away).unwrap();
    let error = fs::read(lab.dir().join("many/20")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::metadata(lab.dir().join("many/20")).unwrap().len(), 11 * 20);
    fs::write(lab.dir().join("many/21"), "overwritten").unwrap();
    fs::rename(&away, lab.remote_dir()).unwrap();
    assert_eq!(fs::read_to_string(lab.dir().join("many/20")).unwrap(), "content 20\n".repeat(20));
    assert_eq!(fs::read_to_string(lab.dir().join("many/21")).unwrap(), "overwritten");
}

/// SEMANTICS, Restore: "What was changed in the directory while no daemon ran is shown in any case".
#[test]
fn what_was_put_beneath_meanwhile_is_shown() {
    let (lab, _) = arrived(Mode::Passthrough);
    fs::metadata(lab.dir().join("many/40")).unwrap();
    lab.unmount();
    fs::write(lab.dir().join("many/40"), "put there by hand").unwrap();
    fs::create_dir_all(lab.dir().join("gone/all")).unwrap();
    fs::write(lab.dir().join("gone/all/more"), "this as well").unwrap();
    lab.mount();
    assert_eq!(fs::read_to_string(lab.dir().join("many/40")).unwrap(), "put there by hand");
    assert_eq!(fs::read_to_string(lab.dir().join("many/41")).unwrap(), "content 41\n".repeat(41));
    assert_eq!(fs::read_to_string(lab.dir().join("gone/all/more")).unwrap(), "this as well");
    assert_eq!(fs::read_to_string(lab.dir().join("gone/f")).unwrap(), "this is gone/f\n");
}

/// SEMANTICS, Restore: "A lazy restore looks at the tables of all layers at once; damage of content is met when it is
/// read, and makes opening that file, or reading the damaged part of a large one, fail with EIO."
#[test]
fn damage_is_met_where_it_is() {
    let mut lab = Lab::new(setup(Mode::Passthrough));
    fs::write(lab.dir().join("good"), vec![1; 100]).unwrap();
    // Random enough to be stored as it is, in frames of its own.
    let noise: Vec<u8> = (0..2 * LARGE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(lab.dir().join("hit"), &noise).unwrap();
    lab.flush();
    lab.kill();
    lab.wipe();
    let (layer, _) =
        lab.objects().into_iter().find(|o| o.0.extension().is_some_and(|e| e == "zst")).expect("a layer");
    let good = fs::read(&layer).unwrap();
    let with = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    for (what, bytes) in
        [("no table", good[..good.len() / 2].to_vec()), ("a damaged table", with(good.len() - 100))]
    {
        fs::write(&layer, bytes).unwrap();
        let refused = lab.try_mount();
        assert!(!refused.ok() && !lab.mounted(), "{what}: mounted");
        assert!(refused.stderr.contains("layers/"), "{what}: the layer is not named: {}", refused.stderr);
    }
    fs::write(&layer, with(good.len() / 2)).unwrap();
    lab.mount();
    assert_eq!(fs::read(lab.dir().join("hit")).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read(lab.dir().join("good")).unwrap(), vec![1; 100]);
    assert_eq!(lab.absent_files(), 1);
    fs::write(&layer, &good).unwrap();
    assert!(fs::read(lab.dir().join("hit")).unwrap() == noise, "other content than was saved");
}

/// SEMANTICS, Restore: "`hydrate` brings what it names, or everything".
#[test]
fn hydrate_brings_what_it_names_and_then_all() {
    let (mut lab, tree) = arrived(Mode::Passthrough);
    let all = lab.absent_files();
    let missing = lab.verb("hydrate", &["many", "nope"]);
    assert!(
        missing.code == 5 && missing.stderr.contains("nope"),
        "a path that is not there: {}",
        missing.said()
    );
    lab.verb("hydrate", &["many", "large"]).must("hydrate two paths");
    // A file between two of them may come along; the seven and the two others do not lie there.
    assert!((5..=all - 202).contains(&lab.absent_files()), "{} of {all}", lab.absent_files());
    let done = lab.verb("hydrate", &[]).must("hydrate");
    assert!(done.stderr.contains("0 are only in the remote"), "{}", done.stderr);
    assert_eq!(lab.absent_files(), 0);
    lab.unmount();
    assert!(!lab.state().join("absent").exists(), "what is complete is remembered as absent");
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the directory after the unmount");
    lab.mount();
    assert_eq!(lab.flush(), "1");
}

/// SEMANTICS, Restore: "In the background everything comes by itself".
#[test]
fn the_background_brings_everything() {
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch=off"]));
    populate(&lab.dir());
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.flush();
    lab.elsewhere();
    lab.await_status("everything is here", |status| status["absent_files"] == 0);
    fs::rename(lab.remote_dir(), lab.root().join("away")).unwrap();
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree without its remote");
    fs::rename(lab.root().join("away"), lab.remote_dir()).unwrap();
}

/// SEMANTICS, Restore: "The directory beneath holds complete files only".
#[test]
fn the_directory_beneath_holds_complete_files_only() {
    let (lab, tree) = arrived(Mode::Passthrough);
    fs::read(lab.dir().join("many/30")).unwrap();
    fs::remove_file(lab.dir().join("many/31")).unwrap();
    let told = lab.unmount();
    assert!(told.stderr.contains("files are only in the remote"), "{}", told.stderr);
    let beneath = Tree::take(&lab.dir(), KEPT);
    let files = beneath.paths().iter().filter(|p| p.starts_with("many/")).count();
    assert_eq!(files, 1, "{:?}", beneath.paths());
    lab.mount();
    let mut expected = tree;
    expected.0.remove(b"many/31".as_slice());
    let found = Tree::take(&lab.dir(), KEPT);
    let differing: Vec<String> = expected.diff(&found).into_iter().filter(|l| !l.contains("many:")).collect();
    assert!(differing.is_empty() || differing.iter().all(|l| l.starts_with("many ")), "{differing:?}");
}

/// Forty files of half a MiB each, in the order of their names: neighbours lie in one layer.
fn half_a_mib_each(dir: &Path) {
    fs::create_dir(dir.join("many")).unwrap();
    for n in 0..40u32 {
        let noise = |at: u32| (at ^ n << 20).wrapping_mul(2_654_435_761) >> 13;
        let bytes: Vec<u8> = (0..1u32 << 19).map(|at| noise(at) as u8).collect();
        fs::write(dir.join(format!("many/{n:02}")), bytes).unwrap();
    }
}

/// SEMANTICS, Restore: "`--prefetch-rate` limits the background, and nothing else".
#[test]
fn a_slow_background_slows_down_nobody() {
    // So slow that after its first step it never comes to a second.
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch=off", "--prefetch-rate", "1"]));
    half_a_mib_each(&lab.dir());
    let tree = Tree::take(&lab.dir(), KEPT);
    lab.flush();
    lab.elsewhere();
    lab.await_status("the first step", |status| status["absent_files"].as_u64().unwrap() < 40);
    tree.assert_same(&Tree::take(&lab.dir(), KEPT), "everything, as it is asked for");
    assert_eq!(lab.absent_files(), 0);
    let background = lab.stats()["prefetched_bytes"].as_u64().unwrap();
    assert!(background <= 2 << 20, "the background asked for {background} bytes");
}

/// The files that are on the disk beneath a mount that has ended.
fn beneath(lab: &Lab) -> Vec<String> {
    let listed = fs::read_dir(lab.dir().join("many")).into_iter().flatten();
    let mut names: Vec<String> = listed.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// SEMANTICS, Restore: "What was read first after earlier mounts comes first".
#[test]
fn the_next_cold_start_begins_with_what_was_read_first() {
    let mut lab = Lab::new(setup(Mode::Passthrough));
    half_a_mib_each(&lab.dir());
    lab.flush();
    lab.elsewhere();
    assert!(!lab.remote_dir().join("work/trace").exists(), "nothing was read yet");
    for name in ["31", "30", "12"] {
        fs::read(lab.dir().join("many").join(name)).unwrap();
    }
    lab.unmount();
    let trace = fs::read(lab.remote_dir().join("work/trace")).expect("what was read is remembered");
    // With a background that makes one step and then, for longer than any test, no second one.
    let slow = |lab: &mut Lab| {
        lab.setup.options = ["--no-prefetch=off", "--prefetch-rate", "1"].map(Into::into).to_vec();
        lab.elsewhere();
        lab.await_status("the first step", |status| status["absent_files"].as_u64().unwrap() < 40);
        lab.kill();
        rustix::mount::unmount(lab.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
        beneath(lab)
    };
    // What lies in the same frames comes along.
    let came = slow(&mut lab);
    assert!(came.contains(&"31".to_owned()) && came.len() <= 3, "{came:?}");
    // What was read most recently goes before it.
    lab.setup.options = vec!["--no-prefetch".into()];
    lab.elsewhere();
    fs::read(lab.dir().join("many/25")).unwrap();
    lab.unmount();
    let came = slow(&mut lab);
    assert!(came.contains(&"25".to_owned()) && came.len() <= 3, "{came:?}");
    // A damaged one is no trace, and no reason not to begin.
    let mut damaged = trace;
    damaged[20] ^= 1;
    fs::write(lab.remote_dir().join("work/trace"), damaged).unwrap();
    assert_eq!(slow(&mut lab), ["00"], "without a trace it is the order of the layer");
}

/// SEMANTICS, Restore: "nothing is remembered where nothing came cold".
#[test]
fn a_warm_start_leaves_what_was_learned_as_it_is() {
    let (mut lab, _) = arrived(Mode::Passthrough);
    fs::read(lab.dir().join("many/33")).unwrap();
    lab.remount();
    let trace = lab.remote_dir().join("work/trace");
    let learned = fs::read(&trace).unwrap();
    fs::read(lab.dir().join("many/34")).unwrap();
    lab.remount();
    assert_eq!(fs::read(&trace).unwrap(), learned);
    fs::remove_file(&trace).unwrap();
    lab.elsewhere();
    fs::write(lab.dir().join("many/35"), "overwritten, not read").unwrap();
    lab.flush();
    lab.unmount();
    assert!(!trace.exists(), "what was not read was remembered");
}
