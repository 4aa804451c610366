//! Large files of a lazily restored directory, opened to be written before they are here: they come with what is
//! written first, and not at all if that empties them. As in `lazy.rs` nothing comes by itself unless a case says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, LIMIT, Lab, Mode, Setup, Subject, Tree, eventually, is_root};
use rustix::fs::{FallocateFlags, OFlags};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const MIB: usize = 1 << 20;
/// What is not waited for at an open is larger than 8 MiB.
const LARGE: usize = 12 * MIB;
const BOTH: [Mode; 2] = [Mode::Passthrough, Mode::Classic];

/// How a program empties a file.
type Way = fn(&Path);

/// Bytes that do not compress, and differ everywhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let word = |n: u64| {
        let mixed = (n ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
    };
    (0..length.div_ceil(8) as u64).flat_map(word).take(length).collect()
}

fn arrived(mode: Mode, populate: impl FnOnce(&Path)) -> Lab {
    Lab::arrived(Setup::mode(mode).with(&["--no-prefetch"]), populate).0
}

/// The same with one large file.
fn with_large(mode: Mode) -> (Lab, Vec<u8>, PathBuf) {
    let content = noise(LARGE, 1);
    let lab = arrived(mode, |dir| fs::write(dir.join("large"), &content).unwrap());
    let path = lab.dir().join("large");
    (lab, content, path)
}

fn bytes_in(lab: &Lab) -> u64 {
    lab.stats()["requests"]["bytes_in"].as_u64().unwrap()
}

fn to_write(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// By its name: no descriptor, so no open.
fn truncate(path: &Path, length: usize) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with a NUL and outlives the call.
    assert_eq!(unsafe { libc::truncate(path.as_ptr(), length as i64) }, 0);
}

fn read(file: &File, at: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at as u64).map(|()| bytes).unwrap()
}

fn tool(program: &str, args: &[&str], dir: &Path) {
    assert!(
        Command::new(program).args(args).current_dir(dir).status().unwrap().success(),
        "{program} {args:?}"
    );
}

/// SEMANTICS, Restore: "Removing, emptying or replacing it needs no content".
#[test]
fn nothing_is_asked_for_what_is_emptied() {
    let ways: [(&str, Way); 5] = [
        ("the command truncate", |path| {
            tool("truncate", &["-s", "0", path.to_str().unwrap()], Path::new("/"));
        }),
        ("a shell", |path| tool("sh", &["-c", &format!(": > {}", path.display())], Path::new("/"))),
        ("truncate(2)", |path| truncate(path, 0)),
        ("ftruncate(2)", |path| to_write(path).set_len(0).unwrap()),
        ("O_RDWR with O_TRUNC", |path| {
            drop(OpenOptions::new().read(true).write(true).truncate(true).open(path).unwrap());
        }),
    ];
    for mode in BOTH {
        let content = noise(64 * MIB, 2);
        let mut lab = arrived(mode, |dir| {
            for n in 0..ways.len() {
                fs::write(dir.join(n.to_string()), &content).unwrap();
            }
            fs::write(dir.join("stays"), "as it was").unwrap();
        });
        let (dir, before) = (lab.dir(), (lab.downloads(), lab.absent_files()));
        for (n, (way, empty)) in ways.iter().enumerate() {
            let path = dir.join(n.to_string());
            empty(&path);
            assert_eq!(fs::metadata(&path).unwrap().len(), 0, "{mode:?}: {way}");
            assert_eq!(lab.downloads(), before.0, "{mode:?}: {way} made a request");
            assert_eq!(lab.absent_files(), before.1 - n as u64 - 1, "{mode:?}: {way}");
            fs::write(&path, format!("after {way}")).unwrap();
        }
        assert_eq!(lab.downloads(), before.0, "{mode:?}: writing what is empty");
        let version = lab.flush();
        let tree = lab.checkout(&version);
        for (n, (way, _)) in ways.iter().enumerate() {
            assert_eq!(
                fs::read_to_string(tree.join(n.to_string())).unwrap(),
                format!("after {way}"),
                "{mode:?}"
            );
        }
        assert_eq!(fs::read_to_string(tree.join("stays")).unwrap(), "as it was", "{mode:?}");
    }
}

