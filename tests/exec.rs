//! A command on a kept directory: how it is run, how it ends, and that its end is saved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "exec/closed.rs"]
mod closed;
#[path = "support/cloud.rs"]
mod cloud;
#[path = "exec/ending.rs"]
mod ending;
mod harness;
#[path = "exec/private.rs"]
mod private;
#[path = "exec/signals.rs"]
mod signals;
mod support;

use cloud::Cloud;
use harness::lab::{BIN, signal};
use harness::{Finished, LIMIT, Lab, Setup, eventually, is_root, run, skip, wait_for};
use rustix::fs::{CWD, FileType};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use support::s3server::Fault;

/// The arguments of `exec` for a directory of a lab.
fn arguments(lab: &Lab, place: &Path, state: &Path, options: &[&str], script: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["exec", "--dir"].map(OsString::from).into();
    arguments.push(place.into());
    arguments.push("--state-dir".into());
    arguments.push(state.into());
    let remote = lab.remote();
    arguments.extend(["--remote", &remote, "--name", &lab.setup.name].map(OsString::from));
    arguments.extend(lab.setup.remote_options.iter().map(OsString::from));
    arguments.extend(options.iter().map(OsString::from));
    arguments.extend(["--", "sh", "-c", script].map(OsString::from));
    arguments
}

fn command(lab: &Lab, options: &[&str], script: &str) -> Command {
    lab.command(arguments(lab, &lab.place(), &lab.state(), options, script))
}

#[track_caller]
fn exec(lab: &Lab, options: &[&str], script: &str) -> Finished {
    run(command(lab, options, script).current_dir(lab.place()), LIMIT)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

const MODES: [&[&str]; 2] = [&["--mode", "mount"], &["--mode", "directory"]];

/// FUNCTIONS, Exec: "It ends as its command does."
#[test]
fn it_ends_as_its_command_does() {
    let lab = Lab::prepare(Setup::default());
    for mode in MODES {
        let heeds_signals = "exec grep -q 'SigBlk:.0*$' /proc/self/status";
        for (script, code) in
            [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), (heeds_signals, 0)]
        {
            let done = exec(&lab, mode, script);
            assert_eq!(done.code, code, "{mode:?} {script}: {}", done.said());
        }
        let not_executable = lab.root().join("text");
        fs::write(&not_executable, "text").unwrap();
        for (program, code) in
            [(Path::new("no-such-program"), 127), (Path::new(""), 127), (not_executable.as_path(), 126)]
        {
            let mut arguments = arguments(&lab, &lab.place(), &lab.state(), mode, "");
            arguments.truncate(arguments.len() - 3);
            arguments.push(program.into());
            let done = lab.call(arguments);
            assert_eq!(done.code, code, "{mode:?} {program:?}: {}", done.said());
            assert_eq!(done.stderr.contains("it is empty"), program == Path::new(""), "{}", done.said());
        }
        assert!(!lab.mounted(), "{mode:?}");
    }
}

/// FUNCTIONS, Exec: "What the command leaves behind is the newest version when `exec` has ended."
#[test]
fn its_end_is_saved_and_restored_elsewhere() {
    let mut lab = Lab::prepare(Setup::default());
    for (n, mode) in MODES.iter().cycle().take(6).enumerate() {
        let script = format!(
            "[ \"$(cat n 2>/dev/null)\" = '{}' ] || exit 9; echo {} > n",
            if n == 0 { String::new() } else { n.to_string() },
            n + 1
        );
        let done = exec(&lab, mode, &script).must("exec");
        assert!(done.stderr.contains("mode"), "{}", done.said());
        if n % 3 != 2 {
            lab.wipe(); // else the same directory and state again
        }
    }
    assert_eq!(read(lab.restored(None).join("n")), "6\n");
}

