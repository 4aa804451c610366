//! The command as a person or a script meets it: exit codes, streams, safe printing.
#![allow(clippy::expect_used)]
use std::path::Path;
use std::process::{Command, Output};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temp"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs the command with nothing of this machine's configuration in sight.
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
        command.env("XDG_CONFIG_HOME", self.path()).current_dir(self.path());
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[cfg(feature = "http")]
#[test]
fn help_says_where_the_cache_is_for_root_and_for_others() {
    for verb in [&["serve"][..], &["cache", "ls"], &["cache", "put"]] {
        let help = text(&Home::new().run(&[verb, &["--help"]].concat()).stdout);
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for place in ["/var/cache/icecache as root", "icecache/cache in the user's cache folder"] {
            assert!(help.contains(place), "{verb:?}: {help}");
        }
    }
}

#[test]
fn help_lists_the_verbs_and_hides_the_inner_ones() {
    let help = Home::new().run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = text(&help.stdout);
    for verb in [
        "mount",
        "flush",
        "status",
        "stats",
        "log",
        "restore",
        "verify",
        "tag",
        "prune",
        "export",
        "import",
        "unmount",
        "config",
        "completions",
    ] {
        assert!(help.lines().any(|l| l.trim_start().starts_with(&format!("{verb} "))), "{verb}: {help}");
    }
    for hidden in ["daemon", "barrier"] {
        assert!(!help.lines().any(|l| l.trim_start().starts_with(&format!("{hidden} "))), "{hidden}: {help}");
    }
}

#[test]
fn wrong_use_is_exit_code_2_on_stderr() {
    let home = Home::new();
    for args in [
        &["frobnicate"] as &[&str],
        &["flush"],
        &["mount", "dir", "--debounce"],
        &["mount", ".", "--debounce", "soon"],
        &["mount", ".", "--remote", "bucket"],
        &["mount", ".", "--state-dir", "inside"],
        &["flush", ".", "--timeout", "1s"],
        &["log"],
        &["log", ".", "--name", "x"],
        &["export", ".", "--name", "x", "--to", "y"],
        &["export", ".", "--remote", "file:///r", "--to", "y"],
        &["restore", "--to", "x", "--remote", "file:///r"],
        &["restore", "--to", "x", "--remote", "file:///r", "--name", "n", "--at", "soon"],
        &["restore", "--to", "x", "--remote", "file:///r", "--name", "n", "--at", "1h", "3"],
        &["restore", "--to", "x", "--remote", "file:///r", "--name", "n", "--at", "1h", "--version", "3"],
        &["verify", "--remote", "file:///r"],
        &["prune", "--remote", "file:///r", "--name", "n", "--version", "3"],
        &["status", "--version"],
        &["prune", "--remote", "file:///r"],
        &["prune", "--remote", "file:///r", "--name", "n", "--older-than", "soon"],
        &["prune", "--remote", "file:///r", "--name", "n", "--keep", "0"],
        &["tag", "--remote", "file:///r", "--name", "n"],
        &["tag", "--remote", "file:///r", "--name", "n", "17"],
        &["tag", "--remote", "file:///r", "--name", "n", "v1", "3", "--delete"],
    ] {
        let out = home.run(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", text(&out.stderr));
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{args:?}");
    }
    assert!(!home.path().join("inside").exists(), "a refused mount creates nothing");
}

#[test]
fn an_unknown_directory_is_not_mounted() {
    let home = Home::new();
    for verb in ["flush", "status", "stats", "log", "unmount"] {
        let out = home.run(&[verb, "."]);
        assert_eq!(out.status.code(), Some(5), "{verb}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains("not mounted by icecache"), "{verb}");
    }
    let out = home.run(&["--json", "status", "."]);
    let error: serde_json::Value = serde_json::from_slice(&out.stderr).expect("JSON");
    assert_eq!(error["error"]["kind"], "not_found");
    let out = home.run(&["status", "--json"]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(0), "[]\n".to_owned()));
}

#[test]
fn names_are_printed_safely() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let evil = std::ffi::OsStr::from_bytes(b"gone-\x1b[31m-\xff\n-\xc3\xa9");
    let out = home.command(&["status"]).arg(evil).output().expect("runs");
    assert_ne!(out.status.code(), Some(0));
    let shown = text(&out.stderr);
    assert!(!shown.contains('\x1b') && shown.contains("\\x1b[31m-\\xff\\x0a-é"), "{shown:?}");
    let out = home.command(&["frobnicate\x1b[31m"]).output().expect("runs");
    assert!(!text(&out.stderr).contains('\x1b'), "{:?}", text(&out.stderr));
}