/// SEMANTICS, Restore: "of one that is cut to a length only so much comes".
#[test]
fn what_is_cut_to_a_length_comes_up_to_there() {
    for mode in BOTH {
        let content = noise(40 * MIB, 3);
        let names = ["by name", "by descriptor", "while it is read"];
        let mut lab = arrived(mode, |dir| {
            for name in names {
                fs::write(dir.join(name), &content).unwrap();
            }
        });
        let before = bytes_in(&lab);
        truncate(&lab.dir().join(names[0]), 3 * MIB + 5);
        let writer = to_write(&lab.dir().join(names[1]));
        writer.set_len(5 * MIB as u64 + 7).unwrap();
        let reader = File::open(lab.dir().join(names[2])).unwrap();
        assert!(read(&reader, MIB, 5000) == content[MIB..MIB + 5000], "{mode:?}");
        to_write(&lab.dir().join(names[2])).set_len(2 * MIB as u64 - 1).unwrap();
        let cost = bytes_in(&lab) - before;
        assert!(cost < 20 * MIB as u64, "{mode:?}: {cost} bytes for 10 MiB of 120");
        assert!(read(&reader, MIB, MIB - 1) == content[MIB..2 * MIB - 1], "{mode:?}");
        assert_eq!(reader.read_at(&mut [0; 9], 2 * MIB as u64 - 1).unwrap(), 0, "{mode:?}: behind its end");
        // It grows again, by zeros.
        writer.set_len(6 * MIB as u64).unwrap();
        writer.write_all_at(b"end", 6 * MIB as u64).unwrap();
        let second = [&content[..5 * MIB + 7], &vec![0; MIB - 7], b"end"].concat();
        let expected = [&content[..3 * MIB + 5], &second, &content[..2 * MIB - 1]];
        let version = lab.flush();
        for dir in [lab.dir(), lab.checkout(&version)] {
            for (name, expected) in names.iter().zip(expected) {
                assert!(
                    fs::read(dir.join(name)).unwrap() == expected,
                    "{mode:?}: {name} in {}",
                    dir.display()
                );
            }
        }
        // Longer than it was: all of it is needed.
        let (mut lab, mut content, path) = with_large(mode);
        truncate(&path, LARGE + 4096);
        content.extend([0; 4096]);
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}: extended");
    }
}

/// SEMANTICS, Restore: "one that is only written by who has it open is waited for with the first write".
#[test]
fn it_comes_with_the_first_write() {
    for mode in BOTH {
        let (mut lab, mut content, path) = with_large(mode);
        let before = lab.downloads();
        let reader = File::open(&path).unwrap();
        let writer = to_write(&path);
        writer.sync_all().unwrap();
        assert_eq!(writer.metadata().unwrap().len(), LARGE as u64, "{mode:?}");
        assert_eq!(lab.downloads(), before, "{mode:?}: the open made a request");
        assert_eq!(lab.status_number("dirty_files"), 0, "{mode:?}: nothing was changed");
        writer.write_all_at(b"first", 3 * MIB as u64).unwrap();
        content[3 * MIB..3 * MIB + 5].copy_from_slice(b"first");
        assert_eq!(lab.absent_files(), 0, "{mode:?}");
        assert!(read(&reader, 3 * MIB - 10, 100) == content[3 * MIB - 10..3 * MIB + 90], "{mode:?}");
        let version = lab.flush();
        assert!(
            fs::read(lab.checkout(&version).join("large")).unwrap() == content,
            "{mode:?}: while it is open"
        );
        // It is a writer by now: what it writes is in every version from then on.
        let late = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for n in 0..3u8 {
            writer.write_all_at(&[n], 7 * MIB as u64).unwrap();
            late.write_all_at(&[n], 9 * MIB as u64).unwrap();
            (content[7 * MIB], content[9 * MIB]) = (n, n);
            let version = lab.flush();
            assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}: {n}");
            assert!(read(&reader, 0, LARGE) == content, "{mode:?}: {n}");
        }
        drop((reader, late));
        writer.write_all_at(b"last", 0).unwrap();
        content[..4].copy_from_slice(b"last");
        drop(writer);
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}: the last");
        lab.remount();
        assert!(fs::read(&path).unwrap() == content, "{mode:?}: after a remount");
    }
}

