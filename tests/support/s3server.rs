//! An S3 server in this process, in memory, with exact conditional semantics and a fault hook.
mod checksum;
mod store;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode, S3Result};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The credentials every [`S3Server`] accepts.
pub const ACCESS_KEY: &str = "ICECACHETEST";
pub const SECRET_KEY: &str = "icecache-test-secret";
/// The bucket every [`S3Server`] starts with.
pub const BUCKET: &str = "icecache-test";

/// The status that stands, inside the server only, for "cut the connection instead of answering".
const CUT_STATUS: StatusCode = StatusCode::IM_A_TEAPOT;

/// What the hook may do to one request.
#[derive(Clone, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Answer with this code; nothing is applied. `SlowDown`, `ExpiredToken`, ...
    FailBefore(S3ErrorCode),
    /// Apply, then answer with this code: the lost reply.
    FailAfter(S3ErrorCode),
    /// Cut the connection without an answer; nothing is applied.
    CutBefore,
    /// Apply, then cut the connection without an answer.
    CutAfter,
    /// GET: send so many bytes of the promised body, then cut the connection.
    ShortBody(usize),
    /// Wait, then go on as usual. A PUT waits after its first look at its condition.
    Delay(Duration),
    /// The same until somebody notifies all who wait.
    Hold(Arc<Notify>),
}

/// One request, as the hook and the log see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The S3 operation: `PutObject`, `GetObject`, `UploadPart`, ...
    pub operation: &'static str,
    /// The full key.
    pub key: String,
    /// How many requests came before it.
    pub number: u64,
}

type Hook = Box<dyn Fn(&Request) -> Fault + Send + Sync>;

/// What tests look at and turn; shared with the running server.
#[derive(Default)]
pub struct Control {
    hook: Mutex<Option<Hook>>,
    log: Mutex<Vec<Request>>,
}

impl Control {
    /// Asks `hook` before each request from now on; it must not block.
    pub fn set_hook(&self, hook: impl Fn(&Request) -> Fault + Send + Sync + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// No faults from now on.
    pub fn clear_hook(&self) {
        *self.hook.lock().unwrap() = None;
    }

    /// Every request since the start or since [`clear_log`](Self::clear_log).
    pub fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How many requests of each operation the log holds.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for request in self.log.lock().unwrap().iter() {
            *counts.entry(request.operation).or_default() += 1;
        }
        counts
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.log.lock().unwrap().clear();
    }

    /// Logs a request and lets its fault happen, as far as it happens before.
    async fn enter(&self, operation: &'static str, key: &str) -> S3Result<Fault> {
        let request = {
            let mut log = self.log.lock().unwrap();
            let request = Request { operation, key: key.to_owned(), number: log.len() as u64 };
            log.push(request.clone());
            request
        };
        let fault = self.hook.lock().unwrap().as_ref().map(|hook| hook(&request)).unwrap_or_default();
        match fault {
            Fault::FailBefore(code) => Err(S3Error::new(code)),
            Fault::CutBefore => Err(cut()),
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                Ok(Fault::None)
            }
            Fault::Hold(until) => {
                until.notified().await;
                Ok(Fault::None)
            }
            fault => Ok(fault),
        }
    }
}

fn cut() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::Custom("CutConnection".into()));
    error.set_status_code(CUT_STATUS);
    error
}

/// A running server; dropping it stops it.
pub struct S3Server {
    address: SocketAddr,
    control: Arc<Control>,
    store: store::MemoryS3,
    task: JoinHandle<()>,
}

impl S3Server {
    /// Starts on a free port of the loopback interface.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// Starts at an address.
    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("bind the S3 server");
        let address = listener.local_addr().expect("address of the S3 server");
        let control = Arc::new(Control::default());
        let store = store::MemoryS3::new(BUCKET, control.clone());
        let mut builder = S3ServiceBuilder::new(store.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let task = tokio::spawn(accept(listener, builder.build()));
        Self { address, control, store, task }
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Faults and log.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The keys that exist in [`BUCKET`], in order.
    pub fn keys(&self) -> Vec<String> {
        self.store.keys(BUCKET)
    }

    /// The bytes of an object in [`BUCKET`].
    pub fn object(&self, key: &str) -> Option<bytes::Bytes> {
        self.store.object(BUCKET, key)
    }

    /// Makes another bucket and fills it.
    pub fn add_bucket(&self, bucket: &str, objects: impl IntoIterator<Item = (String, Vec<u8>)>) {
        self.store.add_bucket(bucket);
        objects.into_iter().for_each(|(key, data)| self.store.put(bucket, &key, data.into()));
    }

    /// Puts an object into another bucket.
    pub fn put_into(&self, bucket: &str, key: &str, data: impl Into<bytes::Bytes>) {
        self.store.put(bucket, key, data.into());
    }

    /// Removes an object of another bucket.
    pub fn remove_from(&self, bucket: &str, key: &str) -> bool {
        self.store.remove(bucket, key)
    }

    /// Puts an object, as an operator would behind our back.
    pub fn put(&self, key: &str, data: impl Into<bytes::Bytes>) {
        self.store.put(BUCKET, key, data.into());
    }

    /// Removes an object, as an operator would behind our back.
    pub fn remove(&self, key: &str) -> bool {
        self.store.remove(BUCKET, key)
    }

    /// Says of an object that its bytes are encoded so.
    pub fn encode(&self, key: &str, encoding: &str) {
        self.store.encode(BUCKET, key, encoding);
    }

    /// Gives an object other bytes without the server's knowledge: what it says of the object is of the old ones.
    pub fn rot(&self, key: &str, data: impl Into<bytes::Bytes>) {
        self.store.rot(BUCKET, key, data.into());
    }

    /// Removes every object in [`BUCKET`].
    pub fn remove_all(&self) {
        for key in self.keys() {
            self.remove(&key);
        }
    }

    /// Removes the bucket with all that is in it.
    pub fn remove_bucket(&self) {
        self.store.remove_bucket(BUCKET);
    }

    /// Multipart uploads that are neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.store.open_uploads()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, service: S3Service) {
    let mut connections = tokio::task::JoinSet::new(); // dropped with this task, so stopping cuts them
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            Some(_) = connections.join_next() => continue,
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let service = service.clone();
                async move {
                    let answer =
                        service.call(request.map(s3s::Body::from)).await.map_err(|e| format!("{e:?}"))?;
                    if answer.status() == CUT_STATUS {
                        return Err("connection cut by the fault hook".to_owned());
                    }
                    Ok(answer)
                }
            });
            // An error here is a connection that ended early, often by our own fault hook.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
