//! One mount of the real program with everything it needs in a directory of its own.
use super::command::{Finished, LIMIT, eventually, run, wait_pid};
pub use super::process::signal;
use super::process::{is_ours, processes};
use super::snapshot::{KEPT, Tree};
use super::subject::Subject;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The program under test.
pub const BIN: &str = env!("CARGO_BIN_EXE_icecache");
/// The same, or another build of it (`ICECACHE_TEST_BIN`), for tests that run nothing else.
pub fn program() -> String {
    std::env::var("ICECACHE_TEST_BIN").unwrap_or_else(|_| BIN.to_owned())
}
/// A pause that never ends within a test: flushes happen only when asked for.
pub const NEVER: &str = "3600s";

/// How file data is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By the kernel where it can (what `status` reports is then up to the machine).
    Passthrough,
    /// Through the daemon.
    Classic,
}

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How data is served.
    pub mode: Mode,
    /// `--debounce` and `--max-delay`.
    pub delays: (String, String),
    /// More options of `mount`.
    pub options: Vec<OsString>,
    /// Another remote than the directory of the lab.
    pub remote: Option<String>,
    /// Options that belong to the remote, for every verb that takes one.
    pub remote_options: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// Prints and names.
    pub name: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mode: Mode::Passthrough,
            delays: (NEVER.to_owned(), NEVER.to_owned()),
            options: Vec::new(),
            remote: None,
            remote_options: Vec::new(),
            environment: Vec::new(),
            name: "work".to_owned(),
        }
    }
}

impl Setup {
    /// The default with data served in `mode`.
    pub fn mode(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Adds options of `mount`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(OsString::from));
        self
    }

    /// Flushes `debounce` after the last change, and at the latest `max` after the first.
    #[must_use]
    pub fn flushing(mut self, debounce: &str, max: &str) -> Self {
        self.delays = (debounce.to_owned(), max.to_owned());
        self
    }
}

/// See the module. Dropping it ends the daemon and detaches exactly its own mount points.
#[derive(Debug)]
pub struct Lab {
    root: Option<TempDir>,
    /// What the mounts are made with; may be changed between mounts.
    pub setup: Setup,
    round: u32,
    checkouts: std::cell::Cell<u32>,
}

