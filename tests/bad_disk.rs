//! A disk with bad blocks under the mount: what can be read is saved. And one that is full for a moment under the state
//! directory: nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::lab::detach;
use harness::{KEPT, LIMIT, Lab, Mode, Setup, Subject, Tree, eventually, is_root, skip, tool};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK: u64 = 4096;

/// An ext4 of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where a file cannot be mounted as a disk.
    fn new() -> Option<Self> {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Option<Self> {
        let disk = Self(tempfile::Builder::new().prefix("icecache-disk-").tempdir().unwrap());
        File::create(disk.image()).unwrap().set_len(64 << 20).unwrap();
        let image = disk.image();
        let options = options.iter().map(std::ffi::OsStr::new);
        let made: Vec<_> = ["-q".as_ref(), "-b4096".as_ref()]
            .into_iter()
            .chain(options)
            .chain([image.as_os_str()])
            .collect();
        tool("mkfs.ext4", &made);
        fs::create_dir(disk.dir()).unwrap();
        disk.mount().then_some(disk)
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).args([self.image(), self.dir()]).status().unwrap().success()
    }

    /// The kernel may hold for a moment still what a daemon had open that was killed.
    fn unmount(&self) {
        let unmounted = || Command::new("umount").arg(self.dir()).status().unwrap().success().then_some(());
        eventually("the disk is let go", LIMIT, unmounted);
    }

    /// Damages the list of the extents of these files: they can be opened, and not be read.
    fn damage(&self, names: &[&str]) {
        self.unmount();
        for name in names {
            let ask = format!("stat /{name}");
            let said = tool("debugfs", &["-R".as_ref(), ask.as_ref(), self.image().as_os_str()]).stdout;
            let (_, after) = said.split_once("(ETB0):").expect(&said);
            let block: u64 = after.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
            let image = File::options().write(true).open(self.image()).unwrap();
            image.write_all_at(&[0xAA; BLOCK as usize], block * BLOCK).unwrap();
            image.sync_all().unwrap();
        }
        assert!(self.mount());
    }
}

impl Disk {
    /// What a failure of the machine leaves of these files where their content was not written back yet: all but that. The
    /// length is another one, and no time has moved.
    fn lose(&self, names: &[&str]) {
        self.unmount();
        for name in names {
            let set = format!("sif /{name} size 0");
            tool("debugfs", &["-w".as_ref(), "-R".as_ref(), set.as_ref(), self.image().as_os_str()]);
        }
        assert!(self.mount());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.dir());
    }
}

/// A file of so many pieces that its inode has no room for their places.
fn pieces(path: &Path) {
    let file = File::create(path).unwrap();
    for n in 0..12 {
        file.write_all_at(format!("piece {n}").as_bytes(), n * 3 * BLOCK).unwrap();
    }
    file.sync_all().unwrap();
}