/// A program that opens a file to be written and does not has changed nothing; one that sets its times changes those.
#[test]
fn who_writes_nothing_brings_nothing() {
    for mode in BOTH {
        let (mut lab, content, path) = with_large(mode);
        let (before, first) = (lab.downloads(), lab.flush());
        drop(to_write(&path));
        assert_eq!(lab.flush(), first, "{mode:?}: there was nothing to save");
        tool("touch", &[path.to_str().unwrap()], Path::new("/"));
        let (time, version) = (fs::metadata(&path).unwrap().mtime(), lab.flush());
        assert_ne!(version, first, "{mode:?}: its time was set");
        assert_eq!((lab.downloads(), lab.absent_files()), (before, 1), "{mode:?}: content was brought");
        let tree = lab.checkout(&version);
        assert_eq!(fs::metadata(tree.join("large")).unwrap().mtime(), time, "{mode:?}");
        assert!(fs::read(tree.join("large")).unwrap() == content, "{mode:?}");
    }
}

/// SEMANTICS, Per call: "`O_APPEND`".
#[test]
fn what_is_appended_stands_at_the_end() {
    for mode in BOTH {
        let (mut lab, mut content, path) = with_large(mode);
        let mut later = to_write(&path);
        rustix::fs::fcntl_setfl(&later, OFlags::APPEND).unwrap();
        let mut appending = OpenOptions::new().append(true).open(&path).unwrap();
        let mut both = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        for n in 0..20 {
            for (file, name) in [(&mut later, "later"), (&mut appending, "appending"), (&mut both, "both")] {
                let line = format!("{n} by {name}\n");
                file.write_all(line.as_bytes()).unwrap();
                content.extend(line.as_bytes());
            }
            if n == 10 {
                both.set_len(LARGE as u64 + 9).unwrap();
                content.truncate(LARGE + 9);
            }
        }
        assert!(fs::read(&path).unwrap() == content, "{mode:?}");
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}: the version");
    }
}

/// The kernel has more ways to write than write(2).
#[test]
fn it_comes_for_whatever_writes_it() {
    for mode in BOTH {
        let content = noise(LARGE, 4);
        let names = ["allocated", "punched", "copied to", "in places"];
        let mut lab = arrived(mode, |dir| {
            for name in names {
                fs::write(dir.join(name), &content).unwrap();
            }
            fs::write(dir.join("small"), noise(90_000, 5)).unwrap();
        });
        let [allocated, punched, copied, placed] = names.map(|name| to_write(&lab.dir().join(name)));
        rustix::fs::fallocate(&allocated, FallocateFlags::empty(), LARGE as u64, 5000).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&punched, punch, MIB as u64, 65536).unwrap();
        let small = File::open(lab.dir().join("small")).unwrap();
        let (mut from, mut to) = (0, 2 * MIB as u64);
        while from < 90_000 {
            let left = 90_000 - from as usize;
            rustix::fs::copy_file_range(&small, Some(&mut from), &copied, Some(&mut to), left).unwrap();
        }
        let slices = [std::io::IoSlice::new(b"one"), std::io::IoSlice::new(b" two")];
        rustix::io::pwritev(&placed, &slices, 5).unwrap();
        drop((allocated, punched, copied, placed));
        let mut expected = [(); 4].map(|()| content.clone());
        expected[0].extend([0; 5000]);
        expected[1][MIB..MIB + 65536].fill(0);
        expected[2][2 * MIB..2 * MIB + 90_000].copy_from_slice(&noise(90_000, 5));
        expected[3][5..12].copy_from_slice(b"one two");
        let version = lab.flush();
        for dir in [lab.dir(), lab.checkout(&version)] {
            for (name, expected) in names.iter().zip(&expected) {
                assert!(
                    fs::read(dir.join(name)).unwrap() == *expected,
                    "{mode:?}: {name} in {}",
                    dir.display()
                );
            }
        }
    }
}

