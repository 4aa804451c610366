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
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

struct Fake {
    dir: PathBuf,
    unsaved: u64,
    durable: bool,
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
        async move {
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
        let temp = tempfile::tempdir().expect("temp");
        let base = std::fs::canonicalize(temp.path()).expect("there");
        let dir = base.join("dir");
        std::fs::create_dir(&dir).expect("mkdir");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let listener = runtime.block_on(async { bind(&base.join(SOCKET_NAME)) }).expect("binds");
        let fake = Arc::new(Fake { dir: dir.clone(), unsaved, durable });
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecache"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.path())
            .env("ICECACHE_RUNTIME_DIR", self.path().join("run"));
        command.current_dir(self.path()).output().expect("runs")
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
fn the_daemons_errors_arrive_with_kind_and_code() {
    let done = Lab::new(0, true).run(&["log", "dir", "--json"]);
    assert_eq!(done.status.code(), Some(6));
    let error: serde_json::Value = serde_json::from_str(&talk(&done)).expect("JSON");
    assert_eq!(error["error"]["kind"], "unavailable");
    assert_eq!(error["error"]["message"], "store is away");
}
