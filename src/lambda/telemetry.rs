//! [`Telemetry`]: what the sandbox tells of the runtime: above all, that an invocation is over.
use super::client::{self, Body, Client};
use super::local;
use crate::error::{Error, Result};
use crate::sync::Mutex;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
/// So many invocations that are over are remembered: events may come twice, and in another order.
const OVER_MAX: usize = 1024;
/// No invocation may take longer. Of one that has, nobody will say that it is over.
const INVOCATION_MAX: Duration = Duration::from_secs(15 * 60);
/// The sandbox answers a subscription at once, or it is one that does not know of telemetry.
const ANSWER_MAX: Duration = Duration::from_secs(2);

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
    /// When each was heard of.
    under_way: BTreeMap<String, Instant>,
    /// The last ones that are over, the oldest first.
    over: VecDeque<String>,
    /// How many have ended since somebody asked.
    ended: usize,
}

impl Seen {
    fn is_over(&self, id: &str) -> bool {
        self.over.iter().any(|over| over == id)
    }

    fn begins(&mut self, id: &str) {
        self.under_way.retain(|_, since| since.elapsed() < INVOCATION_MAX);
        if !self.is_over(id) {
            self.under_way.insert(id.to_owned(), Instant::now());
        }
    }

    fn ends(&mut self, id: &str) {
        self.under_way.remove(id);
        if self.is_over(id) {
            return;
        }
        if self.over.len() >= OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back(id.to_owned());
        self.ended += 1;
    }
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
            let asked = client.call(subscription(identifier, schema, port));
            match tokio::time::timeout(ANSWER_MAX, asked).await {
                Ok(Ok(reply)) if reply.status() == StatusCode::OK => return Ok(Some(Self { shared })),
                Ok(Ok(reply)) => {
                    let said = String::from_utf8_lossy(reply.body()).into_owned();
                    tracing::debug!(status = %reply.status(), said, schema, "telemetry is refused");
                }
                Ok(Err(error)) => tracing::debug!(%error, "telemetry cannot be asked for"),
                Err(_) => {
                    tracing::debug!("telemetry was asked for, and nobody answers");
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Waits until the runtime is done with an invocation.
    pub(super) async fn done(&self, id: &str) {
        self.until(|seen| seen.is_over(id)).await;
    }

    /// Waits until an invocation has ended since this was asked last, and none is under way; how many have ended by then.
    pub(super) async fn quiet(&self) -> usize {
        self.until(|seen| seen.ended > 0 && seen.under_way.is_empty()).await;
        std::mem::take(&mut self.shared.seen.lock().ended)
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
        self.shared.seen.lock().ended += number;
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
                "platform.start" => seen.begins(id),
                "platform.runtimeDone" => seen.ends(id),
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
    const START: &str = r#"[{"type":"platform.start","record":{"requestId":"one"}}]"#;
    const DONE: &str = r#"[{"type":"platform.runtimeDone","record":{"requestId":"one"}}]"#;

    #[tokio::test]
    async fn what_is_told_again_or_too_late_counts_once() {
        for told in [[DONE, START, DONE], [START, DONE, START], [DONE, DONE, DONE]] {
            let telemetry = Telemetry::silent();
            for events in told {
                note(&telemetry.shared, events);
            }
            let ended = tokio::time::timeout(Duration::ZERO, telemetry.quiet()).await;
            assert_eq!(ended.ok(), Some(1), "{told:?}");
            telemetry.done("one").await;
        }
    }

    #[test]
    fn what_is_over_is_not_remembered_for_ever() {
        let mut seen = Seen::default();
        for n in 0..=OVER_MAX {
            seen.begins(&n.to_string());
            seen.ends(&n.to_string());
        }
        assert_eq!((seen.over.len(), seen.under_way.len(), seen.ended), (OVER_MAX, 0, OVER_MAX + 1));
    }

    #[tokio::test]
    async fn a_sandbox_that_does_not_answer_has_no_telemetry() {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let client = Client::new(&silent.local_addr().expect("bound").to_string()).expect("an address");
        let asked = Telemetry::subscribe(&client, "one");
        let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
        assert!(asked.expect("waited for").expect("listens").is_none());
    }
}
