//! What we say to the API ourselves, and by when.
use super::client::{self, Body};
use crate::error::Error;
use hyper::{Request, header};
use std::time::{Duration, Instant, SystemTime};

/// The type of the error that a caller gets in place of an answer whose state is not saved.
pub(super) const NOT_SAVED: &str = "Icecache.NotSaved";
/// The type of the error that a caller gets whose sandbox has no state that anybody may work on.
pub(super) const NOT_RESTORED: &str = "Icecache.NotRestored";
/// A save ends so long before the invocation must, so that there is time to say how it went.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// When an invocation must be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// In milliseconds since 1970, as the API has it.
    pub(super) fn at(epoch_ms: u64) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(Instant::now() + Duration::from_millis(epoch_ms).saturating_sub(now))
    }

    /// When to stop saving.
    pub(super) fn limit(self) -> Instant {
        self.0.checked_sub(ANSWER_TIME).unwrap_or(self.0)
    }

    /// When to stop waiting for what an invocation needs before it can begin: half of its time is left for itself.
    pub(super) fn latest_begin(self) -> Instant {
        let now = Instant::now();
        now + self.limit().saturating_duration_since(now) / 2
    }

    /// The end itself.
    pub(super) fn instant(self) -> Instant {
        self.0
    }
}

/// The request that makes an invocation fail because its state is not saved.
pub(super) fn not_saved(id: &str, why: &Error) -> Request<Body> {
    let message = format!("the state of this invocation is not saved, the next save tries again: {why}");
    failure(id, NOT_SAVED, &message)
}

/// The same because the state cannot be had; nothing was done.
pub(super) fn not_restored(id: &str, why: &Error) -> Request<Body> {
    let message = format!(
        "the newest state could not be brought, and this invocation was not begun, another sandbox takes over: {why}"
    );
    failure(id, NOT_RESTORED, &message)
}

fn failure(id: &str, kind: &'static str, message: &str) -> Request<Body> {
    let body = serde_json::json!({ "errorMessage": message, "errorType": kind, "stackTrace": [] });
    let mut request = Request::new(client::bytes(body.to_string()));
    *request.method_mut() = hyper::Method::POST;
    if let Ok(uri) = format!("/2018-06-01/runtime/invocation/{id}/error").parse() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert("lambda-runtime-function-error-type", header::HeaderValue::from_static(kind));
    request
}
