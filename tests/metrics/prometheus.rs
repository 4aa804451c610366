//! The real Prometheus, as a child of the test on a free loopback port.
use crate::harness::{LIMIT, eventually, run, wait_for};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running `prometheus`; ended with this.
pub struct Prometheus {
    child: Child,
    url: String,
    dir: TempDir,
}

impl Prometheus {
    /// Scrapes these jobs twice a second.
    pub fn start(jobs: &[(&str, SocketAddr)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n".to_owned();
        for (job, at) in jobs {
            config += &format!("  - {{job_name: {job}, static_configs: [{{targets: ['{at}']}}]}}\n");
        }
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        // Somebody else may take the port between our look and the server's.
        for _ in 0..5 {
            let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let url = format!("http://{at}");
            if let Some(child) = spawn(&dir, at, &url) {
                return Self { child, url, dir };
            }
        }
        panic!("prometheus does not start: {}", said(&dir));
    }

    /// Waits until a query has one answer, and this one.
    #[track_caller]
    pub fn await_value(&self, query: &str, expected: f64) {
        let mut last = Value::Null;
        eventually(&format!("{query} to be {expected}"), LIMIT, || {
            let mut curl = Command::new("curl");
            curl.args(["-sSfG", "--data-urlencode", &format!("query={query}")]);
            let done = run(curl.arg(format!("{}/api/v1/query", self.url)), LIMIT);
            last = serde_json::from_str(&done.must("query").stdout).unwrap();
            let [one] = last["data"]["result"].as_array()?.as_slice() else { return None };
            let value: f64 = one["value"][1].as_str()?.parse().ok()?;
            (value == expected).then_some(())
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = wait_for(&mut self.child, LIMIT);
        if std::thread::panicking() {
            eprintln!("prometheus: {}", said(&self.dir));
        }
    }
}

/// Running and ready, or nothing.
fn spawn(dir: &TempDir, at: SocketAddr, url: &str) -> Option<Child> {
    // It must not outlive a test that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "prometheus"]);
    command.arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    command.arg(format!("--web.listen-address={at}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(dir.path().join("log")).unwrap());
    let mut child = command.spawn().expect("setpriv (util-linux) is not here: scripts/provision installs it");
    let ready = format!("{url}/-/ready");
    eventually("prometheus to be ready", LIMIT, || match wait_for(&mut child, Duration::ZERO) {
        Some(127) => panic!("prometheus is not here: scripts/provision installs it"),
        Some(_) => Some(None),
        None => {
            run(Command::new("curl").args(["-sf", "-o", "/dev/null", &ready]), LIMIT).ok().then_some(Some(()))
        }
    })
    .map(|()| child)
}

fn said(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("log")).unwrap_or_default()
}

/// What Prometheus' own tool says of a text: that it follows the format and the conventions.
#[track_caller]
pub fn check(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is not here: scripts/provision installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
}
