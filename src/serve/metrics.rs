//! What is counted, in the text format that Prometheus scrapes (version 0.0.4). docs/metrics.md lists it.
use super::http::{Answer, Body, HttpMeters, HttpTotals, text};
use crate::cache::{Cache, Chain, LATENCY_MS, Stats, TierStats};
use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use std::fmt::Write;
use std::sync::Arc;

/// The content type of the format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Counts by upper end, with their sum.
    Histogram,
}

impl Kind {
    /// As the format writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric with all its values.
#[derive(Debug)]
pub struct Family {
    /// Its name, with its unit.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// A sentence.
    pub help: &'static str,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    /// `_bucket`, `_sum`, `_count`, or nothing.
    suffix: &'static str,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Family {
    fn one(name: &'static str, kind: Kind, help: &'static str, value: u64) -> Self {
        Self {
            name,
            kind,
            help,
            samples: vec![Sample { suffix: "", labels: Vec::new(), value: value as f64 }],
        }
    }

    fn by(name: &'static str, help: &'static str, label: &'static str, values: &[(&str, u64)]) -> Self {
        let sample = |(which, value): &(&str, u64)| Sample {
            suffix: "",
            labels: vec![(label, (*which).to_owned())],
            value: *value as f64,
        };
        Self { name, kind: Kind::Counter, help, samples: values.iter().map(sample).collect() }
    }
}

/// All of a cache, and of the server before it.
pub fn families(stats: &Stats, journal_bytes: Option<u64>, http: &HttpTotals) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    let t = &stats.totals;
    let mut all = vec![
        Family::by(
            "icecache_cache_file_lookups_total",
            "Look-ups of whole files.",
            "result",
            &[("hit", t.file_hits), ("filling", t.file_streams), ("miss", t.file_misses)],
        ),
        Family::by(
            "icecache_cache_block_reads_total",
            "Reads of blocks by where they came from; 'joined' waited for a fetch of somebody else.",
            "result",
            &[
                ("disk", t.block_hits.saturating_sub(t.memory_hits)),
                ("memory", t.memory_hits),
                ("joined", t.block_joins),
                ("miss", t.block_misses),
            ],
        ),
        Family::one("icecache_cache_read_bytes_total", Counter, "Bytes read from the disk.", t.bytes_hit),
        Family::by(
            "icecache_cache_inserts_total",
            "What was inserted.",
            "kind",
            &[("file", t.file_inserts), ("block", t.block_inserts)],
        ),
        Family::one("icecache_cache_inserted_bytes_total", Counter, "Bytes inserted.", t.bytes_inserted),
        Family::one("icecache_cache_fetches_total", Counter, "Fetches of blocks that began.", t.fetches),
        Family::one("icecache_cache_fetched_bytes_total", Counter, "Bytes fetched.", t.bytes_fetched),
        Family::one("icecache_cache_fetch_errors_total", Counter, "Fetches that failed.", t.fetch_errors),
        Family::one(
            "icecache_cache_fetches_throttled_total",
            Counter,
            "Fetches that the origin asked to slow down.",
            t.fetches_throttled,
        ),
        Family::one(
            "icecache_cache_reads_throttled_total",
            Counter,
            "Reads that waited because too many blocks were being fetched.",
            t.reads_throttled,
        ),
        Family::one(
            "icecache_cache_readaheads_total",
            Counter,
            "Fetches that nobody had asked for yet.",
            t.readaheads,
        ),
        Family::one(
            "icecache_cache_stalls_total",
            Counter,
            "Fills that brought nothing for too long and were given up.",
            t.stalls,
        ),
        Family::one(
            "icecache_cache_fills_failed_total",
            Counter,
            "Fills of files that ended without a file.",
            t.fills_failed,
        ),
        Family::by(
            "icecache_cache_not_kept_total",
            "What was read past the cache, by why.",
            "reason",
            &[("full", t.not_kept_full), ("size", t.not_admitted_size), ("rate", t.not_admitted_rate)],
        ),
        Family::by(
            "icecache_cache_evictions_total",
            "Files and blocks thrown out, by why.",
            "cause",
            &[
                ("bytes", t.evicted_bytes),
                ("entries", t.evicted_entries),
                ("free", t.evicted_free),
                ("expired", t.evicted_expired),
                ("asked", t.evicted_asked),
            ],
        ),
        Family::one("icecache_cache_deletes_total", Counter, "Files and blocks deleted.", t.deleted),
        Family::one(
            "icecache_cache_corrupt_drops_total",
            Counter,
            "Files and blocks whose bytes were not those that had been written.",
            t.corrupt_drops,
        ),
        Family::one("icecache_cache_vanished_total", Counter, "Entries whose file had vanished.", t.vanished),
        Family::one(
            "icecache_cache_verified_bytes_total",
            Counter,
            "Bytes of which checksums were computed to trust the disk.",
            t.bytes_verified,
        ),
        fills(stats),
    ];
    all.extend([
        Family::one("icecache_cache_used_bytes", Gauge, "Bytes on the disk.", stats.used.bytes),
        Family::one("icecache_cache_limit_bytes", Gauge, "The limit of bytes.", stats.max_bytes),
        Family::one("icecache_cache_entries", Gauge, "Files and objects.", stats.used.entries),
        Family::one("icecache_cache_limit_entries", Gauge, "The limit of entries.", stats.max_entries),
        Family::one("icecache_cache_filling", Gauge, "Files that are being filled.", stats.filling),
        Family::one("icecache_cache_fetching", Gauge, "Blocks that are being fetched.", stats.fetching),
        Family::one(
            "icecache_cache_journal_bytes",
            Gauge,
            "Size of the journal on the disk.",
            journal_bytes.unwrap_or_default(),
        ),
        replay(t.replay_us),
        Family::one(
            "icecache_cache_journal_errors_total",
            Counter,
            "Writes of the journal that failed.",
            t.journal_errors,
        ),
        Family::one(
            "icecache_cache_journal_rebuilds_total",
            Counter,
            "Journals that were moved aside and rebuilt from the witnesses.",
            t.journal_rebuilds,
        ),
        Family::by(
            "icecache_cache_start_entries_total",
            "Entries found at the start: in the journal, by their witness alone, named but not there, and files that nothing named.",
            "state",
            &[
                ("rehydrated", t.rehydrated),
                ("adopted", t.adopted),
                ("lost", t.lost),
                ("stray", t.strays_deleted),
            ],
        ),
        Family::by(
            "icecache_http_responses_total",
            "Answers, by the first digit of their status.",
            "class",
            &[
                ("1xx", http.answers[0]),
                ("2xx", http.answers[1]),
                ("3xx", http.answers[2]),
                ("4xx", http.answers[3]),
                ("5xx", http.answers[4]),
            ],
        ),
        Family::one("icecache_http_sent_bytes_total", Counter, "Bytes of bodies sent.", http.bytes_sent),
        Family::one("icecache_http_connections", Gauge, "Connections that are open.", http.connections),
        Family::one(
            "icecache_http_connections_cut_total",
            Counter,
            "Connections that were ended because nothing moved for too long.",
            http.connections_cut,
        ),
    ]);
    all
}