/// SEMANTICS, Per call: "what is unlinked while open lives on for its descriptors, is in no later version, and never
/// comes back".
#[test]
fn it_may_lose_its_names_before_it_is_written() {
    for mode in BOTH {
        for emptied in [false, true] {
            let (mut lab, mut content, path) = with_large(mode);
            let (reader, writer) = (File::open(&path).unwrap(), to_write(&path));
            fs::remove_file(&path).unwrap();
            if emptied {
                let before = lab.downloads();
                writer.set_len(0).unwrap();
                assert_eq!(lab.downloads(), before, "{mode:?}: emptying it made a request");
                content.clear();
            }
            writer.write_all_at(b"written without a name", 0).unwrap();
            content.resize(content.len().max(22), 0);
            content[..22].copy_from_slice(b"written without a name");
            writer.write_all_at(b"end", LARGE as u64 + 100).unwrap();
            content.resize(LARGE + 100, 0);
            content.extend(b"end");
            writer.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
            for file in [&reader, &writer] {
                let meta = file.metadata().unwrap();
                let seen = (meta.len(), meta.nlink(), meta.mode() & 0o7777);
                assert_eq!(seen, (content.len() as u64, 0, 0o604), "{mode:?}: {emptied}");
            }
            assert!(read(&reader, 0, content.len()) == content, "{mode:?}: {emptied}");
            fs::write(&path, "another").unwrap();
            let version = lab.flush();
            assert_eq!(fs::read(lab.checkout(&version).join("large")).unwrap(), b"another", "{mode:?}");
            assert!(read(&reader, 0, content.len()) == content, "{mode:?}: beside another");
        }
        // One name of two, the only one that anybody has asked for.
        let content = noise(LARGE, 6);
        let mut lab = arrived(mode, |dir| {
            fs::write(dir.join("one"), &content).unwrap();
            fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
        });
        let writer = to_write(&lab.dir().join("one"));
        fs::remove_file(lab.dir().join("one")).unwrap();
        writer.write_all_at(b"changed", 0).unwrap();
        let expected = [b"changed", &content[7..]].concat();
        let version = lab.flush();
        let tree = lab.checkout(&version);
        assert!(fs::read(tree.join("two")).unwrap() == expected, "{mode:?}: while it is open");
        assert!(!tree.join("one").exists(), "{mode:?}");
        writer.write_all_at(b"again", LARGE as u64).unwrap();
        drop(writer);
        let expected = [&expected[..], b"again"].concat();
        assert!(fs::read(lab.dir().join("two")).unwrap() == expected, "{mode:?}");
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("two")).unwrap() == expected, "{mode:?}: closed");
    }
}

/// Renamed, replaced and linked before the first write: that goes to the file, wherever it is.
#[test]
fn it_may_move_before_it_is_written() {
    for mode in BOTH {
        let content = noise(LARGE, 7);
        let mut lab = arrived(mode, |dir| {
            fs::create_dir(dir.join("sub")).unwrap();
            for name in ["moved", "replaced", "linked", "sub/along"] {
                fs::write(dir.join(name), &content).unwrap();
            }
        });
        let dir = lab.dir();
        let writers = ["moved", "replaced", "linked", "sub/along"].map(|name| to_write(&dir.join(name)));
        fs::rename(dir.join("moved"), dir.join("sub/there")).unwrap();
        fs::write(dir.join("new"), "the new one").unwrap();
        fs::rename(dir.join("new"), dir.join("replaced")).unwrap();
        fs::hard_link(dir.join("linked"), dir.join("sub/link")).unwrap();
        fs::rename(dir.join("sub"), dir.join("other")).unwrap();
        for writer in &writers {
            writer.write_all_at(b"changed", 0).unwrap();
        }
        drop(writers);
        let changed = [b"changed", &content[7..]].concat();
        let version = lab.flush();
        for dir in [dir.clone(), lab.checkout(&version)] {
            for name in ["other/there", "linked", "other/link", "other/along"] {
                assert!(fs::read(dir.join(name)).unwrap() == changed, "{mode:?}: {name}");
            }
            assert_eq!(fs::read_to_string(dir.join("replaced")).unwrap(), "the new one", "{mode:?}");
            assert!(!dir.join("moved").exists() && !dir.join("sub").exists(), "{mode:?}");
        }
    }
}

