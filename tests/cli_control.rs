//! The verbs that talk to a daemon, against a daemon whose answers are known.
#![allow(clippy::expect_used)]
use futures::FutureExt;
use futures::future::BoxFuture;
use icecache::serve::control::{
    Controller, ExportReply, FlushReply, HydrateReply, LogLine, SOCKET_NAME, Status, UnmountReply, Unsaved,
    bind, serve,
};
use icecache::serve::registry::{Registered, Registration, Registry};
use icecache::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

struct Fake {
    dir: PathBuf,
    unsaved: u64,
    durable: bool,
    /// Told of an export that will not end.
    exporting: Option<Sender<()>>,
}

impl Controller for Fake {
    fn status(&self) -> Status {
        Status {
            dir: self.dir.clone(),
            pid: 7,
            mode: "classic".into(),
            mode_reason: "evil \x1b[31m".into(),
            transport: "device".into(),
            name: "n".into(),
            remote: "file:///r".into(),
            state_dir: "/s".into(),
            version: Some("3".into()),
            read_only: false,
            fork: None,
            dirty_files: 2,
            dirty_bytes: 2048,
            open_for_write: 1,
            absent_files: 0,
            absent_bytes: 0,
            lost_files: 0,
            lost_error: None,
            unneeded_layers: 0,
            unneeded_bytes: 0,
            unneeded_error: None,
            last_flush: None,
            last_error: None,
            stuck: Vec::new(),
            stuck_total: 0,
            tables: None,
            uptime_s: 5,
            program: "0".into(),
        }
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({"flush": {"count": 3}})
    }

    fn flush(&self, _wait: bool) -> BoxFuture<'_, Result<FlushReply>> {
        let durable = self.durable;
        async move {
            Ok(FlushReply {
                version: Some("4".into()),
                durable,
                entries: 2,
                bytes: 9,
                fork: None,
                merged: None,
            })
        }
        .boxed()
    }

    fn log(&self) -> BoxFuture<'_, Result<Vec<LogLine>>> {
        async { Err(Error::new(ErrorKind::Unavailable, "store is away")) }.boxed()
    }

    fn export(&self, mut to: File) -> BoxFuture<'_, Result<ExportReply>> {
        let exporting = self.exporting.clone();
        async move {
            if let Some(exporting) = exporting {
                exporting.send(()).map_err(|_| Error::new(ErrorKind::Unavailable, "nobody waits"))?;
                std::future::pending::<()>().await;
            }
            to.write_all(b"archive").map_err(|e| Error::io("cannot write", e))?;
            Ok(ExportReply { version: Some("3".into()), entries: 1, bytes: 7 })
        }
        .boxed()
    }

    fn hydrate(&self, _: Vec<PathBuf>) -> BoxFuture<'_, Result<HydrateReply>> {
        async { Ok(HydrateReply { files: 2, absent_files: 0, absent_bytes: 0 }) }.boxed()
    }

    fn unmount(&self) -> BoxFuture<'_, Result<UnmountReply>> {
        async {
            Ok(UnmountReply {
                absent_files: 0,
                fork: None,
                merged: None,
                version: Some("4".into()),
                unmounted: true,
                unsaved_total: self.unsaved,
                unsaved: vec![Unsaved { path: "lost\n\x1b".into(), reason: None }; self.unsaved as usize],
                kept_in: self.dir.clone(),
                error: None,
            })
        }
        .boxed()
    }
}

/// A registered daemon of the directory `dir` below a temporary one.
struct Lab {
    temp: tempfile::TempDir,
    _registration: Registration,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new(unsaved: u64, durable: bool) -> Self {
        Self::of(|dir| Fake { dir, unsaved, durable, exporting: None })
    }

    fn of(fake: impl FnOnce(PathBuf) -> Fake) -> Self {
        Self::of_directory(b"dir", fake)
    }

    fn of_directory(name: &[u8], fake: impl FnOnce(PathBuf) -> Fake) -> Self {
        let temp = tempfile::tempdir().expect("temp");
        let base = std::fs::canonicalize(temp.path()).expect("there");
        let dir = base.join(OsStr::from_bytes(name));
        std::fs::create_dir(&dir).expect("mkdir");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let listener = runtime.block_on(async { bind(&base.join(SOCKET_NAME)) }).expect("binds");
        let fake = Arc::new(fake(dir.clone()));
        runtime.spawn(serve(fake, listener, std::future::pending()));
        // A process that has ended: unmount does not wait for it.
        let mut ended = Command::new("true").spawn().expect("spawns");
        ended.wait().expect("ends");
        let entry =
            Registered { dir, state_dir: base.clone(), pid: ended.id(), owner: None, read_only: false };
        let registration = Registry::at(base.join("run")).register(&entry).expect("registers");
        Self { temp, _registration: registration, _runtime: runtime }
    }

