//! Large files of a lazily restored directory, which are read by range before they are here. As in
//! `lazy.rs` nothing comes by itself unless a case says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::{KEPT, Lab, Mode, Setup, Subject, Tree};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

const MIB: usize = 1 << 20;
/// What is read by range is larger than 8 MiB.
const LARGE: usize = 20 * MIB;
const BOTH: [Mode; 2] = [Mode::Passthrough, Mode::Classic];

/// Bytes that do not compress, and differ everywhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let word = |n: u64| {
        let mixed = (n ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
    };
    (0..length.div_ceil(8) as u64).flat_map(word).take(length).collect()
}

fn arrived(mode: Mode, populate: impl FnOnce(&Path)) -> (Lab, Tree) {
    Lab::arrived(Setup::mode(mode).with(&["--no-prefetch"]), populate)
}

/// The same with one large file.
fn with_large(mode: Mode) -> (Lab, Vec<u8>) {
    let content = noise(LARGE, 1);
    let (lab, _) = arrived(mode, |dir| {
        fs::write(dir.join("before"), "small").unwrap();
        fs::write(dir.join("large"), &content).unwrap();
    });
    (lab, content)
}

fn requests(lab: &Lab, what: &str) -> u64 {
    lab.stats()["requests"][what].as_u64().unwrap()
}

fn read(file: &File, at: usize, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at as u64).map(|()| bytes)
}

/// SEMANTICS, Restore: "A file of more than 8 MiB that is opened for reading is open at once, without a request, and read by range".
#[test]
fn a_range_costs_what_it_needs() {
    for mode in BOTH {
        let (lab, content) = with_large(mode);
        let before = (requests(&lab, "download"), requests(&lab, "bytes_in"));
        let file = File::open(lab.dir().join("large")).unwrap();
        assert_eq!(requests(&lab, "download"), before.0, "{mode:?}: the open made a request");
        for at in [13 * MIB + 77, 5 * MIB - 5, LARGE - 300] {
            assert!(read(&file, at, 300).unwrap() == content[at..at + 300], "{mode:?}: other bytes at {at}");
        }
        let mut end = [1; 100];
        assert_eq!(file.read_at(&mut end, (LARGE - 10) as u64).unwrap(), 10);
        assert_eq!(file.read_at(&mut end, LARGE as u64 + 5).unwrap(), 0);
        let cost = requests(&lab, "bytes_in") - before.1;
        assert!(cost < 10 * MIB as u64, "{mode:?}: {cost} bytes came for three short reads");
        assert_eq!(lab.absent_files(), 2, "{mode:?}");
        // The rest comes, and nothing twice.
        lab.verb("hydrate", &["large"]).must("hydrate");
        assert_eq!(lab.absent_files(), 1, "{mode:?}");
        let cost = requests(&lab, "bytes_in") - before.1;
        assert!(cost < (LARGE + 3 * MIB) as u64, "{mode:?}: {cost} bytes came in all");
        assert!(read(&file, 0, LARGE).unwrap() == content, "{mode:?}: through the descriptor of before");
        assert!(fs::read(lab.dir().join("large")).unwrap() == content, "{mode:?}: opened anew");
        drop(file);
        lab.unmount();
        assert!(fs::read(lab.dir().join("large")).unwrap() == content, "{mode:?}: beneath");
    }
}

/// SEMANTICS, Restore: "Who reads on is read ahead of".
#[test]
fn who_reads_on_waits_for_few_requests() {
    for mode in BOTH {
        let content = noise(3 * LARGE, 2);
        let (lab, _) = arrived(mode, |dir| fs::write(dir.join("large"), &content).unwrap());
        let before = (requests(&lab, "download"), requests(&lab, "bytes_in"));
        let mut file = File::open(lab.dir().join("large")).unwrap();
        let mut read = vec![0; content.len()];
        for piece in read.chunks_mut(50_000) {
            file.read_exact(piece).unwrap();
        }
        assert!(read == content, "{mode:?}: other bytes");
        let cost = (requests(&lab, "download") - before.0, requests(&lab, "bytes_in") - before.1);
        assert!(cost.0 <= 20, "{mode:?}: {} requests for 60 MiB", cost.0);
        assert!(cost.1 < (content.len() + 2 * MIB) as u64, "{mode:?}: {} bytes", cost.1);
    }
}