#[test]
fn config_shows_values_and_origins() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("icecache")).expect("mkdir");
    std::fs::write(home.path().join("icecache/config.toml"), "level = 7\n").expect("write");
    std::fs::create_dir(home.path().join("dir")).expect("mkdir");
    let mut command = home.command(&["config", "dir", "--debounce", "2s", "--json"]);
    let state = home.path().join("state");
    let out =
        command.env("ICECACHE_MAX_DELAY", "20s").env("ICECACHE_STATE_DIR", &state).output().expect("runs");
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let all: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(all["debounce"]["origin"], "flag --debounce");
    assert_eq!(all["max-delay"]["origin"], "environment ICECACHE_MAX_DELAY");
    assert_eq!(all["level"]["value"], "7");
    assert!(all["level"]["origin"].as_str().is_some_and(|o| o.ends_with("config.toml:1")));
    assert_eq!(all["layout"]["origin"], "default");
    assert!(all["name"]["value"].as_str().is_some_and(|n| n.contains("dir")));

    std::fs::write(home.path().join("icecache/config.toml"), "levle = 7\n").expect("write");
    let out = home.run(&["config"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("nearest: level"), "{}", text(&out.stderr));
}

#[test]
fn completions_are_printed_and_a_closed_pipe_is_no_error() {
    let home = Home::new();
    let out = home.run(&["completions", "bash"]);
    assert!(text(&out.stdout).contains("_icecache"));
    assert!(!text(&out.stdout).contains("try-namespace"));
    let (read, write) = std::io::pipe().expect("pipe");
    drop(read);
    let status = home.command(&["config"]).stdout(write).status().expect("runs");
    assert_eq!(status.code(), Some(0));
}

/// A name in the other layout is there, and something can be done with it.
#[test]
fn a_name_in_layout_single_is_not_called_unknown() {
    let home = Home::new();
    let remote = home.path().join("remote");
    std::fs::create_dir(&remote).expect("mkdir");
    std::fs::write(remote.join("old.zst"), "an archive").expect("write");
    let remote = format!("file://{}", remote.display());
    for verb in [
        &["verify", "--name", "old"][..],
        &["tag", "t", "--name", "old"],
        &["prune", "--name", "old"],
        &["log", "--name", "old"],
        &["restore", "--to", "to", "--name", "old"],
        &["fork", "old", "new"],
    ] {
        let out = home.run(&[verb, &["--remote", &remote]].concat());
        let shown = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{verb:?}: {shown}");
        assert!(
            shown.contains("is in layout single") && shown.contains("--from-single"),
            "{verb:?}: {shown}"
        );
    }
    let out = home.run(&["verify", "--remote", &remote, "--name", "none"]);
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
}

/// `icecache config` has none of these.
#[test]
fn hints_are_about_what_was_typed() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("dir")).expect("mkdir");
    std::fs::write(home.path().join("file"), "").expect("write");
    for (args, hint) in [
        (&["mount", "dir", "--at", "tomorrow"][..], "icecache log"),
        (&["mount", "file"], "name a directory\n"),
        (&["import", "dir", "--remote", "file:///r", "--name", "n"], "tar --zstd"),
        (&["export", "--remote", "file:///r", "--name", "n", "--to", "dir"], "--to -"),
    ] {
        let out = home.run(args);
        let shown = text(&out.stderr);
        if cfg!(not(feature = "fuse")) && args[0] == "mount" {
            continue;
        }
        assert_eq!(out.status.code(), Some(2), "{args:?}: {shown}");
        assert!(shown.contains(hint) && !shown.contains("icecache config"), "{args:?}: {shown}");
    }
    let out = home.run(&["import", "dir", "--remote", "file:///r", "--name", "n"]);
    assert!(text(&out.stderr).contains("not an archive but a directory"), "{}", text(&out.stderr));
}

