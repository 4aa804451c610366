//! What a cache counts, and the tiers before its origin.
use super::family::{Family, Kind};
use crate::cache::{Stats, TierStats};
use crate::metrics::Latency;
use std::time::Duration;

/// All of a cache.
pub fn of_cache(stats: &Stats, journal_bytes: Option<u64>) -> Vec<Family> {
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
        Family::one(
            "icecache_cache_read_bytes_total",
            Counter,
            "Bytes that readers were given from the disk.",
            t.bytes_hit,
        ),
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
            "Blocks that were read past the cache, by why.",
            "reason",
            &[
                ("full", t.not_kept_full.saturating_sub(t.refused_full)),
                ("size", t.not_admitted_size.saturating_sub(t.refused_size)),
                ("rate", t.not_admitted_rate.saturating_sub(t.refused_rate)),
            ],
        ),
        Family::by(
            "icecache_cache_refused_total",
            "Files that were not inserted, by why.",
            "reason",
            &[("full", t.refused_full), ("size", t.refused_size), ("rate", t.refused_rate)],
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
        Family::one(
            "icecache_cache_deletes_total",
            Counter,
            "Files, fills of files and blocks deleted.",
            t.deleted,
        ),
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
        Family::seconds(
            "icecache_cache_journal_replay_seconds",
            "How long the journal was read at the start.",
            Duration::from_micros(t.replay_us),
        ),
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
    ]);
    all
}

fn fills(stats: &Stats) -> Family {
    let (counts, sum) = (stats.totals.latency, Duration::from_micros(stats.totals.fill_us));
    let help = "How long fetches of blocks and fills of files took.";
    Family::latency("icecache_cache_fill_seconds", help, &Latency { counts, sum })
}

/// What tiers have answered.
pub fn of_tiers(tiers: &[TierStats]) -> [Family; 2] {
    let name = |tier: &TierStats| ("tier", tier.name.to_owned());
    let sample = |tier: &TierStats| {
        let all =
            [("hit", tier.hits), ("miss", tier.misses), ("error", tier.errors), ("skipped", tier.skipped)];
        let tier = name(tier);
        all.map(|(result, value)| (vec![tier.clone(), ("result", result.to_owned())], value))
    };
    let help = "Blocks that were to be had from a tier before the origin; 'skipped' were not asked for.";
    let requests =
        Family::labelled("icecache_tier_requests_total", Kind::Counter, help, tiers.iter().flat_map(sample));
    let help = "Blocks of which a tier had other bytes than were written; each is a miss as well.";
    let corrupt = tiers.iter().map(|tier| (vec![name(tier)], tier.corrupt));
    [requests, Family::labelled("icecache_tier_corrupt_total", Kind::Counter, help, corrupt)]
}