/// FUNCTIONS, Exec: "A version at the end gets the tag that `--tag` names."
#[test]
fn the_version_at_the_end_gets_a_tag() {
    let lab = Lab::prepare(Setup::default());
    exec(&lab, &["--mode", "directory", "--tag", "first"], "echo 1 > n").must("exec");
    exec(&lab, &["--mode", "directory"], "echo 2 > n").must("exec");
    assert_eq!(read(lab.restored(Some("first")).join("n")), "1\n");
}

/// FUNCTIONS, Exec: "So is it if `exec` could not begin": whatever the reason, and without the command.
#[test]
fn what_makes_no_sense_is_refused_before_the_command_runs() {
    let lab = Lab::prepare(Setup::default());
    exec(&lab, &["--mode", "directory"], "true").must("exec");
    let refused = |options: &[&str]| {
        let done = exec(&lab, &[&["--mode", "directory"], options].concat(), "touch ran; exit 2");
        assert_eq!(done.code, 125, "{options:?}: {}", done.said());
        assert!(!lab.place().join("ran").exists(), "{options:?}: {}", done.said());
    };
    refused(&["--tag", "bad tag/x"]);
    refused(&["--layout", "single", "--tag", "x"]);
    refused(&["--layout", "single"]); // the name is there in layers
    refused(&["--backing", "/somewhere"]);
    refused(&["--no-such-option"]);
    refused(&["--version", "1"]);
    for arguments in [&["exec", "--", "true"][..], &["--json", "exec", "--dir", "/no/such", "--", "true"]] {
        let done = lab.call(arguments);
        assert_eq!(done.code, 125, "{arguments:?}: {}", done.said());
    }
    lab.call(["exec", "--help"]).must("help");
}

/// Starts `exec` and waits until its command has made the file `ready`.
fn started(lab: &Lab, options: &[&str], script: &str) -> std::process::Child {
    let mut command = command(lab, options, script);
    command.current_dir(lab.place()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let ready = lab.root().join("ready");
    eventually("the command runs", LIMIT, || ready.exists().then_some(()));
    fs::remove_file(ready).unwrap();
    child
}

/// FUNCTIONS, Exec: "Signals are handed on"; "After SIGTERM the command has half of `--grace`".
#[test]
fn signals_are_handed_on_and_the_end_is_saved() {
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        let script = format!(
            "trap 'echo usr1 >> told' USR1; trap 'echo term >> told; exit 3' TERM; touch '{}'; \
             while :; do sleep 0.01; done",
            lab.root().join("ready").display()
        );
        let mut child = started(&lab, mode, &script);
        signal(child.id(), Signal::USR1);
        eventually("the command heard of it", LIMIT, || lab.place().join("told").exists().then_some(()));
        signal(child.id(), Signal::TERM);
        assert_eq!(wait_for(&mut child, LIMIT), Some(3), "{mode:?}");
        assert_eq!(read(lab.restored(None).join("told")), "usr1\nterm\n", "{mode:?}");
    }
}

/// FUNCTIONS, Exec: "then it is killed, and what it has written is saved."
#[test]
fn a_command_that_does_not_end_is_killed_and_saved() {
    let lab = Lab::prepare(Setup::default());
    let script = format!(
        "trap '' TERM; echo here > file; touch '{}'; while :; do sleep 1; done",
        lab.root().join("ready").display()
    );
    let mut child = started(&lab, &["--mode", "directory", "--grace", "2s"], &script);
    signal(child.id(), Signal::TERM);
    assert_eq!(wait_for(&mut child, LIMIT), Some(137));
    assert_eq!(read(lab.restored(None).join("file")), "here\n");
}

