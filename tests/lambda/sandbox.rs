//! A sandbox of our own: the Runtime, Extensions and Telemetry API as AWS publishes them, and the freezing of who has
//! nothing to do. What it simulates: one invocation at a time, INVOKE and SHUTDOWN, `platform.start` and
//! `platform.runtimeDone`, and the resume from a snapshot. What it does not: limits of size and memory, and time-outs, which a test makes itself.
use crate::harness::LIMIT;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the sandbox refuses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refusals {
    /// Telemetry, as local emulators do.
    pub telemetry: bool,
    /// To register for INVOKE, as managed instances do.
    pub invoke: bool,
}

/// How an invocation ended.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whether it is an error.
    pub failed: bool,
    /// What was sent.
    pub body: Vec<u8>,
    /// What came after it.
    pub trailers: BTreeMap<String, String>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The counter that the handler tells.
    #[track_caller]
    pub fn count(&self) -> u64 {
        assert!(!self.failed, "{}", String::from_utf8_lossy(&self.body));
        self.json()["count"].as_u64().unwrap()
    }
}

#[derive(Default)]
struct State {
    invocations: VecDeque<(String, Value, u64)>,
    answers: BTreeMap<String, Answer>,
    events: VecDeque<Value>,
    /// What was registered for.
    registered: Option<Vec<String>>,
    telemetry: Option<u16>,
    runtime_waits: bool,
    extension_waits: bool,
    init_errors: Vec<Value>,
    /// The runtime has said that a snapshot may be taken; and that was resumed.
    ready_for_snapshot: bool,
    resumed: bool,
    closed: bool,
    count: u64,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    refusals: Refusals,
}

/// See the module. Dropping it ends its API.
pub struct Sandbox {
    address: SocketAddr,
    shared: Arc<Shared>,
}

fn epoch_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until something holds; `None` after `limit`.
    fn until<T>(&self, limit: Duration, mut holds: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let give_up = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = holds(&mut state) {
                return Some(found);
            }
            let left = give_up.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Sandbox {
    pub fn new(refusals: Refusals) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), refusals });
        let api = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if api.lock().closed {
                    return;
                }
                let api = api.clone();
                std::thread::spawn(move || drop(serve(&api, stream)));
            }
        });
        Self { address, shared }
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn api(&self) -> String {
        self.address.to_string()
    }

    /// Begins an invocation; its id.
    pub fn begin(&self, event: &Value, time: Duration) -> String {
        let mut state = self.shared.lock();
        state.count += 1;
        let id = format!("00000000-0000-0000-0000-{:012}", state.count);
        let deadline = epoch_ms() + time.as_millis() as u64;
        if state.registered.as_ref().is_some_and(|events| events.iter().any(|event| event == "INVOKE")) {
            state.events.push_back(json!({
                "eventType": "INVOKE", "deadlineMs": deadline, "requestId": id,
                "invokedFunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:work",
            }));
            state.extension_waits = false;
        }
        let port = state.telemetry;
        state.invocations.push_back((id.clone(), event.clone(), deadline));
        state.runtime_waits = false;
        drop(state);
        self.shared.changed.notify_all();
        tell(port, "platform.start", &id);
        id
    }

    /// Waits for the answer to an invocation; `None` if there is none within `limit`.
    pub fn answer(&self, id: &str, limit: Duration) -> Option<Answer> {
        let answer = self.shared.until(limit, |state| state.answers.remove(id))?;
        let port = self.shared.lock().telemetry;
        tell(port, "platform.runtimeDone", id);
        Some(answer)
    }

    /// An invocation from its begin to its answer.
    #[track_caller]
    pub fn invoke(&self, event: &Value) -> Answer {
        let id = self.begin(event, LIMIT);
        self.answer(&id, LIMIT).unwrap_or_else(|| panic!("no answer to {event}"))
    }

    /// Waits until the runtime, and the extension if there is one, wait for what comes next: then nothing may be left
    /// to do, for the sandbox is frozen.
    #[track_caller]
    pub fn wait_idle(&self) {
        let idle = self.shared.until(LIMIT, |state| {
            let extension = state.registered.is_none() || state.extension_waits;
            (state.runtime_waits && extension).then_some(())
        });
        idle.expect("the sandbox did not come to rest");
    }

    /// Waits until an extension has registered; for what.
    #[track_caller]
    pub fn wait_registered(&self) -> Vec<String> {
        self.shared.until(LIMIT, |state| state.registered.clone()).expect("nobody registered")
    }

    /// Whether an extension has registered so far.
    pub fn is_registered(&self) -> bool {
        self.shared.lock().registered.is_some()
    }

    /// Whether telemetry was asked for and granted.
    pub fn has_telemetry(&self) -> bool {
        self.shared.lock().telemetry.is_some()
    }

    /// Errors of the runtime's start.
    pub fn init_errors(&self) -> Vec<Value> {
        self.shared.lock().init_errors.clone()
    }

    /// Waits until the runtime has started, so that a snapshot can be taken.
    #[track_caller]
    pub fn wait_snapshot(&self) {
        let ready = self.shared.until(LIMIT, |state| state.ready_for_snapshot.then_some(()));
        ready.expect("the runtime asked for no snapshot");
    }

    /// The sandbox goes on, resumed from its snapshot.
    pub fn resume(&self) {
        self.shared.lock().resumed = true;
        self.shared.changed.notify_all();
    }

    /// The last event of an extension.
    pub fn shut_down(&self, reason: &str) {
        let event =
            json!({ "eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": epoch_ms() + 2000 });
        let mut state = self.shared.lock();
        state.extension_waits = false;
        state.events.push_back(event);
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        let _wakes_the_listener = TcpStream::connect(self.address);
    }
}

