//! What a mount shows of Iceberg tables.
use super::cache::of_cache;
use super::family::{Family, Kind};
use crate::cache::Stats;
use std::time::Duration;

/// What there is to tell.
#[derive(Debug)]
pub struct TablesTotals {
    /// How many tables there are in each state.
    pub tables: [(&'static str, u64); 4],
    /// Each catalog, how long ago it answered last, and whether it does now.
    pub catalogs: Vec<(String, Option<Duration>, bool)>,
    /// Requests that were sent a second time, and those whose second answer was first.
    pub hedged: (u64, u64),
    /// What became of hints.
    pub hints: [(&'static str, u64); 3],
    /// The cache that they are read through.
    pub cache: Stats,
    /// The size of its journal.
    pub journal_bytes: Option<u64>,
}

/// All of them, those of the cache first.
pub fn of_tables(totals: &TablesTotals) -> Vec<Family> {
    let mut all = of_cache(&totals.cache, totals.journal_bytes);
    let label = |name: &'static str, value: &str| vec![(name, value.to_owned())];
    let catalogs = totals.catalogs.iter();
    let answered =
        catalogs.clone().filter_map(|(name, ago, _)| Some((label("catalog", name), ago.as_ref()?.as_secs())));
    all.extend([
        Family::labelled(
            "icecache_tables",
            Kind::Gauge,
            "Tables that the catalogs have, that are shown, that cannot be shown, and that are shown as they were before.",
            totals.tables.iter().map(|(state, count)| (label("state", state), *count)),
        ),
        Family::labelled(
            "icecache_catalog_up",
            Kind::Gauge,
            "Whether a catalog has answered the last time.",
            catalogs.map(|(name, _, up)| (label("catalog", name), u64::from(*up))),
        ),
        Family::labelled(
            "icecache_catalog_answered_seconds",
            Kind::Gauge,
            "How long ago a catalog answered last: what is shown of its tables is as old.",
            answered,
        ),
        Family::by(
            "icecache_tables_hedged_requests_total",
            "Requests for blocks that were sent a second time because the answer was late, and whether that came first.",
            "result",
            &[("won", totals.hedged.1), ("lost", totals.hedged.0.saturating_sub(totals.hedged.1))],
        ),
        Family::by(
            "icecache_tables_hints_total",
            "Hints that tables have changed, from other machines and by HTTP.",
            "result",
            &totals.hints,
        ),
    ]);
    all
}