/// FUNCTIONS, Exec: "If `exec` itself is killed": "Nothing stays mounted".
#[test]
fn a_killed_exec_leaves_no_mount_and_loses_nothing() {
    let lab = Lab::prepare(Setup::default());
    let told = lab.root().join("told");
    // The number is told when the line has been written.
    let script = format!(
        "touch '{}'; n=$(cat log 2>/dev/null | wc -l); while :; do n=$((n+1)); echo $n >> log && echo $n > '{}'; done",
        lab.root().join("ready").display(),
        told.display()
    );
    let number = || fs::read_to_string(&told).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let killed = |mode: &[&str], with_daemon: bool, before: u64| {
        let _there = fs::remove_file(&told);
        let mut child = started(&lab, mode, &script);
        eventually("some lines", LIMIT, || number().filter(|n| *n > before + 20));
        if with_daemon {
            signal(lab.pid(), Signal::KILL);
        }
        signal(child.id(), Signal::KILL);
        assert_eq!(wait_for(&mut child, LIMIT), Some(137));
    };
    let mut before = 0;
    for (mode, with_daemon) in [(MODES[0], false), (MODES[1], false), (MODES[0], true), (MODES[0], false)] {
        killed(mode, with_daemon, before);
        // At once: the next one waits for the end of that one.
        // Not from within: that mount may be gone from under it before it knows where it is.
        let script = format!("wc -l < '{}'", lab.place().join("log").display());
        let done = run(&mut command(&lab, mode, &script), LIMIT).must("the next exec");
        let (lines, told) = (done.stdout.trim().parse::<u64>().unwrap(), number().unwrap_or(before));
        assert!(lines >= told.max(before), "{mode:?} {with_daemon}: {lines} lines, {told} told");
        assert_eq!(read(lab.restored(None).join("log")).lines().count() as u64, lines, "{mode:?}");
        assert!(!lab.mounted(), "{mode:?}");
        before = lines;
    }
    // And by itself, without another one.
    killed(MODES[0], false, before);
    eventually("the mount goes", LIMIT, || (!lab.mounted()).then_some(()));
    let told = number().unwrap_or(before);
    eventually("what was told is saved", LIMIT, || {
        let log = fs::read_to_string(lab.restored(None).join("log")).unwrap();
        (log.lines().count() as u64 >= told).then_some(())
    });
}

/// A child of a child, which nobody waits for; the script goes on when it is gone, zombie and all.
const ORPHAN: &str =
    "pid=$(sh -c 'sleep 0.05 >/dev/null & echo $!'); while [ -e /proc/$pid ]; do sleep 0.01; done; ";

/// FUNCTIONS, Exec: "Processes whose parents have died are reaped."
#[test]
fn orphans_are_reaped() {
    let lab = Lab::prepare(Setup::default());
    for mode in MODES {
        let done = exec(&lab, mode, &format!("{ORPHAN} exit 6"));
        assert_eq!(done.code, 6, "{mode:?}: {}", done.said());
    }
}

/// FUNCTIONS, Exec: "What they write after the end is found and saved by the next `exec` or mount"
#[test]
fn what_is_left_running_writes_for_the_next_exec_or_mount() {
    for (mode, by_mount) in [(MODES[0], false), (MODES[1], false), (MODES[0], true), (MODES[1], true)] {
        let lab = Lab::prepare(Setup::default());
        let beside = tempfile::tempdir().unwrap();
        let (begin, over) = (beside.path().join("begin"), beside.path().join("over"));
        rustix::fs::mknodat(CWD, &begin, FileType::Fifo, 0o600.into(), 0).unwrap();
        let file = lab.place().join("file");
        let [begin_at, file_at, over_at] = [&begin, &file, &over].map(|path| path.display().to_string());
        // By its name, and after the end.
        let late = format!(
            "(read go < '{begin_at}'; echo late > '{file_at}'; : > '{over_at}') > /dev/null 2>&1 & echo early > '{file_at}'"
        );
        let done = run(&mut command(&lab, mode, &late), LIMIT).must("exec");
        assert!(done.stderr.contains("still run"), "{mode:?}: {}", done.said());
        assert_eq!(read(lab.restored(None).join("file")), "early\n", "{mode:?}");
        fs::write(&begin, "go\n").unwrap();
        eventually("it has written", LIMIT, || over.exists().then_some(()));
        if by_mount {
            lab.mount();
            lab.verb("unmount", &[]).must("unmount");
        } else {
            exec(&lab, mode, ":").must("the next exec");
        }
        assert_eq!(read(lab.restored(None).join("file")), "late\n", "{mode:?} {by_mount}");
    }
}

