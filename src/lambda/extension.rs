//! [`Extension`]: a process beside the runtime, which the sandbox tells when an invocation begins and when it ends.
//!
//! An invocation is over when telemetry says so; then what it changed is saved, and only then the next event is asked
//! for: the sandbox is frozen when everybody has done that, so no work is left in the ice. Where telemetry is refused,
//! the next invocation says that the one before it was over.
use super::client::{self, Body, Client};
use super::keeper::{Keeper, When};
use super::reply::Deadline;
use super::telemetry::Telemetry;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// The name we register by: that of our file in `/opt/extensions`.
pub const NAME: &str = "icecache";
/// Where invocations run in parallel and nobody says that one is over, it is saved so often.
const UNTOLD_EVERY: Duration = Duration::from_secs(10);
/// A sandbox that ends gives us less than that.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);
/// A runtime is started when all extensions have registered, and a start has ten seconds in all.
const START_TIME: Duration = Duration::from_secs(10);
/// What is said if no `exec` has come for the directory by then.
const NOBODY: &str = "nothing is kept: AWS_LAMBDA_EXEC_WRAPPER says that icecache starts the runtime, and no `icecache exec` \
                      has asked for the directory. This runtime does not heed the variable (provided.* does not, an image may \
                      not): have its bootstrap or entry point run `icecache exec -- COMMAND`, or leave the variable out, \
                      and this extension keeps the directory";
/// So long the end of the sandbox may have to wait until layers are merged.
const TIDY_TIME: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Extension {
    client: Client,
    identifier: String,
    /// Whether invocations are told; not where they run in parallel.
    invoked: bool,
}

/// Why an extension ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// As the sandbox says it: `spindown`, `timeout`, `failure` or another word.
    pub reason: String,
}

/// An event of the sandbox.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_type: String,
    deadline_ms: Option<u64>,
    request_id: Option<String>,
    shutdown_reason: Option<String>,
}

impl Event {
    /// The last one: why it ends, and when.
    fn end(self) -> (String, Option<Deadline>) {
        (self.shutdown_reason.unwrap_or_default(), self.deadline_ms.map(Deadline::at))
    }
}

impl Extension {
    /// Registers at the API at `api` (`host:port`), for invocations if they are told, else for the end alone.
    /// `passive`: for the end alone in any case.
    pub async fn register(api: &str, passive: bool) -> Result<Self> {
        let client = Client::new(api)?;
        let all: &[&str] = &["INVOKE", "SHUTDOWN"];
        let end: &[&str] = &["SHUTDOWN"];
        let mut reply = client.call(registration(if passive { end } else { all })).await?;
        let mut invoked = !passive;
        if invoked && reply.status() == StatusCode::FORBIDDEN {
            // Managed instances: invocations run in parallel, so none of them begins for us.
            (reply, invoked) = (client.call(registration(end)).await?, false);
        }
        let identifier = reply.headers().get("lambda-extension-identifier").and_then(|id| id.to_str().ok());
        match identifier {
            Some(identifier) if reply.status().is_success() => {
                let identifier = identifier.to_owned();
                Ok(Self { client, identifier, invoked })
            }
            _ => Err(refused("the extension was not registered", &reply)),
        }
    }

    /// Waits for the end without doing anything.
    pub async fn wait(&self) -> Result<Shutdown> {
        loop {
            let event = self.next().await?;
            if event.event_type == "SHUTDOWN" {
                return Ok(Shutdown { reason: event.shutdown_reason.unwrap_or_default() });
            }
        }
    }

    /// The same beside an `exec` that is to start the runtime, and of which `has_come` tells: says so if there is none.
    pub async fn stand_by(&self, has_come: watch::Receiver<bool>) -> Result<Shutdown> {
        let end = self.wait();
        tokio::pin!(end);
        let mut comes = has_come.clone();
        let in_time = tokio::time::timeout(START_TIME, comes.wait_for(|has_come| *has_come));
        tokio::select! {
            in_time = in_time => {
                if in_time.is_err() {
                    tracing::error!("{NOBODY}");
                }
                end.await
            }
            ended = &mut end => {
                if !*has_come.borrow() {
                    tracing::error!("{NOBODY}");
                }
                ended
            }
        }
    }

