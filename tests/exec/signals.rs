//! Signals before, during and after the command of an `exec`.
use super::*;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// A terminal of its own for what follows `--`; does `what` to it when the file `ready` is there, and ends as that does.
const IN_TERMINAL: &str = r#"
import os, pty, sys, time
what, ready, argv = sys.argv[1], sys.argv[2], sys.argv[4:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(argv[0], argv)
while not os.path.exists(ready):
    time.sleep(0.01)
if what == "lose":
    os.close(terminal)
else:
    os.write(terminal, b"\x03")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn in_terminal(lab: &Lab, what: &str, script: &str, before: &[&str]) -> Finished {
    let mut inner = arguments(lab, &lab.place(), &lab.state(), &["--mode", "directory"], script);
    let at = inner.iter().position(|word| word == "--").unwrap() + 1;
    inner.splice(at..at, before.iter().map(OsString::from));
    let clean = lab.command([""; 0]);
    let mut outer = Command::new("python3");
    outer.args(["-c", IN_TERMINAL, what]).arg(lab.root().join("ready")).args(["--", BIN]).args(inner);
    outer.env_clear().envs(clean.get_envs().filter_map(|(k, v)| Some((k, v?))));
    outer.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(lab.place());
    run(&mut outer, LIMIT)
}

/// FUNCTIONS, Exec: "but those that the keys of a terminal send, if the command gets these by itself". The kernel tells of
/// a terminal that is gone the leader of its session alone, which is `exec`.
#[test]
fn a_command_hears_that_its_terminal_is_gone_and_of_keys_in_another_session() {
    let lab = Lab::prepare(Setup::default());
    let script = |signal: &str, code: u8| {
        format!(
            "trap 'echo {signal} > told; exit {code}' {signal}; touch '{}'; while :; do sleep 0.01; done",
            lab.root().join("ready").display()
        )
    };
    for (what, signal, before, code) in
        [("lose", "HUP", &[][..], 5), ("press", "INT", &[][..], 6), ("press", "INT", &["setsid"][..], 7)]
    {
        let done = in_terminal(&lab, what, &script(signal, code), before);
        assert_eq!(done.code, i32::from(code), "{what} {before:?}: {}", done.said());
        assert_eq!(read(lab.restored(None).join("told")).trim(), signal, "{what} {before:?}");
        fs::remove_file(lab.root().join("ready")).unwrap();
    }
}

/// A remote that refuses the first so many reads and holds all others until it is told.
fn held_after(cloud: &Cloud, refused: usize) -> (Arc<Notify>, impl Fn() -> usize) {
    let (held, reads) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (hold, count) = (held.clone(), reads.clone());
    cloud.server.control().set_hook(move |request| match request.operation {
        "GetObject" if count.fetch_add(1, Ordering::SeqCst) < refused => {
            Fault::FailBefore(s3s::S3ErrorCode::AccessDenied)
        }
        "GetObject" => Fault::Hold(hold.clone()),
        _ => Fault::None,
    });
    (held, move || reads.load(Ordering::SeqCst))
}

/// `exec` of something that makes a file `ran`; not waited for.
fn starting(lab: &Lab, options: &[&str]) -> std::process::Child {
    let mut command = command(lab, options, "touch ran");
    command.current_dir(lab.place()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// FUNCTIONS, Exec: "A signal that asks for the end before the command runs ends the start at once". Whatever of it goes
/// on: the read of the state, or the second one, which finds out whether that cannot be read.
#[test]
fn a_signal_ends_a_start_at_once_wherever_it_is() {
    for mode in MODES {
        for (refused, name) in [(0, Signal::TERM), (1, Signal::INT)] {
            let what = format!("{mode:?} {refused} {name:?}");
            let cloud = Cloud::prepare();
            let (held, reads) = held_after(&cloud, refused);
            let options = [mode, &["--grace", "1h"]].concat();
            let mut child = starting(&cloud.lab, &options);
            eventually("a read is held", LIMIT, || (reads() > refused).then_some(()));
            signal(child.id(), name);
            assert_eq!(wait_for(&mut child, LIMIT), Some(125), "{what}");
            let mut said = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
            assert!(said.contains("a signal ended the start") && !said.contains("network"), "{what}: {said}");
            assert!(!cloud.lab.mounted() && !cloud.lab.place().join("ran").exists(), "{what}: {said}");
            held.notify_waiters();
        }
    }
}

/// Reads what a process says until that has `word` in it.
fn heard(child: &mut std::process::Child, word: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(word)));
    assert!(said.is_some(), "it ended before it said: {word}");
}

/// The same where the daemon of an `exec` that was killed is waited for.
#[test]
fn a_signal_ends_a_start_that_waits_for_a_daemon() {
    for name in [Signal::TERM, Signal::INT] {
        let cloud = Cloud::prepare();
        let lab = &cloud.lab;
        let script = format!("echo here > file; touch '{}'; sleep 3600", lab.root().join("ready").display());
        let mut killed = started(lab, MODES[0], &script);
        let held = Arc::new(Notify::new());
        let hold = held.clone();
        cloud.server.control().set_hook(move |request| match request.operation {
            "PutObject" => Fault::Hold(hold.clone()),
            _ => Fault::None,
        });
        signal(killed.id(), Signal::KILL);
        assert_eq!(wait_for(&mut killed, LIMIT), Some(137));
        let mut child = starting(lab, MODES[0]);
        heard(&mut child, "saves what there is and ends");
        signal(child.id(), name);
        assert_eq!(wait_for(&mut child, LIMIT), Some(125), "{name:?}");
        assert!(lab.mounted(), "{name:?}: it did not wait");
        cloud.server.control().clear_hook();
        held.notify_waiters();
        eventually("the daemon ends", LIMIT, || (!lab.mounted()).then_some(()));
        assert!(!lab.place().join("ran").exists(), "{name:?}");
        assert_eq!(read(lab.restored(None).join("file")), "here\n", "{name:?}");
    }
}

/// FUNCTIONS, Start: "A start that hears nothing for three seconds says so."
#[test]
fn a_person_is_told_that_the_remote_is_waited_for() {
    for mode in MODES {
        let cloud = Cloud::prepare();
        let (held, _) = held_after(&cloud, 0);
        let mut child = starting(&cloud.lab, mode);
        heard(&mut child, "waiting for the remote");
        cloud.server.control().clear_hook();
        held.notify_waiters();
        assert_eq!(wait_for(&mut child, LIMIT), Some(0), "{mode:?}");
        assert!(cloud.lab.place().join("ran").exists(), "{mode:?}");
    }
}

/// `exec` whose starter ignores these signals.
fn ignoring(lab: &Lab, signals: &str, mode: &[&str], script: &str) -> Command {
    let inner = arguments(lab, &lab.place(), &lab.state(), mode, script);
    let clean = lab.command([""; 0]);
    let mut outer = Command::new("sh");
    outer.args(["-c", &format!("trap '' {signals}; exec \"$@\""), "sh", BIN]).args(inner);
    outer.env_clear().envs(clean.get_envs().filter_map(|(k, v)| Some((k, v?))));
    outer.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(lab.place()).stdin(Stdio::null());
    outer
}

/// The same while the command runs, which finds it ignored as well.
#[test]
fn what_is_ignored_ends_no_mount_and_stays_so_for_the_command() {
    // SIGINT is the second bit.
    let script =
        "grep -q 'SigIgn:.*[2367abef]$' /proc/self/status || exit 9; kill -INT $PPID; echo here > file";
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        run(&mut ignoring(&lab, "INT", mode, script), LIMIT).must("exec");
        assert_eq!(read(lab.restored(None).join("file")), "here\n", "{mode:?}");
    }
}

/// FUNCTIONS, Exec: "What is ignored when `exec` starts (`nohup`) is not heard by it either."
#[test]
fn what_nohup_keeps_away_ends_no_start() {
    let cloud = Cloud::prepare();
    let lab = &cloud.lab;
    let (held, reads) = held_after(&cloud, 0);
    let mut child = ignoring(lab, "HUP CHLD", MODES[1], "touch ran").spawn().unwrap();
    eventually("a read is held", LIMIT, || (reads() > 0).then_some(()));
    signal(child.id(), Signal::HUP);
    cloud.server.control().clear_hook();
    held.notify_waiters();
    assert_eq!(wait_for(&mut child, LIMIT), Some(0));
    assert!(lab.place().join("ran").exists());
}
