//! Writers in processes of their own: this test program started again with a role. They live on when
//! the daemon dies, can be stopped, and their kernel locks are not ours.
use super::command::{LIMIT, eventually, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Says which role a started child plays, and where.
const ROLE: &str = "ICECACHE_TEST_ROLE";

/// A running writer; ended with the guard.
#[derive(Debug)]
pub struct Writer {
    child: Child,
    progress: PathBuf,
}

impl Writer {
    /// Starts `role` on `dir`. The child reports each acknowledged step to `progress` (a plain file outside).
    /// The test program must have a `#[test] #[ignore] fn role()` that calls [`play`].
    #[track_caller]
    pub fn start(role: &str, dir: &Path, progress: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{role}\n{}\n{}", dir.display(), progress.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let writer = Self { child, progress: progress.to_path_buf() };
        eventually("the writer's first step", Duration::from_secs(30), || (writer.steps() > 0).then_some(()));
        writer
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        wait_for(&mut self.child, Duration::ZERO).is_none()
    }

    /// The last step it has reported.
    pub fn steps(&self) -> u64 {
        steps(&self.progress)
    }

    /// Waits until it has done `more` further steps.
    #[track_caller]
    pub fn await_steps(&self, more: u64) {
        let first = self.steps();
        // However slow the machine is: what hangs makes no step at all.
        for step in 1..=more {
            eventually("the writer to go on", LIMIT, || (self.steps() >= first + step).then_some(()));
        }
    }

    /// Ends it and returns the last reported step.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.steps()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        assert!(
            wait_for(&mut self.child, Duration::from_secs(20)).is_some() || std::thread::panicking(),
            "a killed writer does not end: it hangs in the mount"
        );
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if wait_for(&mut self.child, Duration::ZERO).is_none() {
            self.end();
        }
    }
}

/// The last step reported in a progress file.
pub fn steps(progress: &Path) -> u64 {
    let bytes = std::fs::read(progress).unwrap_or_default();
    bytes.try_into().map(u64::from_le_bytes).unwrap_or(0)
}

/// The child's end of [`Writer::start`]: role, directory, and how to report a step.
pub struct Part {
    /// Which role.
    pub role: String,
    /// Where to write.
    pub dir: PathBuf,
    progress: std::fs::File,
}

impl Part {
    /// Reports that everything up to `step` was acknowledged to us.
    pub fn done(&self, step: u64) {
        use std::os::unix::fs::FileExt;
        self.progress.write_all_at(&step.to_le_bytes(), 0).unwrap();
    }
}

/// What this process was started to do; `None` when it is the test runner itself.
pub fn part() -> Option<Part> {
    let text = std::env::var(ROLE).ok()?;
    let mut lines = text.split('\n');
    let (role, dir, progress) = (lines.next()?, lines.next()?, lines.next()?);
    // Without this a killed test run would leave writers behind.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let progress =
        std::fs::OpenOptions::new().create(true).write(true).truncate(false).open(progress).unwrap();
    Some(Part { role: role.to_owned(), dir: dir.into(), progress })
}