/// SEMANTICS, Flush: "One that can be opened and not be read, or that is open for writing and cannot be copied, is left
/// out in the same way."
#[test]
fn what_cannot_be_read_costs_nothing_else() {
    let Some(disk) = is_root().then(Disk::new).flatten() else {
        return skip("files on bad blocks", "no disk can be made of a file here");
    };
    let bad = ["bad", "worse", "worst"];
    for name in bad {
        pieces(&disk.dir().join(name));
    }
    for name in ["a", "m", "z"] {
        fs::write(disk.dir().join(name), name).unwrap();
    }
    fs::hard_link(disk.dir().join("bad"), disk.dir().join("name")).unwrap();
    disk.damage(&bad);
    assert!(fs::read(disk.dir().join("bad")).is_err(), "it was not damaged");

    let backing = disk.dir();
    let mut lab = Lab::new(Setup::default().with(&["--backing", backing.to_str().unwrap()]));
    let saved = |lab: &Lab, version: &str, there: &[&str], not: &[&str]| {
        let restored = lab.checkout(version);
        for name in there {
            assert_eq!(fs::read_to_string(restored.join(name)).unwrap(), *name, "{version}");
        }
        for name in not {
            assert!(!restored.join(name).exists(), "{version}: {name}");
        }
    };
    // Not everything is durable, and that is said; a version is there all the same.
    let incomplete = |lab: &Lab| {
        let flush = lab.verb("flush", &["--wait"]);
        assert!(!flush.ok() && flush.said().contains("cannot be saved"), "{}", flush.said());
        lab.status()["version"].clone()
    };
    assert_eq!(incomplete(&lab), "1");
    saved(&lab, "1", &["a", "m", "z"], &["bad", "name", "worse", "worst"]);
    let status = lab.status();
    assert_eq!(status["dirty_files"], 4, "{status}");
    let stuck: Vec<_> =
        status["stuck"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(stuck, ["bad", "name", "worse", "worst"], "{status}");

    // Open for writing: it is copied for the cut, which fails as well.
    let open = File::options().write(true).open(lab.dir().join("worse")).unwrap();
    fs::write(lab.dir().join("n"), "n").unwrap();
    assert_eq!(incomplete(&lab), "2");
    saved(&lab, "2", &["a", "m", "n", "z"], &bad);
    drop(open);

    // Whoever ends the mount is told.
    let refused = lab.verb("unmount", &[]);
    assert!(!refused.ok() && refused.said().contains("worst"), "{}", refused.said());

    // And once they are whole they are saved like any other.
    lab.mount();
    for name in bad {
        fs::remove_file(lab.dir().join(name)).unwrap();
        fs::write(lab.dir().join(name), name).unwrap();
    }
    fs::remove_file(lab.dir().join("name")).unwrap();
    assert_eq!(lab.flush(), "3");
    saved(&lab, "3", &["a", "bad", "m", "n", "worse", "worst", "z"], &["name"]);
    assert_eq!(lab.status_number("dirty_files"), 0);
    lab.unmount().must("unmount");
}

/// SEMANTICS, Crash: "A file that has lost its end by that and nothing else is brought again, and told".
#[test]
fn what_a_failure_of_the_machine_took_is_brought_again() {
    for restore in ["lazy", "eager"] {
        let Some(disk) = is_root().then(Disk::new).flatten() else {
            return skip("files that lose their content", "no disk can be made of a file here");
        };
        let mut lab = Lab::prepare(Setup::default());
        // What another machine has saved.
        let elsewhere = lab.root().join("elsewhere");
        fs::create_dir_all(elsewhere.join("d")).unwrap();
        let content = |n: usize| format!("{n}").repeat(5000);
        for n in 0..6 {
            fs::write(elsewhere.join(format!("d/{n}")), content(n)).unwrap();
        }
        fs::hard_link(elsewhere.join("d/3"), elsewhere.join("d/name")).unwrap();
        lab.try_mount_at(&elsewhere, &lab.root().join("other")).must("mount elsewhere");
        lab.call(["unmount".as_ref(), elsewhere.as_os_str()]).must("unmount elsewhere");

        let backing = disk.dir();
        let options = ["--backing", backing.to_str().unwrap(), "--no-prefetch", "--restore", restore];
        lab.setup = lab.setup.clone().with(&options);
        lab.mount();
        for n in 0..6 {
            assert_eq!(fs::read_to_string(lab.dir().join(format!("d/{n}"))).unwrap(), content(n));
        }
        fs::write(lab.dir().join("d/5"), "changed here").unwrap();
        lab.kill();
        detach(&lab.dir());
        disk.lose(&["d/0", "d/3"]);
        assert!(fs::read(backing.join("d/0")).unwrap().is_empty(), "it lost nothing");
        let again = lab.try_mount().must("mount");
        assert!(again.said().contains("content of 2 files"), "{restore}: {}", again.said());
        assert_eq!(lab.flush(), "2", "{restore}: the change is saved");
        let there = lab.restored(None);
        for dir in [lab.dir(), there] {
            for n in 0..5 {
                let (path, first) = (dir.join(format!("d/{n}")), elsewhere.join(format!("d/{n}")));
                assert_eq!(fs::read_to_string(&path).unwrap(), content(n), "{restore}: {}", path.display());
                let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
                assert_eq!(time(&path), time(&first), "{restore}: {}", path.display());
            }
            assert_eq!(fs::read_to_string(dir.join("d/5")).unwrap(), "changed here", "{restore}");
            let numbers = ["d/3", "d/name"].map(|name| fs::metadata(dir.join(name)).unwrap().ino());
            assert_eq!(numbers[0], numbers[1], "{restore}");
        }
        lab.unmount().must("unmount");
    }
}

/// A disk of 24 MB for a state directory.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where it cannot be mounted.
    fn new() -> Option<Self> {
        let small = Self(tempfile::Builder::new().prefix("icecache-small-").tempdir().unwrap());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(small.0.path());
        mount.status().unwrap().success().then_some(small)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// From now on it is full.
    fn fill(&self) {
        let mut file = File::create(self.0.path().join("filler")).unwrap();
        let mut wrote = 1 << 20;
        while wrote > 0 {
            match file.write_all(&vec![1; wrote]) {
                Ok(()) => {}
                Err(e) => {
                    assert_eq!(e.kind(), std::io::ErrorKind::StorageFull);
                    wrote /= 2;
                }
            }
        }
    }

    /// There is room for so many bytes more.
    fn relieve(&self, bytes: u64) {
        let filler = File::options().write(true).open(self.0.path().join("filler")).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - bytes).unwrap();
    }

    /// There is room again.
    fn clear(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }

    fn mount(&self, lab: &Lab) {
        lab.try_mount_at(&lab.place(), &self.state()).must("mount");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        detach(self.0.path());
    }
}

