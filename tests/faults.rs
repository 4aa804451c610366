//! A store that fails in every way it can. The flush goes on trying, nothing is forgotten, `status` says what is
//! wrong, HEAD is never at anything half, and after the recovery one flush carries all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "support/cloud.rs"]
mod cloud;
mod harness;
mod support;

use cloud::Cloud;
use harness::{KEPT, LIMIT, Lab, Setup, Subject, Tree, eventually};
use rustix::process::{Pid, Signal};
use s3s::S3ErrorCode;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::s3server::{Fault, Request, SECRET_KEY};
use tokio::sync::Notify;

impl Cloud {
    /// A mount with one saved version.
    fn new() -> Self {
        let mut cloud = Self::prepare();
        cloud.lab.mount();
        cloud.write("base", "saved before");
        cloud.lab.flush();
        cloud
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.lab.place().join(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.lab.place().join(name)).unwrap()
    }

    fn head(&self) -> bytes::Bytes {
        self.server
            .object("prefix/work/HEAD")
            .unwrap_or_else(|| panic!("no HEAD among {:?}", self.server.keys()))
    }

    fn heads(&self) -> Vec<String> {
        self.server.keys().into_iter().filter(|k| k.ends_with("/HEAD")).collect()
    }

    fn head_puts(&self) -> usize {
        self.server.control().log().iter().filter(|r| is_head_put(r)).count()
    }
}

fn is_head_put(request: &Request) -> bool {
    request.operation == "PutObject" && request.key.ends_with("/HEAD")
}

fn writes(request: &Request) -> bool {
    ["Put", "Upload", "Create", "Complete"].iter().any(|p| request.operation.starts_with(p))
}

/// SEMANTICS, Outage: "While the store fails the flush is tried again, for ever, with growing pauses; the dirty set is kept;
/// `status` shows the error; the mount goes on at full speed. After the recovery one flush carries everything."
fn outage(what: &str, hits: impl Fn(&Request) -> bool + Send + Sync + 'static, fault: Fault) {
    let mut cloud = Cloud::new();
    let head = cloud.head();
    let struck = Arc::new(AtomicU64::new(0));
    let counter = struck.clone();
    cloud.server.control().set_hook(move |r| {
        if hits(r) {
            counter.fetch_add(1, Ordering::Relaxed);
            fault.clone()
        } else {
            Fault::None
        }
    });
    cloud.write("a", "written during the outage");
    let _ = cloud.lab.verb("flush", &[]);
    let status = cloud.lab.await_status("the error in status", |s| !s["last_error"].is_null());
    assert!(status["dirty_files"].as_u64() >= Some(1), "{what}: the dirty set was dropped: {status}");
    // It goes on trying by itself.
    let before = struck.load(Ordering::Relaxed);
    eventually("another attempt", LIMIT, || (struck.load(Ordering::Relaxed) > before).then_some(()));
    cloud.write("b", "more");
    fs::rename(cloud.lab.place().join("base"), cloud.lab.place().join("renamed")).unwrap();
    assert_eq!(cloud.read("renamed"), "saved before", "{what}: the mount suffers");
    assert_eq!(cloud.head(), head, "{what}: HEAD moved during the outage");
    cloud.server.control().clear_hook();
    cloud.server.control().clear_log();
    let expected = Tree::take(&cloud.lab.place(), KEPT);
    let version = cloud.lab.flush();
    // An attempt that began in the outage may still commit what it had; then comes ours with the rest.
    assert!(
        (1..=2).contains(&cloud.head_puts()),
        "{what}: {} versions after the recovery",
        cloud.head_puts()
    );
    expected.assert_same(&Tree::take(&cloud.lab.checkout(&version), KEPT), "the version after the recovery");
    let status = cloud.lab.status();
    assert!(status["last_error"].is_null() && status["dirty_files"] == 0, "{what}: not recovered: {status}");
    assert_eq!(cloud.heads(), ["prefix/work/HEAD"], "{what}: an outage made a fork");
    cloud.lab.elsewhere();
    expected.assert_same(&Tree::take(&cloud.lab.dir(), KEPT), "the tree elsewhere");
}

#[test]
fn internal_error() {
    outage("500", |_| true, Fault::FailBefore(S3ErrorCode::InternalError));
}

#[test]
fn slow_down() {
    outage("503", |_| true, Fault::FailBefore(S3ErrorCode::SlowDown));
}

