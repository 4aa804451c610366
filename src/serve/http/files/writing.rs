//! PUT and DELETE, for those who show the token.
use super::{Failure, Files, described};
use crate::cache::{CacheError, FillOptions, Inserted, Key, Removed};
use crate::serve::http::content::Content;
use crate::serve::http::reply::{self, Body, words};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header;
use hyper::{Request, Response, StatusCode};
use std::time::Duration;

/// Of an upload nothing comes for so long: it is given up.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(30);

impl Files {
    pub(super) async fn write(
        &self,
        key: &Key,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
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

    pub(super) async fn remove(&self, key: &Key) -> Result<Response<Body>, Failure> {
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