/// SEMANTICS, Restore: "A store that cannot be reached makes opening, or reading by range, fail with EIO after bounded retries".
#[test]
fn without_the_store_it_is_emptied_and_not_written() {
    for mode in BOTH {
        let (mut lab, mut content, path) = with_large(mode);
        let writer = to_write(&path);
        let away = lab.root().join("away");
        fs::rename(lab.remote_dir(), &away).unwrap();
        for _ in 0..2 {
            let error = writer.write_all_at(b"changed", 5).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{mode:?}: {error}");
        }
        fs::rename(&away, lab.remote_dir()).unwrap();
        writer.write_all_at(b"changed", 5).unwrap();
        content[5..12].copy_from_slice(b"changed");
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}");

        let (mut lab, _, path) = with_large(mode);
        let writer = to_write(&path);
        fs::rename(lab.remote_dir(), away_of(&lab)).unwrap();
        writer.set_len(0).unwrap();
        writer.write_all_at(b"fresh", 0).unwrap();
        fs::rename(away_of(&lab), lab.remote_dir()).unwrap();
        let version = lab.flush();
        assert_eq!(fs::read(lab.checkout(&version).join("large")).unwrap(), b"fresh", "{mode:?}");
    }
}

fn away_of(lab: &Lab) -> PathBuf {
    lab.root().join("away")
}

/// SEMANTICS, Crash: "When the daemon is killed, every completed operation is in the backing".
#[test]
fn a_killed_daemon_leaves_what_was_there_or_the_empty_file() {
    const FILES: usize = 12;
    for mode in BOTH {
        let content: Vec<Vec<u8>> = (0..FILES).map(|n| noise(9 * MIB, 20 + n as u64)).collect();
        let mut lab = arrived(mode, |dir| {
            for (n, content) in content.iter().enumerate() {
                fs::write(dir.join(n.to_string()), content).unwrap();
            }
        });
        let dir = lab.dir();
        // The daemon dies while some are emptied and all of them come.
        let mut bringing = lab.command([OsStr::new("hydrate"), dir.as_os_str()]).spawn().unwrap();
        let empty = |n: &usize| {
            let path = dir.join(n.to_string());
            match n % 3 {
                0 => OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0)).is_ok(),
                1 => OpenOptions::new().write(true).truncate(true).open(path).is_ok(),
                _ => false,
            }
        };
        let emptied: Vec<usize> = (0..FILES / 2).filter(empty).collect();
        lab.kill();
        bringing.wait().unwrap();
        lab.mount();
        let found = |dir: &Path, what: &str| -> Vec<bool> {
            let empty = |n: usize| {
                let found = fs::read(dir.join(n.to_string())).unwrap();
                assert!(
                    found.is_empty() || found == content[n],
                    "{mode:?}: {what}: {n} has {} bytes",
                    found.len()
                );
                assert!(!emptied.contains(&n) || found.is_empty(), "{mode:?}: {what}: {n} has come back");
                found.is_empty()
            };
            (0..FILES).map(empty).collect()
        };
        let here = found(&lab.dir(), "after the kill");
        let version = lab.flush();
        assert_eq!(found(&lab.checkout(&version), "the version"), here, "{mode:?}");
        lab.elsewhere();
        assert_eq!(found(&lab.dir(), "elsewhere"), here, "{mode:?}");
    }
}

