//! What is counted, in the text format that Prometheus scrapes (version 0.0.4). docs/metrics.md lists it.
mod cache;
mod family;
mod mount;
mod server;
mod tables;

pub use cache::{of_cache, of_tiers};
pub use family::{Family, Kind, Labels, encode};
pub use mount::{MountTotals, of_mount};
pub use server::of_server;
pub use tables::{TablesTotals, of_tables};

use super::http::{Answer, Body, text};
use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::sync::Arc;

/// The content type of the format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const METHODS: &str = "GET, HEAD";

/// Answers `GET /metrics`.
pub struct Metrics {
    gather: Arc<dyn Fn() -> Vec<Family> + Send + Sync>,
}

impl Metrics {
    /// Of what `gather` says; it may block.
    pub fn new(gather: impl Fn() -> Vec<Family> + Send + Sync + 'static) -> Self {
        Self { gather: Arc::new(gather) }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[async_trait]
impl Answer for Metrics {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != "/metrics" {
            return text(StatusCode::NOT_FOUND, CONTENT_TYPE, "there is nothing but /metrics\n".into());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, CONTENT_TYPE, format!("{METHODS}\n"));
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
            return reply;
        }
        let gather = self.gather.clone();
        match tokio::task::spawn_blocking(move || encode(&gather())).await {
            Ok(all) => text(StatusCode::OK, CONTENT_TYPE, all),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, CONTENT_TYPE, "counting failed\n".into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;
    use crate::cache::{Cache, Config, TierStats};
    use crate::serve::http::HttpMeters;
    use std::time::Duration;

    async fn all() -> Vec<Family> {
        let dir = tempfile::tempdir().expect("directory");
        let cache = Cache::open(Config::new(dir.path())).await.expect("opens");
        let mut all = of_cache(&cache.stats(), cache.journal_bytes());
        all.extend(of_server(&HttpMeters::default().totals()));
        all.extend(of_tiers(&[TierStats {
            name: "redis",
            hits: 1,
            misses: 2,
            errors: 3,
            skipped: 4,
            corrupt: 5,
        }]));
        all.extend(of_mount(&MountTotals::default()));
        let totals = TablesTotals {
            tables: [("known", 0), ("shown", 0), ("failed", 0), ("behind", 0)],
            catalogs: vec![("lake".into(), Some(Duration::from_secs(3)), true)],
            hedged: (0, 0),
            hints: [("asked", 0), ("merged", 0), ("refused", 0)],
            cache: cache.stats(),
            journal_bytes: cache.journal_bytes(),
        };
        // They begin with those of the cache.
        all.extend(
            of_tables(&totals).into_iter().skip(of_cache(&cache.stats(), cache.journal_bytes()).len()),
        );
        all
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_page_lists_what_there_is() {
        let page = include_str!("../../../docs/metrics.md");
        let listed: Vec<(String, String)> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| {
                let (name, rest) = line.split_once("` | ")?;
                Some((name.to_owned(), rest.split_once(" |")?.0.to_owned()))
            })
            .collect();
        let there: Vec<(String, String)> =
            all().await.iter().map(|f| (f.name.to_owned(), f.kind.word().to_owned())).collect();
        assert_eq!(listed, there);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn names_and_text_follow_the_conventions() {
        let all = all().await;
        for Family { name, kind, help, .. } in &all {
            assert!(name.starts_with("icecache_") && help.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
        let text = encode(&all);
        assert!(text.contains("# TYPE icecache_cache_fill_seconds histogram\n"));
        assert!(text.contains("icecache_cache_limit_bytes 10737418240\n"));
        for line in [
            "icecache_tier_requests_total{tier=\"redis\",result=\"miss\"} 2\n",
            "icecache_tier_requests_total{tier=\"redis\",result=\"skipped\"} 4\n",
            "icecache_tier_corrupt_total{tier=\"redis\"} 5\n",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