#[test]
fn connection_reset() {
    outage("reset", |_| true, Fault::CutBefore);
}

#[test]
fn expired_credentials() {
    outage("expired", |_| true, Fault::FailBefore(S3ErrorCode::ExpiredToken));
}

#[test]
fn access_denied_for_writes() {
    outage("denied", writes, Fault::FailBefore(S3ErrorCode::AccessDenied));
}

#[test]
fn bucket_gone() {
    outage("no bucket", |_| true, Fault::FailBefore(S3ErrorCode::NoSuchBucket));
}

#[test]
fn layers_arrive_but_head_does_not() {
    outage("HEAD only", is_head_put, Fault::FailBefore(S3ErrorCode::InternalError));
}

/// Strikes the first conditional PUT of HEAD only.
fn once_at_head(fault: Fault) -> Cloud {
    let mut cloud = Cloud::new();
    let struck = AtomicU64::new(0);
    cloud.server.control().set_hook(move |r| {
        let first = is_head_put(r) && struck.fetch_add(1, Ordering::Relaxed) == 0;
        if first { fault.clone() } else { Fault::None }
    });
    cloud.write("a", "once");
    let version = cloud.lab.flush();
    assert!(cloud.head_puts() >= 1, "no PUT of HEAD was seen: the check is void");
    assert_eq!(fs::read_to_string(cloud.lab.checkout(&version).join("a")).unwrap(), "once");
    assert_eq!(cloud.heads(), ["prefix/work/HEAD"], "took itself for another writer and made a fork");
    assert!(cloud.lab.status()["last_error"].is_null());
    cloud
}

/// SEMANTICS, Writers: "An answer that was lost after HEAD was swapped is recognised as our own success, not as another
/// writer's."
#[test]
fn lost_reply_is_our_own_success() {
    for fault in [Fault::CutAfter, Fault::FailAfter(S3ErrorCode::InternalError)] {
        let cloud = once_at_head(fault);
        let log = cloud.lab.verb("log", &["--json"]).must("log");
        assert!(!log.stdout.is_empty());
    }
}

/// SEMANTICS, Writers: "A refusal without another writer (HEAD is still ours) is tried again."
#[test]
fn false_412_is_tried_again() {
    once_at_head(Fault::FailBefore(S3ErrorCode::PreconditionFailed));
}

/// SEMANTICS, Outage: "Programs never wait for the store."
#[test]
fn slow_store_slows_nobody_down() {
    let cloud = Cloud::new();
    cloud.server.control().set_hook(|_| Fault::Delay(Duration::from_secs(4)));
    cloud.write("a", "slow");
    let mut flush =
        cloud.lab.command(["flush", cloud.lab.place().to_str().unwrap(), "--wait"]).spawn().unwrap();
    eventually("the slow upload", LIMIT, || cloud.server.control().log().iter().any(writes).then_some(()));
    for i in 0..200 {
        cloud.write("beside", &i.to_string());
        assert_eq!(cloud.read("beside"), i.to_string());
    }
    assert!(flush.try_wait().unwrap().is_none(), "the writes waited for the upload");
    assert_eq!(harness::wait_for(&mut flush, LIMIT), Some(0));
}

/// SEMANTICS, Restore: "A program that is ended while it waits ends, by whatever signal".
#[test]
fn who_waits_for_a_store_that_hangs_can_be_ended() {
    let mut cloud = Cloud::new();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--no-prefetch"]);
    for name in ["first", "second", "third"] {
        cloud.write(name, name);
    }
    fs::write(cloud.lab.place().join("large"), vec![7; 9 << 20]).unwrap();
    cloud.lab.flush();
    cloud.lab.elsewhere();
    let hangs = |request: &Request| request.operation == "GetObject";
    let over = Arc::new(Notify::new());
    let until = over.clone();
    let hang = move |request: &Request| if hangs(request) { Fault::Hold(until.clone()) } else { Fault::None };
    let asked = || cloud.server.control().log().iter().filter(|request| hangs(request)).count();
    let begin = |program: &[&str], name: &str| {
        let before = asked();
        let mut command = Command::new(program[0]);
        let file = cloud.lab.place().join(name);
        let child = command.args(&program[1..]).arg(file).stdout(Stdio::piped()).spawn().unwrap();
        eventually("the store is asked", LIMIT, || (asked() > before).then_some(()));
        child
    };
    cloud.server.control().set_hook(hang);
    let signals = [Signal::INT, Signal::TERM, Signal::KILL];
    for (name, signal) in ["first", "second", "large"].into_iter().zip(signals) {
        let mut child = begin(&["cat"], name);
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        let code = harness::wait_for(&mut child, LIMIT);
        assert_eq!(code, Some(128 + signal.as_raw()), "{name}: it has not ended by the signal");
    }
    // Another signal is nothing that a read of a file fails for.
    let other = "$SIG{WINCH} = sub {}; sysopen(F, $ARGV[0], 0) or die qq($!\n); print <F>";
    let mut child = begin(&["perl", "-e", other, "--"], "third");
    rustix::process::kill_process(Pid::from_child(&child), Signal::WINCH).unwrap();
    cloud.server.control().clear_hook();
    over.notify_waiters();
    assert_eq!(harness::wait_for(&mut child, LIMIT), Some(0));
    assert_eq!(fs::read(cloud.lab.place().join("first")).unwrap(), b"first");
}

