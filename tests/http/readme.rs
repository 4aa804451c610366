//! The four lines of the README, as somebody types them.
use crate::harness::lab::BIN;
use crate::harness::served::metric_at;
use crate::harness::{LIMIT, eventually, wait_for};
use crate::support::s3server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::{BLOCK, content, site};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A shell into which somebody types. What it has started ends with it.
struct Typed {
    shell: Child,
    said: std::io::Lines<BufReader<ChildStdout>>,
}

impl Typed {
    fn begin(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let path =
            format!("{}:{}", Path::new(BIN).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("timeout");
        shell
            .args([&LIMIT.as_secs().to_string(), "bash", "--norc"])
            .current_dir(dir)
            .env("PATH", path)
            .env("ICECACHE_CONFIG", "/dev/null");
        shell.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let said = BufReader::new(shell.stdout.take().unwrap()).lines();
        let mut typed = Self { shell, said };
        // What is served is said on stderr.
        typed.line("set -m; exec 2>&1; trap 'kill -9 $(jobs -p)' EXIT", "");
        typed
    }

    /// Types a line, and reads until something is said that begins so.
    fn line(&mut self, line: &str, answer: &str) {
        writeln!(self.shell.stdin.as_ref().unwrap(), "{line}").unwrap();
        while !answer.is_empty() {
            let said =
                self.said.next().unwrap_or_else(|| panic!("nothing more is said after {line}")).unwrap();
            if said.starts_with(answer) {
                return;
            }
        }
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = wait_for(&mut self.shell, LIMIT);
    }
}

/// README, A cache by itself: its four lines, as they stand there but for the places.
#[test]
fn the_four_lines_of_the_readme_come_back_warm() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(S3Server::start());
    let endpoint = server.endpoint();
    let (dir, _, _) = site();
    let part = content(4, 2 * BLOCK + 9);
    server.put("prefix/data/part-0.parquet", part.clone());
    let environment = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("ICECACHE_S3_ENDPOINT", &endpoint),
    ];
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (http, metrics) = (free(), free());
    let readme = include_str!("../../README.md");
    let chapter = readme.split("\n## A cache by itself\n").nth(1).unwrap();
    let lines = chapter.split("```\n").nth(1).unwrap();
    let lines = lines
        .replace("127.0.0.1:8080", &http.to_string())
        .replace("/var/cache/icecache", "cache")
        .replace("s3://bucket/", &format!("s3://{BUCKET}/"))
        .replace("icecache serve", &format!("icecache serve --metrics {metrics}"));
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let file = dir.path().join("part-0.parquet");
    let mut typed = Typed::begin(dir.path(), &environment);
    let mut get = |serve: &str, curl: &str| {
        typed.line(serve, "icecache: metrics are at");
        typed.line(curl, "");
        typed.line("echo curl ended with $?", "curl ended with 0");
        assert!(fs::read(&file).unwrap() == part, "{curl}");
        fs::remove_file(&file).unwrap();
    };
    get(lines[0], lines[1]);
    let gets = || server.control().counts().get("GetObject").copied();
    assert_eq!(gets(), Some(3), "each block once");
    // A reader has the last block a moment before the disk.
    let on_disk = "icecache_cache_inserts_total{kind=\"block\"}";
    eventually("the blocks are on the disk", LIMIT, || (metric_at(metrics, on_disk) == 3).then_some(()));
    get(lines[2], lines[3]);
    assert_eq!(gets(), Some(3), "from the disk");
}
