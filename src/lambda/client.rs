//! [`Client`]: requests to the API of the sandbox, a connection for each.
//!
//! A connection that was open while the sandbox was frozen may be dead without either side knowing, and a new one
//! costs microseconds there. Who knows that a request will follow soon, and no freeze before it, may
//! [connect](Client::connect) ahead.
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What a request or an answer carries. One that breaks off ends its connection, so that nobody takes it for whole.
pub(super) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

/// Headers that are of one connection, not of what is sent over it (RFC 9110, 7.6.1).
const OF_A_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
];

/// A body of these bytes.
pub(super) fn bytes(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Leaves what goes on over another connection.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in &OF_A_CONNECTION {
        headers.remove(name);
    }
}

/// What is older and was not used yet may be closed by the other side at any moment.
const UNUSED_MAX: Duration = Duration::from_secs(1);

/// A connection that nothing was sent over.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Client {
    api: String,
    host: HeaderValue,
}

impl Client {
    /// Of the API at `host:port`.
    pub(super) fn new(api: &str) -> Result<Self> {
        let host = HeaderValue::from_str(api)
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("not an address: {}", api.escape_debug())))?;
        Ok(Self { api: api.to_owned(), host })
    }

    /// Connects, for one request.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.api).await.map_err(|e| self.failed(e))?;
        let _small_requests_at_once = stream.set_nodelay(true);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.failed(e))?;
        tokio::spawn(connection); // it ends with the answer, or fails it
        Ok(Connection { sender, since: Instant::now() })
    }

    /// Sends a request whose URI is a path. Waits for the head of the answer as long as it takes.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        self.send_over(None, request).await
    }

    /// The same over a connection that was made for it, if that still stands.
    pub(super) async fn send_over(
        &self,
        connection: Option<Connection>,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        if let Some(Connection { mut sender, since }) = connection
            && since.elapsed() < UNUSED_MAX
        {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut e) => match e.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.failed(e.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?.sender;
        sender.send_request(request).await.map_err(|e| self.failed(e))
    }

    fn failed(&self, e: impl std::error::Error + Send + Sync + 'static) -> Error {
        let message = format!("cannot talk to the API of the function: {}", self.api);
        Error::new(ErrorKind::Unavailable, message).with_source(e)
    }

    /// The same, and the whole of a small answer.
    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Bytes>> {
        let (head, body) = self.send(request).await?.into_parts();
        let limited = http_body_util::Limited::new(body, ANSWER_MAX_BYTES);
        let whole = limited.collect().await.map_err(|e| {
            Error::new(ErrorKind::Unavailable, "the API of the function broke off its answer").with_source(e)
        })?;
        Ok(Response::from_parts(head, whole.to_bytes()))
    }
}

/// No answer that is for us alone is larger.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Says which extension asks.
pub(super) fn identify(headers: &mut HeaderMap, identifier: &str) {
    if let Ok(value) = HeaderValue::from_str(identifier) {
        headers.insert("lambda-extension-identifier", value);
    }
}