/// SEMANTICS, Restore: "A truncation that is refused changes nothing, and neither does one that fails or is interrupted".
#[test]
fn who_is_ended_while_he_waits_to_change_a_large_file_has_changed_nothing() {
    let mut cloud = Cloud::new();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--no-prefetch"]);
    let content: Vec<u8> = (0..9 << 20).map(|n: u32| (n.wrapping_mul(n) >> 13) as u8).collect();
    fs::write(cloud.lab.place().join("large"), &content).unwrap();
    cloud.lab.flush();
    cloud.lab.elsewhere();
    let file = cloud.lab.place().join("large");
    let gets = |request: &Request| request.operation == "GetObject";
    let asked = || cloud.server.control().log().iter().filter(|request| gets(request)).count();
    let ways = [
        "sysopen(F, $ARGV[0], 1) or die; truncate(F, 5000000) or die",
        "truncate($ARGV[0], 5000000) or die",
        "sysopen(F, $ARGV[0], 1) or die; syswrite(F, qq(changed)) or die",
    ];
    for way in ways {
        let over = Arc::new(Notify::new());
        let until = over.clone();
        cloud.server.control().set_hook(
            move |request| {
                if gets(request) { Fault::Hold(until.clone()) } else { Fault::None }
            },
        );
        let before = asked();
        let mut child = Command::new("perl").args(["-e", way]).arg(&file).spawn().unwrap();
        eventually("the store is asked", LIMIT, || (asked() > before).then_some(()));
        rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let code = harness::wait_for(&mut child, LIMIT);
        assert_eq!(code, Some(128 + Signal::TERM.as_raw()), "{way}");
        cloud.server.control().clear_hook();
        over.notify_waiters();
        assert_eq!(fs::metadata(&file).unwrap().len(), content.len() as u64, "{way}");
        assert_eq!(cloud.lab.status_number("dirty_files"), 0, "{way}");
    }
    assert!(fs::read(&file).unwrap() == content);
}

/// Who waits for a store to write a file keeps that locked, and who removes it meanwhile keeps the directory locked: a
/// flush needs neither, though it holds what is written beside it.
#[test]
fn a_flush_waits_for_nobody_who_waits_to_write_a_large_file() {
    let mut cloud = Cloud::new();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--no-prefetch"]);
    fs::write(cloud.lab.place().join("large"), vec![7; 9 << 20]).unwrap();
    cloud.write("busy", "before");
    cloud.lab.flush();
    cloud.lab.elsewhere();
    let file = cloud.lab.place().join("large");
    let mut busy =
        fs::OpenOptions::new().read(true).write(true).open(cloud.lab.place().join("busy")).unwrap();
    let gets = |request: &Request| request.operation == "GetObject" && request.key.contains("/layers/");
    let asked = || cloud.server.control().log().iter().filter(|request| gets(request)).count();
    let over = Arc::new(Notify::new());
    let until = over.clone();
    cloud
        .server
        .control()
        .set_hook(move |request| if gets(request) { Fault::Hold(until.clone()) } else { Fault::None });
    let before = asked();
    let program = "sysopen(F, $ARGV[0], 1) or die; syswrite(F, qq(changed)) or die";
    let mut writer = Command::new("perl").args(["-e", program]).arg(&file).spawn().unwrap();
    eventually("the store is asked", LIMIT, || (asked() > before).then_some(()));
    let mut remover = Command::new("rm").arg(&file).spawn().unwrap();
    let stat = format!("/proc/{}/stat", remover.id());
    let waits = || fs::read_to_string(&stat).unwrap().contains(") D ");
    eventually("who removes it waits", LIMIT, || waits().then_some(()));
    for n in 0..3 {
        busy.write_all(format!("written in time {n}").as_bytes()).unwrap();
        cloud.lab.flush();
    }
    assert!(waits(), "nobody holds the directory");
    rustix::process::kill_process(Pid::from_child(&writer), Signal::KILL).unwrap();
    harness::wait_for(&mut writer, LIMIT);
    assert_eq!(harness::wait_for(&mut remover, LIMIT), Some(0));
    let version = cloud.lab.flush();
    cloud.server.control().clear_hook();
    over.notify_waiters();
    let tree = cloud.lab.checkout(&version);
    assert!(!tree.join("large").exists());
    assert_eq!(
        fs::read_to_string(tree.join("busy")).unwrap(),
        "written in time 0written in time 1written in time 2"
    );
}