fn fills(stats: &Stats) -> Family {
    let (mut samples, mut count) = (Vec::new(), 0);
    let ends = LATENCY_MS.iter().map(|ms| format!("{}", *ms as f64 / 1000.0)).chain(["+Inf".to_owned()]);
    for (end, n) in ends.zip(stats.totals.latency) {
        count += n;
        samples.push(Sample { suffix: "_bucket", labels: vec![("le", end)], value: count as f64 });
    }
    let sum = stats.totals.fill_us as f64 / 1e6;
    samples.push(Sample { suffix: "_sum", labels: Vec::new(), value: sum });
    samples.push(Sample { suffix: "_count", labels: Vec::new(), value: count as f64 });
    let (name, help) = ("icecache_cache_fill_seconds", "How long fetches of blocks and fills of files took.");
    Family { name, kind: Kind::Histogram, help, samples }
}

fn replay(us: u64) -> Family {
    let (name, help) =
        ("icecache_cache_journal_replay_seconds", "How long the journal was read at the start.");
    let samples = vec![Sample { suffix: "", labels: Vec::new(), value: us as f64 / 1e6 }];
    Family { name, kind: Kind::Gauge, help, samples }
}

/// The text of them.
pub fn encode(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        let Family { name, kind, help, samples } = family;
        let _infallible = write!(out, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        for Sample { suffix, labels, value } in samples {
            let labels: Vec<String> = labels.iter().map(|(l, which)| format!("{l}=\"{which}\"")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _infallible = writeln!(out, "{name}{suffix}{labels} {value}");
        }
    }
    out
}

/// What tiers have answered.
pub fn of_tiers(tiers: &[TierStats]) -> Family {
    let sample = |tier: &TierStats| {
        [("hit", tier.hits), ("miss", tier.misses), ("error", tier.errors)].map(|(result, value)| Sample {
            suffix: "",
            labels: vec![("tier", tier.name.to_owned()), ("result", result.to_owned())],
            value: value as f64,
        })
    };
    let name = "icecache_tier_requests_total";
    let help = "Blocks that were asked of a tier before the origin.";
    Family { name, kind: Kind::Counter, help, samples: tiers.iter().flat_map(sample).collect() }
}

/// Answers `GET /metrics`.
#[derive(Debug)]
pub struct Metrics {
    cache: Cache,
    http: Arc<HttpMeters>,
    chain: Option<Arc<Chain>>,
}

impl Metrics {
    /// Of a cache, of the server whose `http` these are, and of what is asked before its origin.
    pub fn new(cache: Cache, http: Arc<HttpMeters>, chain: Option<Arc<Chain>>) -> Self {
        Self { cache, http, chain }
    }
}

#[async_trait]
impl Answer for Metrics {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != "/metrics" {
            return text(StatusCode::NOT_FOUND, CONTENT_TYPE, "there is nothing but /metrics\n".into());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, CONTENT_TYPE, "GET\n".into());
        }
        let mut families = families(&self.cache.stats(), self.cache.journal_bytes(), &self.http.totals());
        families.push(of_tiers(&self.chain.as_ref().map(|chain| chain.stats()).unwrap_or_default()));
        text(StatusCode::OK, CONTENT_TYPE, encode(&families))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may panic
mod tests {
    use super::*;

    async fn all() -> Vec<Family> {
        let dir = tempfile::tempdir().expect("directory");
        let cache = Cache::open(crate::cache::Config::new(dir.path())).await.expect("opens");
        let mut all = families(&cache.stats(), cache.journal_bytes(), &HttpMeters::default().totals());
        all.push(of_tiers(&[TierStats { name: "redis", hits: 1, misses: 2, errors: 3 }]));
        all
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_page_lists_what_there_is() {
        let page = include_str!("../../docs/metrics.md");
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
        assert!(text.contains("icecache_cache_fill_seconds_bucket{le=\"0.001\"} 0\n"));
        assert!(text.contains("icecache_cache_fill_seconds_bucket{le=\"+Inf\"} 0\n"));
        assert!(text.contains("icecache_cache_limit_bytes 10737418240\n"));
        assert!(text.contains("icecache_tier_requests_total{tier=\"redis\",result=\"miss\"} 2\n"));
    }
}
