//! What a save of a directory without a mount costs when nothing changed: `scanbench DIR [FILES] [ROUNDS]`.
//!
//! Makes a tree of so many files in DIR, which must be empty, keeps it in a remote beside it, and prints one line of
//! JSON: the median and the worst of the saves that found nothing, in microseconds, and whether they made requests. In
//! turn with them all files are looked at by a bare loop, which is the least that any scan takes on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]
use icecache::config::{ConfigFile, Environment, Merged, MountSettings};
use icecache::serve::directory::{Session, Stray};
use icecache::serve::startup::StatusPipe;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

/// Files in one directory of the tree.
const IN_ONE: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = PathBuf::from(arguments.next().expect("usage: scanbench DIR [FILES] [ROUNDS]"));
    let mut number = |default: usize| arguments.next().map_or(default, |n| n.parse().expect("a number"));
    let (files, rounds) = (number(10_000), number(50));
    let (dir, remote, state) = (place.join("dir"), place.join("remote"), place.join("state"));
    for made in [&dir, &remote] {
        fs::create_dir_all(made).expect("makes");
    }
    for n in 0..files {
        let within = dir.join(format!("d{:03}", n / IN_ONE));
        fs::create_dir_all(&within).expect("makes");
        fs::write(within.join(format!("file{n:06}")), n.to_string()).expect("writes");
    }
    let url = format!("file://{}", fs::canonicalize(&remote).expect("there").display());
    let flags: Vec<(&'static str, OsString)> =
        vec![("remote", url.into()), ("name", "bench".into()), ("state-dir", state.into())];
    let environment = Environment::default();
    let mut merged = Merged::new(flags, &environment, &ConfigFile::default(), None).expect("settings");
    let settings = MountSettings::resolve(&dir, &mut merged, &environment, false).expect("settings");
    let session = Session::open(&settings, Stray::Keep, &StatusPipe::new(Box::new(|_| {}))).expect("opens");
    let saved = session.save(None).expect("saves");
    assert!(saved.committed, "{saved:?}");
    let before = session.requests().snapshot();
    let names: Vec<Vec<CString>> = (0..files)
        .collect::<Vec<_>>()
        .chunks(IN_ONE)
        .map(|chunk| chunk.iter().map(|n| CString::new(format!("file{n:06}")).expect("a name")).collect())
        .collect();
    let (mut times, mut bare): (Vec<u128>, Vec<u128>) = (0..rounds)
        .map(|_| {
            let began = Instant::now();
            let saved = session.save(None).expect("saves");
            assert!(!saved.committed, "{saved:?}");
            let took = began.elapsed().as_micros();
            let began = Instant::now();
            look_at_all(&dir, &names);
            (took, began.elapsed().as_micros())
        })
        .unzip();
    times.sort_unstable();
    bare.sort_unstable();
    let requests = session.requests().snapshot() != before;
    let (median, bare) = (times[times.len() / 2], bare[bare.len() / 2]);
    let worst = times.last().expect("rounds");
    println!(
        "{{\"files\":{files},\"median_us\":{median},\"worst_us\":{worst},\"bare_us\":{bare},\"requests\":{requests}}}"
    );
}

/// lstat of all files whose names are known, by a thread for each processor, and nothing else.
fn look_at_all(dir: &Path, names: &[Vec<CString>]) {
    let root = File::open(dir).expect("opens");
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(within) = names.get(number) else { return };
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let fd = openat(&root, format!("d{number:03}"), flags, Mode::empty()).expect("opens");
            for name in within {
                statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).expect("is there");
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
        work();
    });
}
