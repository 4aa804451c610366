//! [`serve`]: connections, and what they may cost.
use super::meters::HttpMeters;
use super::patient::Patient;
use super::reply::{Body, words};
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// After a failed accept (no descriptors left) the next one is tried then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So much of a body that nobody reads the library reads by itself, and the connection goes on.
const DRAINED_BYTES: u64 = 8 << 10;

/// Answers requests.
#[async_trait]
pub trait Answer: Send + Sync + 'static {
    /// One of them.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body>;
}

/// What clients may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; others wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's line and headers.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// A request's line and headers come within this time.
    pub head_time: Duration,
    /// A client that takes nothing for so long is cut off.
    pub patience: Duration,
    /// At the end requests under way have so long.
    pub drain: Duration,
}

impl Limits {
    /// Of a server that many may use.
    pub const DEFAULT: Self = Self {
        connections: 1024,
        head_bytes: 32 << 10,
        headers: 64,
        head_time: Duration::from_secs(15),
        patience: Duration::from_secs(60),
        drain: Duration::from_secs(10),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Listens at an address, as `host:port`.
///
/// # Errors
/// [`ErrorKind::Busy`] if another program does already; the message names the address.
pub async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let kind = match e.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::Busy,
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, format!("cannot listen at {address}")).with_source(e)
    })
}

/// Answers what comes in at `listener` until `stop` says so; what is under way then is let end.
pub async fn serve(
    listener: TcpListener,
    answers: Arc<dyn Answer>,
    limits: Limits,
    meters: Arc<HttpMeters>,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let seat = room.clone().acquire_owned().await;
            (listener.accept().await, seat)
        };
        let (accepted, seat) = tokio::select! {
            accepted = accepted => accepted,
            () = told(&mut stop) => break,
            Some(_ended) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (answers, meters, stop) = (answers.clone(), meters.clone(), stop.clone());
        connections.spawn(async move {
            meters.opened();
            connection(stream, &*answers, limits, &meters, stop).await;
            meters.closed();
            drop(seat);
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections did not end in time and are cut");
        connections.shutdown().await;
    }
}

/// Waits until it is time to end; whoever could say so being gone says so as well.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _said_or_gone = stop.wait_for(|stop| *stop).await.map(drop);
}

async fn connection(
    stream: TcpStream,
    answers: &dyn Answer,
    limits: Limits,
    meters: &Arc<HttpMeters>,
    mut stop: watch::Receiver<bool>,
) {
    let _small_answers_at_once = stream.set_nodelay(true);
    let owing = Arc::<AtomicBool>::default();
    let patient = TokioIo::new(Patient::new(stream, limits.patience, owing.clone()));
    let service = service_fn(|request: Request<Incoming>| {
        let owing = owing.clone();
        async move {
            let brings = matches!(*request.method(), Method::PUT | Method::POST);
            let rest = request.body().size_hint();
            let has_body = !request.body().is_end_stream();
            let mut reply = match objection(&request, limits) {
                Some(reply) => reply,
                None => answers.answer(request).await,
            };
            // What was brought and taken has been read to its end; whatever else comes is read by nobody.
            let is_unread = has_body && !(brings && reply.status().is_success());
            owing.store(is_unread, Relaxed);
            if is_unread && rest.upper().is_none_or(|bytes| bytes > DRAINED_BYTES) {
                reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            meters.answered(reply.status());
            Ok::<_, Infallible>(metered(reply, meters.clone()))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes.max(8 << 10))
        .max_headers(limits.headers);
    let mut connection = std::pin::pin!(http.serve_connection(patient, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if error.is_parse() && !error.is_parse_version_h2() {
            meters.answered(StatusCode::BAD_REQUEST); // by the library itself: 400, 414 or 431
        }
        let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>());
        if error.is_timeout() || cause.is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) {
            meters.cut();
        }
        tracing::debug!(%error, "a connection broke off");
    }
}

/// What is said of a request that is none, whatever it asks for.
fn objection<B>(request: &Request<B>, limits: Limits) -> Option<Response<Body>> {
    // The library's own limit is of its buffer, which is filled by more than it says.
    if head_bytes(request) > limits.head_bytes {
        return Some(words(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has too long a head"));
    }
    // RFC 9112, section 6.1. What another coding has made of the content would be taken for it.
    let codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.map(HeaderValue::as_bytes).any(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
        return Some(words(StatusCode::NOT_IMPLEMENTED, "no transfer coding is understood but chunked"));
    }
    // RFC 9112, section 3.2. Who reads it otherwise than a proxy before us did may be led astray.
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_host = |host: &HeaderValue| {
        let host = host.as_bytes();
        host.is_empty() || !host.contains(&b'@') && Authority::try_from(host).is_ok()
    };
    let is_right = match (hosts.next(), hosts.next()) {
        (None, _) => request.version() < Version::HTTP_11,
        (Some(host), None) => is_host(host),
        (Some(_), Some(_)) => false,
    };
    (!is_right).then(|| words(StatusCode::BAD_REQUEST, "a request has one Host"))
}

/// Counts what is sent of it.
fn metered(reply: Response<Body>, meters: Arc<HttpMeters>) -> Response<Body> {
    reply.map(|body| {
        body.map_frame(move |frame| {
            meters.sent(frame.data_ref().map_or(0, Bytes::len));
            frame
        })
        .boxed_unsync()
    })
}

/// The bytes of a request's line and headers.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let line = request.method().as_str().len() + request.uri().to_string().len() + " HTTP/1.1\r\n".len() + 1;
    let fields =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + fields.sum::<usize>() + "\r\n".len()
}