/// SEMANTICS, Restore: "what several read at once comes once".
#[test]
fn readers_at_once_share_what_comes() {
    for mode in BOTH {
        let (lab, content) = with_large(mode);
        let before = requests(&lab, "bytes_in");
        std::thread::scope(|scope| {
            for thread in 0..8usize {
                let (path, content) = (lab.dir().join("large"), &content);
                scope.spawn(move || {
                    let file = File::open(path).unwrap();
                    for n in 0..40usize {
                        let at = (n * 7 + thread * 3).wrapping_mul(2_654_435_761) % (LARGE - 5000);
                        assert!(read(&file, at, 5000).unwrap() == content[at..at + 5000], "at {at}");
                    }
                });
            }
        });
        let cost = requests(&lab, "bytes_in") - before;
        assert!(cost < (LARGE + 2 * MIB) as u64, "{mode:?}: {cost} bytes");
    }
}

/// SEMANTICS, Content: "Holes stay holes, to the block."
#[test]
fn holes_and_names_of_what_is_read_by_range() {
    for mode in BOTH {
        let data = noise(3 * MIB, 3);
        let pieces =
            [(4 * MIB, 0..100_000), (9 * MIB - 4096, 100_000..300_000), (30 * MIB, 300_000..2_900_000)];
        let (mut lab, tree) = arrived(mode, |dir| {
            let file = File::create(dir.join("sparse")).unwrap();
            for (at, part) in &pieces {
                file.write_all_at(&data[part.clone()], *at as u64).unwrap();
            }
            file.set_len(50 * MIB as u64).unwrap();
            fs::create_dir(dir.join("sub")).unwrap();
            fs::hard_link(dir.join("sparse"), dir.join("sub/other")).unwrap();
        });
        let mut expected = vec![0; 50 * MIB];
        for (at, part) in &pieces {
            expected[*at..*at + part.len()].copy_from_slice(&data[part.clone()]);
        }
        let file = File::open(lab.dir().join("sub/other")).unwrap();
        for at in [0, 4 * MIB - 100, 4 * MIB + 99_900, 9 * MIB - 4196, 32 * MIB, 49 * MIB] {
            assert!(read(&file, at, 4000).unwrap() == expected[at..at + 4000], "{mode:?}: at {at}");
        }
        let data_at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(5 * MIB as u64)).unwrap();
        assert_eq!(data_at, (9 * MIB - 4096) as u64, "{mode:?}");
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(30 * MIB as u64 + 1)).unwrap();
        assert!((30 * MIB + 2_600_000..=30 * MIB + 2_604_096).contains(&(hole as usize)), "{mode:?}: {hole}");
        let behind = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(40 * MIB as u64));
        assert_eq!(behind, Err(rustix::io::Errno::NXIO), "{mode:?}");
        assert_eq!(lab.absent_files(), 1, "{mode:?}");
        let meta = fs::metadata(lab.dir().join("sparse")).unwrap();
        assert_eq!((meta.nlink(), meta.ino()), (2, file.metadata().unwrap().ino()), "{mode:?}");
        assert!(fs::read(lab.dir().join("sparse")).unwrap() == expected, "{mode:?}: all of it");
        drop(file);
        lab.verb("hydrate", &[]).must("hydrate");
        lab.remount();
        tree.assert_same(&Tree::take(&lab.dir(), KEPT), "the tree when it was here");
    }
}

/// What was changed in part, moved and copied stands in several layers, and is read from all of them.
#[test]
fn parts_of_several_layers_make_one_file() {
    for mode in BOTH {
        let mut lab = Lab::new(Setup::mode(mode).with(&["--no-prefetch"]));
        let mut content = noise(LARGE, 8);
        let copied = content.clone();
        fs::write(lab.dir().join("large"), &content).unwrap();
        lab.flush();
        for (at, length) in [(3 * MIB + 5, 100), (10 * MIB, 300_000)] {
            let file = OpenOptions::new().write(true).open(lab.dir().join("large")).unwrap();
            content[at..at + length].copy_from_slice(&noise(length, at as u64));
            file.write_all_at(&content[at..at + length], at as u64).unwrap();
            lab.flush();
        }
        // Twice the same, and the same a little further on.
        let doubled = [&copied[..9 * MIB], &copied[4 * MIB + 65536..8 * MIB], &copied[..9 * MIB]].concat();
        fs::write(lab.dir().join("doubled"), &doubled).unwrap();
        lab.flush();
        lab.elsewhere();
        for (name, expected) in [("large", &content), ("doubled", &doubled)] {
            let file = File::open(lab.dir().join(name)).unwrap();
            for at in [17 * MIB, 3 * MIB - 10, 10 * MIB + 150_000, 9 * MIB - 70_000, 0, 12 * MIB + 333_333] {
                assert!(
                    read(&file, at, 200_000).unwrap() == expected[at..at + 200_000],
                    "{mode:?}: {name} at {at}"
                );
            }
            assert!(fs::read(lab.dir().join(name)).unwrap() == *expected, "{mode:?}: {name}");
            lab.verb("hydrate", &[name]).must("hydrate");
        }
        assert_eq!(lab.absent_files(), 0, "{mode:?}");
        lab.unmount();
        assert!(fs::read(lab.dir().join("large")).unwrap() == content, "{mode:?}: beneath");
        assert!(fs::read(lab.dir().join("doubled")).unwrap() == doubled, "{mode:?}: beneath");
    }
}

