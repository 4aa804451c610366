//! [`Transport`]: requests and answers over HTTP, bounded in time and size.
use super::CatalogError;
use crate::document::Object;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{HeaderMap, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// The largest answer.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// So long an answer may take, body and all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The connections to one catalog.
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Bytes,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    pub fn new() -> Result<Self, CatalogError> {
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
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Sends a request and waits for the whole answer. Errors name `place`, never what was sent.
    pub async fn send(&self, place: &str, request: Request<Full<Bytes>>) -> Result<Answer, CatalogError> {
        let away = |why: String| CatalogError::Unavailable { why: format!("{place}: {why}") };
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
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(answer) => answer,
            Err(_) => Err(away(format!("no answer in {PATIENCE:?}"))),
        }
    }
}

impl Answer {
    /// A header, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body, which must be an object.
    pub fn object(&self) -> Result<Object, CatalogError> {
        serde_json::from_slice(&self.body).map_err(|error| CatalogError::Refused {
            why: format!("answer is not what the protocol says: {error}"),
        })
    }
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