/// FUNCTIONS, Exec: "It is a process 1 like any other."
#[test]
fn it_is_process_1_of_a_container() {
    if !is_root() {
        return skip("process 1", "only root makes a pid namespace here");
    }
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        let script = format!("readlink /proc/1/exe > one; {ORPHAN} exit 5");
        let inner = arguments(&lab, &lab.place(), &lab.state(), mode, &script);
        let clean = lab.command([""; 0]);
        let mut outer = Command::new("unshare");
        outer.args(["--pid", "--fork", "--mount-proc", "--kill-child", BIN]).args(inner);
        outer.env_clear().envs(clean.get_envs().filter_map(|(k, v)| Some((k, v?))));
        outer.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(lab.place());
        let done = run(&mut outer, LIMIT);
        assert_eq!(done.code, 5, "{mode:?}: {}", done.said());
        assert_eq!(read(lab.restored(None).join("one")).trim(), BIN, "{mode:?}");
    }
}

/// `exec` behind what `how` makes of the machine; the rest of the line is its arguments.
fn exec_where(lab: &Lab, how: &str, options: &[&str], script: &str) -> Finished {
    let inner = arguments(lab, &lab.place(), &lab.state(), options, script);
    let clean = lab.command([""; 0]);
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-ec", how, "sh", BIN]).args(inner);
    outer.env_clear().envs(clean.get_envs().filter_map(|(k, v)| Some((k, v?))));
    outer.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(lab.place());
    run(&mut outer, LIMIT)
}

/// FUNCTIONS, Modes: "`auto` really tries, step by step, and one line says what failed."
#[test]
fn where_no_mount_works_it_says_why_and_goes_without() {
    if !is_root() {
        return skip("modes", "only root can take devices and rights away");
    }
    let show =
        "grep -c \"$PWD fuse\\|$PWD rw.*fuse\" /proc/self/mountinfo > mounted || true; echo here > file";
    for (how, says) in [
        ("mount --bind /dev/null /dev/fuse; exec \"$@\"", "device /dev/fuse: it is device 1:3"),
        ("mount -t tmpfs none /dev; exec \"$@\"", "device /dev/fuse: No such file"),
        (
            "exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin unshare --user \"$@\"",
            "mode directory",
        ),
    ] {
        let lab = Lab::prepare(Setup::default());
        let done = exec_where(&lab, how, &["--mode", "auto"], show);
        if how.contains("unshare --user") && done.stderr.contains("unshare failed") {
            skip("a user namespace without rights", &done.stderr);
            continue;
        }
        let said = done.must(how);
        assert!(
            said.stderr.contains("mode directory") && said.stderr.contains(says),
            "{how}: {}",
            said.said()
        );
        assert_eq!(read(lab.restored(None).join("file")), "here\n");
        let refused = exec_where(&lab, how, &["--mode", "mount"], show);
        assert_eq!(refused.code, 125, "{how}: {}", refused.said());
    }
}

/// FUNCTIONS, Modes: "in a namespace that only the command is in".
#[test]
fn without_the_right_to_mount_the_command_gets_a_namespace_of_its_own() {
    if !is_root() {
        return skip("modes", "only root can take rights away");
    }
    let lab = Lab::prepare(Setup::default());
    let how = "exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \"$@\"";
    let script = "grep -q \" $PWD .* - fuse.icecache \" /proc/self/mountinfo && echo here > file";
    let done = exec_where(&lab, how, &["--mode", "auto"], script);
    if done.stderr.contains("mount in a private namespace") {
        return skip("a private namespace", &done.stderr);
    }
    let said = done.must(how);
    assert!(said.stderr.contains("namespace of the command's own"), "{}", said.said());
    assert!(said.stderr.contains("mount: Operation not permitted"), "{}", said.said());
    assert!(!lab.mounted(), "the mount is seen outside");
    assert_eq!(read(lab.restored(None).join("file")), "here\n");
}