/// Who waits to write a large file keeps others from changing it, a flush among them, which holds what can be written:
/// once somebody has emptied it nobody waits for its content any more.
#[test]
fn a_large_file_that_is_emptied_is_waited_for_no_more() {
    let mut cloud = Cloud::new();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--no-prefetch"]);
    let content: Vec<u8> = (0..9 << 20).map(|n: u32| (n.wrapping_mul(n) >> 13) as u8).collect();
    fs::write(cloud.lab.place().join("large"), &content).unwrap();
    cloud.lab.flush();
    cloud.lab.elsewhere();
    let file = cloud.lab.place().join("large");
    let gets = |request: &Request| request.operation == "GetObject" && request.key.contains("/layers/");
    let asked = || cloud.server.control().log().iter().filter(|request| gets(request)).count();
    let over = Arc::new(Notify::new());
    let until = over.clone();
    cloud
        .server
        .control()
        .set_hook(move |request| if gets(request) { Fault::Hold(until.clone()) } else { Fault::None });
    let before = asked();
    let late = "sysopen(F, $ARGV[0], 1) or die; sysseek(F, 3000000, 0); syswrite(F, qq(late)) or die";
    let mut writer = Command::new("perl").args(["-e", late]).arg(&file).spawn().unwrap();
    eventually("the store is asked", LIMIT, || (asked() > before).then_some(()));
    let mut reader = Command::new("cat").arg(&file).stdout(Stdio::null()).spawn().unwrap();
    let emptying = fs::OpenOptions::new().write(true).truncate(true).open(&file).unwrap();
    for child in [&mut writer, &mut reader] {
        assert_eq!(harness::wait_for(child, LIMIT), Some(0));
    }
    std::os::unix::fs::FileExt::write_all_at(&emptying, b"fresh", 0).unwrap();
    let version = cloud.lab.flush();
    cloud.server.control().clear_hook();
    over.notify_waiters();
    // Both wait for the same content, and either may be first once nobody needs it: what was written then is emptied too.
    let [first, last] = [&b"fresh"[..], &[b"fresh", &vec![0; 2_999_995][..], b"late"].concat()];
    for dir in [cloud.lab.place(), cloud.lab.checkout(&version)] {
        let found = fs::read(dir.join("large")).unwrap();
        assert!(found == first || found == last, "{}: {} bytes", dir.display(), found.len());
    }
}