/// An archive goes by way of a directory that has all of the state.
#[test]
fn an_export_without_a_mount_that_a_signal_ends_leaves_nothing() {
    let home = Home::new();
    let (dir, temp) = (home.path().join("dir"), home.path().join("temp"));
    for dir in [&dir, &temp] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    // More than a pipe takes before somebody reads it, and nothing that can be compressed.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::fs::write(dir.join("noise"), (0..4 << 20).map(|_| noise()).collect::<Vec<_>>()).expect("write");
    let made = Command::new("mkfifo").arg(home.path().join("pipe")).status().expect("runs");
    assert!(made.success());
    let remote = format!("file://{}", home.path().join("remote").display());
    let saved = home.run(&[
        "exec",
        "--mode",
        "directory",
        "--dir",
        "dir",
        "--state-dir",
        "state",
        "--remote",
        &remote,
        "--name",
        "n",
        "--",
        "/bin/true",
    ]);
    assert_eq!(saved.status.code(), Some(0), "{}", text(&saved.stderr));
    let mut export = home.command(&["export", "--remote", &remote, "--name", "n", "--to", "pipe"]);
    let mut export = export.env("TMPDIR", &temp).spawn().expect("runs");
    let mut pipe = std::fs::File::open(home.path().join("pipe")).expect("a pipe");
    std::io::Read::read_exact(&mut pipe, &mut [0; 1024]).expect("a beginning");
    let left = || std::fs::read_dir(&temp).expect("there").flatten().map(|e| e.path()).collect::<Vec<_>>();
    assert_eq!(left().len(), 1, "nothing is under way");
    let pid = i32::try_from(export.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
    let ended = export.wait().expect("ends");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15), "{ended}");
    assert_eq!(left(), Vec::<std::path::PathBuf>::new());
}

/// The variable may be there for others.
#[cfg(feature = "http")]
#[test]
fn a_redis_in_the_environment_asks_for_no_origin() {
    let home = Home::new();
    let serve = |args: &[&str]| {
        let args = [&["serve", "--http", "nowhere", "--cache", "cache"], args].concat();
        let out = home.command(&args).env("ICECACHE_REDIS", "redis://127.0.0.1:1").output().expect("runs");
        text(&out.stderr)
    };
    let shown = serve(&[]);
    assert!(!shown.contains("--origin") && shown.contains("nowhere"), "{shown}");
    assert!(serve(&["--redis", "redis://127.0.0.1:1"]).contains("--origin"));
}

#[test]
fn a_restore_never_writes_over_content() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("target")).expect("mkdir");
    std::fs::write(home.path().join("target/mine"), "x").expect("write");
    let remote = format!("file://{}", home.path().join("remote").display());
    let out = home.run(&["restore", "--remote", &remote, "--name", "n", "--to", "target"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("--force"), "{}", text(&out.stderr));
}

/// Whatever keeps the daemon from starting, the parent says so, names the log and fails.
#[test]
fn a_daemon_that_cannot_start_is_reported() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("dir")).expect("mkdir");
    // The remote's place is taken by a file, so no build and no machine can mount this.
    std::fs::write(home.path().join("file"), "x").expect("write");
    let remote = format!("file://{}", home.path().join("file/remote").display());
    let state = home.path().join("state").to_string_lossy().into_owned();
    let out = home.run(&["mount", "dir", "--remote", &remote, "--state-dir", &state, "--name", "n"]);
    assert_ne!(out.status.code(), Some(0));
    let shown = text(&out.stderr);
    assert!(shown.contains("is kept in file://") && shown.contains("daemon.log"), "{shown}");
    assert!(shown.contains("error: "), "{shown}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&state).expect("created"));
    assert_eq!(mode & 0o777, 0o700);
}