impl Lab {
    /// Directories, but no mount yet.
    pub fn prepare(setup: Setup) -> Self {
        let root = tempfile::Builder::new().prefix("icecache-lab-").tempdir().unwrap();
        let lab = Self { root: Some(root), setup, round: 0, checkouts: std::cell::Cell::new(0) };
        for dir in [lab.place(), lab.remote_dir(), lab.root().join("home")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        lab
    }

    /// Directories and a usable mount.
    #[track_caller]
    pub fn new(setup: Setup) -> Self {
        let lab = Self::prepare(setup);
        lab.mount();
        lab
    }

    /// The mount of a machine that has just got back what `populate` made on another one, and the tree as it was there.
    #[track_caller]
    pub fn arrived(setup: Setup, populate: impl FnOnce(&Path)) -> (Self, Tree) {
        let mut lab = Self::new(setup);
        populate(&lab.dir());
        let tree = Tree::take(&lab.dir(), KEPT);
        lab.flush();
        lab.elsewhere();
        (lab, tree)
    }

    /// Where everything of this lab is.
    pub fn root(&self) -> &Path {
        self.root.as_ref().expect("only dropped labs have no root").path()
    }

    /// The mount point and, beneath it, the backing.
    pub fn place(&self) -> PathBuf {
        self.root().join(format!("place{}", self.round))
    }

    /// The state directory of the daemon.
    pub fn state(&self) -> PathBuf {
        self.root().join(format!("state{}", self.round))
    }

    /// The directory that serves as the remote (unless the setup names another).
    pub fn remote_dir(&self) -> PathBuf {
        self.root().join("remote")
    }

    /// The remote's address.
    pub fn remote(&self) -> String {
        self.setup.remote.clone().unwrap_or_else(|| format!("file://{}", self.remote_dir().display()))
    }

    /// The program with an environment that nothing of this machine leaks into.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["ICECACHE_", "AWS_", "S3_", "XDG_"].iter().any(|p| text.starts_with(p)) {
                command.env_remove(&name);
            }
        }
        let home = self.root().join("home");
        command.env("HOME", &home).env("XDG_RUNTIME_DIR", &home).current_dir("/").args(args);
        command.envs(self.setup.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Runs a verb.
    #[track_caller]
    pub fn call<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Finished {
        run(&mut self.command(args), LIMIT)
    }

    /// Runs a verb with the directory behind it.
    #[track_caller]
    pub fn verb(&self, verb: &str, options: &[&str]) -> Finished {
        let place = self.place();
        let mut args = vec![OsStr::new(verb), place.as_os_str()];
        args.extend(options.iter().map(OsStr::new));
        self.call(args)
    }

    /// Mounts and says what came of it.
    #[track_caller]
    pub fn try_mount(&self) -> Finished {
        self.try_mount_at(&self.place(), &self.state())
    }

    /// Mounts another directory or with another state.
    #[track_caller]
    pub fn try_mount_at(&self, place: &Path, state: &Path) -> Finished {
        run(&mut self.mount_command(place, state), LIMIT)
    }

    /// What mounts.
    pub fn mount_command(&self, place: &Path, state: &Path) -> Command {
        let mut args: Vec<OsString> = vec!["mount".into(), place.into()];
        let pairs: [(&str, OsString); 5] = [
            ("--remote", self.remote().into()),
            ("--name", self.setup.name.clone().into()),
            ("--state-dir", state.into()),
            ("--debounce", self.setup.delays.0.clone().into()),
            ("--max-delay", self.setup.delays.1.clone().into()),
        ];
        for (flag, value) in pairs {
            args.extend([OsString::from(flag), value]);
        }
        args.extend([
            "--passthrough".into(),
            if self.setup.mode == Mode::Classic { "off" } else { "auto" }.into(),
        ]);
        if let Some(transport) = std::env::var_os("ICECACHE_TEST_TRANSPORT") {
            args.extend(["--transport".into(), transport]);
        }
        args.extend(self.setup.remote_options.iter().map(OsString::from));
        args.extend(self.setup.options.iter().cloned());
        let said = args.iter().any(|arg| arg.to_string_lossy().starts_with("--no-prefetch"));
        if !said && std::env::var_os("ICECACHE_TEST_PREFETCH").is_some_and(|value| value == "off") {
            args.push("--no-prefetch".into());
        }
        self.command(args)
    }

    /// Kills whatever runs for this lab, also what has not said yet who it is.
    #[track_caller]
    pub fn kill_all(&self) {
        let pids = processes(self.root());
        for pid in &pids {
            signal(*pid, rustix::process::Signal::KILL);
        }
        for pid in pids {
            assert!(wait_pid(pid, LIMIT), "killed process does not end: {pid}");
        }
    }

    /// Mounts; panics unless the directory is a usable mount afterwards.
    #[track_caller]
    pub fn mount(&self) {
        self.try_mount().must("mount");
        assert!(self.mounted(), "mount returned zero, but nothing is mounted: {}", self.place().display());
        std::fs::read_dir(self.place()).expect("mount returned zero, but the directory cannot be read");
    }

    /// Whether our directory is a mount point now.
    pub fn mounted(&self) -> bool {
        mounted(&self.place())
    }

    /// The answer of `status --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let done = self.verb("status", &["--json"]).must("status --json");
        serde_json::from_str(&done.stdout)
            .unwrap_or_else(|e| panic!("status is not JSON: {e}: {}", done.stdout))
    }

    /// The answer of `stats --json`.
    #[track_caller]
    pub fn stats(&self) -> Value {
        let done = self.verb("stats", &["--json"]).must("stats --json");
        serde_json::from_str(&done.stdout)
            .unwrap_or_else(|e| panic!("stats is not JSON: {e}: {}", done.stdout))
    }

    /// One number of the status; panics if the field is missing.
    #[track_caller]
    pub fn status_number(&self, field: &str) -> u64 {
        let status = self.status();
        status[field].as_u64().unwrap_or_else(|| panic!("status has no number {field}: {status}"))
    }

    /// How many files are only in the remote.
    #[track_caller]
    pub fn absent_files(&self) -> u64 {
        self.status_number("absent_files")
    }

    /// How many downloads there were since the start of the daemon.
    #[track_caller]
    pub fn downloads(&self) -> u64 {
        self.stats()["requests"]["download"].as_u64().unwrap()
    }

    /// Waits until the status is as `wanted` says.
    #[track_caller]
    pub fn await_status(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, LIMIT, || Some(self.status()).filter(|s| wanted(s)))
    }

    /// The process that serves our directory, as it says itself.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.status_number("pid") as u32
    }

    /// Kills the daemon, and only that, without a chance to say anything. The dead mount is left.
    #[track_caller]
    pub fn kill(&self) {
        let pid = self.pid();
        assert!(is_ours(pid), "status names a process that is not ours: {pid}");
        signal(pid, rustix::process::Signal::KILL);
        assert!(wait_pid(pid, LIMIT), "killed daemon does not end: {pid}");
        // The last of its threads may outlive its first; with it the kernel ends the mount.
        let place = self.place();
        eventually("the mount dies with its daemon", LIMIT, || {
            rustix::fs::statfs(&place).is_err().then_some(())
        });
    }

    /// Unmounts by our own verb and demands that everything is saved.
    #[track_caller]
    pub fn unmount(&self) -> Finished {
        let done = self.verb("unmount", &[]).must("unmount");
        assert!(!self.mounted(), "unmount returned zero, but the directory is still mounted");
        done
    }

    /// Forgets the disk: another directory and another state from now on; the old ones are wiped.
    pub fn wipe(&mut self) {
        let old = [self.place(), self.state()];
        detach(&old[0]);
        self.round += 1;
        std::fs::create_dir_all(self.place()).unwrap();
        for dir in old {
            let _ = std::fs::remove_dir_all(dir);
        }
    }

    /// Ends the daemon in order and goes on at machine `number`, with what its disk has from before.
    #[track_caller]
    pub fn turn_to(&mut self, number: u32) {
        self.leave_for(number);
        self.mount();
    }

    /// The same, but nothing is mounted there yet.
    #[track_caller]
    pub fn leave_for(&mut self, number: u32) {
        self.unmount();
        self.go_to(number);
    }

    /// Goes on at machine `number`, where nothing is mounted, and leaves whatever there is at this one.
    pub fn go_to(&mut self, number: u32) {
        self.round = number;
        std::fs::create_dir_all(self.place()).unwrap();
    }

    /// The newest version as the remote knows it, by a restore to a fresh directory.
    #[track_caller]
    pub fn restored(&self, version: Option<&str>) -> PathBuf {
        let number = self.checkouts.get();
        self.checkouts.set(number + 1);
        let to = self.root().join(format!("restored{number}"));
        let (remote, path) = (self.remote(), to.to_string_lossy().into_owned());
        let mut args = vec!["restore", "--remote", &remote, "--name", &self.setup.name, "--to", &path];
        args.extend(self.setup.remote_options.iter().map(String::as_str));
        args.extend(version);
        self.call(args).must("restore");
        to
    }

    /// The layers in the directory remote, oldest first.
    pub fn layer_files(&self) -> Vec<PathBuf> {
        let objects = self.objects().into_iter().map(|(path, _)| path);
        objects.filter(|path| path.to_string_lossy().ends_with(".tar.zst")).collect()
    }

    /// A start that cannot read one layer, to its end.
    #[track_caller]
    pub fn break_off(&self, layer: &Path) {
        let away = self.root().join("away");
        std::fs::rename(layer, &away).unwrap();
        assert!(!self.try_mount().ok(), "mounted without {}", layer.display());
        std::fs::rename(&away, layer).unwrap();
    }

    /// The objects in the directory remote, smallest path first.
    pub fn objects(&self) -> Vec<(PathBuf, u64)> {
        fn collect(dir: &Path, found: &mut Vec<(PathBuf, u64)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.symlink_metadata() {
                    Ok(meta) if meta.is_dir() => collect(&path, found),
                    Ok(meta) => found.push((path, meta.len())),
                    Err(_) => {}
                }
            }
        }
        let mut found = Vec::new();
        collect(&self.remote_dir(), &mut found);
        found.sort();
        found
    }

    /// Where HEAD is in the directory remote.
    pub fn head(&self) -> PathBuf {
        self.remote_dir().join(&self.setup.name).join("HEAD")
    }
}