/// SEMANTICS, Restore: "Whoever writes it waits until all of it is here, and readers of before see what is written".
#[test]
fn a_writer_among_readers() {
    for mode in BOTH {
        let (mut lab, mut content) = with_large(mode);
        let path = lab.dir().join("large");
        let reader = File::open(&path).unwrap();
        assert!(read(&reader, 3 * MIB, 100).unwrap() == content[3 * MIB..3 * MIB + 100]);
        let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert_eq!(lab.absent_files(), 1, "{mode:?}: it is here when it can be written");
        writer.write_all_at(b"changed by a write", 3 * MIB as u64).unwrap();
        content[3 * MIB..3 * MIB + 18].copy_from_slice(b"changed by a write");
        let late = File::open(&path).unwrap();
        for file in [&reader, &writer, &late] {
            assert!(
                read(file, 3 * MIB - 10, 1000).unwrap() == content[3 * MIB - 10..3 * MIB + 990],
                "{mode:?}"
            );
        }
        // A mapping, stored to and never written back by who stores.
        let map = Map::new(&writer, LARGE);
        map.bytes()[7 * MIB..7 * MIB + 6].copy_from_slice(b"mapped");
        content[7 * MIB..7 * MIB + 6].copy_from_slice(b"mapped");
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}: the version");
        map.bytes()[9 * MIB] ^= 0xff;
        content[9 * MIB] ^= 0xff;
        drop((reader, writer));
        assert!(read(&late, 9 * MIB, 1).unwrap() == content[9 * MIB..9 * MIB + 1], "{mode:?}");
        drop((map, late));
        // From now on as any other file.
        for n in 0..3u8 {
            let again = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            again.write_all_at(&[n], 11 * MIB as u64).unwrap();
            content[11 * MIB] = n;
            assert!(read(&again, 0, LARGE).unwrap() == content, "{mode:?}: round {n}");
        }
        let version = lab.flush();
        assert!(fs::read(lab.checkout(&version).join("large")).unwrap() == content, "{mode:?}: the last");
        lab.remount();
        assert!(fs::read(lab.dir().join("large")).unwrap() == content, "{mode:?}: after a remount");
    }
}

/// SEMANTICS, Restore: "Removing, emptying or replacing it needs no content".
#[test]
fn emptied_and_removed_while_it_is_read() {
    for mode in BOTH {
        let (mut lab, content) = with_large(mode);
        let path = lab.dir().join("large");
        let reader = File::open(&path).unwrap();
        assert!(read(&reader, MIB, 100).unwrap() == content[MIB..MIB + 100]);
        let before = requests(&lab, "download");
        let mut writer = File::create(&path).unwrap();
        assert_eq!(requests(&lab, "download"), before, "{mode:?}: emptying it made a request");
        assert_eq!(reader.metadata().unwrap().len(), 0, "{mode:?}");
        writer.write_all(b"new content").unwrap();
        assert_eq!(read(&reader, 0, 11).unwrap(), b"new content", "{mode:?}");
        let version = lab.flush();
        assert_eq!(fs::read(lab.checkout(&version).join("large")).unwrap(), b"new content");

        let (mut lab, content) = with_large(mode);
        let path = lab.dir().join("large");
        let reader = File::open(&path).unwrap();
        assert!(read(&reader, MIB, 100).unwrap() == content[MIB..MIB + 100]);
        fs::remove_file(&path).unwrap();
        assert!(read(&reader, 0, LARGE).unwrap() == content, "{mode:?}: without a name");
        assert_eq!(reader.metadata().unwrap().nlink(), 0, "{mode:?}");
        fs::write(&path, "another").unwrap();
        let version = lab.flush();
        assert_eq!(fs::read(lab.checkout(&version).join("large")).unwrap(), b"another");
        assert!(read(&reader, LARGE - 50, 50).unwrap() == content[LARGE - 50..], "{mode:?}: beside another");
    }
}

