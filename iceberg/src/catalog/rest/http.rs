//! [`Http`]: GET and POST as a REST catalog wants them.
use crate::catalog::http::{Answer, Transport};
use crate::catalog::{CatalogError, Options, passed_on};
use crate::document::Object;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request};

/// What may help who is not let in.
const ADVICE: &str = "check the options 'credential' and 'token' of the catalog";

/// Names and values of a query, not encoded.
pub(super) type Query = Vec<(&'static str, String)>;

/// A client of one catalog.
pub(super) struct Http {
    transport: Transport,
    uri: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Http {
    pub fn new(uri: &str, options: &Options) -> Result<Self, CatalogError> {
        let mut headers = Vec::new();
        for (name, value) in options.iter() {
            let Some(header) = name.strip_prefix("header.") else { continue };
            let bad = || CatalogError::Refused {
                why: format!("option '{}' is not a header of HTTP", name.escape_debug()),
            };
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.push((header.parse().map_err(|_| bad())?, value));
        }
        Ok(Self { transport: Transport::new()?, uri: uri.to_owned(), headers })
    }

    /// A GET of a path below the catalog's URI.
    pub async fn get(
        &self,
        path: &str,
        query: &Query,
        headers: &[(&str, &str)],
        token: Option<&str>,
    ) -> Result<Answer, CatalogError> {
        let mut uri = format!("{}/{path}", self.uri);
        for (n, (name, value)) in query.iter().enumerate() {
            uri.push(if n == 0 { '?' } else { '&' });
            uri.push_str(&format!("{name}={}", segment(value)));
        }
        let mut request = Request::builder().method(Method::GET).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, secret(&format!("Bearer {token}"))?);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        self.send(request, Bytes::new()).await
    }

    /// A POST of a form; `uri` is a whole one, or a path below the catalog's.
    pub async fn post_form(
        &self,
        uri: &str,
        form: &[(&str, &str)],
        basic: Option<&str>,
    ) -> Result<Answer, CatalogError> {
        let uri = if uri.contains("://") { uri.to_owned() } else { format!("{}/{uri}", self.uri) };
        let body: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={}", segment(value))).collect();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, secret(basic)?);
        }
        self.send(request, body.join("&").into()).await
    }

    async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Answer, CatalogError> {
        // The error could hold what was put in.
        let request = request
            .body(Full::new(body))
            .map_err(|_| CatalogError::Refused { why: format!("cannot be asked: {}", self.uri) })?;
        self.transport.send(&self.uri, request).await
    }
}

/// The answer, if it is one; `what` was asked for.
pub(super) fn success(answer: Answer, what: &str) -> Result<Answer, CatalogError> {
    let why = format!("{what}: status {}{}", answer.status, message(&answer));
    match answer.status {
        200..=299 => Ok(answer),
        401 | 403 | 419 => Err(denied(&why)),
        404 if is_gone(&answer) => Err(CatalogError::NotFound { what: what.to_owned() }),
        // Who answers is no catalog, or not the one that has the table: a gateway with nobody behind it says so, too.
        404 | 408 | 429 | 500.. => Err(CatalogError::Unavailable { why }),
        _ => Err(CatalogError::Refused { why }),
    }
}

/// Whether it is the catalog that says so, in the words of the protocol, and of a table or a namespace: what is shown of
/// it is given up then.
fn is_gone(answer: &Answer) -> bool {
    let kind = || -> Option<String> { answer.object().ok()?.get::<Object>("error").ok()??.get("type").ok()? };
    let kind = kind().unwrap_or_default();
    let what = kind.strip_prefix("NoSuch").unwrap_or_default();
    ["Table", "Tabular", "View", "Namespace"].iter().any(|gone| what.starts_with(gone))
}

/// Who asks is not let in.
pub(super) fn denied(why: &str) -> CatalogError {
    CatalogError::Denied { why: format!("{why}; {ADVICE}") }
}

/// What the server says went wrong, by the protocol or by OAuth2.
fn message(answer: &Answer) -> String {
    let read = || -> Option<String> {
        let object = answer.object().ok()?;
        match object.get::<Object>("error") {
            Ok(error) => error?.get("message").ok()?,
            Err(_) => object.get("error_description").ok()?.or_else(|| object.get("error").ok().flatten()),
        }
    };
    let text = passed_on(&read().unwrap_or_default());
    if text.is_empty() { text } else { format!(": {text}") }
}

fn secret(value: &str) -> Result<HeaderValue, CatalogError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| CatalogError::Refused {
        why: "credentials hold characters that HTTP cannot carry".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A text as one segment of a path, or a value of a query.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