    fn path(&self) -> &Path {
        self.temp.path()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("runs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecache"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.path())
            .env("ICECACHE_RUNTIME_DIR", self.path().join("run"));
        command.current_dir(self.path());
        command
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn talk(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn status_for_people_and_programs() {
    let lab = Lab::new(0, true);
    let done = lab.run(&["status", "dir"]);
    assert_eq!(done.status.code(), Some(0), "{}", talk(&done));
    assert!(out(&done).contains("evil \\x1b[31m") && !out(&done).contains('\x1b'), "{}", out(&done));
    let status: serde_json::Value =
        serde_json::from_str(&out(&lab.run(&["status", "dir", "--json"]))).expect("JSON");
    for field in [
        "pid",
        "mode",
        "mode_reason",
        "transport",
        "version",
        "dirty_files",
        "dirty_bytes",
        "open_for_write",
        "absent_files",
        "absent_bytes",
        "last_flush",
        "last_error",
        "name",
        "remote",
        "dir",
        "state_dir",
        "fork",
        "uptime_s",
    ] {
        assert!(status.get(field).is_some(), "{field}: {status}");
    }
    let all: serde_json::Value = serde_json::from_str(&out(&lab.run(&["status", "--json"]))).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    assert!(out(&lab.run(&["stats", "dir"])).contains("flush.count  3"));
}

#[test]
fn a_link_and_a_dot_name_the_same_mount() {
    let lab = Lab::new(0, true);
    std::os::unix::fs::symlink("dir", lab.path().join("link")).expect("symlink");
    for dir in ["link", "./dir/", "dir/../dir"] {
        let done = lab.run(&["status", dir]);
        assert_eq!(done.status.code(), Some(0), "{dir}: {}", talk(&done));
    }
    let again = lab.run(&["mount", "dir"]);
    assert_eq!(again.status.code(), Some(4), "{}", talk(&again));
}

#[test]
fn flush_prints_the_version_and_fails_if_not_durable() {
    let done = Lab::new(0, true).run(&["flush", "dir", "--wait"]);
    assert_eq!((done.status.code(), out(&done).as_str()), (Some(0), "4\n"), "{}", talk(&done));
    let done = Lab::new(0, false).run(&["flush", "dir", "--wait"]);
    assert_eq!(done.status.code(), Some(3), "{}", talk(&done));
}

#[test]
fn unmount_lists_what_is_unsaved() {
    let done = Lab::new(0, true).run(&["unmount", "dir"]);
    assert_eq!(done.status.code(), Some(0), "{}", talk(&done));
    let done = Lab::new(2, true).run(&["unmount", "dir"]);
    assert_eq!(done.status.code(), Some(3));
    assert_eq!(out(&done), "lost\\x0a\\x1b\n".repeat(2));
    assert!(talk(&done).contains("2 entries are not in the remote"), "{}", talk(&done));
}

#[test]
fn export_writes_a_whole_archive_outside_of_the_mount_or_none() {
    let lab = Lab::new(0, true);
    let done = lab.run(&["export", "dir", "--to", "x.tar.zst"]);
    assert_eq!(done.status.code(), Some(0), "{}", talk(&done));
    assert_eq!(std::fs::read(lab.path().join("x.tar.zst")).expect("there"), b"archive");
    assert_eq!(lab.run(&["export", "dir", "--to", "x.tar.zst"]).status.code(), Some(4), "exists");
    assert_eq!(lab.run(&["export", "dir", "--to", "x.tar.zst", "--force"]).status.code(), Some(0));
    assert_eq!(lab.run(&["export", "dir", "--to", "dir/x"]).status.code(), Some(2), "inside");
    assert!(std::fs::read_dir(lab.path().join("dir")).expect("there").next().is_none());
}

#[test]
fn export_replaces_files_alone_and_writes_into_pipes_and_devices() {
    let lab = Lab::new(0, true);
    for to in ["-", "/dev/stdout"] {
        let done = lab.run(&["export", "dir", "--to", to]);
        assert_eq!((done.status.code(), out(&done).as_str()), (Some(0), "archive"), "{to}: {}", talk(&done));
    }
    assert!(!lab.path().join("-").exists());
    assert_eq!(lab.run(&["export", "dir", "--to", "-", "--json"]).status.code(), Some(2), "two on stdout");
    let pipe = lab.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("runs");
    assert!(made.success());
    for force in [&[][..], &["--force"]] {
        let mut export = lab.command(&[&["export", "dir", "--to", "pipe"], force].concat());
        let mut export = export.spawn().expect("runs");
        assert_eq!(std::fs::read(&pipe).expect("a pipe"), b"archive");
        assert_eq!(export.wait().expect("ends").code(), Some(0));
    }
    let kind = |name: &str| std::fs::symlink_metadata(lab.path().join(name)).expect("there").file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind("pipe")));
    // A link stays one, and so does a link to nothing.
    std::fs::write(lab.path().join("file"), "x").expect("write");
    for (link, to, code) in [("link", "file", Some(0)), ("dangling", "nowhere", Some(2))] {
        std::os::unix::fs::symlink(to, lab.path().join(link)).expect("symlink");
        let done = lab.run(&["export", "dir", "--to", link, "--force"]);
        assert_eq!(done.status.code(), code, "{link}: {}", talk(&done));
        assert!(kind(link).is_symlink(), "{link}");
    }
    assert_eq!(std::fs::read(lab.path().join("file")).expect("there"), b"archive");
    assert!(!lab.path().join("nowhere").exists());
    let done = lab.run(&["export", "dir", "--to", ".", "--force"]);
    assert_eq!(done.status.code(), Some(2), "{}", talk(&done));
    assert!(talk(&done).contains("not a directory"), "{}", talk(&done));
    assert_eq!(left_of_exports(lab.path()), Vec::<PathBuf>::new());
}

#[test]
fn an_export_that_a_signal_ends_leaves_nothing() {
    let (exporting, exports) = std::sync::mpsc::channel();
    let lab = Lab::of(|dir| Fake { dir, unsaved: 0, durable: true, exporting: Some(exporting) });
    let mut export = lab.command(&["export", "dir", "--to", "x.tar.zst"]).spawn().expect("runs");
    exports.recv_timeout(Duration::from_secs(60)).expect("exports");
    assert_eq!(left_of_exports(lab.path()).len(), 1, "nothing is under way");
    terminate(&export);
    let ended = export.wait().expect("ends");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15), "{ended}");
    assert_eq!(left_of_exports(lab.path()), Vec::<PathBuf>::new());
    assert!(!lab.path().join("x.tar.zst").exists());
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
}

