//! Answers and their bodies.
use crate::cache::CacheError;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

/// What an answer carries. A body that breaks off ends the connection, so that nobody takes it for whole.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, CacheError>;
/// Bytes of a content as they come.
pub(super) type Pieces = futures::stream::BoxStream<'static, Result<Bytes, CacheError>>;

/// A body of these bytes.
pub(super) fn bytes(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of what comes.
pub(super) fn stream(pieces: Pieces) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// An answer that is a text.
pub fn text(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut reply = Response::new(bytes(text));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// An answer in words, a line of plain text.
pub fn words(status: StatusCode, line: &str) -> Response<Body> {
    text(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut reply = Response::new(bytes(Bytes::new()));
    *reply.status_mut() = status;
    reply
}
