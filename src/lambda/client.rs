//! [`Client`]: requests to the API of the sandbox, a connection for each.
//!
//! A connection that was open while the sandbox was frozen may be dead without either side knowing, and a new one
//! costs microseconds there.
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
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

    /// Sends a request whose URI is a path. Waits for the head of the answer as long as it takes.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            let message = format!("cannot talk to the API of the function: {}", self.api);
            Error::new(ErrorKind::Unavailable, message).with_source(e)
        };
        request.headers_mut().insert(header::HOST, self.host.clone());
        let stream = TcpStream::connect(&self.api).await.map_err(|e| failed(e.into()))?;
        let _small_requests_at_once = stream.set_nodelay(true);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.into()))?;
        tokio::spawn(connection); // it ends with the answer, or fails it
        sender.send_request(request).await.map_err(|e| failed(e.into()))
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
