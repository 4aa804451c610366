//! [`Files`]: what is asked of `/files/<key>`, and what is answered.
use super::conditions::{Validators, Verdict, judge};
use super::content::Content;
use super::meters::HttpMeters;
use super::range::{self, Ranges};
use super::reply::{self, Body, Pieces, words};
use super::server::Answer;
use crate::cache::{Cache, CacheError, FetchError, FillOptions, Inserted, Key, OriginFiles, Removed};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const PREFIX: &str = "/files/";
const METHODS: &str = "GET, HEAD, PUT, DELETE";
/// An object that changes while it is looked up is looked up so often.
const ATTEMPTS_MAX: u32 = 3;
/// Who asks for what is not there waits so long for the end of the check after the start.
const SETTLING: Duration = Duration::from_secs(10);
/// Of an upload nothing comes for so long: it is given up.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

/// What writers must show. Compared by digest, so that the time it takes tells nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(blake3::Hash);

impl Token {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// See the module.
#[derive(Debug)]
pub struct Files {
    cache: Cache,
    origin: Option<Arc<OriginFiles>>,
    token: Option<Token>,
    meters: Arc<HttpMeters>,
}

/// Why there is no content.
#[derive(Debug)]
enum Failure {
    /// The request is wrong.
    Bad(&'static str),
    /// The check after the start may still find it.
    Checking,
    Cache(CacheError),
}

impl From<CacheError> for Failure {
    fn from(e: CacheError) -> Self {
        Self::Cache(e)
    }
}

impl Failure {
    fn reply(&self) -> Response<Body> {
        let (status, text) = match self {
            Self::Bad(text) => (StatusCode::BAD_REQUEST, (*text).to_owned()),
            Self::Checking => {
                let text = "the cache is being checked after a start: this may still be found";
                (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
            }
            Self::Cache(e @ CacheError::Stalled { .. }) => (StatusCode::SERVICE_UNAVAILABLE, e.to_string()),
            Self::Cache(CacheError::Fetch(e)) => (status_of_fetch(e), e.to_string()),
            Self::Cache(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        };
        let mut reply = words(status, &text);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        reply
    }
}

fn status_of_fetch(e: &FetchError) -> StatusCode {
    match e {
        FetchError::NotFound { .. } => StatusCode::NOT_FOUND,
        FetchError::Throttled { .. } | FetchError::Unavailable { .. } | FetchError::Changed { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        FetchError::Denied { .. } | FetchError::Refused { .. } => StatusCode::BAD_GATEWAY,
    }
}

#[async_trait]
impl Answer for Files {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let reply = self.route(request).await.unwrap_or_else(|failure| {
            tracing::debug!(?failure, "a request failed");
            failure.reply()
        });
        self.meters.answered(reply.status());
        let meters = self.meters.clone();
        reply.map(|body| {
            body.map_frame(move |frame| {
                meters.sent(frame.data_ref().map_or(0, Bytes::len));
                frame
            })
            .boxed_unsync()
        })
    }
}

impl Files {
    /// Answers from `cache`, and what that has not from `origin`. Whoever shows the token may write; without
    /// one nobody may.
    pub fn new(
        cache: Cache,
        origin: Option<Arc<OriginFiles>>,
        token: Option<Token>,
        meters: Arc<HttpMeters>,
    ) -> Self {
        Self { cache, origin, token, meters }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let Some(name) = request.uri().path().strip_prefix(PREFIX) else {
            return Ok(words(StatusCode::NOT_FOUND, "there is nothing but /files/<key>"));
        };
        let name: Vec<u8> = percent_encoding::percent_decode_str(name).collect();
        let key = Key::new(&name).map_err(|_| Failure::Bad("a key has 1 to 1024 bytes"))?;
        match *request.method() {
            Method::GET | Method::HEAD => self.read(&key, request.method(), request.headers()).await,
            Method::PUT => match self.refusal(request.headers()) {
                Some(refusal) => Ok(refusal),
                None => self.write(&key, request).await,
            },
            Method::DELETE => match self.refusal(request.headers()) {
                Some(refusal) => Ok(refusal),
                None => self.remove(&key).await,
            },
            Method::OPTIONS => Ok(allowed(reply::empty(StatusCode::NO_CONTENT))),
            _ => Ok(allowed(words(StatusCode::METHOD_NOT_ALLOWED, METHODS))),
        }
    }

    /// What a writer is told who may not.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        let Some(token) = &self.token else {
            return Some(words(
                StatusCode::FORBIDDEN,
                "nothing may be written here (serve with --token-file)",
            ));
        };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        let shown =
            shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text.trim());
        if shown.is_some_and(|text| Token::new(text) == *token) {
            return None;
        }
        let mut reply = words(StatusCode::UNAUTHORIZED, "whoever writes must show the token");
        reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Some(reply)
    }

    async fn find(&self, key: &Key) -> Result<Option<Content>, Failure> {
        if let Some(found) = self.cache.look_up(key).await? {
            return Ok(Some(found.into()));
        }
        let Some(origin) = &self.origin else { return self.find_late(key).await };
        let name = std::str::from_utf8(key.as_bytes()).map_err(|_| Failure::Bad("the key is not UTF-8"))?;
        if let Some(fault) = crate::remote::key::fault(name) {
            return Err(Failure::Bad(fault));
        }
        if self.token.is_some() && self.cache.is_rebuilding() {
            // A file that was put here comes before what the origin has of its name.
            self.certain().await?;
            if let Some(found) = self.cache.look_up(key).await? {
                return Ok(Some(found.into()));
            }
        }
        match origin.object(name).await {
            Ok(Some((id, properties))) => Ok(Some(Content::Object(origin.blob(&id)?, properties))),
            Ok(None) => self.find_late(key).await,
            Err(e) => Err(Failure::Cache(FetchError::from(e).into())),
        }
    }

