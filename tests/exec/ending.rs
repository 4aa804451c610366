//! What comes after the command of an `exec`: also where its mount has ended before it, and where nobody waits for it.
use super::*;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::s3server::Request;
use tokio::sync::Notify;

/// A named pipe, by which a script can be told to go on.
fn pipe(lab: &Lab) -> std::path::PathBuf {
    let pipe = lab.root().join("go");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, 0o600.into(), 0).unwrap();
    pipe
}

fn said(child: &mut Child) -> String {
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    said
}

/// FUNCTIONS, Exec: "If the mount ends before the command": what it writes then the next start saves, of whatever kind.
#[test]
fn what_is_written_after_an_early_end_of_the_mount_the_next_start_saves() {
    for by_signal in [false, true] {
        for by_mount in [false, true] {
            let what = format!("by signal: {by_signal}, by mount: {by_mount}");
            let lab = Lab::prepare(Setup::default());
            let go = pipe(&lab);
            let (place, root) = (lab.place(), lab.root());
            let script = format!(
                "cd /; echo early > '{0}/early'; touch '{1}/ready'; read go < '{2}'; echo late > '{0}/late'",
                place.display(),
                root.display(),
                go.display()
            );
            let mut child = started(&lab, MODES[0], &script);
            if by_signal {
                signal(lab.pid(), Signal::TERM);
            } else {
                lab.verb("unmount", &[]).must("unmount");
            }
            eventually("the mount goes", LIMIT, || (!lab.mounted()).then_some(()));
            fs::write(&go, "go\n").unwrap();
            assert_eq!(wait_for(&mut child, LIMIT), Some(125), "{what}");
            let said = said(&mut child);
            assert!(said.contains("has ended before the command"), "{what}: {said}");
            assert!(!lab.restored(None).join("late").exists(), "{what}: {said}");
            if by_mount {
                lab.mount();
                lab.verb("unmount", &[]).must("unmount");
            } else {
                exec(&lab, MODES[0], ":").must("the next exec");
            }
            assert_eq!(read(lab.restored(None).join("late")), "late\n", "{what}");
            // Nothing is left of that for those who come later.
            exec(&lab, MODES[0], ":").must("one more exec");
            assert!(!lab.state().join("unwatched").exists(), "{what}");
        }
    }
}

const LARGE: &str = "head -c 100000 /dev/urandom > large";

fn is_of_layer(request: &Request) -> bool {
    request.operation == "GetObject" && request.key.contains("layers/")
}

/// A name with as many layers as it may have with `--chain 4`, whose layers are not to be read from now on: who tries
/// waits for ever. How many do. They are too large to come with HEAD.
fn full(cloud: &Cloud, mode: &[&str]) -> impl Fn() -> usize + use<> {
    for n in 1..=3 {
        exec(&cloud.lab, &[mode, &["--chain", "4"]].concat(), &format!("echo {n} > n{n}; {LARGE}"))
            .must("exec");
    }
    let (held, reads) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let count = reads.clone();
    cloud.server.control().set_hook(move |request| {
        if !is_of_layer(request) {
            return Fault::None;
        }
        count.fetch_add(1, Ordering::SeqCst);
        Fault::Hold(held.clone())
    });
    move || reads.load(Ordering::SeqCst)
}

fn log(lab: &Lab) -> String {
    let remote = lab.remote();
    let mut arguments = vec!["log", "--remote", &remote, "--name", "work"];
    arguments.extend(lab.setup.remote_options.iter().map(String::as_str));
    lab.call(arguments).stdout
}

/// Sends signals until a process has ended; its code. The first may come before it is waited for nothing any more.
fn ends_by(child: &mut Child, name: Signal) -> Option<i32> {
    eventually("it ends", LIMIT, || {
        signal(child.id(), name);
        child.try_wait().unwrap()
    })
    .code()
}

