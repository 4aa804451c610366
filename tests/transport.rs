//! The two ways a request can take: which one is chosen, and what a ring must bear that a device does by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]
mod harness;

use harness::{LIMIT, Lab, Mode, Setup, Subject, eventually, is_root, skip};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// The kernel's own switch.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether this machine must serve by rings: root, and a kernel on which we turn the switch on.
fn rings_expected() -> Option<bool> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next()?, numbers.next()?);
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    Some(version >= (6, 18) && is_root() && disabled.trim() != "2" && Path::new(PARAMETER).exists())
}

/// CONFIGURATION: "`auto` is io_uring where the kernel offers it"
#[test]
fn rings_are_used_where_they_can_and_the_switch_is_left_alone() {
    let before = fs::read_to_string(PARAMETER).ok();
    let lab = Lab::new(Setup::default().with(&["--transport", "auto"]));
    fs::write(lab.dir().join("f"), "content").unwrap();
    let expected = if rings_expected().unwrap_or(false) { "io_uring" } else { "device" };
    assert_eq!(lab.status()["transport"], expected);
    assert_eq!(fs::read_to_string(PARAMETER).ok(), before, "the mount has changed the kernel's switch");
    let lab = Lab::new(Setup::default().with(&["--transport", "device"]));
    fs::write(lab.dir().join("f"), "content").unwrap();
    assert_eq!(lab.status()["transport"], "device");
}

/// A request whose reply is withheld keeps its entry of a ring; a cut withholds one for every open file. So many that
/// the entries a ring begins with are not enough, from both processors.
#[test]
fn a_cut_holds_more_files_than_a_ring_begins_with() {
    const FILES: usize = 500;
    let mut lab = Lab::new(Setup::mode(Mode::Passthrough));
    if lab.status()["mode"] != "passthrough" {
        return skip("held files", "no passthrough here");
    }
    let mut files: Vec<File> =
        (0..FILES).map(|n| File::create(lab.dir().join(n.to_string())).unwrap()).collect();
    for round in 0..3 {
        for file in &mut files {
            writeln!(file, "round {round}").unwrap();
        }
        let version = lab.flush();
        let cut = lab.stats()["cut"].clone();
        assert_eq!(cut["last_held"], FILES, "{cut}");
        assert_eq!(cut["fuzzy"], 0, "a file was not held: {cut}");
        let checkout = lab.checkout(&version);
        for n in [0, FILES / 2, FILES - 1] {
            let saved = fs::read_to_string(checkout.join(n.to_string())).unwrap();
            assert_eq!(saved.lines().count(), round + 1);
        }
    }
}

/// Threads on every processor, each with requests of every size at once, are all answered right.
#[test]
fn many_callers_at_once() {
    let lab = Lab::new(Setup::default());
    let dir = lab.dir();
    std::thread::scope(|scope| {
        for caller in 0..8_u8 {
            let dir = dir.join(format!("caller{caller}"));
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                for n in 0..200_usize {
                    let file = dir.join(format!("{n:0>200}"));
                    fs::write(&file, vec![caller; n * 37]).unwrap();
                    assert_eq!(fs::read(&file).unwrap(), vec![caller; n * 37]);
                    assert_eq!(fs::metadata(&file).unwrap().len(), n as u64 * 37);
                }
                assert_eq!(fs::read_dir(&dir).unwrap().count(), 200);
                fs::remove_dir_all(&dir).unwrap();
            });
        }
    });
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

/// SEMANTICS, Crash: a daemon that dies while requests are parked and held leaves nobody waiting.
#[test]
fn killed_while_requests_wait() {
    let mut lab = Lab::new(Setup::default());
    lab.unmount();
    lab.setup.options = ["--fsync", "remote", "--fsync-timeout", "300s"].map(Into::into).to_vec();
    lab.mount();
    // The remote goes away under the mounted directory: commits fail, and the fsyncs wait.
    let remote = lab.remote_dir();
    let away = remote.with_extension("away");
    fs::rename(&remote, &away).unwrap();
    fs::write(&remote, "a file stands where the directory was").unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let path = lab.dir().join(format!("f{n}"));
            std::thread::spawn(move || {
                let mut file = File::create(path).unwrap();
                file.write_all(b"content").unwrap();
                file.sync_all()
            })
        })
        .collect();
    eventually("the fsyncs", LIMIT, || {
        let asked = lab.stats()["operations"]["fsync"].as_u64().unwrap_or(0);
        (asked >= 20).then_some(())
    });
    assert!(waiting.iter().all(|thread| !thread.is_finished()), "an fsync did not wait for the remote");
    lab.kill();
    for thread in waiting {
        let ended = thread.join().unwrap();
        assert!(ended.is_err(), "an fsync that was never committed succeeded");
    }
    fs::remove_file(&remote).unwrap();
    fs::rename(&away, &remote).unwrap();
    lab.setup.options.clear();
    lab.mount();
    assert_eq!(fs::read_dir(lab.dir()).unwrap().count(), 20);
}