    /// What a kill kept out of the journal is found by the check after the start.
    async fn find_late(&self, key: &Key) -> Result<Option<Content>, Failure> {
        if self.cache.is_certain() {
            return Ok(None);
        }
        self.certain().await?;
        Ok(self.cache.look_up(key).await?.map(Content::from))
    }

    /// Waits until what is not found is not there.
    async fn certain(&self) -> Result<(), Failure> {
        if self.cache.is_certain() {
            return Ok(());
        }
        tokio::time::timeout(SETTLING, self.cache.settled()).await.map_err(|_| Failure::Checking)
    }

    async fn read(&self, key: &Key, method: &Method, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Some(content) = self.find(key).await? else {
                return Ok(words(StatusCode::NOT_FOUND, "there is no such key"));
            };
            match (self.respond(key, &content, method, headers).await, &self.origin) {
                (Err(CacheError::Fetch(FetchError::Changed { .. })), Some(origin))
                    if attempt < ATTEMPTS_MAX =>
                {
                    origin.forget(&String::from_utf8_lossy(key.as_bytes()));
                }
                // It was evicted, or its fill failed, between the look-up and the first byte.
                (Err(CacheError::Deleted | CacheError::GivenUp { .. } | CacheError::Corrupt { .. }), _)
                    if attempt < ATTEMPTS_MAX => {}
                (reply, _) => return Ok(reply?),
            }
        }
    }

    /// The first bytes are there when this returns: until then a failure has a status.
    async fn respond(
        &self,
        key: &Key,
        content: &Content,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, CacheError> {
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
                    set(&mut fields, header::CONTENT_TYPE, &media_type);
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
                set(&mut fields, header::CONTENT_TYPE, &media_type);
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

    async fn write(&self, key: &Key, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let size = request.headers().get(header::CONTENT_LENGTH);
        let size = size.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let options = FillOptions { size, filler: "http".into() };
        self.certain().await?; // a key that is there is never overwritten
        let body = futures::stream::try_unfold(request.into_body(), |mut body| async move {
            loop {
                let frame = tokio::time::timeout(UPLOAD_PATIENCE, body.frame());
                match frame.await.map_err(|_| "the upload has stalled".to_owned())? {
                    None => return Ok::<_, String>(None),
                    Some(Err(e)) => return Err(e.to_string()),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => return Ok(Some((bytes, body))),
                        Err(_trailers) => {}
                    },
                }
            }
        });
        Ok(match self.cache.insert_stream(key, options, body).await {
            Ok(Inserted::New(file)) => {
                self.written_down().await;
                described(reply::empty(StatusCode::CREATED), &Content::File(file).validators())
            }
            Ok(Inserted::There(file)) => described(
                words(StatusCode::CONFLICT, "the key is there already; delete it first"),
                &Content::File(file).validators(),
            ),
            Err(CacheError::Deleted) => words(StatusCode::CONFLICT, "the key was deleted meanwhile"),
            Ok(Inserted::Filling(_)) => {
                words(StatusCode::CONFLICT, "the key is being filled by somebody else")
            }
            Err(e @ CacheError::NotAdmitted { .. }) => words(StatusCode::PAYLOAD_TOO_LARGE, &e.to_string()),
            Err(e) if e.is_full() => words(StatusCode::INSUFFICIENT_STORAGE, &e.to_string()),
            Err(
                e @ (CacheError::GivenUp { .. } | CacheError::WrongSize { .. } | CacheError::Stalled { .. }),
            ) => words(StatusCode::BAD_REQUEST, &e.to_string()),
            Err(e) => return Err(e.into()),
        })
    }

    /// What is acknowledged is in the journal: a start after a kill knows it at once.
    async fn written_down(&self) {
        if let Err(error) = self.cache.flush().await {
            tracing::warn!(%error, "a change is not in the journal of the cache; a start will find it by its witness");
        }
    }

    async fn remove(&self, key: &Key) -> Result<Response<Body>, Failure> {
        let mut removed = self.cache.remove(key).await;
        if removed == Removed::Absent {
            self.certain().await?;
            removed = self.cache.remove(key).await;
        }
        self.written_down().await;
        Ok(match removed {
            Removed::Absent => words(StatusCode::NOT_FOUND, "there is no such key"),
            _ => reply::empty(StatusCode::NO_CONTENT),
        })
    }
}

/// Several parts in one body (RFC 9110, section 14.6).
fn multipart(content: &Content, parts: &[Range<u64>], size: u64, media_type: &str) -> (HeaderMap, Pieces) {
    let boundary = uuid::Uuid::new_v4().simple().to_string();
    let head = |part: &Range<u64>| {
        let range = content_range(part, size);
        format!("\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {range}\r\n\r\n")
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

fn described(mut reply: Response<Body>, validators: &Validators) -> Response<Body> {
    if let Some(etag) = &validators.etag {
        set(reply.headers_mut(), header::ETAG, etag);
    }
    if let Some(modified) = validators.modified {
        set(reply.headers_mut(), header::LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    }
    reply
}

fn allowed(mut reply: Response<Body>) -> Response<Body> {
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
    reply
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
