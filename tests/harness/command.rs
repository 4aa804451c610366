//! Programs with a deadline: a hung mount must fail a test, not the whole run.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{Read, Seek};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a command of ours may take before the test gives it up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; a signal counts as 128 and its number.
    pub code: i32,
    /// Its standard output, lossy.
    pub stdout: String,
    /// Its standard error, lossy.
    pub stderr: String,
}

impl Finished {
    /// Whether the exit code is zero.
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// Panics with everything the program said unless it exited with zero.
    #[track_caller]
    pub fn must(self, what: &str) -> Self {
        assert!(self.ok(), "{what}: exit code {}\n{}", self.code, self.said());
        self
    }

    /// Both streams, for messages and for searching words in.
    pub fn said(&self) -> String {
        format!("stdout: {}\nstderr: {}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// Waits for a child until `limit`; `None` if it is still running then.
pub fn wait_for(child: &mut Child, limit: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let code = |s: std::process::ExitStatus| s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0));
    if let Some(status) = child.try_wait().unwrap() {
        return Some(code(status));
    }
    if wait_pid(child.id(), limit) { child.wait().ok().map(code) } else { None }
}

/// Waits until the process is gone (or a zombie of ours); false when `limit` passed before.
pub fn wait_pid(pid: u32, limit: Duration) -> bool {
    let Some(pid) = Pid::from_raw(pid as i32) else { return true };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("cannot wait for process {pid:?}: {e}"),
        }
    }
}

/// Runs to the end or kills after `limit` (and panics). Output goes through files, because a daemon
/// that was started by the program would keep a pipe open for ever.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    command.stdin(Stdio::null());
    command.stdout(files[0].try_clone().unwrap()).stderr(files[1].try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let code = wait_for(&mut child, limit);
    if code.is_none() {
        let _ = child.kill();
        let _ = wait_for(&mut child, Duration::from_secs(5));
    }
    let mut said = files.iter_mut().map(|file| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let (stdout, stderr) = (said.next().unwrap(), said.next().unwrap());
    let Some(code) = code else {
        panic!("{command:?} hung for {limit:?}\nstdout: {stdout}\nstderr: {stderr}")
    };
    Finished { code, stdout, stderr }
}

/// Runs a tool that the suites need (tar, cp) and panics unless it succeeds.
#[track_caller]
pub fn tool(program: &str, args: &[&std::ffi::OsStr]) -> Finished {
    run(Command::new(program).args(args), LIMIT).must(program)
}

/// Asks again, each time a little later, until the answer is yes; panics with `what` after `limit`.
/// For states of other processes that cannot be awaited by an event.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited {limit:?} in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