    /// Has `keeper` save at the end of invocations, until the sandbox ends.
    pub async fn run(&self, keeper: &Arc<Keeper>) -> Result<Shutdown> {
        let telemetry = Telemetry::subscribe(&self.client, &self.identifier).await?;
        if telemetry.is_none() {
            tracing::warn!(
                "telemetry is refused: an invocation is saved when the next one begins, or at the end"
            );
        }
        let (reason, deadline) = match (self.invoked, &telemetry) {
            (true, Some(telemetry)) => self.told(keeper, telemetry).await?,
            (true, None) => self.untold(keeper).await?,
            (false, telemetry) => {
                let every = match keeper.when() {
                    When::Every(time) => time,
                    _ => UNTOLD_EVERY,
                };
                self.parallel(keeper, telemetry.as_ref(), every).await?
            }
        };
        let latest = Instant::now() + SHUTDOWN_TIME;
        let limit = deadline.map_or(latest, |deadline| deadline.limit().min(latest));
        if let Err(error) = keeper.save(Some(limit)).await {
            tracing::error!(%error, "the sandbox ends, and what changed is not saved");
        }
        Ok(Shutdown { reason })
    }

    /// Each invocation is saved when it is over.
    async fn told(&self, keeper: &Arc<Keeper>, telemetry: &Telemetry) -> Result<(String, Option<Deadline>)> {
        loop {
            let event = self.next().await?;
            if event.event_type == "SHUTDOWN" {
                return Ok(event.end());
            }
            let deadline = event.deadline_ms.map(Deadline::at);
            let Some(id) = event.request_id else { continue };
            let over = telemetry.done(&id);
            match deadline {
                // A function that takes all of its time is ended by the sandbox, and we with it.
                Some(deadline) => {
                    let _late = tokio::time::timeout_at(deadline.instant().into(), over).await;
                }
                None => over.await,
            }
            if keeper.ended() {
                let limit = deadline.map(Deadline::limit);
                settle(keeper, limit).await?;
            }
        }
    }

    /// Each invocation is saved when the next one begins.
    async fn untold(&self, keeper: &Arc<Keeper>) -> Result<(String, Option<Deadline>)> {
        let mut any = false;
        loop {
            let event = self.next().await?;
            if event.event_type == "SHUTDOWN" {
                return Ok(event.end());
            }
            let deadline = event.deadline_ms.map(Deadline::at);
            if std::mem::replace(&mut any, true) && keeper.ended() {
                let limit = deadline.map(Deadline::limit);
                settle(keeper, limit).await?;
            }
        }
    }

