//! A disk with bad blocks under the mount: what can be read is saved.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::lab::detach;
use harness::{Lab, Setup, Subject, is_root, skip, tool};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BLOCK: u64 = 4096;

/// An ext4 of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where a file cannot be mounted as a disk.
    fn new() -> Option<Self> {
        let disk = Self(tempfile::Builder::new().prefix("icecache-disk-").tempdir().unwrap());
        File::create(disk.image()).unwrap().set_len(64 << 20).unwrap();
        tool("mkfs.ext4", &["-q".as_ref(), "-b4096".as_ref(), disk.image().as_os_str()]);
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
        let mut mount = std::process::Command::new("mount");
        mount.args(["-o", "loop"]).args([self.image(), self.dir()]).status().unwrap().success()
    }

    /// Damages the list of the extents of these files: they can be opened, and not be read.
    fn damage(&self, names: &[&str]) {
        tool("umount", &[self.dir().as_os_str()]);
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
