//! Unmounting what is in use, and what a person reads then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::{LIMIT, Lab, Setup, Subject, eventually, is_root, run, skip, wait_for};
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

/// SEMANTICS, Unmount: "A directory that programs still use stays mounted after `icecache unmount`, which flushes, says so and
/// ends with code 4."
#[test]
fn a_busy_directory_is_saved_and_stays_mounted() {
    let lab = Lab::new(Setup::default());
    fs::write(lab.place().join("file"), b"x").unwrap();
    let mut user = Command::new("cat").current_dir(lab.place()).stdin(Stdio::piped()).spawn().unwrap();
    let busy = lab.verb("unmount", &[]);
    assert_eq!(busy.code, 4, "{}", busy.said());
    assert!(busy.stderr.contains("in use") && busy.stderr.contains("everything is saved"), "{}", busy.said());
    assert!(!busy.stderr.contains("not ended"), "nobody asked the daemon to end: {}", busy.said());
    assert!(lab.mounted());
    assert_eq!(fs::read(lab.restored(None).join("file")).unwrap(), b"x");

    // It goes on as before, and ends when nobody is in the way.
    fs::write(lab.place().join("later"), b"y").unwrap();
    drop(user.stdin.take());
    user.wait().unwrap();
    lab.unmount();
    assert_eq!(fs::read(lab.restored(None).join("later")).unwrap(), b"y");
}

/// A mount is copied into each new mount namespace, as of a container, where nobody can unmount it from outside: that
/// holds up no unmount.
#[test]
fn a_copy_in_another_namespace_holds_nothing_up() {
    if !is_root() {
        return skip("namespaces", "needs root");
    }
    let lab = Lab::new(Setup::default());
    fs::write(lab.place().join("file"), b"x").unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo there; exec cat"])
        .current_dir("/");
    let mut other = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut there = [0; 6];
    other.stdout.as_mut().unwrap().read_exact(&mut there).unwrap();
    let unmounted = lab.verb("unmount", &[]);
    drop(other.stdin.take());
    other.wait().unwrap();
    assert!(unmounted.ok(), "{}", unmounted.said());
    assert_eq!(fs::read(lab.restored(None).join("file")).unwrap(), b"x");
}

/// SEMANTICS, Outage: "A moment in which the disk of the state directory is full ends nothing". That disk has the log as
/// well, of which no line can be written then.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let mut lab = Lab::new(Setup::default());
    lab.unmount();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = lab.mount_command(&lab.place(), &lab.state());
    command.arg("--foreground").env("ICECACHE_LOG", "debug").stderr(full);
    let mut daemon = command.spawn().unwrap();
    eventually("the mount", LIMIT, || lab.mounted().then_some(()));
    fs::write(lab.place().join("file"), b"x").unwrap();
    let version = lab.flush();
    fs::write(lab.place().join("file"), b"y").unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(wait_for(&mut daemon, LIMIT), Some(0), "it hears of its end, and has nothing to complain of");
    assert!(!lab.mounted());
    assert_eq!(fs::read(lab.restored(Some(&version)).join("file")).unwrap(), b"x");
    assert_eq!(fs::read(lab.restored(None).join("file")).unwrap(), b"y");
}

/// A program that asks for a terminal at each open (Python does) leaves no line in the log.
#[test]
fn the_log_has_what_happened_and_nothing_else() {
    let lab = Lab::new(Setup::default());
    fs::write(lab.place().join("file"), b"x").unwrap();
    let file = fs::File::open(lab.place().join("file")).unwrap();
    assert!(!std::io::IsTerminal::is_terminal(&file));
    drop(file);
    lab.unmount();
    let log = fs::read_to_string(lab.state().join("daemon.log")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.first().is_some_and(|l| l.contains("mounted") && l.contains("name=work")), "{log}");
    assert!(lines.iter().any(|l| l.contains("flushed version=1")), "{log}");
    assert!(lines.last().is_some_and(|l| l.contains("unmounted")), "{log}");
    assert!(lines.len() < 6, "{log}");
}

/// The harness itself: a daemon that outlived its test would burden all that follow.
#[test]
fn a_dropped_lab_leaves_no_daemon_and_ends_no_other() {
    let (lab, other) = (Lab::new(Setup::default()), Lab::new(Setup::default()));
    let pid = lab.pid();
    drop(lab);
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists(), "still runs: {pid}");
    assert!(other.status().is_object());
}

/// What the shell that mounts has set for itself is not for a daemon that outlives it: a limit by which a signal would end
/// it, a lock that it would hold for good.
#[test]
fn a_daemon_keeps_nothing_of_the_shell_that_mounts() {
    let content = vec![7; 3 << 20];
    let mut lab = Lab::new(Setup::default().with(&["--no-prefetch"]));
    fs::write(lab.place().join("file"), &content).unwrap();
    lab.flush();
    lab.unmount();
    // Beyond a hard limit only some may go, but nobody dies of it.
    for (limit, is_soft) in [("ulimit -S -f 1000", true), ("ulimit -f 1000", false)] {
        lab.wipe();
        let lock = lab.root().join("lock");
        let inner = lab.mount_command(&lab.place(), &lab.state());
        let mut shell = Command::new("sh");
        shell.args(["-ec", &format!("exec 9>\"$0\"; {limit}; exec \"$@\"")]).arg(&lock);
        shell.arg(inner.get_program()).args(inner.get_args()).env_clear();
        shell.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        shell.env("PATH", std::env::var_os("PATH").unwrap());
        run(&mut shell, LIMIT).must("mount from a shell with limits");
        match fs::read(lab.place().join("file")) {
            Ok(read) => assert!(read == content, "{limit}"),
            Err(e) => assert!(!is_soft, "{limit}: {e}"),
        }
        for entry in fs::read_dir(format!("/proc/{}/fd", lab.pid())).unwrap() {
            let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
            assert_ne!(target, lock, "it is open in the daemon");
        }
        lab.unmount();
    }
}
