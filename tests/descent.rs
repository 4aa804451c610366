//! The thirteen faults of the original tool (`ancestor.rs`) where it was to run: in a function, where nothing is
//! mounted. What is a test of its own elsewhere is named here; the rest is below.
//!
//! | fault | mounted: `ancestor.rs` | not mounted |
//! |---|---|---|
//! | 1 a save drops what was saved before | `fault_01` | `fault_01` here |
//! | 2 the first write after a cold start drops what was restored | `fault_02` | `fault_02` here; `exec.rs`: `its_end_is_saved_and_restored_elsewhere` |
//! | 3 SQLite is destroyed | `fault_03` | `lambda.rs`: `no_acknowledged_increment_is_lost` and that with the runtime of AWS |
//! | 4 the handler never starts, no extension registers | `fault_04` | `lambda.rs`: `before_an_answer_its_state_is_saved`, `an_extension_saves_when_an_invocation_is_over` |
//! | 5 a failed read at the start, and good state is overwritten | `fault_05` | `lambda.rs` and `exec.rs`: `a_state_that_cannot_be_read_is_not_overwritten` |
//! | 6 constant writing, a freeze or the end of the sandbox prevents the save | `fault_06` | `lambda.rs`: `after_an_answer_or_now_and_then_it_is_saved_before_the_sandbox_rests`, `without_telemetry_the_next_invocation_says_it`; `exec.rs`: `signals_are_handed_on_and_the_end_is_saved` |
//! | 7 a failed save is forgotten | `fault_07` | `lambda.rs`: `an_answer_whose_state_is_not_saved_is_an_error`; `exec.rs`: `a_save_that_fails_is_never_silent` |
//! | 8 a FIFO blocks everything | `fault_08` | `directory.rs`: `fifos_sockets_and_unreadable_files_block_nothing` |
//! | 9 new directories, deletes, renames and chmod are missed | `fault_09` | `directory.rs`: `no_change_is_missed` |
//! | 10 modes, times, owners, links, attributes and holes are lost | `fault_10` | `directory.rs`: `the_same_tree_moves_between_a_mount_and_a_directory` |
//! | 11 an archive writes outside | `fault_11` | `fault_11` here |
//! | 12 everything is in memory | `fault_12` | `fault_12` here |
//! | 13 no condition, no versions, no checksum, unreadable and torn files saved as if whole | `fault_13` | `fault_13` here; `exec.rs`: `who_comes_second_does_as_it_was_told`, `the_version_at_the_end_gets_a_tag`; `lambda.rs`: `instances_at_once_lose_nothing_silently`; `directory.rs`: `a_file_that_is_written_while_it_is_saved_is_saved_in_the_end` |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod harness;

use harness::command::wait_pid;
use harness::{Finished, LIMIT, Lab, Setup, run};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn command(lab: &Lab, options: &[&str], script: &str) -> Command {
    let mut command = lab.command(["exec", "--mode", "directory", "--remote", &lab.remote()]);
    command.args(["--name", &lab.setup.name, "--dir"]).arg(lab.place()).arg("--state-dir").arg(lab.state());
    command.args(options).args(["--", "sh", "-c", script]).current_dir(lab.place());
    command
}

