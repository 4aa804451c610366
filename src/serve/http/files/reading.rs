//! GET and HEAD: all of it, or ranges of it.
use super::{Failure, Files, NOTHING, described, set};
use crate::cache::{CacheError, FetchError, Key};
use crate::serve::http::conditions::{Verdict, judge};
use crate::serve::http::content::Content;
use crate::serve::http::range::{self, Ranges};
use crate::serve::http::reply::{self, Body, Pieces, words};
use bytes::Bytes;
use futures::StreamExt;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
use std::ops::Range;

/// An object that changes while it is looked up is looked up so often.
const ATTEMPTS_MAX: u32 = 3;

impl Files {
    pub(super) async fn read(&self, key: &Key, head: &Parts) -> Result<Response<Body>, Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Some(content) = self.find(key).await? else {
                return Ok(words(StatusCode::NOT_FOUND, NOTHING));
            };
            match (self.respond(key, content, head).await, &self.origin) {
                (Err(CacheError::Fetch(FetchError::Changed { .. })), Some(origin))
                    if attempt < ATTEMPTS_MAX =>
                {
                    origin.forget(&String::from_utf8_lossy(key.as_bytes()));
                }
                (Err(e), _) if attempt < ATTEMPTS_MAX && has_gone(&e) => {}
                (reply, _) => return Ok(reply?),
            }
        }
    }

    /// The first bytes are there when this returns: until then a failure has a status.
    async fn respond(&self, key: &Key, content: Content, head: &Parts) -> Result<Response<Body>, CacheError> {
        let (method, headers) = (&head.method, &head.headers);
        let content = match content {
            // Before 1.1 such a body ends with the connection, however that ends: nobody could tell some of it from all.
            Content::Filling(waiting)
                if head.version < Version::HTTP_11
                    && *method == Method::GET
                    && waiting.stream().size().is_none() =>
            {
                Content::File(waiting.file().await?)
            }
            content => content,
        };
        let content = &content;
        let validators = content.validators();
        let wants_ranges = match judge(headers, &validators) {
            Verdict::Failed => {
                return Ok(described(reply::empty(StatusCode::PRECONDITION_FAILED), &validators));
            }
            Verdict::NotModified => {
                return Ok(described(reply::empty(StatusCode::NOT_MODIFIED), &validators));
            }
            Verdict::Proceed { ranges } => ranges && *method == Method::GET,
        };
        let size = content.size();
        let asked = headers.get(header::RANGE).filter(|_| wants_ranges).and_then(|value| value.to_str().ok());
        let ranges = asked.zip(size).map_or(Ranges::Whole, |(header, size)| range::parse(header, size));
        let media_type = media_type(key, content);
        let (status, mut fields, body) = match (ranges, size) {
            (Ranges::Unsatisfiable, size) => {
                let mut reply = words(StatusCode::RANGE_NOT_SATISFIABLE, "there are no such bytes");
                let all = format!("bytes */{}", size.unwrap_or_default());
                set(reply.headers_mut(), header::CONTENT_RANGE, &all);
                return Ok(reply);
            }
            (Ranges::Parts(parts), Some(size)) => match &parts[..] {
                [part] => {
                    let mut fields = HeaderMap::new();
                    set(&mut fields, header::CONTENT_RANGE, &content_range(part, size));
                    set(&mut fields, header::CONTENT_LENGTH, &(part.end - part.start).to_string());
                    describe_bytes(&mut fields, content, &media_type);
                    (
                        StatusCode::PARTIAL_CONTENT,
                        fields,
                        self.begun(key, content, std::slice::from_ref(part), content.pieces(Some(part)))
                            .await?,
                    )
                }
                _ => {
                    let (fields, pieces) = multipart(content, &parts, size, &media_type);
                    (StatusCode::PARTIAL_CONTENT, fields, self.begun(key, content, &parts, pieces).await?)
                }
            },
            (Ranges::Whole | Ranges::Parts(_), size) => {
                let mut fields = HeaderMap::new();
                if let Some(size) = size {
                    set(&mut fields, header::CONTENT_LENGTH, &size.to_string());
                }
                describe_bytes(&mut fields, content, &media_type);
                let body = match *method {
                    Method::HEAD => reply::bytes(Bytes::new()),
                    _ => {
                        self.begun(key, content, std::slice::from_ref(&(0..u64::MAX)), content.pieces(None))
                            .await?
                    }
                };
                (StatusCode::OK, fields, body)
            }
        };
        if size.is_some() {
            fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        let mut reply = Response::new(body);
        *reply.status_mut() = status;
        *reply.headers_mut() = fields;
        Ok(described(reply, &validators))
    }

    /// A body whose first piece is there. Where only some of it is in the cache the origin has said that it still
    /// has the rest: an object that has changed is noticed before its first byte is sent, not after.
    async fn begun(
        &self,
        key: &Key,
        content: &Content,
        parts: &[Range<u64>],
        pieces: Pieces,
    ) -> Result<Body, CacheError> {
        let mut pieces = match (content, &self.origin) {
            (Content::Object(blob, _), Some(origin)) => {
                let missing = parts.iter().find_map(|part| blob.first_missing(part.clone()));
                // Of one part that is what is read first anyhow; of several that is a head.
                let is_first = |at: u64| matches!(parts, [part] if part.start == at);
                if let Some(at) = missing.filter(|at| !is_first(*at)) {
                    blob.read(at, 1).await?;
                }
                let (origin, name) = (origin.clone(), String::from_utf8_lossy(key.as_bytes()).into_owned());
                let noticed = move |piece: &Result<Bytes, CacheError>| {
                    if let Err(CacheError::Fetch(FetchError::Changed { .. })) = piece {
                        origin.forget(&name);
                    }
                };
                pieces.inspect(noticed).boxed()
            }
            _ => pieces,
        };
        Ok(match pieces.next().await {
            None => reply::bytes(Bytes::new()),
            Some(first) => reply::stream(futures::stream::iter([Ok(first?)]).chain(pieces).boxed()),
        })
    }
}