/// A machine with such a disk that has just got back what another one has saved.
fn on_a_small_disk(small: &Small) -> Lab {
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    for dir in ["from", "to"] {
        fs::create_dir(lab.dir().join(dir)).unwrap();
    }
    for n in 0..400 {
        fs::write(lab.dir().join(format!("from/file-number-{n}")), n.to_string()).unwrap();
    }
    for n in 0..4 {
        fs::write(lab.dir().join(format!("victim-{n}")), n.to_string()).unwrap();
    }
    assert_eq!(lab.flush(), "1");
    lab.unmount();
    lab.wipe();
    small.mount(&lab);
    lab
}

/// SEMANTICS, Outage: "A moment in which the disk of the state directory is full".
#[test]
fn a_state_directory_that_is_full_for_a_moment_ends_nothing() {
    let Some(small) = is_root().then(Small::new).flatten() else {
        return skip("a full state directory", "no tmpfs can be mounted here");
    };
    let mut lab = on_a_small_disk(&small);
    let read = |lab: &Lab, n: usize| fs::read_to_string(lab.dir().join(format!("from/file-number-{n}")));
    for n in 0..100 {
        assert_eq!(read(&lab, n).unwrap(), n.to_string());
    }
    small.fill();
    for n in 0..300 {
        fs::write(lab.dir().join(format!("new-{n}")), n.to_string()).unwrap();
    }
    fs::remove_file(lab.dir().join("from/file-number-0")).unwrap();
    let full = lab.verb("flush", &["--wait"]);
    assert!(!full.ok(), "the disk was not full: {}", full.said());
    for n in 100..200 {
        if let Ok(content) = read(&lab, n) {
            assert_eq!(content, n.to_string());
        }
    }
    small.clear();
    for n in 100..300 {
        assert_eq!(read(&lab, n).unwrap(), n.to_string(), "it does not come any more");
    }
    assert_eq!(lab.flush(), "2");
    let restored = lab.checkout("2");
    assert_eq!(fs::read_to_string(restored.join("new-299")).unwrap(), "299");
    assert!(!restored.join("from/file-number-0").exists());
    // What was lost for a moment is not lost for the daemon that follows a killed one either.
    fs::remove_file(lab.dir().join("from/file-number-1")).unwrap();
    fs::remove_file(lab.dir().join("from/file-number-150")).unwrap();
    lab.kill();
    small.mount(&lab);
    for n in (2..150).chain(151..400) {
        assert_eq!(read(&lab, n).unwrap(), n.to_string());
    }
    assert_eq!(lab.flush(), "3");
    let restored = lab.checkout("3");
    let names = fs::read_dir(restored.join("from")).unwrap().count();
    assert_eq!(names, 397);
    assert_eq!(lab.flush(), "3", "what came is a change");
    lab.unmount();
}