/// SEMANTICS, Per call: "what is unlinked while open lives on for its descriptors".
#[test]
fn attributes_by_a_descriptor_without_names() {
    for mode in BOTH {
        let ways: [fn(&Path) -> File; 2] = [to_write, |path| File::open(path).unwrap()];
        for open in ways {
            let (mut lab, content, path) = with_large(mode);
            let (file, reader) = (open(&path), File::open(&path).unwrap());
            fs::remove_file(&path).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0, "{mode:?}");
            file.set_permissions(fs::Permissions::from_mode(0o4604)).unwrap();
            let time = UNIX_EPOCH + Duration::new(1_000_000, 5);
            file.set_modified(time).unwrap();
            let owner = if is_root() { 77 } else { file.metadata().unwrap().uid() };
            std::os::unix::fs::fchown(&file, Some(owner), None).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
            for file in [&file, &reader] {
                let meta = file.metadata().unwrap();
                let seen = (meta.len(), meta.nlink(), meta.mode() & 0o7777, meta.uid());
                assert_eq!(seen, (LARGE as u64, 0, 0o604, owner), "{mode:?}");
                assert_eq!(meta.modified().unwrap(), time, "{mode:?}");
            }
            assert!(read(&reader, 0, LARGE) == content, "{mode:?}");
            fs::write(&path, "another").unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().uid(), rustix::process::geteuid().as_raw(), "{mode:?}");
            let version = lab.flush();
            assert_eq!(fs::read(lab.checkout(&version).join("large")).unwrap(), b"another", "{mode:?}");
        }
    }
}

/// The daemon's descriptors of files that have no name in its directory.
fn nameless(lab: &Lab) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap();
    let links = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let gone =
        |link: &PathBuf| link.starts_with(lab.place()) && link.to_string_lossy().ends_with(" (deleted)");
    links.filter(gone).count()
}

/// A disk gets back what a removed file took with its last close.
#[test]
fn what_is_removed_and_closed_takes_no_room() {
    for mode in BOTH {
        let lab = arrived(mode, |dir| {
            for n in 0..5 {
                fs::write(dir.join(n.to_string()), noise(LARGE, 60 + n)).unwrap();
            }
        });
        let path = |n: usize| lab.dir().join(n.to_string());
        assert_eq!(nameless(&lab), 0, "{mode:?}");
        // Read, closed, removed: it is kept for as long as somebody may open it again.
        drop(read(&File::open(path(0)).unwrap(), MIB, 9));
        assert_eq!(nameless(&lab), 1, "{mode:?}");
        fs::remove_file(path(0)).unwrap();
        eventually("it is closed", LIMIT, || (nameless(&lab) == 0).then_some(()));
        // Removed, then closed: not written, written, emptied.
        let (reader, writers) = (File::open(path(1)).unwrap(), [2, 3, 4].map(|n| to_write(&path(n))));
        read(&reader, MIB, 9);
        (1..5).for_each(|n| fs::remove_file(path(n)).unwrap());
        writers[0].write_all_at(b"written", 5).unwrap();
        writers[1].set_len(0).unwrap();
        assert!(nameless(&lab) >= 4, "{mode:?}: they are open");
        drop((reader, writers));
        eventually("all are closed", LIMIT, || (nameless(&lab) == 0).then_some(()));
    }
}

/// Another file takes the name of one that is open to be written, in the moment when that comes.
#[test]
fn what_took_its_name_is_not_written() {
    for mode in BOTH {
        let content: Vec<Vec<u8>> = (0..8).map(|n| noise(9 * MIB, 80 + n)).collect();
        let mut lab = arrived(mode, |dir| {
            for (n, content) in content.iter().enumerate() {
                fs::write(dir.join(n.to_string()), content).unwrap();
            }
        });
        let dir = lab.dir();
        let writers: Vec<File> = (0..8).map(|n| to_write(&dir.join(n.to_string()))).collect();
        let readers: Vec<File> = (0..8).map(|n| File::open(dir.join(n.to_string())).unwrap()).collect();
        (0..8).for_each(|n| fs::write(dir.join(format!("new {n}")), format!("the new {n}")).unwrap());
        let mut bringing = lab.command([OsStr::new("hydrate"), dir.as_os_str()]).spawn().unwrap();
        for n in 0..8 {
            eventually("some have come", LIMIT, || (lab.absent_files() < 8 - n as u64 / 2).then_some(()));
            fs::rename(dir.join(format!("new {n}")), dir.join(n.to_string())).unwrap();
            writers[n].write_all_at(b"to the old one", 0).unwrap();
            let there = fs::read(dir.join(n.to_string())).unwrap();
            assert_eq!(there, format!("the new {n}").as_bytes(), "{mode:?}");
            let old = [b"to the old one", &content[n][14..]].concat();
            assert!(read(&readers[n], 0, 9 * MIB) == old, "{mode:?}: {n}");
            let meta = readers[n].metadata().unwrap();
            assert_eq!((meta.len(), meta.nlink()), (9 * MIB as u64, 0), "{mode:?}: {n}");
        }
        bringing.wait().unwrap();
        drop(writers);
        let version = lab.flush();
        for dir in [dir, lab.checkout(&version)] {
            for n in 0..8 {
                let there = fs::read(dir.join(n.to_string())).unwrap();
                assert_eq!(there, format!("the new {n}").as_bytes(), "{mode:?}");
            }
        }
    }
}

