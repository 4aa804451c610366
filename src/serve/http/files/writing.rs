//! PUT and DELETE, for those who show the token.
use super::{Failure, Files, NOTHING, described};
use crate::cache::{CacheError, FillOptions, Inserted, Key, Removed};
use crate::serve::http::conditions::{self, Validators};
use crate::serve::http::content::Content;
use crate::serve::http::reply::{self, Body, words};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, Version};
use std::time::Duration;

/// Of an upload nothing comes for so long: it is given up.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

impl Files {
    pub(super) async fn write(
        &self,
        key: &Key,
        head: &Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Failure> {
        if let Some(refusal) = refusal(head) {
            return Ok(refusal);
        }
        let headers = &head.headers;
        let size = headers.get(header::CONTENT_LENGTH);
        let size = size.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let options = FillOptions { size, filler: "http".into() };
        self.certain().await?; // a key that is there is never overwritten
        if conditions::is_conditional(headers) {
            let current = self.current(key).await?.map(|content| content.validators());
            if conditions::forbid(headers, current.as_ref()) {
                return Ok(unmet(current.as_ref()));
            }
        }
        let body = futures::stream::try_unfold(body, |mut body| async move {
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
            Ok(Inserted::There(file)) => {
                let there = Content::File(file).validators();
                match conditions::forbid(headers, Some(&there)) {
                    true => unmet(Some(&there)),
                    false => {
                        let text = "the key is there already; delete it first";
                        described(words(StatusCode::CONFLICT, text), &there)
                    }
                }
            }
            Err(CacheError::Deleted) => words(StatusCode::CONFLICT, "the key was deleted meanwhile"),
            Ok(Inserted::Filling(_)) if conditions::forbid(headers, Some(&Validators::default())) => {
                unmet(None)
            }
            Ok(Inserted::Filling(_)) => {
                words(StatusCode::CONFLICT, "the key is being filled by somebody else")
            }
            Err(e @ CacheError::NotAdmitted { .. }) => words(StatusCode::PAYLOAD_TOO_LARGE, &e.to_string()),
            Err(e) if e.is_full() => {
                words(StatusCode::INSUFFICIENT_STORAGE, "there is no room in the cache for it")
            }
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

    /// What whoever reads the key would get.
    async fn current(&self, key: &Key) -> Result<Option<Content>, Failure> {
        match self.find(key).await {
            Err(Failure::Bad(_)) => Ok(None), // no origin has such a key
            found => found,
        }
    }

    pub(super) async fn remove(&self, key: &Key, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        if conditions::is_conditional(headers) {
            return self.remove_if(key, headers).await;
        }
        let mut removed = self.cache.remove(key).await;
        if removed == Removed::Absent {
            self.certain().await?;
            removed = self.cache.remove(key).await;
        }
        Ok(self.removed(removed).await)
    }

    /// Takes out what the conditions were judged by, and nothing that has its key by then.
    async fn remove_if(&self, key: &Key, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        self.certain().await?;
        let current = self.current(key).await?;
        let validators = current.as_ref().map(Content::validators);
        if conditions::forbid(headers, validators.as_ref()) {
            return Ok(unmet(validators.as_ref()));
        }
        let removed = match current {
            Some(Content::File(file)) => match self.cache.remove_file(&file).await {
                Removed::Absent => return Ok(unmet(None)),
                removed => removed,
            },
            Some(Content::Filling(_)) => self.cache.remove(key).await,
            Some(Content::Object(..)) | None => Removed::Absent,
        };
        Ok(self.removed(removed).await)
    }

    async fn removed(&self, removed: Removed) -> Response<Body> {
        self.written_down().await;
        match removed {
            Removed::Absent => words(StatusCode::NOT_FOUND, NOTHING),
            _ => reply::empty(StatusCode::NO_CONTENT),
        }
    }
}

/// What is said where the body is not what the key is to have from then on.
fn refusal(head: &Parts) -> Option<Response<Body>> {
    let has = |name| head.headers.contains_key(name);
    if has(header::CONTENT_RANGE) {
        // RFC 9110, section 14.5: who means a part must not make it the whole.
        return Some(words(StatusCode::BAD_REQUEST, "a part of a file cannot be put, only all of it"));
    }
    if has(header::CONTENT_ENCODING) {
        // Section 8.4: forgotten, it would make the bytes something else.
        return Some(words(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "how a file is encoded is not kept: put it as it is",
        ));
    }
    if head.version < Version::HTTP_11 && !has(header::CONTENT_LENGTH) {
        // RFC 1945, section 8.3: its end cannot be told from a connection that broke off.
        return Some(words(StatusCode::LENGTH_REQUIRED, "an upload by HTTP/1.0 has a Content-Length"));
    }
    None
}

/// What is there is not what whoever writes has in mind.
fn unmet(current: Option<&Validators>) -> Response<Body> {
    let reply = words(StatusCode::PRECONDITION_FAILED, "what is there is not what the request expects");
    match current {
        Some(current) => described(reply, current),
        None => reply,
    }
}