/// The same where a little room comes first, which is no room for a database to begin anew: what it tears then it takes for
/// damaged later, and the next mount knows nothing of what was not saved.
#[test]
fn a_state_directory_that_gets_a_little_room_keeps_its_journal() {
    if !is_root() || Small::new().is_none() {
        return skip("a full state directory", "no tmpfs can be mounted here");
    }
    for steps in [&[16][..], &[20], &[8, 8, 8], &[28, 12]] {
        let small = Small::new().unwrap();
        let mut lab = Lab::prepare(Setup::default());
        small.mount(&lab);
        for n in 0..1500 {
            fs::write(lab.dir().join(format!("f{n}")), "first").unwrap();
        }
        lab.flush();
        small.fill();
        for n in (0..1500).filter(|n| n % 7 == 0) {
            fs::remove_file(lab.dir().join(format!("f{n}"))).unwrap();
            fs::write(lab.dir().join(format!("f{}", n + 1)), "unsaved work").unwrap();
        }
        assert!(!lab.verb("flush", &["--wait"]).ok(), "the disk was not full");
        for kib in steps {
            small.relieve(kib << 10);
            assert!(!lab.verb("flush", &["--wait"]).ok(), "{steps:?}: there was room enough");
        }
        small.clear();
        let before = Tree::take(&lab.dir(), KEPT);
        lab.flush();
        lab.unmount();
        small.mount(&lab);
        before.assert_same(&Tree::take(&lab.dir(), KEPT), "the next mount");
        assert!(!small.state().join("conflicts").exists(), "{steps:?}: something was moved aside");
        lab.unmount();
    }
}

/// All that stands in three directories.
fn names(dir: &Path) -> BTreeSet<String> {
    let names = ["", "from", "to"].into_iter().flat_map(|sub| {
        fs::read_dir(dir.join(sub)).unwrap().map(move |entry| {
            let name = entry.unwrap().file_name();
            format!("{sub}/{}", name.to_str().unwrap())
        })
    });
    names.collect()
}

/// The log of what is not here was cut off in the middle of a record, and all that programs did later counted for
/// nothing. SEMANTICS, Outage: "What programs remove or rename meanwhile and is not on the disk yet".
#[test]
fn what_is_done_to_absent_files_after_the_disk_was_full_stays_done() {
    let Some(small) = is_root().then(Small::new).flatten() else {
        return skip("a full state directory", "no tmpfs can be mounted here");
    };
    let mut lab = on_a_small_disk(&small);
    names(&lab.dir());
    small.fill();
    let dir = lab.dir();
    let rename = |from: String, to: String| fs::rename(dir.join(from), dir.join(to));
    let renamed = (0..400)
        .take_while(|n| {
            rename(format!("from/file-number-{n}"), format!("to/{:0>1$}", n, 20 + n % 20)).is_ok()
        })
        .count();
    assert!(renamed < 400, "the disk was not full");
    small.clear();
    fs::remove_file(dir.join("victim-0")).unwrap();
    rename("victim-1".into(), "to/victim".into()).unwrap();
    rename("victim-2".into(), "renamed".into()).unwrap();
    rename("from/file-number-399".into(), "to/last".into()).unwrap();
    let done = names(&dir);
    lab.kill();
    small.mount(&lab);
    assert_eq!(names(&lab.dir()), done, "{renamed}");
    assert_eq!(lab.flush(), "2");
    assert_eq!(names(&lab.checkout("2")), done, "{renamed}");
    assert_eq!(fs::read_to_string(lab.dir().join("to/last")).unwrap(), "399");
    lab.unmount();
}

