//! The real program as a server of a cache.
use super::command::{LIMIT, run, wait_for};
use super::lab::{BIN, signal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server in a process of its own, over a directory that outlives it.
pub struct Served {
    child: Option<Child>,
    /// Where files are.
    pub http: SocketAddr,
    /// Where metrics are.
    pub metrics: SocketAddr,
}

/// An answer, as curl saw it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// A metric of the server whose metrics are at this address.
pub fn metric_at(address: SocketAddr, line: &str) -> u64 {
    let url = format!("http://{address}/metrics");
    let text = run(Command::new("curl").args(["-sSf", &url]), LIMIT).must("curl").stdout;
    let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line}: {text}"));
    value.trim().parse::<f64>().unwrap() as u64
}

impl Served {
    pub fn start(dir: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::begin(Command::new(BIN), dir, options, environment)
    }

    /// One that is given few descriptors, and may have more.
    pub fn start_poor(dir: &Path, options: &[&str], descriptors: u32) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn $1; program=$2; shift 2; exec \"$program\" \"$@\"", "sh"]);
        command.args([&descriptors.to_string(), BIN]);
        Self::begin(command, dir, options, &[])
    }

    fn begin(mut command: Command, dir: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        command.args(["--json", "serve", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--cache"]);
        command.arg(dir.join("cache")).args(options).envs(environment.iter().copied());
        command.env("ICECACHE_CONFIG", "/dev/null").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        let address = |name: &str| said[name].as_str().unwrap().parse().unwrap();
        Self { http: address("http"), metrics: address("metrics"), child: Some(child) }
    }

    pub fn curl(&self, path: &str, options: &[&str]) -> Reply {
        let dir = tempfile::tempdir().unwrap();
        let (head, body) = (dir.path().join("head"), dir.path().join("body"));
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--path-as-is", "--max-time", "60", "-w", "%{http_code}", "-D"]).arg(&head);
        curl.arg("-o").arg(&body).args(options).arg(format!("http://{}/files/{path}", self.http));
        let done = run(&mut curl, LIMIT);
        let head = fs::read_to_string(head).unwrap_or_default();
        let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default().to_owned();
        let headers = last.lines().filter_map(|line| line.split_once(": "));
        Reply {
            status: done.stdout.trim().parse().unwrap_or_else(|_| panic!("{done:?}")),
            headers: headers.map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned())).collect(),
            body: fs::read(body).unwrap_or_default(),
        }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.curl(path, &[])
    }

    pub fn metric(&self, line: &str) -> u64 {
        metric_at(self.metrics, line)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn stop(mut self) {
        let mut child = self.child.take().unwrap();
        signal(child.id(), rustix::process::Signal::TERM);
        assert_eq!(wait_for(&mut child, LIMIT), Some(0), "it did not end in good order");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