/// SEMANTICS, Restore: "A store that cannot be reached makes opening, or reading by range, fail with EIO after bounded retries, never with wrong content".
#[test]
fn without_the_store_reading_fails_and_recovers() {
    for mode in BOTH {
        let (lab, content) = with_large(mode);
        let file = File::open(lab.dir().join("large")).unwrap();
        assert!(read(&file, MIB, 100).unwrap() == content[MIB..MIB + 100]);
        let away = lab.root().join("away");
        fs::rename(lab.remote_dir(), &away).unwrap();
        assert!(read(&file, MIB, 100).unwrap() == content[MIB..MIB + 100], "{mode:?}: what is here");
        for _ in 0..2 {
            let error = read(&file, 15 * MIB, 100).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{mode:?}: {error}");
        }
        let error = OpenOptions::new().read(true).write(true).open(lab.dir().join("large")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{mode:?}: {error}");
        fs::rename(&away, lab.remote_dir()).unwrap();
        assert!(read(&file, 0, LARGE).unwrap() == content, "{mode:?}: afterwards");
    }
}

/// SEMANTICS, Restore: "damage of content is met when it is read".
#[test]
fn a_damaged_part_is_met_where_it_is() {
    for mode in BOTH {
        let (mut lab, content) = with_large(mode);
        lab.kill();
        lab.wipe();
        let objects = lab.objects();
        let (layer, _) = objects.iter().find(|o| o.0.extension().is_some_and(|e| e == "zst")).unwrap();
        let good = fs::read(layer).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(layer, bad).unwrap();
        lab.mount();
        let file = File::open(lab.dir().join("large")).unwrap();
        let failed = (0..LARGE / MIB).filter(|n| match read(&file, n * MIB, MIB) {
            Ok(bytes) => {
                assert!(bytes == content[n * MIB..(n + 1) * MIB], "{mode:?}: other bytes in {n}");
                false
            }
            Err(e) => e.raw_os_error() == Some(libc::EIO),
        });
        let failed: Vec<usize> = failed.collect();
        assert!(!failed.is_empty() && failed.len() <= 3, "{mode:?}: {failed:?}");
        fs::write(layer, good).unwrap();
        assert!(read(&file, 0, LARGE).unwrap() == content, "{mode:?}: afterwards");
    }
}

/// SEMANTICS, Calls: "`mmap` shared and private".
#[test]
fn it_can_be_mapped_and_run_and_copied() {
    for mode in BOTH {
        let content = noise(LARGE, 4);
        let (lab, _) = arrived(mode, |dir| {
            fs::write(dir.join("large"), &content).unwrap();
            // A program with much behind it.
            let mut program = fs::read("/bin/sh").unwrap();
            program.extend(noise(10 * MIB, 5));
            fs::write(dir.join("shell"), program).unwrap();
            fs::set_permissions(dir.join("shell"), fs::Permissions::from_mode(0o755)).unwrap();
        });
        let file = File::open(lab.dir().join("large")).unwrap();
        let map = Map::of(&file, LARGE, rustix::mm::ProtFlags::READ);
        drop(file);
        for at in (0..LARGE).rev().step_by(3 * MIB - 1) {
            assert_eq!(map.bytes()[at], content[at], "{mode:?}: at {at}");
        }
        let shell = lab.dir().join("shell");
        let mut child = Command::new(&shell)
            .args(["-c", "echo runs; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"runs\n", "{mode:?}");
        assert_eq!(lab.absent_files(), 2, "{mode:?}: running it brought all of it");
        let busy = OpenOptions::new().write(true).open(&shell).unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY), "{mode:?}: {busy}");
        drop(child.stdin.take());
        assert!(child.wait().is_ok());
        // By copy_file_range(2), where the mount offers it.
        fs::copy(lab.dir().join("large"), lab.dir().join("copy")).unwrap();
        assert!(fs::read(lab.dir().join("copy")).unwrap() == content, "{mode:?}: the copy");
        // The mapping is the last that has it open; a writer waits for the file, not for the mapping.
        let writer = OpenOptions::new().read(true).write(true).open(lab.dir().join("large")).unwrap();
        writer.write_all_at(b"!", 5).unwrap();
        assert_eq!(map.bytes()[5], b'!', "{mode:?}");
        drop((map, writer));
        assert_eq!(read(&File::open(lab.dir().join("large")).unwrap(), 5, 1).unwrap(), b"!", "{mode:?}");
    }
}

/// SEMANTICS, Restore: "A daemon that is killed meanwhile loses nothing".
#[test]
fn a_killed_daemon_begins_anew_with_what_was_read_in_part() {
    for mode in BOTH {
        let (mut lab, content) = with_large(mode);
        let file = File::open(lab.dir().join("large")).unwrap();
        assert!(read(&file, 2 * MIB, 9 * MIB).unwrap() == content[2 * MIB..11 * MIB]);
        lab.strike();
        assert!(read(&file, 18 * MIB, 100).is_err(), "{mode:?}: there is no daemon");
        drop(file);
        lab.revive();
        assert_eq!(lab.absent_files(), 2, "{mode:?}");
        let names: Vec<_> = fs::read_dir(lab.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{mode:?}: {names:?}");
        let file = File::open(lab.dir().join("large")).unwrap();
        assert!(read(&file, 9 * MIB, MIB).unwrap() == content[9 * MIB..10 * MIB], "{mode:?}");
        drop(file);
        lab.unmount();
        assert_eq!(fs::read_dir(lab.dir()).unwrap().count(), 0, "{mode:?}: what is not whole stands beneath");
        lab.mount();
        assert!(fs::read(lab.dir().join("large")).unwrap() == content, "{mode:?}");
        lab.await_status("what was read whole is here", |status| status["absent_files"] == 1);
    }
}

/// SEMANTICS, Restore: "In the background everything comes by itself".
#[test]
fn the_background_goes_on_beneath_a_reader() {
    for mode in BOTH {
        let content = noise(3 * LARGE, 6);
        let mut lab = Lab::new(Setup::mode(mode).with(&["--no-prefetch=off"]));
        fs::write(lab.dir().join("large"), &content).unwrap();
        lab.flush();
        lab.elsewhere();
        let mut file = File::open(lab.dir().join("large")).unwrap();
        let begun = requests(&lab, "bytes_in");
        let mut some = vec![0; 100];
        file.read_exact(&mut some).unwrap();
        lab.await_status("everything is here", |status| status["absent_files"] == 0);
        fs::rename(lab.remote_dir(), lab.root().join("away")).unwrap();
        file.rewind().unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content, "{mode:?}");
        let cost = requests(&lab, "bytes_in") - begun;
        assert!(cost < (content.len() + 4 * MIB) as u64, "{mode:?}: {cost} bytes");
    }
}

/// SEMANTICS, Restore: "with at most 64 MiB of memory, whatever the size of the files".
#[test]
fn reading_by_range_keeps_memory_bounded() {
    let peak = |lab: &Lab| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", lab.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let content = noise(160 * MIB, 7);
    let (lab, _) = arrived(Mode::Classic, |dir| fs::write(dir.join("large"), &content).unwrap());
    fs::metadata(lab.dir().join("large")).unwrap();
    let before = peak(&lab);
    std::thread::scope(|scope| {
        for part in content.chunks(20 * MIB).enumerate() {
            let path = lab.dir().join("large");
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                for (n, piece) in part.1.chunks(700_000).enumerate() {
                    let at = part.0 * 20 * MIB + n * 700_000;
                    assert!(read(&file, at, piece.len()).unwrap() == piece, "at {at}");
                }
            });
        }
    });
    let grown = (peak(&lab) - before) / 1024;
    assert!(grown <= 64, "the daemon grew by {grown} MiB");
}

struct Map {
    at: *mut u8,
    length: usize,
}

impl Map {
    fn new(file: &File, length: usize) -> Self {
        Self::of(file, length, rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE)
    }

    fn of(file: &File, length: usize, bits: rustix::mm::ProtFlags) -> Self {
        let kind = rustix::mm::MapFlags::SHARED;
        // SAFETY: a new mapping at a place that the kernel chooses; it is unmapped once, on drop.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, bits, kind, file, 0) }.unwrap();
        Self { at: at.cast(), length }
    }

    #[allow(clippy::mut_from_ref)] // shared memory
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: mapped for so many bytes until self is dropped; one thread of the test uses it.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: what `of` has mapped, once.
        unsafe { rustix::mm::munmap(self.at.cast(), self.length) }.unwrap();
    }
}