/// SEMANTICS, Restore: "A truncation that is refused changes nothing, and neither does one that fails or is interrupted".
#[test]
fn what_a_full_directory_has_no_room_for_is_not_cut() {
    let Some(disk) = is_root().then(Disk::new).flatten() else {
        return skip("a directory that is full", "no disk can be made of a file here");
    };
    // The longest names: fifteen of them leave no room for one more in the first block of a directory.
    let long = |n: usize| format!("{n:0>255}");
    let content: Vec<u8> = (0..9 << 20).map(|n: u32| (n.wrapping_mul(n) >> 13) as u8).collect();
    let (first, second) = (disk.dir().join("first"), disk.dir().join("second"));
    for dir in [&first, &second] {
        fs::create_dir(dir).unwrap();
    }
    let setup = |dir: &Path| Setup::default().with(&["--no-prefetch", "--backing", dir.to_str().unwrap()]);
    let mut lab = Lab::new(setup(&first));
    fs::create_dir(lab.dir().join("sub")).unwrap();
    fs::write(lab.dir().join("sub").join(long(0)), &content).unwrap();
    lab.flush();
    lab.setup = setup(&second);
    lab.elsewhere();
    fs::remove_dir_all(&first).unwrap();

    let (sub, path) = (lab.dir().join("sub"), lab.dir().join("sub").join(long(0)));
    (1..16).for_each(|n| drop(File::create(sub.join(long(n))).unwrap()));
    let version = lab.flush();
    let (reader, writer) = (File::open(&path).unwrap(), File::options().write(true).open(&path).unwrap());
    let filler = File::create(disk.dir().join("filler")).unwrap();
    for size in [1 << 20, BLOCK as usize] {
        let block = vec![7; size];
        let mut at = filler.metadata().unwrap().len();
        while filler.write_all_at(&block, at).is_ok() {
            at += size as u64;
        }
    }
    for _ in 0..2 {
        let error = writer.set_len(0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), content.len() as u64);
    }
    assert_eq!(lab.status_number("dirty_files"), 0);
    filler.set_len(0).unwrap();
    let mut read = vec![0; content.len()];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content, "what was cut for nobody is as it was");
    assert_eq!(lab.flush(), version, "there is nothing to save");
    writer.set_len(3).unwrap();
    let version = lab.flush();
    assert_eq!(fs::read(lab.checkout(&version).join("sub").join(long(0))).unwrap(), &content[..3]);
    drop((reader, writer));
    lab.unmount().must("unmount");
}

/// SEMANTICS, Flush: "A change within the granularity of the file system's times is no less one".
#[test]
fn changes_within_a_second_are_saved_where_times_are_whole_seconds() {
    let Some(disk) = is_root().then(|| Disk::with(&["-I128"])).flatten() else {
        return skip("times of whole seconds", "no disk can be made of a file here");
    };
    for mode in [Mode::Passthrough, Mode::Classic] {
        let backing = disk.dir().join(format!("{mode:?}"));
        let mut lab = Lab::new(Setup::mode(mode).with(&["--backing", backing.to_str().unwrap()]));
        let file = lab.dir().join("f");
        let (mut before, mut met) = (None, 0);
        for round in 100..160 {
            fs::write(&file, format!("{round}")).unwrap();
            let now = fs::metadata(&file).unwrap().ctime();
            let version = lab.flush();
            assert_eq!(fs::read_to_string(lab.checkout(&version).join("f")).unwrap(), format!("{round}"));
            met += u32::from(before.replace(now) == Some(now));
            if met == 3 {
                break;
            }
        }
        assert!(met > 0, "no two changes fell into one second");
        // And by a scan after a kill.
        fs::write(&file, "killed").unwrap();
        lab.flush();
        fs::write(&file, "KILLED").unwrap();
        lab.kill();
        lab.mount();
        let version = lab.flush();
        assert_eq!(fs::read_to_string(lab.checkout(&version).join("f")).unwrap(), "KILLED");
    }
}
