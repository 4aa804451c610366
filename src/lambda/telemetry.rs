//! [`Telemetry`]: what the sandbox tells of the runtime: above all, that an invocation is over.
use super::client::{self, Body, Client};
use super::local;
use crate::error::{Error, Result};
use crate::sync::Mutex;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// The name by which a sandbox reaches its own extensions.
const HOST: &str = "sandbox.localdomain";
/// Newest first: managed instances know only the first, older sandboxes only the second.
const SCHEMAS: [&str; 2] = ["2025-01-29", "2022-12-13"];
/// The shortest time that events may be gathered, and the smallest bounds that are allowed beside it.
const BUFFERING: (u64, u64, u64) = (25, 1000, 262_144);
/// No batch of events is larger than what we ask for, with room for what is around them.
const BATCH_MAX_BYTES: usize = 1 << 20;
/// So many invocations that are over are remembered until somebody asks.
const DONE_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Telemetry {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    done: VecDeque<String>,
    under_way: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    record: serde_json::Value,
}

impl Telemetry {
    /// Listens, and asks for the events of the platform. `None` if they are refused.
    pub(super) async fn subscribe(client: &Client, identifier: &str) -> Result<Option<Self>> {
        let failed = |e| Error::io("cannot listen for telemetry", e);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let shared: Arc<Shared> = Arc::default();
        let answers = shared.clone();
        tokio::spawn(local::serve(listener, "telemetry", move |request| {
            let shared = answers.clone();
            async move { shared.take(request).await }
        }));
        for schema in SCHEMAS {
            match client.call(subscription(identifier, schema, port)).await {
                Ok(reply) if reply.status() == StatusCode::OK => return Ok(Some(Self { shared })),
                Ok(reply) => {
                    let said = String::from_utf8_lossy(reply.body()).into_owned();
                    tracing::debug!(status = %reply.status(), said, schema, "telemetry is refused");
                }
                Err(error) => tracing::debug!(%error, "telemetry cannot be asked for"),
            }
        }
        Ok(None)
    }

    /// Waits until the runtime is done with an invocation.
    pub(super) async fn done(&self, id: &str) {
        self.until(|seen| seen.done.iter().any(|done| done == id)).await;
    }

    /// Waits until an invocation has ended since `before` and none is under way; how many have ended by then.
    pub(super) async fn quiet(&self) -> usize {
        self.until(|seen| !seen.done.is_empty() && seen.under_way.is_empty()).await;
        self.shared.seen.lock().done.drain(..).count()
    }

    async fn until(&self, holds: impl Fn(&Seen) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.shared.seen.lock()) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
impl Telemetry {
    /// That of nobody.
    pub(super) fn silent() -> Self {
        Self { shared: Arc::default() }
    }

    /// So many invocations are over.
    pub(super) fn over(&self, number: usize) {
        self.shared.seen.lock().done.extend((0..number).map(|n| n.to_string()));
        self.shared.changed.notify_waiters();
    }
}

fn subscription(identifier: &str, schema: &str, port: u16) -> Request<Body> {
    let (time, items, bytes) = BUFFERING;
    let body = serde_json::json!({
        "schemaVersion": schema,
        "types": ["platform"],
        "buffering": { "timeoutMs": time, "maxItems": items, "maxBytes": bytes },
        "destination": { "protocol": "HTTP", "URI": format!("http://{HOST}:{port}") },
    });
    let mut request = Request::new(client::bytes(body.to_string()));
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = hyper::Uri::from_static("/2022-07-01/telemetry");
    client::identify(request.headers_mut(), identifier);
    request
}

impl Shared {
    /// One batch of events.
    async fn take(&self, request: Request<Incoming>) -> Response<Body> {
        let whole = Limited::new(request.into_body(), BATCH_MAX_BYTES).collect().await;
        let events = whole.map(|whole| serde_json::from_slice::<Vec<Event>>(&whole.to_bytes()));
        match events {
            Ok(Ok(events)) => self.note(events),
            Ok(Err(error)) => tracing::warn!(%error, "a batch of telemetry cannot be understood"),
            Err(error) => tracing::warn!(%error, "a batch of telemetry broke off"),
        }
        Response::new(client::bytes(""))
    }

    fn note(&self, events: Vec<Event>) {
        let mut seen = self.seen.lock();
        for event in events {
            let Some(id) = event.record.get("requestId").and_then(|id| id.as_str()) else { continue };
            match event.kind.as_str() {
                "platform.start" => drop(seen.under_way.insert(id.to_owned())),
                "platform.runtimeDone" => {
                    seen.under_way.remove(id);
                    if seen.done.len() >= DONE_MAX {
                        seen.done.pop_front();
                    }
                    seen.done.push_back(id.to_owned());
                }
                _ => {}
            }
        }
        drop(seen);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use std::time::Duration;

    fn note(shared: &Shared, text: &str) {
        shared.note(serde_json::from_str(text).expect("events"));
    }

    #[tokio::test]
    async fn it_knows_what_is_done_and_when_it_is_quiet() {
        let shared: Arc<Shared> = Arc::default();
        let telemetry = Telemetry { shared: shared.clone() };
        let waits =
            async |what: &str| tokio::time::timeout(Duration::ZERO, telemetry.done(what)).await.is_err();
        assert!(waits("one").await);
        note(
            &shared,
            r#"[{"time":"x","type":"platform.start","record":{"requestId":"one","version":"$LATEST"}},
            {"type":"platform.start","record":{"requestId":"two"}},{"type":"function","record":"a line"},
            {"type":"platform.runtimeDone","record":{"requestId":"one","status":"success"}}]"#,
        );
        assert!(!waits("one").await);
        assert!(waits("two").await);
        assert!(tokio::time::timeout(Duration::ZERO, telemetry.quiet()).await.is_err());
        note(&shared, r#"[{"type":"platform.runtimeDone","record":{"requestId":"two","status":"timeout"}}]"#);
        assert_eq!(telemetry.quiet().await, 2);
        assert!(tokio::time::timeout(Duration::ZERO, telemetry.quiet()).await.is_err(), "told once");
    }
}
