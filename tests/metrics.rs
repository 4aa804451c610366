//! Metrics: of a mount and of a server, read by hand and by the real Prometheus.
#![cfg(all(feature = "http", feature = "fuse"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // a test may panic

mod harness;
#[path = "metrics/prometheus.rs"]
mod prometheus;

use harness::lab::Setup;
use harness::served::Served;
use harness::{Finished, LIMIT, Lab, run};
use prometheus::{Prometheus, check};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// A lab whose mount serves metrics, and where.
fn measured(setup: Setup) -> (Lab, SocketAddr) {
    let lab = Lab::prepare(setup.with(&["--metrics", "127.0.0.1:0"]));
    let said = lab.try_mount().must("mount");
    (lab, address(&said))
}

/// What `mount` says.
fn address(said: &Finished) -> SocketAddr {
    let (_, rest) = said.stderr.split_once("metrics are at http://").expect(&said.stderr);
    rest.split_once("/metrics").unwrap().0.parse().unwrap()
}

fn scrape(at: SocketAddr) -> String {
    run(Command::new("curl").args(["-sSf", &format!("http://{at}/metrics")]), LIMIT).must("curl").stdout
}

/// The value of one line.
fn value(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line}: {text}")).parse().unwrap()
}

/// docs/metrics.md: what a mount counts.
#[test]
fn a_mount_counts_what_it_does() {
    let (lab, at) = measured(Setup::default());
    let fresh = scrape(at);
    let place = lab.place();
    assert!(
        fresh.contains(&format!("icecache_mount_info{{dir=\"{}\",name=\"work\"", place.display())),
        "{fresh}"
    );
    assert_eq!(value(&fresh, "icecache_mount_version"), 0.0);
    assert_eq!(value(&fresh, "icecache_mount_last_flush_timestamp_seconds"), 0.0);

    fs::write(place.join("file"), [7; 5000]).unwrap();
    let dirty = scrape(at);
    assert!(value(&dirty, "icecache_mount_dirty_files") >= 1.0, "{dirty}");
    assert!(value(&dirty, "icecache_mount_dirty_bytes") >= 5000.0, "{dirty}");
    lab.verb("flush", &["--wait"]).must("flush");
    let saved = scrape(at);
    let stats = lab.stats();
    for (line, expected) in [
        ("icecache_mount_version", 1.0),
        ("icecache_mount_flushes_total{result=\"saved\"}", 1.0),
        ("icecache_mount_flushes_total{result=\"failed\"}", 0.0),
        ("icecache_mount_flush_seconds_count", 1.0),
        ("icecache_mount_cuts_total", 1.0),
        ("icecache_mount_cut_pause_seconds_count", 1.0),
        ("icecache_mount_layers", 1.0),
        ("icecache_mount_dirty_files", 0.0),
        ("icecache_mount_dirty_bytes", 0.0),
        ("icecache_mount_failed_attempts", 0.0),
        ("icecache_mount_flushed_bytes_total", stats["flushed_bytes"].as_f64().unwrap()),
        ("icecache_remote_calls_total{call=\"put\"}", stats["requests"]["put"].as_f64().unwrap()),
        ("icecache_mount_operations_total{operation=\"create\"}", 1.0),
    ] {
        assert_eq!(value(&saved, line), expected, "{line}: {saved}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let [started, last] =
        ["icecache_mount_start_time_seconds", "icecache_mount_last_flush_timestamp_seconds"]
            .map(|line| value(&saved, line));
    assert!(0.0 < started && started <= last && last <= now, "{started} {last} {now}");

    // The remote goes away, and comes back.
    let (remote, away) = (lab.remote_dir(), lab.root().join("away"));
    fs::rename(&remote, &away).unwrap();
    fs::write(place.join("file"), "more").unwrap();
    assert!(!lab.verb("flush", &["--wait"]).ok());
    let failed = scrape(at);
    assert!(value(&failed, "icecache_mount_flushes_total{result=\"failed\"}") >= 1.0, "{failed}");
    assert!(value(&failed, "icecache_mount_failed_attempts") >= 1.0, "{failed}");
    assert!(value(&failed, "icecache_mount_last_error_timestamp_seconds") >= last, "{failed}");
    assert!(value(&failed, "icecache_mount_dirty_files") >= 1.0, "{failed}");
    fs::rename(&away, &remote).unwrap();
    lab.verb("flush", &["--wait"]).must("flush");
    let again = scrape(at);
    assert_eq!(value(&again, "icecache_mount_failed_attempts"), 0.0);
    assert!(value(&again, "icecache_mount_last_error_timestamp_seconds") >= last, "it is not forgotten");

    // The address is free again when it ends.
    lab.unmount();
    TcpListener::bind(at).unwrap();
}

/// CONFIGURATION: `metrics`, and "An address that is in use is an error".
#[test]
fn an_address_in_use_is_named_and_nothing_is_mounted() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let mut lab = Lab::prepare(Setup::default());
    lab.setup.environment.push(("ICECACHE_METRICS".into(), taken.clone()));
    let refused = lab.try_mount();
    assert_eq!(refused.code, 4, "{}", refused.said());
    assert!(refused.stderr.contains(&taken), "{}", refused.said());
    assert!(!lab.mounted());
    lab.setup.environment = vec![("ICECACHE_METRICS".into(), "nonsense".into())];
    let refused = lab.try_mount();
    assert!(refused.code == 2 && refused.stderr.contains("HOST:PORT"), "{}", refused.said());
    // The same from a file, once it is free.
    drop(other);
    lab.setup.environment.clear();
    let file = lab.root().join("config.toml");
    fs::write(&file, format!("metrics = \"{taken}\"\n")).unwrap();
    lab.setup.options = vec!["--config".into(), file.into()];
    lab.mount();
    assert_eq!(value(&scrape(taken.parse().unwrap()), "icecache_mount_version"), 0.0);
    lab.unmount();
}

/// A mount that shows a version flushes nothing, and says what it is all the same.
#[test]
fn a_mount_of_a_version_is_measured_too() {
    let mut lab = Lab::new(Setup::default());
    fs::write(lab.place().join("file"), "x").unwrap();
    lab.verb("flush", &["--wait"]).must("flush");
    lab.unmount();
    lab.setup.options = ["--version", "1", "--metrics", "127.0.0.1:0"].map(Into::into).into();
    let at = address(&lab.try_mount().must("mount"));
    assert_eq!(value(&scrape(at), "icecache_mount_absent_files"), 1.0);
    assert_eq!(fs::read(lab.place().join("file")).unwrap(), b"x");
    let read = scrape(at);
    assert_eq!(value(&read, "icecache_mount_absent_files"), 0.0, "{read}");
    assert_eq!(value(&read, "icecache_mount_awaited_files_total"), 1.0, "{read}");
    lab.unmount();
}

/// docs/metrics.md: Prometheus takes what there is, and has the same numbers.
#[test]
fn prometheus_scrapes_a_mount_and_a_server() {
    let (lab, mount) = measured(Setup::default());
    fs::write(lab.place().join("file"), "x").unwrap();
    lab.verb("flush", &["--wait"]).must("flush");
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(dir.path(), &[], &[]);
    for _ in 0..3 {
        assert_eq!(served.get("none").status, 404);
    }
    check(&scrape(mount));
    check(&scrape(served.metrics));

    let prometheus = Prometheus::start(&[("mount", mount), ("serve", served.metrics)]);
    for job in ["mount", "serve"] {
        prometheus.await_value(&format!("up{{job=\"{job}\"}}"), 1.0);
    }
    prometheus.await_value("icecache_mount_flushes_total{result=\"saved\"}", 1.0);
    prometheus.await_value("icecache_http_responses_total{class=\"4xx\"}", 3.0);
    assert_eq!(value(&scrape(served.metrics), "icecache_http_responses_total{class=\"4xx\"}"), 3.0);
    served.stop();
    lab.unmount();
}
