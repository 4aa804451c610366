//! [`Proxy`]: between the runtime and the Runtime API, so that the end of each invocation is seen.
//!
//! Everything is handed on as it is, in both directions and as it comes. Only time passes: before an answer is handed
//! on, or before the runtime asks for the next invocation, after which the sandbox may be frozen.
use super::client::{self, Body, Client, Connection, strip};
use super::environment::Function;
use super::keeper::{Keeper, When};
use super::local;
use super::reply::{self, Deadline};
use crate::error::{Error, Result};
use crate::sync::Mutex;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Invocations whose deadlines are known at once.
const INVOCATIONS_MAX: usize = 1024;
/// What is newer than a snapshot is waited for so long where no deadline is told: a resume has ten seconds in all.
const RESUME_TIME: Duration = Duration::from_secs(5);
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";

/// See the module. It ends with the runtime that it was started on.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    keeper: Arc<Keeper>,
    deadlines: Mutex<HashMap<String, Deadline>>,
    /// What the sandbox may not rest before.
    rest: watch::Sender<Rest>,
    /// Something was saved, by an invocation that has until then.
    saved: Mutex<Option<Option<Deadline>>>,
    /// The sandbox was, or will be, resumed from a snapshot, or was started when the remote could not be read: and nobody
    /// has looked since what others have saved.
    resumed: AtomicBool,
}

/// A sandbox rests when all of its workers wait for an invocation. So it is enough that one of them does not ask for the
/// next one while a save goes on: the others may.
#[derive(Debug, Default)]
struct Rest {
    /// Saves that are under way while nobody waits for an answer.
    saves: usize,
    /// A worker is withheld.
    withheld: bool,
}

/// The worker that is withheld, until this is gone.
#[derive(Debug)]
struct Withheld<'a>(Option<&'a watch::Sender<Rest>>);

impl<'a> Withheld<'a> {
    /// `None`: another one is.
    fn begin(rest: &'a watch::Sender<Rest>) -> Option<Self> {
        let is_first = rest.send_if_modified(|rest| !std::mem::replace(&mut rest.withheld, true));
        is_first.then(|| Self(Some(rest))) // not made in vain: its end would be that of the other one
    }

    /// Ends it unless a save is under way, of which nobody would know then.
    fn end(&mut self) -> bool {
        let Some(rest) = self.0 else { return true };
        let ended = rest.send_if_modified(|rest| {
            rest.withheld = rest.saves > 0;
            !rest.withheld
        });
        if ended {
            self.0 = None;
        }
        ended
    }
}

impl Drop for Withheld<'_> {
    fn drop(&mut self) {
        if let Some(rest) = self.0 {
            rest.send_modify(|rest| rest.withheld = false);
        }
    }
}

/// A save that is counted.
struct Saving(Arc<Shared>);

impl Drop for Saving {
    fn drop(&mut self) {
        self.0.rest.send_modify(|rest| rest.saves -= 1);
    }
}