/// FUNCTIONS, Modes: "`icecache doctor` prints the same steps as a table."
#[test]
fn doctor_prints_the_steps() {
    let lab = Lab::prepare(Setup::default());
    let table = lab.call(["doctor"]).must("doctor");
    assert!(
        table.stdout.contains("open /dev/fuse") && table.stdout.contains("exec and mount: "),
        "{}",
        table.said()
    );
    let json: serde_json::Value =
        serde_json::from_str(&lab.call(["doctor", "--json"]).must("doctor").stdout).unwrap();
    assert_eq!(json["way"], if is_root() { "mount".into() } else { json["way"].clone() });
    assert!(json["steps"].as_array().is_some_and(|steps| steps.len() >= 2), "{json}");
    // Where nothing can be made.
    let elsewhere = run(lab.command(["doctor"]).env("TMPDIR", "/proc"), LIMIT).must("doctor");
    assert!(elsewhere.stdout.contains("exec and mount: "), "{}", elsewhere.said());
}

/// FUNCTIONS, Exec: "If not everything is saved its exit code is 125 and it says so."
#[test]
fn a_save_that_fails_is_never_silent() {
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        exec(&lab, mode, "echo good > file").must("exec");
        let remote = lab.remote_dir();
        let cut_off = format!("echo lost > file; mv '{0}' '{0}-away'; touch '{0}'; exit 2", remote.display());
        let mut options = mode.to_vec();
        options.extend(["--unmount-timeout", "1s"]);
        let done = exec(&lab, &options, &cut_off);
        assert_eq!(done.code, 125, "{mode:?}: {}", done.said());
        assert!(done.stderr.contains("not everything is saved"), "{mode:?}: {}", done.said());
        assert!(done.stderr.contains("ended with 2"), "{mode:?}: {}", done.said());
        fs::remove_file(&remote).unwrap();
        fs::rename(remote.with_file_name("remote-away"), &remote).unwrap();
        assert_eq!(read(lab.restored(None).join("file")), "good\n");
        // It is in the directory, and the next end saves it.
        exec(&lab, mode, "true").must("exec");
        assert_eq!(read(lab.restored(None).join("file")), "lost\n", "{mode:?}");
    }
}