fn left_of_exports(dir: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(dir).expect("there").flatten().map(|entry| entry.path());
    found.filter(|path| path.extension().is_some_and(|e| e == "partial")).collect()
}

#[test]
fn a_mount_that_does_not_answer_hides_no_other() {
    let lab = Lab::new(0, true);
    let base = std::fs::canonicalize(lab.path()).expect("there");
    let silent = base.join("silent");
    std::fs::create_dir(&silent).expect("mkdir");
    let listener = UnixListener::bind(silent.join(SOCKET_NAME)).expect("binds");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    // By its directory it comes first, and its name is no text.
    let dir = base.join(OsStr::from_bytes(b"aside\xff"));
    let pid = std::process::id();
    let entry = Registered { dir, state_dir: silent, pid, owner: None, read_only: false };
    let _registration = Registry::at(base.join("run")).register(&entry).expect("registers");
    for verb in ["stats", "status"] {
        let done = lab.run(&[verb, "--json"]);
        assert_eq!(done.status.code(), Some(0), "{verb}: {}", talk(&done));
        let all: serde_json::Value = serde_json::from_str(&out(&done)).expect("JSON");
        let dirs: Vec<_> = all.as_array().expect("a list").iter().map(|one| one["dir"].as_str()).collect();
        assert_eq!(dirs, [base.join("dir").to_str()], "{verb}");
        assert!(talk(&done).contains("aside"), "{verb}: {}", talk(&done));
    }
}

/// CONFIGURATION: "A path that is not UTF-8 is `{\"hex\": \"…\"}`."
#[test]
fn paths_that_are_no_text_lose_nothing_in_json() {
    let lab = Lab::of_directory(b"d\xff", |dir| Fake { dir, unsaved: 0, durable: true, exporting: None });
    let base = std::fs::canonicalize(lab.path()).expect("there");
    let hex = |path: &Path| {
        let bytes = path.as_os_str().as_bytes();
        serde_json::json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
    };
    let dir = base.join(OsStr::from_bytes(b"d\xff"));
    let stats: serde_json::Value = serde_json::from_str(&out(&lab.run(&["stats", "--json"]))).expect("JSON");
    assert_eq!(stats[0]["dir"], hex(&dir));
    assert!(out(&lab.run(&["stats"])).contains("d\\xff"));
    let state = base.join(OsStr::from_bytes(b"s\xff"));
    let config = lab.command(&["config", "--json", "--state-dir"]).arg(&state).output().expect("runs");
    assert_eq!(config.status.code(), Some(0), "{}", talk(&config));
    let config: serde_json::Value = serde_json::from_str(&out(&config)).expect("JSON");
    assert_eq!(config["state-dir"]["value"], hex(&state));
    assert_eq!(config["level"]["value"], "3");
}

#[test]
fn the_daemons_errors_arrive_with_kind_and_code() {
    let done = Lab::new(0, true).run(&["log", "dir", "--json"]);
    assert_eq!(done.status.code(), Some(6));
    let error: serde_json::Value = serde_json::from_str(&talk(&done)).expect("JSON");
    assert_eq!(error["error"]["kind"], "unavailable");
    assert_eq!(error["error"]["message"], "store is away");
}