/// Stops processes, as a sandbox does that nobody needs for a while, until this is dropped.
pub struct Frozen(Vec<u32>);

impl Frozen {
    pub fn of(pids: Vec<u32>) -> Self {
        for pid in &pids {
            send(*pid, Signal::STOP);
        }
        Self(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            send(*pid, Signal::CONT);
        }
    }
}

fn send(pid: u32, signal: Signal) {
    let _gone = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

fn tell(port: Option<u16>, kind: &str, id: &str) {
    let Some(port) = port else { return };
    let events = json!([{ "time": "2026-01-01T00:00:00.000Z", "type": kind, "record": { "requestId": id, "status": "success" } }]);
    let body = events.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    trailers: BTreeMap<String, String>,
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut text = String::new();
    let read = reader.read_line(&mut text).ok()?;
    (read > 0).then(|| text.trim_end().to_owned())
}

fn fields(reader: &mut impl BufRead) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    loop {
        let text = line(reader)?;
        let Some((name, value)) = text.split_once(':') else { return text.is_empty().then_some(fields) };
        fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

/// `None` if the connection ended first.
fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let first = line(reader)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = fields(reader)?;
    let (mut body, mut trailers) = (Vec::new(), BTreeMap::new());
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let size = usize::from_str_radix(&line(reader)?, 16).ok()?;
            if size == 0 {
                trailers = fields(reader)?;
                break;
            }
            let at = body.len();
            body.resize(at + size, 0);
            reader.read_exact(&mut body[at..]).ok()?;
            line(reader)?;
        }
    } else if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    }
    Some(Request { method, path, headers, body, trailers })
}

fn serve(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        let Some((status, headers, body)) = reply(shared, &request) else { return Ok(()) };
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    }
    Ok(())
}

