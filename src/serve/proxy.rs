//! A cache that answers over HTTP until it is told to end: `icecache serve`.
use super::changes;
use super::http::{Files, HttpMeters, Limits, Token, listen, serve};
use super::metrics::{self, Metrics};
use super::shared::Shared;
use crate::cache::{Cache, Chain, Config, OriginFiles, StoreOrigin};
use crate::config::S3Settings;
use crate::descriptors;
use crate::error::{Error, Result};
use crate::remote::open_configured;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// What is served, and where.
#[derive(Debug)]
pub struct ProxySettings {
    /// The cache.
    pub cache: Config,
    /// Where files are asked for, as `host:port`.
    pub http: String,
    /// Where metrics are, if anywhere.
    pub metrics: Option<String>,
    /// The store whose objects are read through the cache.
    pub origin: Option<(String, S3Settings)>,
    /// A Redis that machines share, asked before the origin.
    pub redis: Option<String>,
    /// What an object is is believed for so long.
    pub fresh: Duration,
    /// What writers must show.
    pub token: Option<Token>,
    /// What clients may cost.
    pub limits: Limits,
}

/// Where it is served: a port of 0 has become one by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Addresses {
    /// Of files.
    pub http: SocketAddr,
    /// Of metrics.
    pub metrics: Option<SocketAddr>,
}

/// Serves until `stop` says so. `ready` is called once both addresses answer.
///
/// # Errors
/// The cache is in use by another process, an address is taken, the origin cannot be used.
pub async fn run(
    settings: ProxySettings,
    stop: watch::Receiver<bool>,
    ready: impl FnOnce(Addresses) -> Result<()>,
) -> Result<()> {
    let ProxySettings { cache, http, metrics, origin, redis, fresh, token, limits } = settings;
    descriptors::raise();
    // The cache first: it waits until a process that was just killed has let go of it, and of these addresses.
    let cache = Cache::open(cache).await?;
    let files_at = listen(&http).await?;
    let metrics_at = match &metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let meters = Arc::<HttpMeters>::default();
    let shared = Shared::open(redis.as_deref()).await?;
    let (origin, chain) = match origin {
        Some((url, s3)) => {
            let store = open_configured(&url, &s3, Arc::default()).await?;
            let chain = Arc::new(Chain::new(shared.tiers(), Arc::new(StoreOrigin::new(store.clone()))));
            (Some(Arc::new(OriginFiles::new(cache.clone(), store, chain.clone(), fresh))), Some(chain))
        }
        None => (None, None),
    };
    let exchange = origin
        .clone()
        .map(|files| shared.exchange(&Handle::current(), |peers| changes::exchange(files, peers)));
    let local = |listener: &TcpListener| {
        listener.local_addr().map_err(|e| Error::io("cannot tell the address that is listened at", e))
    };
    let addresses =
        Addresses { http: local(&files_at)?, metrics: metrics_at.as_ref().map(local).transpose()? };
    let files = Arc::new(Files::new(cache.clone(), origin, token));
    let metrics = metrics_at.map(|listener| {
        let (cache, meters) = (cache.clone(), meters.clone());
        let metrics = Metrics::new(move || {
            let tiers = chain.as_ref().map(|chain| chain.stats()).unwrap_or_default();
            metrics::of_cache(&cache.stats(), cache.journal_bytes())
                .into_iter()
                .chain(metrics::of_server(&meters.totals()))
                .chain(metrics::of_tiers(&tiers))
                .collect()
        });
        tokio::spawn(serve(listener, Arc::new(metrics), limits, Arc::default(), stop.clone()))
    });
    ready(addresses)?;
    serve(files_at, files, limits, meters, stop).await;
    drop(exchange);
    if let Some(metrics) = metrics {
        let _ended = metrics.await;
    }
    Ok(cache.close().await?)
}
