//! [`Files`]: what is asked of `/files/<key>`, and what is answered.
mod reading;
mod token;
mod writing;

pub use token::{Token, unauthorized};

use super::conditions::Validators;
use super::content::Content;
use super::reply::{self, Body, words};
use super::server::Answer;
use crate::cache::{Cache, CacheError, FetchError, Key, OriginFiles};
use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;

const PREFIX: &str = "/files/";
const METHODS: &str = "GET, HEAD, PUT, DELETE";
/// What whoever asks for a key is told that names nothing.
const NOTHING: &str = "there is no such key";
/// Who asks for what is not there waits so long for the end of the check after the start.
const SETTLING: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Files {
    cache: Cache,
    origin: Option<Arc<OriginFiles>>,
    token: Option<Token>,
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
            Self::Cache(e) if e.is_shortage() => {
                (StatusCode::SERVICE_UNAVAILABLE, "the server is short of descriptors or memory".to_owned())
            }
            // The words of errors are for the log: there are paths of this machine in them.
            Self::Cache(CacheError::Fetch(e)) => {
                let (status, text) = meaning_of_fetch(e);
                (status, text.to_owned())
            }
            Self::Cache(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the cache has failed; its log says why".to_owned())
            }
        };
        let mut reply = words(status, &text);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        reply
    }
}

fn meaning_of_fetch(e: &FetchError) -> (StatusCode, &'static str) {
    match e {
        FetchError::NotFound { .. } => (StatusCode::NOT_FOUND, NOTHING),
        FetchError::Throttled { .. } | FetchError::Unavailable { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "the origin does not answer")
        }
        FetchError::Changed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "the object changes all the time"),
        FetchError::Denied { .. } => (StatusCode::BAD_GATEWAY, "the origin denies access"),
        FetchError::Refused { .. } => (StatusCode::BAD_GATEWAY, "the origin refuses the request"),
    }
}

#[async_trait]
impl Answer for Files {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.route(request).await.unwrap_or_else(|failure| {
            let reply = failure.reply();
            match reply.status() {
                StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY => {
                    tracing::warn!(?failure, "a request failed");
                }
                _ => tracing::debug!(?failure, "a request failed"),
            }
            reply
        })
    }
}

impl Files {
    /// Answers from `cache`, and what that has not from `origin`. Whoever shows the token may write; without
    /// one nobody may.
    pub fn new(cache: Cache, origin: Option<Arc<OriginFiles>>, token: Option<Token>) -> Self {
        Self { cache, origin, token }
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let (head, body) = request.into_parts();
        if head.method == Method::OPTIONS && head.uri.path() == "*" {
            return Ok(allowed(reply::empty(StatusCode::NO_CONTENT)));
        }
        let Some(name) = head.uri.path().strip_prefix(PREFIX) else {
            return Ok(words(StatusCode::NOT_FOUND, "there is nothing but /files/<key>"));
        };
        let name: Vec<u8> = percent_encoding::percent_decode_str(name).collect();
        let key = Key::new(&name).map_err(|_| Failure::Bad("a key has 1 to 1024 bytes"))?;
        match head.method {
            Method::GET | Method::HEAD => self.read(&key, &head).await,
            Method::PUT => match token::refusal(self.token.as_ref(), &head.headers) {
                Some(refusal) => Ok(refusal),
                None => self.write(&key, &head, body).await,
            },
            Method::DELETE => match token::refusal(self.token.as_ref(), &head.headers) {
                Some(refusal) => Ok(refusal),
                None => self.remove(&key, &head.headers).await,
            },
            Method::OPTIONS => Ok(allowed(reply::empty(StatusCode::NO_CONTENT))),
            _ => Ok(allowed(words(StatusCode::METHOD_NOT_ALLOWED, METHODS))),
        }
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