/// A daemon that was killed had named it, and nobody has written that down: who has it open reads and writes that.
#[test]
fn a_file_that_has_one_of_its_names_already_is_one_file() {
    for mode in BOTH {
        for length in [None, Some(0), Some(5 * MIB)] {
            let mut content = noise(LARGE, 90);
            let mut lab = arrived(mode, |dir| {
                fs::write(dir.join("one"), &content).unwrap();
                fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
            });
            let (one, two) = (lab.dir().join("one"), lab.dir().join("two"));
            let meta = fs::metadata(&one).unwrap();
            lab.kill();
            rustix::mount::unmount(lab.dir(), rustix::mount::UnmountFlags::DETACH).unwrap();
            fs::write(&one, &content).unwrap();
            fs::set_permissions(&one, meta.permissions()).unwrap();
            to_write(&one).set_modified(meta.modified().unwrap()).unwrap();
            lab.mount();
            let (reader, writer) = (File::open(&two).unwrap(), to_write(&two));
            if let Some(length) = length {
                writer.set_len(length as u64).unwrap();
                content.truncate(length);
            }
            writer.write_all_at(b"written", 0).unwrap();
            content.resize(content.len().max(7), 0);
            content[..7].copy_from_slice(b"written");
            assert!(read(&reader, 0, content.len()) == content, "{mode:?}: {length:?}");
            drop(writer);
            assert!(fs::read(&one).unwrap() == content, "{mode:?}: {length:?}");
            assert!(fs::read(&two).unwrap() == content, "{mode:?}: {length:?}");
            let version = lab.flush();
            let tree = lab.checkout(&version);
            assert!(fs::read(tree.join("one")).unwrap() == content, "{mode:?}: {length:?}");
            assert_eq!(fs::metadata(tree.join("two")).unwrap().nlink(), 2, "{mode:?}: {length:?}");
        }
    }
}

/// What of a large file stands in a layer may be as short as what stands beside it: that brings it along with no small one,
/// beside what those have who opened it.
#[test]
fn a_small_neighbour_brings_no_large_file() {
    for mode in BOTH {
        for length in [None, Some(10 * MIB)] {
            // What lies beside a file comes along where all is to come.
            let mut lab = Lab::new(Setup::mode(mode).with(&["--prefetch-rate", "1"]));
            let mut content = noise(LARGE, 7);
            fs::write(lab.dir().join("large"), &content).unwrap();
            // Whatever comes first of all, this one keeps for long.
            fs::write(lab.dir().join("beside"), noise(2 * LARGE, 8)).unwrap();
            lab.flush();
            to_write(&lab.dir().join("large")).write_all_at(b"the second", 5 * MIB as u64).unwrap();
            content[5 * MIB..5 * MIB + 10].copy_from_slice(b"the second");
            for name in ["kleines", "mini"] {
                fs::write(lab.dir().join(name), name.repeat(500)).unwrap();
            }
            lab.flush();
            lab.elsewhere();
            let path = lab.dir().join("large");
            let (reader, writer) = (File::open(&path).unwrap(), to_write(&path));
            assert_eq!(fs::read_to_string(lab.dir().join("mini")).unwrap(), "mini".repeat(500));
            // Without the two large ones.
            eventually("its neighbour is here", LIMIT, || (lab.absent_files() <= 2).then_some(()));
            if let Some(length) = length {
                writer.set_len(length as u64).unwrap();
                content.truncate(length);
            }
            writer.write_all_at(b"written", 1000).unwrap();
            content[1000..1007].copy_from_slice(b"written");
            assert!(read(&reader, 0, content.len()) == content, "{mode:?}: {length:?}: who had it open");
            writer.sync_all().unwrap();
            drop((reader, writer));
            assert!(fs::read(&path).unwrap() == content, "{mode:?}: {length:?}");
            let version = lab.flush();
            assert!(
                fs::read(lab.checkout(&version).join("large")).unwrap() == content,
                "{mode:?}: {length:?}"
            );
        }
    }
}