/// FUNCTIONS, Directory: "Merging layers is work for which nobody waits". It changes neither the exit code nor the tag, and
/// a signal ends it at once.
#[test]
fn a_merge_after_the_end_holds_nobody_up() {
    for mode in MODES {
        for name in [Signal::TERM, Signal::INT] {
            let what = format!("{mode:?} {name:?}");
            let cloud = Cloud::prepare();
            let reads = full(&cloud, mode);
            let options = [mode, &["--chain", "4", "--tag", "late", "--grace", "1h"]].concat();
            let mut command = command(&cloud.lab, &options, &format!("echo 4 > n4; {LARGE}; exit 3"));
            command.current_dir(cloud.lab.place()).stdin(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            eventually("layers are read", LIMIT, || (reads() > 0).then_some(()));
            eventually("the version has its tag", LIMIT, || log(&cloud.lab).contains("late").then_some(()));
            let began = Instant::now();
            assert_eq!(ends_by(&mut child, name), Some(3), "{what}");
            let said = said(&mut child);
            assert!(began.elapsed() < Duration::from_secs(8), "{what}: it went on: {said}");
            assert!(said.contains("version 4") && !said.contains("not everything"), "{what}: {said}");
            cloud.server.control().clear_hook();
            exec(&cloud.lab, mode, "[ $(cat n4) = 4 ]").must("the next exec");
        }
    }
}

/// The same for what a mount merges while the command runs.
#[test]
fn a_merge_that_is_under_way_does_not_hold_up_the_last_save() {
    let cloud = Cloud::prepare();
    let lab = &cloud.lab;
    let reads = full(&cloud, MODES[0]);
    let go = pipe(lab);
    let script = format!("echo 4 > n4; read go < '{}'; echo last > last", go.display());
    let delays = ["--chain", "4", "--debounce", "10ms", "--max-delay", "10ms", "--unmount-timeout", "1h"];
    let mut command = command(lab, &[MODES[0], &delays].concat(), &script);
    command.current_dir(lab.place()).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually("layers are read", LIMIT, || (reads() > 0).then_some(()));
    let version = || log(lab).lines().nth(1).map(|line| line.split_whitespace().next().unwrap().to_owned());
    let before = version();
    fs::write(&go, "go\n").unwrap();
    eventually("the last version is made", LIMIT, || (version() != before).then_some(()));
    assert_eq!(ends_by(&mut child, Signal::INT), Some(0), "{}", said(&mut child));
    cloud.server.control().clear_hook();
    assert_eq!(read(lab.restored(None).join("last")), "last\n");
}

/// FUNCTIONS, Exec: "`--grace` holds for the tag as well."
#[test]
fn a_signal_is_heeded_while_the_tag_is_given() {
    for mode in MODES {
        let cloud = Cloud::prepare();
        let (held, saved) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (waits, reads) = (saved.clone(), Arc::new(AtomicUsize::new(0)));
        let count = reads.clone();
        cloud.server.control().set_hook(move |request| {
            let is_head = request.key.ends_with("/HEAD");
            match request.operation {
                "PutObject" if is_head => drop(waits.fetch_add(1, Ordering::SeqCst)),
                "GetObject" if is_head && waits.load(Ordering::SeqCst) > 0 => {
                    count.fetch_add(1, Ordering::SeqCst);
                    return Fault::Hold(held.clone());
                }
                _ => {}
            }
            Fault::None
        });
        let options = [mode, &["--tag", "late", "--grace", "1s"]].concat();
        let mut command = command(&cloud.lab, &options, "echo here > file");
        command.current_dir(cloud.lab.place()).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        eventually("HEAD is read for the tag", LIMIT, || (reads.load(Ordering::SeqCst) > 0).then_some(()));
        assert_eq!(ends_by(&mut child, Signal::TERM), Some(125), "{mode:?}");
        let said = said(&mut child);
        assert!(said.contains("has no tag") && said.contains("version 1"), "{mode:?}: {said}");
        cloud.server.control().clear_hook();
        assert_eq!(read(cloud.lab.restored(None).join("file")), "here\n", "{mode:?}");
    }
}

/// FUNCTIONS, Exec: "Of an empty directory that was never saved a version is made for it."
#[test]
fn an_empty_directory_gets_a_version_for_its_tag() {
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        exec(&lab, &[mode, &["--tag", "first"]].concat(), "true").must("exec");
        exec(&lab, mode, "echo 2 > n").must("exec");
        assert_eq!(fs::read_dir(lab.restored(Some("first"))).unwrap().count(), 0, "{mode:?}");
    }
}
