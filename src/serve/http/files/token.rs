//! [`Token`]: what writers must show.
use crate::serve::http::reply::{Body, words};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

/// See the module. Compared by digest, so that the time it takes tells nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(blake3::Hash);

impl Token {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether a request shows it.
    pub fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        shown.is_some_and(|(scheme, text)| {
            scheme.eq_ignore_ascii_case("bearer") && Self::new(text.trim()) == *self
        })
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What a writer is told who may not: without a token nobody may.
pub fn refusal(token: Option<&Token>, headers: &HeaderMap) -> Option<Response<Body>> {
    let Some(token) = token else {
        return Some(words(StatusCode::FORBIDDEN, "nothing may be written here (serve with --token-file)"));
    };
    (!token.is_shown(headers)).then(|| unauthorized("whoever writes must show the token"))
}

/// What those are told who have not shown the token.
pub fn unauthorized(line: &str) -> Response<Body> {
    let mut reply = words(StatusCode::UNAUTHORIZED, line);
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    reply
}
