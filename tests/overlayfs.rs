//! A directory that is an overlayfs, as in a container: the files of an image that nobody changes, and changes over them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{Lab, Layers, Mode, Overlay, Setup, TIMELESS, Tree, is_root, skip};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const FILES: usize = 60;

fn populate(image: &Path) {
    fs::create_dir_all(image.join("of/the")).unwrap();
    for n in 0..FILES {
        fs::write(image.join(format!("of/the/{n:03}")), format!("image {n}")).unwrap();
    }
}

/// Runs `work` on a mount over an overlayfs, in both modes.
fn on_overlays(layers: Layers, work: impl Fn(&Lab, Mode)) {
    if !is_root() {
        return skip("overlayfs", "only root mounts an overlayfs");
    }
    for mode in [Mode::Passthrough, Mode::Classic] {
        let lab = Lab::prepare(Setup::mode(mode));
        let Some(overlay) = Overlay::over(&lab, layers, populate) else {
            return skip("overlayfs", "no such overlayfs can be mounted here");
        };
        lab.mount();
        work(&lab, mode);
        // The overlayfs stays, so that this is still a mount.
        lab.verb("unmount", &[]).must("unmount");
        drop(overlay);
    }
}

/// The kernel takes what it hears of with another generation for another file, and the one that is open for bad.
#[test]
fn what_is_made_is_the_same_when_it_is_listed() {
    use rustix::fs::{AtFlags, CWD, FileType, Mode as Bits, OFlags};
    for layers in [Layers::Together, Layers::Apart] {
        on_overlays(layers, |lab, mode| {
            let path = |name: &str| lab.place().join(name);
            fs::create_dir(path("made")).unwrap();
            std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
            rustix::fs::mknodat(CWD, path("pipe"), FileType::Fifo, Bits::from_raw_mode(0o600), 0).unwrap();
            let open = |name: &str| {
                rustix::fs::open(path(name), OFlags::PATH | OFlags::NOFOLLOW, Bits::empty()).unwrap()
            };
            let opened = ["made", "link", "pipe"].map(|name| (name, open(name)));
            let listed = fs::read_dir(lab.place()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
            assert_eq!(listed.count(), 4, "{layers:?}, {mode:?}");
            for (name, fd) in opened {
                let now = rustix::fs::statat(&fd, c"", AtFlags::EMPTY_PATH);
                let now = now.unwrap_or_else(|e| panic!("{layers:?}, {mode:?}: {name}: {e}"));
                assert_eq!(now.st_ino, fs::symlink_metadata(path(name)).unwrap().ino());
            }
        });
    }
}

/// Where each layer has a device of its own, files have another one than the directory that they are in.
#[test]
fn new_files_can_be_written() {
    for layers in [Layers::Together, Layers::Apart] {
        on_overlays(layers, |lab, mode| {
            for (n, dir) in ["", "of/", "of/the/"].into_iter().enumerate() {
                let path = lab.place().join(format!("{dir}new"));
                let written = fs::write(&path, format!("new {n}"));
                written.unwrap_or_else(|e| panic!("{layers:?}, {mode:?}: {}: {e}", path.display()));
                let mut appended =
                    OpenOptions::new().read(true).append(true).create(true).open(path.with_extension("log"));
                let appended = appended.as_mut().unwrap();
                appended.write_all(b"a line").unwrap();
                let mut text = [0; 6];
                appended.read_exact_at(&mut text, 0).unwrap();
                assert_eq!((&text, fs::read_to_string(&path).unwrap()), (b"a line", format!("new {n}")));
                OpenOptions::new().write(true).create_new(true).open(path.with_extension("empty")).unwrap();
                // And one of the image.
                fs::write(lab.place().join(format!("of/the/{n:03}")), "changed").unwrap();
            }
        });
    }
}

/// On different file systems two files may have the same number: a version has what each of them has.
#[test]
fn a_version_has_the_content_of_each_file() {
    for layers in [Layers::Together, Layers::Apart] {
        on_overlays(layers, |lab, mode| {
            // Numbers of the image and of what is over it are alike.
            let mut open = Vec::new();
            for n in 0..FILES {
                let path = lab.place().join(format!("{n}"));
                fs::write(&path, format!("over it {n}")).unwrap();
                if n % 2 == 0 {
                    open.push(File::options().write(true).open(path).unwrap());
                    let image = lab.place().join(format!("of/the/{n:03}"));
                    open.push(File::options().append(true).open(image).unwrap());
                }
            }
            lab.verb("flush", &["--wait"]).must("flush");
            let expected = Tree::take(&lab.place(), TIMELESS);
            expected
                .assert_same(&Tree::take(&lab.restored(None), TIMELESS), &format!("{layers:?}, {mode:?}"));
            // Those of the image that nobody had open are open now, and the other way round.
            open.clear();
            for n in 0..FILES {
                let path = |name: String| lab.place().join(name);
                let mut file = File::options().append(true).open(path(format!("of/the/{n:03}"))).unwrap();
                file.write_all(b", changed").unwrap();
                let other = File::options().read(true).write(true).open(path(format!("{n}"))).unwrap();
                other.write_all_at(b"OVER", 0).unwrap();
                if n % 2 == 1 {
                    open.extend([file, other]);
                }
            }
            lab.verb("flush", &["--wait"]).must("flush");
            let expected = Tree::take(&lab.place(), TIMELESS);
            expected
                .assert_same(&Tree::take(&lab.restored(None), TIMELESS), &format!("{layers:?}, {mode:?}"));
            drop(open);
        });
    }
}

/// SEMANTICS, Calls: "`mmap` shared and private". A mapping has the device of a layer, so that nothing else tells of it.
#[test]
fn stores_through_mappings_are_not_missed() {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    const LENGTH: usize = 20_000;
    // Not on layers in memory: nothing is written back there, so that no store after the first is seen.
    on_overlays(Layers::Together, |lab, mode| {
        fs::write(lab.place().join("new"), [0; LENGTH]).unwrap();
        fs::write(lab.place().join("of/the/000"), [0; LENGTH]).unwrap();
        let maps = ["new", "of/the/000"].map(|name| {
            let file = File::options().read(true).write(true).open(lab.place().join(name)).unwrap();
            let (bits, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            // SAFETY: a new mapping of a file that stays as long as it is, at a place that the kernel chooses.
            let at = unsafe { mmap(std::ptr::null_mut(), LENGTH, bits, kind, &file, 0) }.unwrap();
            (name, at.cast::<u8>())
        });
        // The last one before they are unmapped, and nothing is flushed in between.
        for byte in 1..6_u8 {
            for (_, at) in maps {
                // SAFETY: within the mapping, which nobody else uses.
                unsafe { at.add(usize::from(byte) * 100).write_volatile(byte) };
            }
            if byte == 5 {
                for (_, at) in maps {
                    // SAFETY: all of the mapping, at its end.
                    unsafe { munmap(at.cast(), LENGTH).unwrap() };
                }
            }
            lab.verb("flush", &["--wait"]).must("flush");
            let there = lab.restored(None);
            for (name, _) in maps {
                let found = fs::read(there.join(name)).unwrap()[usize::from(byte) * 100];
                assert_eq!(found, byte, "{mode:?}: a store into {name} was missed");
            }
        }
    });
}