/// FUNCTIONS, Start: "A remote that cannot be read is not an empty one."
#[test]
fn a_state_that_cannot_be_read_is_not_overwritten() {
    let cloud = Cloud::prepare();
    let mut lab = cloud.lab;
    exec(&lab, &["--mode", "directory"], "echo good > file").must("exec");
    lab.wipe();
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" | "HeadObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    let done = exec(&lab, &["--mode", "directory"], "[ -e file ] && exit 9; echo bad > file");
    assert_eq!(done.code, 125, "{}", done.said());
    assert!(done.stderr.contains("cannot be read"), "{}", done.said());
    let refused = exec(&lab, &["--mode", "directory", "--unreadable", "fail"], "echo ran > ran");
    assert_eq!(refused.code, 125, "{}", refused.said());
    assert!(!lab.place().join("ran").exists(), "{}", refused.said());
    // Readable again at the end: it is another state than the command had, whatever becomes of other conflicts.
    let again = lab.root().join("readable");
    let readable = again.clone();
    cloud.server.control().set_hook(move |request| match request.operation {
        "GetObject" | "HeadObject" if !readable.exists() => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    for policy in ["fail", "read-only"] {
        let script = format!("echo bad > file; touch '{}'", again.display());
        let done = exec(&lab, &["--mode", "directory", "--on-conflict", policy], &script);
        assert_eq!(done.code, 125, "{policy}: {}", done.said());
        fs::remove_file(&again).unwrap();
    }
    cloud.server.control().clear_hook();
    assert_eq!(read(lab.restored(None).join("file")), "good\n");
}

/// FUNCTIONS, Start: "A state that outlives its directory brings it back."
#[test]
fn a_directory_that_was_made_anew_is_not_one_of_which_everything_was_removed() {
    for mode in MODES {
        let lab = Lab::prepare(Setup::default());
        exec(&lab, mode, "mkdir d; echo good > d/file; echo 1 > n").must("exec");
        for scan in ["auto", "always"] {
            fs::remove_dir_all(lab.place()).unwrap();
            fs::create_dir(lab.place()).unwrap();
            let options = [mode, &["--scan", scan]].concat();
            let done = exec(&lab, &options, "cat d/file").must("exec");
            assert!(done.stderr.contains("was made anew"), "{mode:?} {scan}: {}", done.said());
            assert_eq!(done.stdout, "good\n", "{mode:?} {scan}");
            assert_eq!(read(lab.restored(None).join("d/file")), "good\n", "{mode:?} {scan}");
        }
        // What is removed in the directory that it is, is removed.
        exec(&lab, mode, "rm -r d").must("exec");
        fs::remove_file(lab.place().join("n")).unwrap();
        let done = exec(&lab, &[mode, &["--scan", "always"]].concat(), "true").must("exec");
        assert!(!done.stderr.contains("was made anew"), "{mode:?}: {}", done.said());
        assert_eq!(fs::read_dir(lab.restored(None)).unwrap().count(), 0, "{mode:?}");
    }
}

/// FUNCTIONS, Directory: "nor where an earlier session here has left something unsaved".
#[test]
fn what_a_session_without_its_state_has_made_is_no_stray_file() {
    let cloud = Cloud::prepare();
    let mut lab = cloud.lab;
    let options = ["--mode", "directory", "--stray", "delete"];
    exec(&lab, &options, "echo good > file").must("exec");
    lab.wipe();
    cloud.server.control().set_hook(|request| match request.operation {
        "GetObject" | "HeadObject" => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        _ => Fault::None,
    });
    assert_eq!(exec(&lab, &options, "echo hours > result").code, 125);
    cloud.server.control().clear_hook();
    let done = exec(&lab, &options, "cat file result").must("exec");
    assert_eq!(done.stdout, "good\nhours\n", "{}", done.said());
    assert_eq!(read(lab.restored(None).join("result")), "hours\n");
}

/// FUNCTIONS, Start: "With `s3:GetObject` and `s3:PutObject` alone a missing object looks like a forbidden one".
#[test]
fn a_first_version_is_made_where_missing_looks_like_forbidden() {
    let cloud = Cloud::prepare();
    let mut lab = cloud.lab;
    let there: std::sync::Arc<std::sync::Mutex<std::collections::HashSet<String>>> = Default::default();
    cloud.server.control().set_hook(move |request| {
        let mut there = there.lock().unwrap();
        match request.operation {
            "PutObject" => drop(there.insert(request.key.clone())),
            "GetObject" if !there.contains(&request.key) => {
                return Fault::FailBefore(s3s::S3ErrorCode::AccessDenied);
            }
            "GetObject" => {}
            _ => return Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
        }
        Fault::None
    });
    let first = exec(&lab, &["--mode", "directory"], "echo 1 > n").must("first");
    assert!(first.stderr.contains("cannot be read"), "{}", first.said());
    lab.wipe();
    let second = exec(&lab, &["--mode", "directory"], "[ $(cat n) = 1 ] && echo 2 > n").must("second");
    assert!(!second.stderr.contains("cannot be read"), "{}", second.said());
    cloud.server.control().clear_hook();
    assert_eq!(read(lab.restored(None).join("n")), "2\n");
}

/// FUNCTIONS, Start: "What the name has in the other layout is found all the same", with the same two rights.
#[test]
fn a_name_in_the_other_layout_is_no_empty_one_where_missing_looks_like_forbidden() {
    for (layout, other, key) in
        [("single", "layered", "prefix/work/HEAD"), ("layered", "single", "prefix/work.zst")]
    {
        for mode in MODES {
            let cloud = Cloud::prepare();
            let mut lab = cloud.lab;
            exec(&lab, &["--mode", "directory", "--layout", layout], "echo good > file").must("exec");
            lab.wipe();
            let there = cloud.server.keys();
            cloud.server.control().set_hook(move |request| match request.operation {
                "PutObject" => Fault::None,
                "GetObject" if there.contains(&request.key) => Fault::None,
                _ => Fault::FailBefore(s3s::S3ErrorCode::AccessDenied),
            });
            let done = exec(&lab, &[mode, &["--layout", other]].concat(), "touch ran");
            assert_eq!(done.code, 125, "{layout} {mode:?}: {}", done.said());
            assert!(done.stderr.contains(&format!("--layout {layout}")), "{mode:?}: {}", done.said());
            assert!(!lab.place().join("ran").exists(), "{layout} {mode:?}: {}", done.said());
            assert!(!cloud.server.keys().iter().any(|made| made == key), "{layout} {mode:?}");
        }
    }
}

/// FUNCTIONS, Start: "An empty variable counts as unset", as the environment of the original tool has it.
#[test]
fn the_environment_of_the_original_is_enough() {
    let cloud = Cloud::prepare();
    let lab = cloud.lab;
    let mut command = lab.command(["exec", "--mode", "directory", "--state-dir"]);
    command.arg(lab.state()).arg("--dir").arg(lab.place());
    command.args(&lab.setup.remote_options).args(["--", "sh", "-c", "echo here > file"]);
    command.env("S3_BUCKET", support::s3server::BUCKET).env("S3_PREFIX", "prefix/");
    command.env("AWS_LAMBDA_FUNCTION_NAME", "work").env("AWS_SESSION_TOKEN", "").env("AWS_PROFILE", "");
    run(command.current_dir(lab.place()), LIMIT).must("exec");
    assert_eq!(read(lab.restored(None).join("file")), "here\n");
}

/// A script that runs another writer to its end before it ends itself.
fn while_another(lab: &Lab, other: &str, own: &str) -> String {
    let (place, state) = (lab.root().join("other"), lab.root().join("other-state"));
    fs::create_dir_all(&place).unwrap();
    let inner = arguments(
        lab,
        &place,
        &state,
        &["--mode", "directory"],
        &format!("cd '{}' && {other}", place.display()),
    );
    let quoted: Vec<String> =
        inner.iter().map(|a| format!("'{}'", a.to_str().unwrap().replace('\'', "'\\''"))).collect();
    format!("{own}; '{BIN}' {} || exit 99", quoted.join(" "))
}

fn names(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.remote_dir()).unwrap().flatten();
    let mut names: Vec<String> = entries
        .filter(|e| e.path().join("HEAD").is_file())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// FUNCTIONS, Writers: each policy, where another writer was faster.
#[test]
fn who_comes_second_does_as_it_was_told() {
    for mode in MODES {
        for (policy, code) in [("fork", 0), ("merge", 0), ("fail", 125), ("read-only", 0)] {
            let what = format!("{mode:?} {policy}");
            let lab = Lab::prepare(Setup::default());
            exec(&lab, mode, "mkdir d && echo base > d/base").must(&what);
            let script = while_another(&lab, "echo theirs > d/theirs && rm d/base", "echo mine > d/mine");
            let mut options = mode.to_vec();
            options.extend(["--on-conflict", policy, "--unmount-timeout", "2s"]);
            options.extend(["--debounce", "3600s", "--max-delay", "3600s"]);
            let done = exec(&lab, &options, &script);
            assert_eq!(done.code, code, "{what}: {}", done.said());
            assert!(done.stderr.contains("another writer"), "{what}: {}", done.said());
            let restored = lab.restored(None);
            assert_eq!(read(restored.join("d/theirs")), "theirs\n", "{what}");
            assert!(!restored.join("d/base").exists(), "{what}");
            assert_eq!(restored.join("d/mine").exists(), policy == "merge", "{what}");
            assert_eq!(names(&lab).len(), if policy == "fork" { 2 } else { 1 }, "{what}");
            assert_eq!(read(lab.place().join("d/mine")), "mine\n", "{what}");
            if policy == "merge" {
                // The directory has been behind; now it is not.
                exec(&lab, &options, "[ -e d/base ] && exit 8; cat d/theirs d/mine").must(&what);
            }
        }
    }
}

/// FUNCTIONS, Writers: "of a path that both changed the later version has what its writer made of it, and the earlier one
/// gets a tag".
#[test]
fn what_both_changed_can_be_had_as_either_has_it() {
    let lab = Lab::prepare(Setup::default());
    let options = ["--mode", "directory", "--on-conflict", "merge"];
    exec(&lab, &options, "echo base > both; echo base > theirs").must("exec");
    let script =
        while_another(&lab, "echo theirs > both; echo theirs > theirs", "echo mine > both; echo mine > mine");
    let done = exec(&lab, &options, &script).must("exec");
    let tag = done.stderr.split_whitespace().find(|word| word.starts_with("before-merge-"));
    let tag = tag.unwrap_or_else(|| panic!("no tag: {}", done.said())).to_owned();
    assert!(done.stderr.contains("both"), "{}", done.said());
    let (now, before) = (lab.restored(None), lab.restored(Some(&tag)));
    assert_eq!(
        (read(now.join("both")), read(now.join("theirs")), read(now.join("mine"))),
        ("mine\n".into(), "theirs\n".into(), "mine\n".into())
    );
    assert_eq!(read(before.join("both")), "theirs\n");
    assert!(!before.join("mine").exists());
}

/// FUNCTIONS, Fork: "gives N sandboxes a common start without copying a byte", and neither can take a layer from the other.
#[test]
fn forks_share_layers_and_keep_them() {
    let lab = Lab::prepare(Setup::default());
    for n in 1..=3 {
        exec(&lab, &["--mode", "directory"], &format!("echo {n} > n; echo {n} > n{n}")).must("exec");
    }
    let before = lab.objects();
    let remote = lab.remote();
    let call = |arguments: &[&str]| lab.call([arguments, &["--remote", &remote]].concat());
    let forked = call(&["fork", "work", "copy"]).must("fork");
    assert_eq!(forked.stdout.trim(), "3");
    let new: Vec<_> = lab.objects().into_iter().filter(|object| !before.contains(object)).collect();
    assert!(
        new.iter().all(|(path, _)| path.ends_with("copy/HEAD") || path.ends_with("probe")),
        "copied: {new:?}"
    );
    assert_eq!(call(&["fork", "work", "copy"]).code, 8, "the name was taken");
    assert_eq!(call(&["fork", "none", "other"]).code, 5, "there is no such name");
    call(&["fork", "work", "old", "--version", "1"]).must("fork");
    // The origin goes on without what the fork has, and deletes all that it may.
    for n in 4..=7 {
        let script = format!("rm -f n n?; echo {n} > n{n}");
        exec(&lab, &["--mode", "directory", "--chain", "4"], &script).must("exec");
    }
    let pruned =
        call(&["prune", "--name", "work", "--keep", "1", "--older-than", "0h", "--orphans"]).must("prune");
    assert!(pruned.stdout.contains("shared\t"), "nothing was kept for the fork: {}", pruned.said());
    for (name, files) in
        [("copy", vec!["n", "n1", "n2", "n3"]), ("old", vec!["n", "n1"]), ("work", vec!["n7"])]
    {
        let to = lab.root().join(format!("of-{name}"));
        call(&["restore", "--name", name, "--to", to.to_str().unwrap()]).must(name);
        let mut found: Vec<String> =
            fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        assert_eq!(found, files, "{name}");
    }
}