type Reply = (u16, Vec<(&'static str, String)>, String);

/// `None` when there is nothing to say any more.
fn reply(shared: &Shared, request: &Request) -> Option<Reply> {
    let accepted = || Some((202, Vec::new(), r#"{"status":"OK"}"#.to_owned()));
    let said = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/2018-06-01/runtime/invocation/next") => {
            shared.lock().runtime_waits = true;
            shared.changed.notify_all();
            let next = shared.until(Duration::from_secs(3600), |state| {
                if state.closed {
                    return Some(None);
                }
                let next = state.invocations.pop_front()?;
                state.runtime_waits = false;
                Some(Some(next))
            });
            let (id, event, deadline) = next??;
            let headers = vec![
                ("Lambda-Runtime-Aws-Request-Id", id),
                ("Lambda-Runtime-Deadline-Ms", deadline.to_string()),
                (
                    "Lambda-Runtime-Invoked-Function-Arn",
                    "arn:aws:lambda:eu-west-1:123456789012:function:work".into(),
                ),
                ("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700".into()),
                ("Content-Type", "application/json".into()),
            ];
            Some((200, headers, event.to_string()))
        }
        ("GET", "/2018-06-01/runtime/restore/next") => {
            shared.lock().ready_for_snapshot = true;
            shared.changed.notify_all();
            let resumed = |state: &mut State| (state.closed || state.resumed).then_some(!state.closed);
            shared.until(Duration::from_secs(3600), resumed)?.then(|| (200, Vec::new(), String::new()))
        }
        ("POST", "/2018-06-01/runtime/init/error") => {
            shared.lock().init_errors.push(said());
            accepted()
        }
        ("POST", path) if path.starts_with("/2018-06-01/runtime/invocation/") => {
            let (id, what) =
                path.rsplit_once('/').and_then(|(rest, what)| Some((rest.rsplit('/').next()?, what)))?;
            let answer = Answer {
                failed: what == "error",
                body: request.body.clone(),
                trailers: request.trailers.clone(),
            };
            shared.lock().answers.insert(id.to_owned(), answer);
            shared.changed.notify_all();
            accepted()
        }
        ("POST", "/2020-01-01/extension/register") => {
            assert_eq!(request.headers.get("lambda-extension-name").map(String::as_str), Some("icecache"));
            let events: Vec<String> = serde_json::from_value(said()["events"].clone()).unwrap();
            if shared.refusals.invoke && events.iter().any(|event| event == "INVOKE") {
                return Some((403, Vec::new(), r#"{"errorType":"Extension.InvalidEventType"}"#.into()));
            }
            shared.lock().registered = Some(events);
            shared.changed.notify_all();
            let headers = vec![("Lambda-Extension-Identifier", "the-extension".to_owned())];
            Some((200, headers, r#"{"functionName":"work"}"#.into()))
        }
        _ if request.headers.get("lambda-extension-identifier").map(String::as_str)
            != Some("the-extension") =>
        {
            Some((403, Vec::new(), r#"{"errorType":"Extension.UnknownExtensionIdentifier"}"#.into()))
        }
        ("GET", "/2020-01-01/extension/event/next") => {
            shared.lock().extension_waits = true;
            shared.changed.notify_all();
            let event = shared.until(Duration::from_secs(3600), |state| {
                if state.closed {
                    return Some(None);
                }
                let event = state.events.pop_front()?;
                state.extension_waits = false;
                Some(Some(event))
            });
            Some((200, Vec::new(), event??.to_string()))
        }
        ("PUT", "/2022-07-01/telemetry") => {
            if shared.refusals.telemetry {
                return Some((202, Vec::new(), r#"{"errorType":"Telemetry.NotSupported"}"#.into()));
            }
            let destination = said()["destination"]["URI"].as_str()?.to_owned();
            let port =
                destination.strip_prefix("http://sandbox.localdomain:").and_then(|port| port.parse().ok());
            shared.lock().telemetry = Some(port.expect("a port of the sandbox"));
            Some((200, Vec::new(), "OK".into()))
        }
        _ => Some((404, Vec::new(), "{}".into())),
    }
}