/// What a request means.
#[derive(Debug, PartialEq, Eq)]
enum Call<'a> {
    Next,
    Response(&'a str),
    Error(&'a str),
    /// The start is over: a snapshot may be taken. Answered when the sandbox was resumed from it.
    Resume,
    Other,
}

impl<'a> Call<'a> {
    fn of(method: &Method, path: &'a str) -> Self {
        let Some((_version, rest)) = path.trim_start_matches('/').split_once("/runtime/") else {
            return Self::Other;
        };
        let Some(rest) = rest.strip_prefix("invocation/") else {
            return if (method, rest) == (&Method::GET, "restore/next") { Self::Resume } else { Self::Other };
        };
        match (method, rest.split_once('/')) {
            (&Method::GET, None) if rest == "next" => Self::Next,
            (&Method::POST, Some((id, "response"))) => Self::Response(id),
            (&Method::POST, Some((id, "error"))) => Self::Error(id),
            _ => Self::Other,
        }
    }
}

impl Proxy {
    /// Listens on a port of the loopback device, and talks to the API of `function`. Call it on a tokio runtime.
    pub async fn start(function: &Function, keeper: Arc<Keeper>) -> Result<Self> {
        let failed = |e| Error::io("cannot listen for the runtime of the function", e);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (deadlines, rest, saved) = (Mutex::default(), watch::Sender::default(), Mutex::default());
        let (client, resumed) = (Client::new(&function.api)?, AtomicBool::new(function.resumes));
        let shared = Arc::new(Shared { client, keeper, deadlines, rest, saved, resumed });
        let answers = shared.clone();
        tokio::spawn(local::serve(listener, "the runtime", move |request| {
            let shared = answers.clone();
            async move { shared.answer(request).await }
        }));
        Ok(Self { address, shared })
    }

    /// Where the runtime finds it: the value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The runtime has ended: waits for the saves that are under way.
    pub async fn finish(&self) {
        self.shared.keeper.tidy_no_more();
        self.shared.saved_all().await;
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let answered = match Call::of(request.method(), &path) {
            Call::Next => self.next(request).await,
            Call::Response(id) => self.response(id, request).await,
            Call::Error(id) => self.error(id, request).await,
            Call::Resume => self.resume(request).await,
            Call::Other => self.forward(request.map(Incoming::boxed_unsync)).await,
        };
        answered.unwrap_or_else(|error| {
            tracing::error!(%error, %path, "a request of the runtime could not be handed on");
            let mut reply = Response::new(client::bytes(error.to_string()));
            *reply.status_mut() = StatusCode::BAD_GATEWAY;
            reply
        })
    }

    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>> {
        self.forward_over(None, request).await
    }

    async fn forward_over(
        &self,
        connection: Option<Connection>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>> {
        strip(request.headers_mut());
        let mut response = self.client.send_over(connection, request).await?;
        strip(response.headers_mut());
        Ok(response.map(Incoming::boxed_unsync))
    }

    async fn next(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        self.settle().await;
        if self.keeper.is_torn() {
            return Ok(ending("the directory cannot be saved any more: this sandbox ends"));
        }
        let response = self.forward(request.map(Incoming::boxed_unsync)).await?;
        let invocation = invocation(response.headers()).map(|(id, deadline)| (id.to_owned(), deadline));
        let latest = invocation.as_ref().map(|(_, deadline)| deadline.latest_begin());
        let latest = latest.unwrap_or_else(|| Instant::now() + RESUME_TIME);
        if let Err(why) = self.renew(latest).await {
            if let Some((id, _)) = invocation {
                self.forward(reply::not_restored(&id, &why)).await?;
            }
            return Ok(ending(&why.to_string()));
        }
        if let Some((id, deadline)) = invocation {
            let mut deadlines = self.deadlines.lock();
            if deadlines.len() >= INVOCATIONS_MAX {
                deadlines.clear(); // they never ended
            }
            deadlines.insert(id, deadline);
        }
        Ok(response)
    }

    /// What is under way must not be in the snapshot; what is resumed from it must not work on a state of that day.
    async fn resume(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        self.settle().await;
        self.saved_all().await; // whichever worker asks
        let response = self.forward(request.map(Incoming::boxed_unsync)).await?;
        self.resumed.store(true, Ordering::Release);
        let renewed = self.renew(Instant::now() + RESUME_TIME).await;
        Ok(renewed.map_or_else(|why| ending(&why.to_string()), |()| response))
    }

    /// After a snapshot, before anything is done: brings what others have saved, if that can be had by `latest`. If not
    /// the next invocation tries again; until then nothing is overwritten, since what is saved is not put on a version that
    /// it was not made from. Fails when files of the newer version are there, but not all, or when it cannot come beneath
    /// files that are open: then this sandbox ends.
    async fn renew(&self, latest: Instant) -> Result<()> {
        if !self.resumed.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.keeper.renew(latest).await {
            Ok(()) => self.resumed.store(false, Ordering::Release),
            Err(error) if self.keeper.is_torn() => {
                tracing::error!(%error, "the newest version could not be brought, or in part only, and nobody may work on what is here: this sandbox ends");
                return Err(error);
            }
            Err(error) => {
                tracing::error!(%error, "the newest version cannot be had: working on what is here, and nothing is overwritten");
            }
        }
        Ok(())
    }

    /// Before the next invocation is asked for: waits for saves that are under way, and puts in order what they left.
    async fn settle(&self) {
        let Some(mut withheld) = Withheld::begin(&self.rest) else { return };
        loop {
            self.saved_all().await;
            // The answers have been handed on: only the time is left that the invocation has not used.
            let saved = self.saved.lock().take();
            if let Some(deadline) = saved {
                self.keeper.tidy(deadline.map(Deadline::limit)).await;
            }
            if withheld.end() {
                return;
            }
        }
    }

    /// Waits until no save is under way that nobody waits for.
    async fn saved_all(&self) {
        let mut rest = self.rest.subscribe();
        let _it_is_ours = rest.wait_for(|rest| rest.saves == 0).await;
    }

    async fn response(self: &Arc<Self>, id: &str, request: Request<Incoming>) -> Result<Response<Body>> {
        let deadline = self.deadlines.lock().remove(id);
        if self.keeper.when() != When::BeforeResponse {
            let answered = self.forward(request.map(Incoming::boxed_unsync)).await;
            self.save_later(deadline);
            return answered;
        }
        self.keeper.ended();
        if request.headers().get(RESPONSE_MODE).is_some_and(|mode| mode == "streaming") {
            return self.stream(request, deadline).await;
        }
        // Nobody is frozen before the answer is there.
        let (saved, connection) = tokio::join!(self.save(deadline), self.client.connect());
        let answer = match saved {
            Ok(()) => request.map(Incoming::boxed_unsync),
            Err(why) => {
                swallow(request.into_body()).await;
                reply::not_saved(id, &why)
            }
        };
        self.forward_over(connection.ok(), answer).await
    }

    /// The handler has failed. What it wrote before is state all the same.
    async fn error(self: &Arc<Self>, id: &str, request: Request<Incoming>) -> Result<Response<Body>> {
        let deadline = self.deadlines.lock().remove(id);
        if self.keeper.when() == When::BeforeResponse {
            self.keeper.ended();
            let _told = self.save(deadline).await; // an error goes to the caller in any case
            return self.forward(request.map(Incoming::boxed_unsync)).await;
        }
        let answered = self.forward(request.map(Incoming::boxed_unsync)).await;
        self.save_later(deadline);
        answered
    }

    /// An answer that is made while it is sent: its end is what has to wait.
    async fn stream(
        self: &Arc<Self>,
        request: Request<Incoming>,
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>> {
        let shared = self.clone();
        let (mut head, body) = request.into_parts();
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.append(header::TRAILER, HeaderValue::from_static(ERROR_TYPE));
        let frames = stream::unfold(Some(body), move |body| {
            let shared = shared.clone();
            async move {
                let mut body = body?;
                match body.frame().await {
                    Some(Ok(frame)) if frame.is_data() => Some((Ok(frame), Some(body))),
                    // Trailers: the handler has failed on its way.
                    Some(Ok(frame)) => {
                        let _told = shared.save(deadline).await;
                        Some((Ok(frame), None))
                    }
                    Some(Err(e)) => Some((Err(e), None)),
                    None => {
                        shared.save(deadline).await.err()?;
                        let kind = HeaderValue::from_static(reply::NOT_SAVED);
                        let trailers = HeaderMap::from_iter([(HeaderName::from_static(ERROR_TYPE), kind)]);
                        Some((Ok(Frame::trailers(trailers)), None))
                    }
                }
            }
        });
        self.forward(Request::from_parts(head, StreamBody::new(frames).boxed_unsync())).await
    }

    async fn save(&self, deadline: Option<Deadline>) -> Result<(), Arc<Error>> {
        let saved = self.keeper.save(deadline.map(Deadline::limit)).await;
        match &saved {
            Ok(()) => *self.saved.lock() = Some(deadline),
            Err(error) => tracing::error!(%error, "the end of an invocation is not saved"),
        }
        saved
    }

    /// Saves while the answer is on its way; the next invocation waits for it.
    fn save_later(self: &Arc<Self>, deadline: Option<Deadline>) {
        if !self.keeper.ended() {
            return;
        }
        self.rest.send_modify(|rest| rest.saves += 1);
        let saving = Saving(self.clone());
        tokio::spawn(async move {
            let _told_by_itself = saving.0.save(deadline).await;
        });
    }
}

/// The invocation that an answer to `next` brings.
fn invocation(headers: &HeaderMap) -> Option<(&str, Deadline)> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let deadline = text("lambda-runtime-deadline-ms")?.parse().ok()?;
    Some((text("lambda-runtime-aws-request-id")?, Deadline::at(deadline)))
}

/// What makes a runtime end.
fn ending(why: &str) -> Response<Body> {
    let mut reply = Response::new(client::bytes(why.to_owned()));
    *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    reply
}

/// Reads a request to its end, so that who sends it is ready for the answer.
async fn swallow(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let call = |method: &str, path: &'static str| Call::of(&method.parse().unwrap_or_default(), path);
        assert_eq!(call("GET", "/2018-06-01/runtime/invocation/next"), Call::Next);
        assert_eq!(call("POST", "/2018-06-01/runtime/invocation/ab-1/response"), Call::Response("ab-1"));
        assert_eq!(call("POST", "/2018-06-01/runtime/invocation/ab-1/error"), Call::Error("ab-1"));
        assert_eq!(call("GET", "/2018-06-01/runtime/restore/next"), Call::Resume);
        for (method, path) in [
            ("POST", "/2018-06-01/runtime/init/error"),
            ("POST", "/2018-06-01/runtime/restore/error"),
            ("POST", "/2018-06-01/runtime/restore/next"),
            ("GET", "/2018-06-01/runtime/invocation/ab-1/response"),
            ("POST", "/2018-06-01/runtime/invocation/next"),
            ("POST", "/"),
        ] {
            assert_eq!(call(method, path), Call::Other, "{method} {path}");
        }
    }
}
