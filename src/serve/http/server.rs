//! [`serve`]: connections, and what they may cost.
use super::meters::HttpMeters;
use super::reply::{Body, words};
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

/// After a failed accept (no descriptors left) the next one is tried then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    meters: &HttpMeters,
    mut stop: watch::Receiver<bool>,
) {
    let _small_answers_at_once = stream.set_nodelay(true);
    let patient = TokioIo::new(Patient { stream, limit: limits.patience, stuck: None });
    let service = service_fn(|request| async move {
        // The library's own limit is of its buffer, which is filled by more than it says.
        let reply = match head_bytes(&request) > limits.head_bytes {
            true => words(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has too long a head"),
            false => answers.answer(request).await,
        };
        Ok::<_, Infallible>(reply)
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
        let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>());
        if error.is_timeout() || cause.is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) {
            meters.cut();
        }
        tracing::debug!(%error, "a connection broke off");
    }
}

/// The bytes of a request's line and headers.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let line = request.method().as_str().len() + request.uri().to_string().len() + " HTTP/1.1\r\n".len() + 1;
    let fields =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + fields.sum::<usize>() + "\r\n".len()
}

/// A connection whose other end must take what it is sent within a limit.
struct Patient {
    stream: TcpStream,
    limit: Duration,
    /// Since nothing can be written; ends when the limit is reached.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn judge<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = None;
            return poll;
        }
        let until = Instant::now() + self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