/// SEMANTICS, Restore: "A download that breaks off is taken up again; one that cannot be completed refuses the mount."
#[test]
fn short_bodies_on_restore() {
    let mut cloud = Cloud::new();
    let random: Vec<u8> =
        (0..3_000_000_u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    fs::write(cloud.lab.place().join("large"), &random).unwrap();
    cloud.lab.flush();
    let expected = Tree::take(&cloud.lab.place(), KEPT);
    cloud.lab.kill();
    cloud.lab.wipe();
    let struck = AtomicU64::new(0);
    cloud.server.control().set_hook(move |r| {
        let layer = r.operation == "GetObject" && r.key.contains("/layers/");
        if layer && struck.fetch_add(1, Ordering::Relaxed) < 2 {
            Fault::ShortBody(50_000)
        } else {
            Fault::None
        }
    });
    cloud.lab.mount();
    expected.assert_same(&Tree::take(&cloud.lab.place(), KEPT), "the tree after broken downloads");
}

/// SEMANTICS, Restore: "Only a remote that says `not found` is empty."
#[test]
fn failing_head_at_mount_is_not_an_empty_start() {
    let mut cloud = Cloud::new();
    let (head, keys) = (cloud.head(), cloud.server.keys());
    cloud.lab.kill();
    cloud.lab.wipe();
    for code in [S3ErrorCode::AccessDenied, S3ErrorCode::ExpiredToken, S3ErrorCode::NoSuchBucket] {
        let fault = code.clone();
        cloud.server.control().set_hook(move |r| {
            if r.operation == "GetObject" || r.operation == "HeadObject" {
                Fault::FailBefore(fault.clone())
            } else {
                Fault::None
            }
        });
        let refused = cloud.lab.try_mount();
        assert!(
            !refused.ok() && !cloud.lab.mounted(),
            "{code:?}: mounted without knowing HEAD: {}",
            refused.said()
        );
        assert!(!refused.said().contains(SECRET_KEY), "the message has the secret in it");
        assert_eq!(
            (cloud.head(), cloud.server.keys()),
            (head.clone(), keys.clone()),
            "{code:?}: the remote was changed"
        );
    }
    cloud.server.control().clear_hook();
    cloud.lab.mount();
    assert_eq!(cloud.read("base"), "saved before");
}

/// SEMANTICS, Layers: "Layer first, HEAD last: at every moment HEAD names a complete version."
#[test]
fn every_third_request_fails_and_head_is_always_whole() {
    let mut cloud = Cloud::new();
    for i in 0..20 {
        cloud.write(&format!("part{i}"), "0");
    }
    cloud.lab.flush();
    for generation in 1..=8_u32 {
        for i in 0..20 {
            cloud.write(&format!("part{i}"), &generation.to_string());
        }
        let fault = [
            Fault::CutBefore,
            Fault::CutAfter,
            Fault::FailBefore(S3ErrorCode::SlowDown),
            Fault::FailAfter(S3ErrorCode::InternalError),
        ][generation as usize % 4]
            .clone();
        cloud
            .server
            .control()
            .set_hook(move |r| if writes(r) && r.number % 3 == 0 { fault.clone() } else { Fault::None });
        let mut flush =
            cloud.lab.command(["flush", cloud.lab.place().to_str().unwrap(), "--wait"]).spawn().unwrap();
        // What a stranger would restore while the flush fights.
        let tree = cloud.lab.restored(None);
        let parts: Vec<String> =
            (0..20).map(|i| fs::read_to_string(tree.join(format!("part{i}"))).unwrap()).collect();
        assert!(parts.iter().all(|p| *p == parts[0]), "half of a version is visible: {parts:?}");
        assert_eq!(harness::wait_for(&mut flush, LIMIT), Some(0), "flush gave up");
        cloud.server.control().clear_hook();
        let tree = cloud.lab.restored(None);
        for i in 0..20 {
            assert_eq!(fs::read_to_string(tree.join(format!("part{i}"))).unwrap(), generation.to_string());
        }
    }
    assert_eq!(cloud.heads(), ["prefix/work/HEAD"]);
}

/// SEMANTICS, Unmount: "If anything stays unsaved the exit code is not zero and the paths are listed."
#[test]
fn outage_at_unmount_is_said() {
    let mut cloud = Cloud::prepare();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--unmount-timeout", "2s"]);
    cloud.lab.mount();
    cloud.write("unsaved file", "precious");
    cloud
        .server
        .control()
        .set_hook(|r| if writes(r) { Fault::FailBefore(S3ErrorCode::AccessDenied) } else { Fault::None });
    let done = cloud.lab.verb("unmount", &[]);
    assert!(!done.ok() && done.said().contains("unsaved file"), "nothing is said: {}", done.said());
    cloud.server.control().clear_hook();
    harness::lab::detach(&cloud.lab.place());
    eventually("the next mount", LIMIT, || cloud.lab.try_mount().ok().then_some(()));
    assert_eq!(cloud.read("unsaved file"), "precious");
    let version = cloud.lab.flush();
    assert_eq!(fs::read_to_string(cloud.lab.checkout(&version).join("unsaved file")).unwrap(), "precious");
}

/// SEMANTICS, Unmount: "A store that takes connections and never answers does not hold up the end beyond
/// `--unmount-timeout`."
#[test]
fn a_store_that_hangs_does_not_hold_up_the_end() {
    let mut cloud = Cloud::prepare();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--unmount-timeout", "2s"]);
    cloud.lab.mount();
    cloud.write("base", "saved before");
    cloud.lab.flush();
    cloud.server.control().set_hook(|r| match writes(r) {
        true => Fault::Delay(Duration::from_secs(3600)),
        false => Fault::None,
    });
    cloud.write("unsaved", "kept");
    let ended = cloud.lab.verb("unmount", &[]);
    assert_eq!(ended.code, 3, "{}", ended.said());
    assert!(ended.stdout.contains("unsaved") && ended.stderr.contains("time limit"), "{}", ended.said());
    assert!(!cloud.lab.mounted());
    cloud.server.control().clear_hook();
    cloud.lab.mount();
    cloud.lab.flush();
    assert_eq!(fs::read_to_string(cloud.lab.restored(None).join("unsaved")).unwrap(), "kept");
}

/// SEMANTICS, fsync: "With `--fsync remote` an outage of the store ends an fsync with EIO after its time limit; no process
/// stays in an uninterruptible wait."
#[test]
fn fsync_remote_ends_in_an_outage() {
    use std::io::Write;
    let mut cloud = Cloud::prepare();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--fsync", "remote", "--fsync-timeout", "2s"]);
    cloud.lab.mount();
    cloud
        .server
        .control()
        .set_hook(|r| if writes(r) { Fault::FailBefore(S3ErrorCode::SlowDown) } else { Fault::None });
    let mut file = fs::File::create(cloud.lab.place().join("f")).unwrap();
    file.write_all(b"x").unwrap();
    let begin = Instant::now();
    let outcome = file.sync_all();
    assert_eq!(outcome.err().and_then(|e| e.raw_os_error()), Some(libc::EIO));
    assert!(begin.elapsed() < Duration::from_secs(30), "fsync took {:?}", begin.elapsed());
    cloud.server.control().clear_hook();
    eventually("an fsync after the recovery", LIMIT, || file.sync_all().ok());
    cloud.lab.elsewhere();
    assert_eq!(cloud.read("f"), "x");
}

/// SEMANTICS, Outage: "A remote that has lost its versions (a disk that is not mounted, a directory or bucket that was
/// moved or emptied) is no other writer: there is no fork, nothing is made in its place, everything stays dirty, and
/// when the versions are back one flush carries everything."
#[test]
fn a_remote_that_was_moved_away_is_neither_made_anew_nor_forked() {
    let mut lab = Lab::new(Setup::default());
    let place = lab.place();
    fs::write(place.join("base"), "saved before").unwrap();
    lab.flush();
    let (remote, away) = (lab.remote_dir(), lab.root().join("away"));
    for emptied in [false, true] {
        fs::rename(&remote, &away).unwrap();
        if emptied {
            fs::create_dir(&remote).unwrap(); // as the mount point of a disk that is not there
        }
        fs::write(place.join("a"), format!("while it was away, {emptied}")).unwrap();
        for _ in 0..2 {
            let refused = lab.verb("flush", &["--wait"]);
            assert_eq!(refused.code, 6, "{}", refused.said());
            assert!(refused.stderr.contains("has lost the versions"), "no advice: {}", refused.said());
        }
        let status = lab.status();
        assert!(status["dirty_files"].as_u64() >= Some(1) && status["fork"].is_null(), "{status}");
        if emptied {
            let made: Vec<_> = lab.objects().into_iter().filter(|(path, _)| path.ends_with("HEAD")).collect();
            assert!(made.is_empty(), "a HEAD was made in the place of what was lost: {made:?}");
            fs::remove_dir_all(&remote).unwrap();
        }
        assert!(!remote.exists(), "the remote was made anew");
        fs::rename(&away, &remote).unwrap();
        let version = lab.flush();
        let expected = Tree::take(&place, KEPT);
        expected.assert_same(&Tree::take(&lab.checkout(&version), KEPT), "the version after the return");
        let status = lab.status();
        assert!(status["last_error"].is_null() && status["fork"].is_null(), "{status}");
        let heads = lab.objects().into_iter().filter(|(path, _)| path.ends_with("HEAD")).count();
        assert_eq!(heads, 1, "a fork was made");
    }
    // The next start does not take a missing directory for an empty one either.
    lab.unmount();
    fs::rename(&remote, &away).unwrap();
    let refused = lab.try_mount();
    assert!(refused.code == 8 && !remote.exists(), "{}", refused.said());
    fs::rename(&away, &remote).unwrap();
    lab.mount();
}

/// SEMANTICS, fsync: "Callers that wait at the same time share one flush."
#[test]
fn fsyncs_that_arrive_during_a_flush_share_the_next_one() {
    use std::io::Write;
    use std::sync::atomic::AtomicBool;
    const CALLERS: u64 = 8;
    let mut cloud = Cloud::prepare();
    cloud.lab.setup = cloud.lab.setup.clone().with(&["--fsync", "remote"]);
    cloud.lab.mount();
    cloud.write("base", "saved before");
    cloud.lab.flush();
    let (held, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (seen, release) = (held.clone(), go_on.clone());
    // The first flush stands in the middle of its upload until all others wait.
    cloud.server.control().set_hook(move |r| {
        if writes(r) && !seen.swap(true, Ordering::AcqRel) {
            eventually("the others", LIMIT, || release.load(Ordering::Acquire).then_some(()));
        }
        Fault::None
    });
    let sync = |name: String| {
        let path = cloud.lab.place().join(name);
        move || {
            let mut file = fs::File::create(path).unwrap();
            file.write_all(b"synced").unwrap();
            file.sync_all().unwrap();
        }
    };
    let asked = || cloud.lab.stats()["operations"]["fsync"].as_u64().unwrap_or(0);
    let (before, version) = (asked(), cloud.lab.status()["version"].clone());
    let mut callers = vec![std::thread::spawn(sync("first".to_owned()))];
    eventually("the first flush", LIMIT, || held.load(Ordering::Acquire).then_some(()));
    callers.extend((0..CALLERS).map(|i| std::thread::spawn(sync(format!("f{i}")))));
    eventually("all calls", LIMIT, || (asked() >= before + 1 + CALLERS).then_some(()));
    go_on.store(true, Ordering::Release);
    for caller in callers {
        caller.join().unwrap();
    }
    let number = |version: &serde_json::Value| version.as_str().unwrap().parse::<u64>().unwrap();
    let made = number(&cloud.lab.status()["version"]) - number(&version);
    // One for the first, one for the rest, and perhaps one for who was counted but had not asked yet.
    assert!((2..=3).contains(&made), "{made} versions for {CALLERS} calls at the same time");
    cloud.lab.elsewhere();
    for name in ["first", "f0", "f7"] {
        assert_eq!(cloud.read(name), "synced");
    }
}

/// SEMANTICS, Restore: "A start that breaks off while a version comes to the directory leaves no changes".
#[test]
fn a_start_that_is_killed_while_a_version_comes_leaves_no_changes() {
    let mut cloud = Cloud::new();
    let layers = |cloud: &Cloud| -> Vec<String> {
        cloud.server.keys().into_iter().filter(|key| key.ends_with(".tar.zst")).collect()
    };
    let first = layers(&cloud).remove(0);
    cloud.lab.turn_to(1);
    for n in 0..50 {
        cloud.write(&format!("new{n}"), &format!("new {n}"));
    }
    cloud.write("base", "newer");
    cloud.lab.flush();
    let tree = Tree::take(&cloud.lab.dir(), KEPT);
    cloud.lab.leave_for(0);
    let hold = Arc::new(Notify::new());
    let (held, key) = (hold.clone(), first);
    cloud.server.control().set_hook(
        move |request| {
            if request.key == key { Fault::Hold(held.clone()) } else { Fault::None }
        },
    );
    let (place, state) = (cloud.lab.place(), cloud.lab.state());
    let mut start = cloud.lab.mount_command(&place, &state);
    let mut start = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the newer layer is here", LIMIT, || {
        let all = (0..50).all(|n| place.join(format!("new{n}")).exists());
        (all && fs::read_to_string(place.join("base")).ok()? == "newer").then_some(())
    });
    cloud.lab.kill_all();
    start.wait().unwrap();
    cloud.server.control().clear_hook();
    hold.notify_waiters();
    cloud.lab.mount();
    tree.assert_same(&Tree::take(&cloud.lab.dir(), KEPT), "the tree that caught up");
    assert_eq!(cloud.lab.flush(), "2", "what came was taken for changes");
    assert_eq!(cloud.heads(), ["prefix/work/HEAD"]);
    assert!(!cloud.lab.state().join("conflicts").exists(), "something was moved aside");
}
