//! What a mount counts.
use super::family::{Family, Kind, Labels};
use crate::clock::Timestamp;
use crate::remote::Snapshot;
use crate::state::absent::Left;
use crate::state::cut::CutStats;
use crate::state::flusher::{FlushStatus, Unsaved};
use std::time::Duration;

/// How a mount stands; one that shows a version flushes nothing, and counts nothing there.
#[derive(Debug, Clone, Default)]
pub struct MountTotals {
    /// Directory, name, mode and what else tells mounts apart.
    pub about: Labels,
    /// When it became usable.
    pub started: Timestamp,
    /// How flushing stands.
    pub flushes: FlushStatus,
    /// What is not in the remote yet.
    pub unsaved: Unsaved,
    /// Files that somebody can write to right now.
    pub open_for_write: u64,
    /// What cuts have cost.
    pub cuts: CutStats,
    /// Layers of the newest version.
    pub layers: u64,
    /// Layers that no kept version needs, and their bytes.
    pub unneeded: (u64, u64),
    /// What is only in the remote.
    pub absent: Left,
    /// Files that somebody waited for.
    pub demanded: u64,
    /// Bytes that the background has asked for.
    pub prefetched: u64,
    /// Requests of the kernel, by name.
    pub operations: Vec<(&'static str, u64)>,
    /// Calls of the remote.
    pub remote: Snapshot,
}

/// All of a mount.
pub fn of_mount(mount: &MountTotals) -> Vec<Family> {
    let mut all = flushes(mount);
    all.extend(cuts(&mount.cuts));
    all.extend(content(mount));
    all.push(Family::by(
        "icecache_mount_operations_total",
        "Requests of the kernel, by operation; file data that passes through the kernel asks for none.",
        "operation",
        &mount.operations,
    ));
    all.extend(remote(&mount.remote));
    all
}

fn time(name: &'static str, help: &'static str, at: Option<Timestamp>) -> Family {
    let at = at.unwrap_or_default();
    let since = Duration::new(u64::try_from(at.sec).unwrap_or(0), at.nsec);
    Family::seconds(name, help, since)
}

fn flushes(mount: &MountTotals) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    let MountTotals { flushes, unsaved, .. } = mount;
    let last = flushes.last.as_ref().map(|done| done.time);
    vec![
        Family::labelled(
            "icecache_mount_info",
            Gauge,
            "Always 1; the labels say what is mounted, and how.",
            [(mount.about.clone(), 1)],
        ),
        time("icecache_mount_start_time_seconds", "When the mount became usable.", Some(mount.started)),
        Family::one(
            "icecache_mount_version",
            Gauge,
            "The newest version that is known to be committed; 0 before the first.",
            flushes.version,
        ),
        Family::by(
            "icecache_mount_flushes_total",
            "Flushes that committed a version, and attempts that failed.",
            "result",
            &[("saved", flushes.flushes), ("failed", flushes.failures)],
        ),
        Family::one("icecache_mount_flushed_bytes_total", Counter, "Bytes sent in layers.", flushes.bytes),
        Family::latency(
            "icecache_mount_flush_seconds",
            "How long flushes took, from the cut to the commit.",
            &flushes.durations,
        ),
        time(
            "icecache_mount_last_flush_timestamp_seconds",
            "When a version was committed last; 0 if none was since the start.",
            last,
        ),
        time(
            "icecache_mount_last_error_timestamp_seconds",
            "When a flush failed last; 0 if none did since the start.",
            flushes.failed_at,
        ),
        Family::one(
            "icecache_mount_failed_attempts",
            Gauge,
            "Attempts to flush that have failed since the last that did not.",
            flushes.error.as_ref().map_or(0, |failed| failed.attempts),
        ),
        Family::one(
            "icecache_mount_dirty_files",
            Gauge,
            "Entries that may differ from the newest version.",
            unsaved.count,
        ),
        Family::one("icecache_mount_dirty_bytes", Gauge, "Their bytes.", unsaved.bytes),
        Family::one(
            "icecache_mount_stuck_files",
            Gauge,
            "Entries that could not be read for a flush; they are tried again with each.",
            flushes.stuck.len() as u64,
        ),
        Family::one(
            "icecache_mount_writable_files",
            Gauge,
            "Files that somebody has open for writing.",
            mount.open_for_write,
        ),
    ]
}

fn cuts(cuts: &CutStats) -> Vec<Family> {
    use Kind::Counter;
    vec![
        Family::one("icecache_mount_cuts_total", Counter, "Cuts that were made.", cuts.cuts),
        Family::one(
            "icecache_mount_cut_retries_total",
            Counter,
            "Attempts to cut that were given up at the deadline.",
            cuts.retries,
        ),
        Family::one(
            "icecache_mount_cut_fuzzy_files_total",
            Counter,
            "Files that were mapped and changed while they were copied.",
            cuts.fuzzy,
        ),
        Family::latency("icecache_mount_cut_pause_seconds", "How long cuts held writers.", &cuts.pauses),
        Family::seconds(
            "icecache_mount_cut_pause_max_seconds",
            "The longest such time since the start.",
            Duration::from_micros(cuts.max_pause_us),
        ),
    ]
}

fn content(mount: &MountTotals) -> Vec<Family> {
    use Kind::{Counter, Gauge};
    let (layers, bytes) = mount.unneeded;
    vec![
        Family::one("icecache_mount_layers", Gauge, "Layers of the newest version.", mount.layers),
        Family::one(
            "icecache_mount_unneeded_layers",
            Gauge,
            "Layers that no kept version needs and that are not deleted yet.",
            layers,
        ),
        Family::one("icecache_mount_unneeded_bytes", Gauge, "Their bytes.", bytes),
        Family::one(
            "icecache_mount_absent_files",
            Gauge,
            "Files that are only in the remote so far.",
            mount.absent.files,
        ),
        Family::one("icecache_mount_absent_bytes", Gauge, "Their bytes.", mount.absent.bytes),
        Family::one(
            "icecache_mount_awaited_files_total",
            Counter,
            "Files that somebody waited for until they came.",
            mount.demanded,
        ),
        Family::one(
            "icecache_mount_prefetched_bytes_total",
            Counter,
            "Bytes that were asked for in the background.",
            mount.prefetched,
        ),
    ]
}

fn remote(calls: &Snapshot) -> Vec<Family> {
    use Kind::Counter;
    vec![
        Family::by(
            "icecache_remote_calls_total",
            "Calls of the remote, repeated attempts included.",
            "call",
            &[
                ("get", calls.get),
                ("download", calls.download),
                ("put", calls.put),
                ("upload", calls.upload),
                ("head", calls.head),
                ("delete", calls.delete),
                ("list", calls.list),
            ],
        ),
        Family::one(
            "icecache_remote_errors_total",
            Counter,
            "Calls that failed; what is not there and a condition that does not hold are answers.",
            calls.errors,
        ),
        Family::one(
            "icecache_remote_http_requests_total",
            Counter,
            "Requests sent to S3; each part of an upload is one.",
            calls.http_requests,
        ),
        Family::one(
            "icecache_remote_received_bytes_total",
            Counter,
            "Bytes of objects received.",
            calls.bytes_in,
        ),
        Family::one("icecache_remote_sent_bytes_total", Counter, "Bytes of objects sent.", calls.bytes_out),
    ]
}
