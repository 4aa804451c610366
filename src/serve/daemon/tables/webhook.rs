//! [`Webhook`]: hints that tables have changed, by HTTP.
//!
//! `POST /tables/TABLE/refresh` is about one table; `POST /tables/refresh` about all, or about those to whose metadata
//! the objects belong that the body of a bucket's notification names.
use super::notification::objects;
use crate::config::TablesSettings;
use crate::error::Result;
use crate::serve::daemon::metrics::{Listening, Serving};
use crate::serve::http::{Answer, Body, Token, unauthorized, words};
use crate::serve::startup::StatusPipe;
use crate::tables::Lake;
use async_trait::async_trait;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// What services send as one notification has at most as many.
const BODY_MAX_BYTES: usize = 256 << 10;
/// The body of a hint comes within this time.
const BODY_TIME: Duration = Duration::from_secs(15);

/// An address that is held for hints.
pub(super) struct Webhook {
    listening: Listening,
    token: Option<Token>,
}

/// Hints that are taken.
pub(super) struct Taking(Serving);

impl Webhook {
    /// Takes the address of the settings, if they have one.
    pub fn begin(settings: &TablesSettings, runtime: &Runtime, status: &StatusPipe) -> Result<Option<Self>> {
        let Some(hints) = &settings.hints else { return Ok(None) };
        let listening = Listening::at(runtime, &hints.address)?;
        if hints.token.is_none() && !listening.address().ip().is_loopback() {
            status.notice(format!(
                "whoever reaches {} can have the catalogs asked once a second: --tables-hints-token keeps others out",
                listening.address()
            ));
        }
        Ok(Some(Self { listening, token: hints.token.as_deref().map(Token::new) }))
    }

    /// Where that is: a port of 0 has become one.
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// Takes hints.
    pub fn serve(self, runtime: &Runtime, lake: Arc<Lake>) -> Taking {
        Taking(self.listening.answer(runtime, Arc::new(Ear { lake, token: self.token })))
    }
}

impl Taking {
    /// Gives the address back.
    pub fn end(self, runtime: &Runtime) {
        self.0.end(runtime);
    }
}

/// Who listens.
struct Ear {
    lake: Arc<Lake>,
    token: Option<Token>,
}

#[async_trait]
impl Answer for Ear {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let reply = self.hear(request).await.unwrap_or_else(|refusal| refusal);
        if !reply.status().is_success() {
            self.lake.hints().refuse();
        }
        reply
    }
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    All,
    /// By one of its names.
    Table(String),
}

impl Ear {
    async fn hear(&self, request: Request<Incoming>) -> std::result::Result<Response<Body>, Response<Body>> {
        if self.token.as_ref().is_some_and(|token| !token.is_shown(request.headers())) {
            return Err(unauthorized("whoever hints must show the token"));
        }
        let nothing = "there is nothing but /tables/refresh and /tables/TABLE/refresh";
        let subject = subject(request.uri().path()).ok_or_else(|| words(StatusCode::NOT_FOUND, nothing))?;
        if request.method() != Method::POST {
            let mut reply = words(StatusCode::METHOD_NOT_ALLOWED, "a hint is a POST");
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return Err(reply);
        }
        let body = whole(request.into_body()).await?;
        match subject {
            Subject::Table(name) if self.lake.hint_table(&name) => {}
            Subject::Table(_) => return Err(words(StatusCode::NOT_FOUND, "no catalog has such a table")),
            Subject::All if body.is_empty() => self.lake.hint_all(),
            Subject::All => {
                let objects = objects(&body).ok_or_else(|| {
                    words(
                        StatusCode::BAD_REQUEST,
                        "the body is no notification of a bucket; without one it is about all tables",
                    )
                })?;
                self.lake.hint_objects(&objects);
            }
        }
        Ok(words(StatusCode::ACCEPTED, "the catalogs are asked"))
    }
}

fn subject(path: &str) -> Option<Subject> {
    let rest = path.strip_prefix("/tables/")?;
    if rest == "refresh" {
        return Some(Subject::All);
    }
    let name = rest.strip_suffix("/refresh").filter(|name| !name.is_empty())?;
    Some(Subject::Table(percent_decode_str(name).decode_utf8().ok()?.into_owned()))
}

async fn whole(body: Incoming) -> std::result::Result<Bytes, Response<Body>> {
    match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_MAX_BYTES).collect()).await {
        Err(_) => Err(words(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(words(StatusCode::PAYLOAD_TOO_LARGE, "a hint is not that long"))
        }
        Ok(Err(_)) => Err(words(StatusCode::BAD_REQUEST, "the body broke off")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_table_or_all() {
        let table = |name: &str| Some(Subject::Table(name.to_owned()));
        for (path, meant) in [
            ("/tables/refresh", Some(Subject::All)),
            ("/tables/db.t/refresh", table("db.t")),
            ("/tables/iceberg/db/t/refresh", table("iceberg/db/t")),
            ("/tables/iceberg%2Fdb%2Fa%20b/refresh", table("iceberg/db/a b")),
            ("/tables/refresh/refresh", table("refresh")),
            ("/tables//refresh", None),
            ("/tables/%ff/refresh", None),
            ("/tables/db.t", None),
            ("/metrics", None),
        ] {
            assert_eq!(subject(path), meant, "{path}");
        }
    }
}
