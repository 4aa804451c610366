use super::*;
use crate::{Error, ErrorKind};
use futures::FutureExt;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::sync::Notify;

/// Answers from values; unmount waits until the test allows it.
#[derive(Default)]
struct Fake {
    unmounting: Notify,
    allowed: Notify,
}

fn status() -> Status {
    Status {
        dir: "/tmp".into(),
        pid: 7,
        mode: "passthrough".into(),
        transport: "io_uring".into(),
        mode_reason: "kernel 6.12".into(),
        name: "tmp".into(),
        remote: "file:///r".into(),
        state_dir: "/s".into(),
        version: Some("v3".into()),
        read_only: false,
        fork: None,
        dirty_files: 2,
        dirty_bytes: 10,
        open_for_write: 1,
        absent_files: 0,
        absent_bytes: 0,
        lost_files: 0,
        lost_error: None,
        unneeded_layers: 3,
        unneeded_bytes: 4,
        unneeded_error: None,
        last_flush: None,
        last_error: None,
        stuck: Vec::new(),
        stuck_total: 0,
        tables: None,
        uptime_s: 5,
        program: "0.1.0".into(),
    }
}

impl Controller for Fake {
    fn status(&self) -> Status {
        status()
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({"flushes": 3})
    }

    fn flush(&self, wait: bool) -> BoxFuture<'_, Result<FlushReply>> {
        async move {
            if !wait {
                return Err(Error::new(ErrorKind::Unavailable, "store is away"));
            }
            Ok(FlushReply {
                version: Some("v4".into()),
                durable: true,
                entries: 2,
                bytes: 9,
                fork: None,
                merged: None,
            })
        }
        .boxed()
    }

    fn log(&self) -> BoxFuture<'_, Result<Vec<LogLine>>> {
        let line = LogLine {
            version: "v1".into(),
            time: Some(jiff::Timestamp::UNIX_EPOCH),
            writer: "host".into(),
            layers: 1,
            bytes: 5,
            entries: None,
            changed: Some(3),
            removed: None,
            parent: None,
            tags: vec![],
        };
        async move { Ok(vec![line; 40_000]) }.boxed()
    }

    fn export(&self, mut to: File) -> BoxFuture<'_, Result<ExportReply>> {
        async move {
            to.write_all(b"archive").map_err(|e| Error::io("cannot write", e))?;
            Ok(ExportReply { version: None, entries: 1, bytes: 7 })
        }
        .boxed()
    }

    fn hydrate(&self, paths: Vec<PathBuf>) -> BoxFuture<'_, Result<HydrateReply>> {
        async move { Ok(HydrateReply { files: paths.len() as u64, absent_files: 1, absent_bytes: 2 }) }
            .boxed()
    }

    fn unmount(&self) -> BoxFuture<'_, Result<UnmountReply>> {
        async move {
            self.unmounting.notify_one();
            self.allowed.notified().await;
            let path = std::ffi::OsString::from_vec(b"a\xff".to_vec()).into();
            Ok(UnmountReply {
                absent_files: 0,
                fork: None,
                merged: None,
                version: None,
                unmounted: true,
                unsaved_total: 1,
                unsaved: vec![Unsaved { path, reason: None }],
                kept_in: "/tmp".into(),
                error: None,
            })
        }
        .boxed()
    }
}

use std::os::unix::ffi::OsStringExt;

struct Running {
    fake: Arc<Fake>,
    socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _temp: tempfile::TempDir,
}

impl Running {
    /// A server on a thread of its own; `below` makes the path of the socket as long as wanted.
    fn start(below: &str) -> Self {
        let temp = tempfile::tempdir().expect("temp");
        let dir = temp.path().join(below);
        std::fs::create_dir_all(&dir).expect("mkdir");
        let socket = dir.join(SOCKET_NAME);
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (bound, wait) = std::sync::mpsc::channel();
        let (server, path) = (Arc::clone(&fake), socket.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let listener = bind(&path).expect("binds");
                bound.send(()).expect("test waits");
                serve(server, listener, stopped.map(|_| ())).await;
            });
        });
        wait.recv().expect("bound");
        Self { fake, socket, stop: Some(stop), thread: Some(thread), _temp: temp }
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket).expect("connects")
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("server ends");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn questions_and_answers() {
    let server = Running::start("s");
    let mode = std::fs::metadata(&server.socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = server.client();
    assert_eq!(client.status().expect("status"), status());
    assert_eq!(client.stats().expect("stats")["flushes"], 3);
    assert_eq!(client.flush(true, None).expect("flush").version.as_deref(), Some("v4"));
    let error = client.flush(false, None).expect_err("away");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Unavailable, "store is away"));
    assert_eq!(client.log().expect("long answer").len(), 40_000);
}

#[test]
fn a_descriptor_travels_with_an_export() {
    let server = Running::start("s");
    let mut file = tempfile::tempfile().expect("temp");
    let mut client = server.client();
    assert_eq!(client.export(&file).expect("export").bytes, 7);
    let mut text = String::new();
    file.rewind().expect("rewind");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "archive");
}

