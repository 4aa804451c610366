//! [`Http`]: GET and POST, bounded in time and size.
use crate::catalog::{CatalogError, Options};
use crate::document::Object;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// The largest answer. With `snapshots=refs` tables are small.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// So long an answer may take, body and all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of what a server says of an error, so much is passed on.
const MESSAGE_MAX_CHARS: usize = 500;

/// Names and values of a query, not encoded.
pub(super) type Query = Vec<(&'static str, String)>;

/// A client of one catalog.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    body: Bytes,
}

impl Http {
    pub fn new(uri: &str, options: &Options) -> Result<Self, CatalogError> {
        let fault = |why: String| CatalogError::Refused { why };
        let tls =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()
                .map_err(|error| fault(error.to_string()))?;
        let tls = hyper_rustls::ConfigBuilderExt::with_native_roots(tls)
            .map_err(|error| fault(format!("the certificates of this machine cannot be read: {error}")))?
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let mut headers = Vec::new();
        for (name, value) in options.iter() {
            let Some(header) = name.strip_prefix("header.") else { continue };
            let bad = || fault(format!("option '{}' is not a header of HTTP", name.escape_debug()));
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.push((header.parse().map_err(|_| bad())?, value));
        }
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri: uri.to_owned(),
            headers,
        })
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
        let away = |why: String| CatalogError::Unavailable { why: format!("{}: {why}", self.uri) };
        let all = async {
            let response = self.client.request(request).await.map_err(|error| away(with_causes(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    CatalogError::Refused { why: format!("answer has more than {ANSWER_MAX_BYTES} bytes") }
                } else {
                    away(error.to_string())
                }
            })?;
            let etag = head.headers.get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            Ok(Answer { status: head.status.as_u16(), etag, body: body.to_bytes() })
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(answer) => answer,
            Err(_) => Err(away(format!("no answer in {PATIENCE:?}"))),
        }
    }
}

impl Answer {
    /// The answer, if it is one; `what` was asked for.
    pub fn success(self, what: &str) -> Result<Self, CatalogError> {
        let why = format!("{what}: status {}{}", self.status, self.message());
        match self.status {
            200..=299 => Ok(self),
            401 | 403 | 419 => Err(CatalogError::Denied { why }),
            404 => Err(CatalogError::NotFound { what: what.to_owned() }),
            408 | 429 | 500.. => Err(CatalogError::Unavailable { why }),
            _ => Err(CatalogError::Refused { why }),
        }
    }

    /// The body, which must be an object.
    pub fn object(&self) -> Result<Object, CatalogError> {
        serde_json::from_slice(&self.body).map_err(|error| CatalogError::Refused {
            why: format!("answer is not what the protocol says: {error}"),
        })
    }

    /// What the server says went wrong, by the protocol or by OAuth2.
    fn message(&self) -> String {
        let read = || -> Option<String> {
            let object: Object = serde_json::from_slice(&self.body).ok()?;
            match object.get::<Object>("error") {
                Ok(error) => error?.get("message").ok()?,
                Err(_) => {
                    object.get("error_description").ok()?.or_else(|| object.get("error").ok().flatten())
                }
            }
        };
        let text: String = read().unwrap_or_default().chars().take(MESSAGE_MAX_CHARS).collect();
        if text.is_empty() { text } else { format!(": {}", text.escape_debug()) }
    }
}

fn secret(value: &str) -> Result<HeaderValue, CatalogError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| CatalogError::Refused {
        why: "credentials hold characters that HTTP cannot carry".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
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
