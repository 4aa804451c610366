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