    /// Invocations run in parallel: it is saved when none does, or from time to time, however often none does.
    async fn parallel(
        &self,
        keeper: &Arc<Keeper>,
        telemetry: Option<&Telemetry>,
        every: Duration,
    ) -> Result<(String, Option<Deadline>)> {
        let end = self.next();
        tokio::pin!(end);
        let mut latest = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        latest.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let quiet = async {
                match telemetry {
                    Some(telemetry) => telemetry.quiet().await,
                    None => std::future::pending().await,
                }
            };
            let due = tokio::select! {
                event = &mut end => return event.map(Event::end),
                ended = quiet => (0..ended).filter(|_| keeper.ended()).count() > 0,
                _ = latest.tick() => true,
            };
            if due {
                // A task of its own: it keeps its turn when the end is heard meanwhile, and the last save comes after it.
                let saving = Arc::clone(keeper);
                let saving = tokio::spawn(async move { save_between(&saving).await });
                tokio::select! {
                    event = &mut end => return event.map(Event::end),
                    _saved = saving => {}
                }
            }
        }
    }

    async fn next(&self) -> Result<Event> {
        let mut request = Request::new(client::bytes(""));
        *request.uri_mut() = hyper::Uri::from_static("/2020-01-01/extension/event/next");
        client::identify(request.headers_mut(), &self.identifier);
        let reply = self.client.call(request).await?;
        if !reply.status().is_success() {
            return Err(refused("the next event was refused", &reply));
        }
        serde_json::from_slice(reply.body()).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "an event of the sandbox cannot be understood").with_source(e)
        })
    }

    /// Tells the sandbox that we cannot go on, and why.
    pub async fn fail(&self, error: &Error) {
        let body = serde_json::json!({ "errorMessage": error.to_string(), "errorType": "Icecache.Failed", "stackTrace": [] });
        let mut request = Request::new(client::bytes(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = hyper::Uri::from_static("/2020-01-01/extension/exit/error");
        client::identify(request.headers_mut(), &self.identifier);
        let kind = HeaderValue::from_static("Icecache.Failed");
        request.headers_mut().insert("lambda-extension-function-error-type", kind);
        if let Err(error) = self.client.call(request).await {
            tracing::warn!(%error, "the sandbox did not hear of a failure");
        }
    }
}

fn registration(events: &[&str]) -> Request<Body> {
    let body = serde_json::json!({ "events": events });
    let mut request = Request::new(client::bytes(body.to_string()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("/2020-01-01/extension/register");
    request.headers_mut().insert("lambda-extension-name", HeaderValue::from_static(NAME));
    request
}

fn refused(what: &str, reply: &Response<Bytes>) -> Error {
    let said = String::from_utf8_lossy(reply.body()).into_owned();
    let message = format!("{what}: {}: {}", reply.status(), said.escape_debug());
    Error::new(ErrorKind::Denied, message)
}

/// Saves, and puts in order what that leaves. Fails where nothing will ever be saved.
async fn settle(keeper: &Keeper, limit: Option<Instant>) -> Result<()> {
    let saved = keeper.save(limit).await;
    if let Err(error) = &saved
        && keeper.is_torn()
    {
        return Err(Error::new(error.kind(), error.to_string()));
    }
    note(saved);
    keeper.tidy(limit).await;
    Ok(())
}

/// Saves between invocations that nobody counts, and puts in order what that leaves.
async fn save_between(keeper: &Keeper) {
    note(keeper.save(None).await);
    keeper.tidy(Some(Instant::now() + TIDY_TIME)).await;
}

fn note(saved: Result<(), Arc<Error>>) {
    if let Err(error) = saved {
        tracing::error!(%error, "what changed is not saved; the next save tries again");
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::lambda::keeper::Keep;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    /// Tells of each save.
    struct Told(UnboundedSender<()>);

    impl Keep for Told {
        fn save(&self, _: Option<Instant>) -> Result<()> {
            let _over = self.0.send(());
            Ok(())
        }

        fn renew(&self, _: Option<Instant>) -> Result<()> {
            Ok(())
        }

        fn is_torn(&self) -> bool {
            false
        }
    }

    /// What is saved where invocations run in parallel, in a sandbox that never ends.
    async fn parallel(
        when: When,
        every: Duration,
    ) -> (Arc<Telemetry>, UnboundedReceiver<()>, tokio::task::JoinHandle<()>) {
        let api = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = api.local_addr().expect("bound").to_string();
        let (saves, saved) = unbounded_channel();
        let telemetry = Arc::new(Telemetry::silent());
        let told = telemetry.clone();
        let goes_on = tokio::spawn(async move {
            let _answers_nobody = api;
            let client = Client::new(&address).expect("an address");
            let extension = Extension { client, identifier: "one".into(), invoked: false };
            let keeper = Arc::new(Keeper::new(Arc::new(Told(saves)), when));
            let _never = extension.parallel(&keeper, Some(&told), every).await;
        });
        (telemetry, saved, goes_on)
    }

    /// LAMBDA: "and every 10 seconds ... in any case". Each quiet is seen long before that, and none of them is the one to save.
    #[tokio::test]
    async fn invocations_that_come_and_go_put_no_save_off() {
        let (telemetry, mut saved, goes_on) =
            parallel(When::Count(u64::MAX), Duration::from_millis(50)).await;
        let come_and_go = tokio::spawn(async move {
            loop {
                telemetry.over(1);
                tokio::time::sleep(Duration::from_millis(1)).await; // so often they end
            }
        });
        let late = tokio::time::timeout(Duration::from_secs(60), saved.recv()).await;
        late.expect("put off for ever").expect("saves");
        come_and_go.abort();
        goes_on.abort();
    }

    #[tokio::test]
    async fn invocations_are_counted_not_the_times_when_there_is_none() {
        let (telemetry, mut saved, goes_on) = parallel(When::Count(3), Duration::from_secs(3600)).await;
        telemetry.over(3); // they ran beside each other
        let late = tokio::time::timeout(Duration::from_secs(60), saved.recv()).await;
        late.expect("taken for one").expect("saves");
        goes_on.abort();
    }
}