#[track_caller]
fn exec(lab: &Lab, options: &[&str], script: &str) -> Finished {
    run(&mut command(lab, options, script), LIMIT)
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// FUNCTIONS, Exec: "What the command leaves behind is the newest version when `exec` has ended", all of it.
#[test]
fn fault_01_a_save_drops_what_was_saved_before() {
    let lab = Lab::prepare(Setup::default());
    exec(&lab, &[], "echo a > a").must("first");
    exec(&lab, &[], "echo b > b").must("second");
    assert_eq!(files(&lab.restored(None)), ["a", "b"]);
}

/// The same, where what was there came from the remote.
#[test]
fn fault_02_the_first_write_after_a_cold_start_drops_the_restored() {
    let mut lab = Lab::prepare(Setup::default());
    exec(&lab, &[], "echo a > a; mkdir d; echo b > d/b").must("first");
    lab.wipe();
    exec(&lab, &[], "cat a d/b && echo c > c").must("cold start");
    let restored = lab.restored(None);
    assert_eq!(files(&restored), ["a", "c", "d"]);
    assert_eq!(files(&restored.join("d")), ["b"]);
}

/// SEMANTICS, Restore: "An archive writes beneath the directory or not at all", also one that the original tool has left
/// behind, and whoever else could write there.
#[test]
fn fault_11_an_archive_writes_outside() {
    let lab = Lab::prepare(Setup::default());
    let (work, outside) = (lab.root().join("work/deep"), lab.root().join("outside"));
    fs::create_dir_all(&work).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(lab.root().join("work/evil"), b"evil").unwrap();
    std::os::unix::fs::symlink(&outside, work.join("door")).unwrap();
    fs::create_dir(lab.root().join("work/real")).unwrap();
    fs::write(lab.root().join("work/real/evil"), b"evil").unwrap();
    let tar = |arguments: &[&str]| {
        run(Command::new("tar").arg("-P").args(arguments).current_dir(&work), LIMIT).must("tar");
    };
    tar(&["-cf", "up.tar", "../evil"]);
    tar(&["-cf", "door.tar", "door"]);
    tar(&["-rf", "door.tar", "--transform=s,^real,door,", "-C", "..", "real/evil"]);
    fs::remove_file(lab.root().join("work/evil")).unwrap();
    for name in ["up", "door"] {
        let archive = lab.remote_dir().join(format!("{name}.zst"));
        let packed = run(
            Command::new("zstd").arg("-q").arg(work.join(format!("{name}.tar"))).arg("-o").arg(&archive),
            LIMIT,
        );
        packed.must("zstd");
        let before = fs::read(&archive).unwrap();
        let mut lab_of = Setup { name: name.to_owned(), remote: Some(lab.remote()), ..Setup::default() };
        lab_of.remote_options = vec!["--layout".into(), "single".into()];
        let other = Lab::prepare(lab_of);
        let done = exec(&other, &["--layout", "single"], "echo ran > ran");
        assert_eq!(done.code, 125, "{name}: {}", done.said());
        assert!(!other.place().join("ran").exists(), "{name}: the command ran on half of an archive");
        for trace in [other.root().join("evil"), outside.join("evil"), other.place().join("evil")] {
            assert!(fs::symlink_metadata(&trace).is_err(), "{name} wrote {}", trace.display());
        }
        assert_eq!(fs::read(&archive).unwrap(), before, "{name}: the archive was replaced");
    }
}

/// SEMANTICS, Flush: "at most 64 MiB above idle, whatever the size"; a restore needs no more.
#[test]
fn fault_12_a_large_file_fills_the_memory() {
    let mut lab = Lab::prepare(Setup::default());
    let idle = peak_mib(&mut command(&lab, &[], "true"));
    let save = peak_mib(&mut command(&lab, &[], "head -c 300M /dev/urandom > large"));
    assert!(save <= idle + 64, "{idle} MiB idle, {save} MiB at the peak of a save");
    lab.wipe();
    let restore = peak_mib(&mut command(&lab, &[], "[ $(stat -c %s large) = 314572800 ]"));
    assert!(restore <= idle + 64, "{idle} MiB idle, {restore} MiB at the peak of a restore");
}

/// Runs it to its good end; the most memory that it, or a process of its own, had.
#[track_caller]
#[allow(clippy::zombie_processes)] // the call that tells of its memory reaps it
fn peak_mib(command: &mut Command) -> i64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    if !wait_pid(pid, LIMIT * 2) {
        drop(child.kill());
        panic!("it hangs");
    }
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both are places for what the call writes, and the child is ours.
    let waited = unsafe { libc::wait4(pid as i32, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!((waited, status), (pid as i32, 0), "it did not end well");
    // SAFETY: zeroed is a value of it, and the call has written one.
    unsafe { usage.assume_init() }.ru_maxrss / 1024
}

/// SEMANTICS, Restore: what is damaged is told, not used, and nothing is saved over it.
#[test]
fn fault_13_no_checksum() {
    let mut lab = Lab::prepare(Setup::default());
    // So large that HEAD does not have the layer in it: what is there can be read whatever became of the object.
    exec(&lab, &[], "head -c 300000 /dev/urandom > file").must("exec");
    lab.wipe();
    for (path, _) in lab.objects().into_iter().filter(|o| o.0.extension().is_some_and(|e| e == "zst")) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let head = fs::read(lab.head()).unwrap();
    let done = exec(&lab, &[], "echo ran > ran");
    assert_eq!(done.code, 125, "{}", done.said());
    assert!(!lab.place().join("ran").exists(), "the command ran on damaged files");
    assert_eq!(fs::read(lab.head()).unwrap(), head, "saved over what could not be read");
}