/// The version in what `flush --wait` printed: the last word of its last line.
#[track_caller]
pub fn version_in(stdout: &str) -> String {
    let word = stdout.trim().lines().last().and_then(|l| l.split_whitespace().last());
    word.unwrap_or_else(|| panic!("flush --wait printed no version: {stdout:?}")).trim_matches('"').to_owned()
}

/// Whether exactly this path is a mount point.
pub fn mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|l| l.split(' ').nth(4) == path.to_str())
}

/// Detaches every mount on exactly this path; it may be dead.
pub fn detach(path: &Path) {
    while mounted(path) {
        let gone = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).is_ok()
            || run(Command::new("fusermount3").args(["-u", "-z"]).arg(path), LIMIT).ok();
        assert!(gone, "cannot detach {}", path.display());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(root) = self.root.take() else { return };
        // No final flush: what a test wants saved it saves itself, and a broken daemon must not hold us up.
        let pids = processes(root.path());
        for pid in &pids {
            signal(*pid, rustix::process::Signal::KILL);
        }
        let ended = pids.iter().all(|pid| wait_pid(*pid, Duration::from_secs(10)));
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in table.lines().rev().filter_map(|l| l.split(' ').nth(4)).map(Path::new) {
            if point.starts_with(root.path()) {
                let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
            }
        }
        if !ended || std::env::var_os("ICECACHE_KEEP").is_some() {
            eprintln!("kept for inspection: {}", root.keep().display());
        }
    }
}

impl Subject for Lab {
    fn dir(&self) -> PathBuf {
        self.place()
    }

    #[track_caller]
    fn flush(&mut self) -> String {
        version_in(&self.verb("flush", &["--wait"]).must("flush --wait").stdout)
    }

    fn strike(&mut self) {
        self.kill();
    }

    fn revive(&mut self) {
        self.mount();
    }

    fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    fn elsewhere(&mut self) {
        // A struck daemon leaves a dead mount that no status comes from.
        if self.mounted() && self.verb("status", &["--json"]).ok() {
            self.kill();
        }
        self.wipe();
        self.mount();
    }

    fn checkout(&self, version: &str) -> PathBuf {
        self.restored(Some(version))
    }

    fn archive(&self, to: &Path) {
        self.verb("export", &["--to", to.to_str().unwrap()]).must("export");
    }
}