#[test]
fn a_slow_client_does_not_hold_up_another_and_unmount_is_answered_after_the_shutdown() {
    let mut server = Running::start("s");
    let mut waiting = server.client();
    let unmount = std::thread::spawn(move || waiting.unmount());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(server.fake.unmounting.notified());
    assert_eq!(server.client().status().expect("second client").pid, 7);
    // The daemon stops while the answer is still under way.
    drop(server.stop.take());
    server.fake.allowed.notify_one();
    let reply = unmount.join().expect("thread").expect("answered");
    assert_eq!(reply.unsaved_total, 1);
    assert_eq!(reply.unsaved[0].path.as_os_str().as_bytes(), b"a\xff");
    server.stop();
    assert_eq!(Client::connect(&server.socket).expect_err("gone").kind(), ErrorKind::NotFound);
}

#[test]
fn broken_requests_are_refused_in_words() {
    let server = Running::start("s");
    let ask = |line: &[u8]| {
        let mut stream = UnixStream::connect(&server.socket).expect("connects");
        // The server may part before it took everything.
        let _ = stream.write_all(line);
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("answer");
        reply
    };
    assert!(ask(b"nonsense\n").contains("malformed"));
    assert!(ask(b"{\"v\":99,\"ask\":\"later\"}\n").contains("another control protocol"));
    assert!(ask(b"{\"v\":1,\"ask\":\"export\"}\n").contains("without a file descriptor"));
    assert!(ask(b"{\"v\":1,\"ask\":\"status\"}\n").contains("\"pid\":7"));
    // One byte at the end of what fits makes the answer arrive before the connection is reset.
    assert!(ask(&vec![b'x'; REQUEST_MAX_BYTES + 1]).contains("too long"));
}

#[test]
fn a_long_state_directory_has_a_socket_too() {
    let server = Running::start(&"deep/".repeat(40));
    assert_eq!(server.client().status().expect("status").pid, 7);
}

/// A daemon and a verb may be of different builds: these lines are the protocol.
#[test]
fn messages_are_these_lines() {
    use message::{Ask, Outcome, Reply, Request};
    fn same<T>(value: &T, text: &str)
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        assert_eq!(serde_json::to_string(value).expect("encodes"), text);
        assert_eq!(&serde_json::from_str::<T>(text).expect("decodes"), value);
    }
    for (ask, word) in [
        (Ask::Status, r#""status""#),
        (Ask::Stats, r#""stats""#),
        (Ask::Flush { wait: true }, r#"{"flush":{"wait":true}}"#),
        (Ask::Log, r#""log""#),
        (Ask::Export, r#""export""#),
        (Ask::Hydrate { paths: vec!["a".into()] }, r#"{"hydrate":{"paths":["a"]}}"#),
        (Ask::Unmount, r#""unmount""#),
        (Ask::Tables(TablesAsk::List), r#"{"tables":"list"}"#),
        (
            Ask::Tables(TablesAsk::Pin {
                table: "db.t".into(),
                part: Part { partition: Some("day=1".into()), ..Part::default() },
            }),
            r#"{"tables":{"pin":{"table":"db.t","partition":"day=1"}}}"#,
        ),
        (
            Ask::Tables(TablesAsk::Warm {
                table: "db.t".into(),
                part: Part { partition: None, columns: vec!["a".into()], condition: Some("a > 1".into()) },
            }),
            r#"{"tables":{"warm":{"table":"db.t","partition":null,"columns":["a"],"where":"a > 1"}}}"#,
        ),
        (
            Ask::Tables(TablesAsk::Paths { tables: vec!["db.t".into()] }),
            r#"{"tables":{"paths":{"tables":["db.t"]}}}"#,
        ),
        (Ask::Tables(TablesAsk::Watch { since: Some(7) }), r#"{"tables":{"watch":{"since":7}}}"#),
    ] {
        same(&Request { v: PROTOCOL_VERSION, ask }, &format!(r#"{{"v":1,"ask":{word}}}"#));
    }
    let error = crate::serve::startup::WireError { kind: "busy".into(), message: "held".into() };
    same(&Reply { v: 1, outcome: Outcome::Ok(7.into()) }, r#"{"v":1,"ok":7}"#);
    same(
        &Reply { v: 1, outcome: Outcome::Error(error) },
        r#"{"v":1,"error":{"kind":"busy","message":"held"}}"#,
    );
    let path = std::ffi::OsString::from_vec(b"a\xff".to_vec()).into();
    same(&Unsaved { path, reason: None }, r#"{"path":{"hex":"61ff"},"reason":null}"#);
    same(
        &FlushReply {
            version: Some("4".into()),
            durable: true,
            entries: 2,
            bytes: 9,
            fork: None,
            merged: None,
        },
        r#"{"version":"4","durable":true,"entries":2,"bytes":9,"fork":null}"#,
    );
    same(
        &status(),
        concat!(
            r#"{"dir":"/tmp","pid":7,"mode":"passthrough","mode_reason":"kernel 6.12","transport":"io_uring","name":"tmp","#,
            r#""remote":"file:///r","state_dir":"/s","version":"v3","read_only":false,"fork":null,"dirty_files":2,"#,
            r#""dirty_bytes":10,"open_for_write":1,"absent_files":0,"absent_bytes":0,"#,
            r#""lost_files":0,"lost_error":null,"#,
            r#""unneeded_layers":3,"unneeded_bytes":4,"unneeded_error":null,"last_flush":null,"last_error":null,"stuck":[],"stuck_total":0,"tables":null,"uptime_s":5,"#,
            r#""program":"0.1.0"}"#
        ),
    );
}