/// Whether it went between the look-up and the first byte: it was evicted, has vanished, or its fill has failed.
fn has_gone(e: &CacheError) -> bool {
    match e {
        CacheError::Deleted | CacheError::GivenUp { .. } | CacheError::Corrupt { .. } => true,
        CacheError::WrongSize { .. } | CacheError::NoRoom { .. } | CacheError::NotAdmitted { .. } => true,
        CacheError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Several parts in one body (RFC 9110, section 14.6).
fn multipart(content: &Content, parts: &[Range<u64>], size: u64, media_type: &str) -> (HeaderMap, Pieces) {
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    let encoding = encoding(content).map(|said| format!("Content-Encoding: {said}\r\n")).unwrap_or_default();
    let head = |part: &Range<u64>| {
        let range = content_range(part, size);
        format!("\r\n--{boundary}\r\nContent-Type: {media_type}\r\n{encoding}Content-Range: {range}\r\n\r\n")
    };
    let tail = format!("\r\n--{boundary}--\r\n");
    let length: u64 = parts.iter().map(|part| head(part).len() as u64 + part.end - part.start).sum();
    let mut fields = HeaderMap::new();
    set(&mut fields, header::CONTENT_LENGTH, &(length + tail.len() as u64).to_string());
    set(&mut fields, header::CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
    let one = |text: String| futures::stream::iter([Ok(Bytes::from(text))]);
    let bodies: Vec<Pieces> =
        parts.iter().map(|part| one(head(part)).chain(content.pieces(Some(part))).boxed()).collect();
    (fields, futures::stream::iter(bodies).flatten().chain(one(tail)).boxed())
}

fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

/// What the bytes are that are sent, whether all of them or some.
fn describe_bytes(fields: &mut HeaderMap, content: &Content, media_type: &str) {
    set(fields, header::CONTENT_TYPE, media_type);
    if let Some(encoding) = encoding(content) {
        set(fields, header::CONTENT_ENCODING, encoding);
    }
}

/// What the origin says, if it can stand in a header.
fn encoding(content: &Content) -> Option<&str> {
    content.encoding().filter(|said| HeaderValue::from_str(said).is_ok())
}

/// What the origin says, or what the name says.
fn media_type(key: &Key, content: &Content) -> String {
    let said = content.media_type().filter(|said| HeaderValue::from_str(said).is_ok() && !said.is_empty());
    said.map_or_else(
        || {
            let name = String::from_utf8_lossy(key.as_bytes());
            mime_guess::from_path(&*name).first_or_octet_stream().to_string()
        },
        str::to_owned,
    )
}