/// Somebody puts a file where an absent one will come that is open: the same one is that, and what another one hides is not
/// written to, rather than for nobody to see.
#[test]
fn what_is_put_beneath_is_written_to_or_nothing_is() {
    for mode in BOTH {
        for same in [true, false] {
            let (lab, mut content, path) = with_large(mode);
            let meta = fs::metadata(&path).unwrap();
            lab.unmount();
            let beneath = File::open(lab.dir()).unwrap();
            lab.mount();
            let writer = to_write(&path);
            let beneath = PathBuf::from(format!("/proc/self/fd/{}/large", beneath.as_raw_fd()));
            fs::write(&beneath, &content).unwrap();
            fs::set_permissions(&beneath, meta.permissions()).unwrap();
            let modified = meta.modified().unwrap() + Duration::from_secs(u64::from(!same));
            to_write(&beneath).set_modified(modified).unwrap();
            let written = writer.write_all_at(b"written", 0).and_then(|()| writer.sync_all());
            assert_eq!(written.is_ok(), same, "{mode:?}: {written:?}");
            if same {
                content[..7].copy_from_slice(b"written");
            }
            drop(writer);
            assert!(fs::read(&beneath).unwrap() == content, "{mode:?}: {same}");
        }
    }
}

/// Emptied while it comes, by whoever asked for it: never is what is written then taken for what the layers have.
#[test]
fn emptied_while_it_comes() {
    for mode in BOTH {
        let content: Vec<Vec<u8>> = (0..8).map(|n| noise(9 * MIB, 40 + n)).collect();
        let mut lab = Lab::new(Setup::mode(mode).with(&["--no-prefetch=off"]));
        for (n, content) in content.iter().enumerate() {
            fs::write(lab.dir().join(n.to_string()), content).unwrap();
        }
        lab.flush();
        lab.elsewhere();
        let dir = lab.dir();
        std::thread::scope(|scope| {
            for (n, content) in content.iter().enumerate() {
                let path = dir.join(n.to_string());
                let reading = path.clone();
                scope.spawn(move || {
                    let file = File::open(reading).unwrap();
                    let mut some = vec![0; MIB];
                    for at in (0..9 * MIB).step_by(MIB) {
                        // What is read is of before or of after, or nothing of what is being cut.
                        let length = file.read_at(&mut some, at as u64).unwrap();
                        let known =
                            |(n, byte): (usize, &u8)| *byte == content[at + n] || [0, 7].contains(byte);
                        assert!(some[..length].iter().enumerate().all(known), "at {at}");
                    }
                });
                scope.spawn(move || {
                    let writer = to_write(&path);
                    writer.set_len(0).unwrap();
                    writer.write_all_at(&vec![7; 300_000 * (n % 3)], 0).unwrap();
                });
            }
        });
        let version = lab.flush();
        for dir in [lab.dir(), lab.checkout(&version)] {
            for n in 0..content.len() {
                let found = fs::read(dir.join(n.to_string())).unwrap();
                assert!(found == vec![7; 300_000 * (n % 3)], "{mode:?}: {n} in {}", dir.display());
            }
        }
        let tree = Tree::take(&lab.dir(), KEPT);
        lab.elsewhere();
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), "elsewhere");
    }
}
