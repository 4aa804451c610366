//! A server for what runs in the same sandbox.
use super::client::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// After a failed accept (no descriptors left) the next one is tried then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Has every request answered, of `whom` the log tells. It ends with the runtime that it is spawned on. There are no
/// time-outs: a runtime waits for its next invocation as long as there is none.
pub(super) async fn serve<A, F>(listener: TcpListener, whom: &'static str, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, whom, answer.clone()))),
            Err(error) => {
                tracing::warn!(%error, whom, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<A, F>(stream: TcpStream, whom: &'static str, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let _small_answers_at_once = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, whom, "a connection broke off");
    }
}
