//! The cache over HTTP: the real program, asked by curl and by clients that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "http/command.rs"]
mod command;
#[path = "http/conditions.rs"]
mod conditions;
#[path = "http/counts.rs"]
mod counts;
mod harness;
#[path = "http/origin.rs"]
mod origin;
#[path = "http/refusals.rs"]
mod refusals;
mod support;

use harness::lab::BIN;
use harness::served::{Reply, Served, metric_at};
use harness::{LIMIT, eventually, run, wait_for};
use s3s::S3ErrorCode;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use support::s3server::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};

const BLOCK: usize = 1 << 20;

fn content(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| ((at ^ seed << 24).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

const TOKEN: [&str; 2] = ["-H", "Authorization: Bearer se cret"];

/// A directory with a token, an origin with two objects, and a server.
fn site() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::Builder::new().prefix("icecache-http-").tempdir_in("/var/tmp").unwrap();
    fs::write(dir.path().join("token"), "se cret\n").unwrap();
    let origin = dir.path().join("origin");
    fs::create_dir_all(origin.join("data")).unwrap();
    let url = format!("file://{}", origin.display());
    (dir, origin, url)
}

fn write(served: &Served, dir: &Path, key: &str, bytes: &[u8], more: &[&str]) -> Reply {
    let file = dir.join("upload");
    fs::write(&file, bytes).unwrap();
    let data = format!("@{}", file.display());
    let mut options = vec!["-X", "PUT", "--data-binary", &data];
    options.extend(TOKEN);
    options.extend(more);
    served.curl(key, &options)
}

/// HTTP, Reading and Writing: what is written is read back, by every kind of range and condition.
#[test]
fn files_are_written_read_and_removed() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let bytes = content(1, 300_000);
    assert_eq!(served.curl("a", &["-X", "PUT", "-d", "x"]).status, 401);
    assert_eq!(served.curl("a", &["-X", "PUT", "-d", "x", "-H", "Authorization: Bearer wrong"]).status, 401);
    assert_eq!(served.curl("a", &["-X", "DELETE"]).status, 401);
    let made = write(&served, dir.path(), "dir/a%20picture.png", &bytes, &[]);
    assert_eq!(made.status, 201, "{made:?}");
    let again = write(&served, dir.path(), "dir/a%20picture.png", b"other", &[]);
    assert_eq!(again.status, 409, "it was there: {again:?}");
    let etag = made.headers["etag"].clone();
    assert_eq!(etag, format!("\"{}\"", blake3::hash(&bytes).to_hex()));

    let whole = served.get("dir/a%20picture.png");
    assert!(whole.status == 200 && whole.body == bytes);
    assert_eq!((&*whole.headers["content-type"], &*whole.headers["accept-ranges"]), ("image/png", "bytes"));
    assert_eq!((&whole.headers["etag"], &*whole.headers["content-length"]), (&etag, "300000"));
    let head = served.curl("dir/a%20picture.png", &["--head"]);
    assert_eq!((head.status, &*head.headers["content-length"]), (200, "300000"));

    let path = "dir/a%20picture.png";
    let part = served.curl(path, &["-r", "1000-1999"]);
    assert!(part.status == 206 && part.body == bytes[1000..2000], "{:?}", part.headers);
    assert_eq!(part.headers["content-range"], "bytes 1000-1999/300000");
    let end = served.curl(path, &["-r", "-7"]);
    assert!(end.status == 206 && end.body == bytes[299_993..]);
    let beyond = served.curl(path, &["-r", "300000-"]);
    assert_eq!((beyond.status, &*beyond.headers["content-range"]), (416, "bytes */300000"));
    let parts = served.curl(path, &["-r", "0-9,100-109"]);
    let boundary = parts.headers["content-type"].split_once("boundary=").expect("several parts").1.to_owned();
    let mut expected = Vec::new();
    for part in [0..10, 100..110] {
        let range = format!("bytes {}-{}/300000", part.start, part.end - 1);
        let head = format!("\r\n--{boundary}\r\nContent-Type: image/png\r\nContent-Range: {range}\r\n\r\n");
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&bytes[part]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(parts.status == 206 && parts.body == expected, "{}", String::from_utf8_lossy(&parts.body));
    assert_eq!(parts.headers["content-length"], expected.len().to_string());

    let known = format!("If-None-Match: {etag}");
    let same = served.curl(path, &["-H", &known]);
    assert_eq!((same.status, same.body.len(), &same.headers["etag"]), (304, 0, &etag));
    let since = format!("If-Modified-Since: {}", whole.headers["last-modified"]);
    assert_eq!(served.curl(path, &["-H", &since]).status, 304);
    assert_eq!(served.curl(path, &["-H", "If-Match: \"other\""]).status, 412);
    let only_if = |tag: &str| served.curl(path, &["-r", "0-9", "-H", &format!("If-Range: {tag}")]).status;
    assert_eq!((only_if(&etag), only_if("\"other\"")), (206, 200));

    assert_eq!(served.curl(path, &["-X", "POST", "-d", "x"]).status, 405);
    assert_eq!(served.curl(path, &["-X", "DELETE", TOKEN[0], TOKEN[1]]).status, 204);
    assert_eq!(served.get(path).status, 404);
    assert_eq!(served.curl(path, &["-X", "DELETE", TOKEN[0], TOKEN[1]]).status, 404);
    // Of no content there is no range, and any other byte may be in a key.
    assert_eq!(write(&served, dir.path(), "%00%ff/..%2f", b"", &[]).status, 201);
    let empty = served.get("%00%ff/..%2f");
    assert!(empty.status == 200 && empty.body.is_empty());
    assert_eq!(served.curl("%00%ff/..%2f", &["-r", "0-"]).status, 416);
    assert_eq!(served.get(&"x".repeat(1025)).status, 400);
    served.stop();
}

/// HTTP, Writing: "without that file nobody may write (403)"; Reading: "never a path of this machine".
#[test]
fn keys_are_no_paths_and_nobody_writes_unasked() {
    let (dir, origin, url) = site();
    fs::write(dir.path().join("secret"), "not for you").unwrap();
    fs::write(origin.join("data/file.txt"), "for everybody").unwrap();
    let served = Served::start(dir.path(), &["--origin", &url], &[]);
    assert_eq!(served.curl("x", &["-X", "PUT", "-d", "x", TOKEN[0], TOKEN[1]]).status, 403);
    assert_eq!(served.get("data/file.txt").body, b"for everybody");
    for path in [
        "../secret",
        "data/../../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "/etc/passwd",
        "data//file.txt",
        "data/",
        "",
    ] {
        let reply = served.get(path);
        assert!(matches!(reply.status, 400 | 404), "{path}: {reply:?}");
        assert!(!String::from_utf8_lossy(&reply.body).contains("not for you"), "{path}");
    }
    let outside = run(
        Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--path-as-is"])
            .arg(format!("http://{}/../etc/passwd", served.http)),
        LIMIT,
    );
    assert_eq!(outside.stdout, "404");
    served.stop();
}

/// HTTP, and issue: "`icecache serve` before a bucket survives `kill -9` and comes back warm".
#[test]
fn a_proxy_of_a_bucket_comes_back_warm() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(S3Server::start());
    let (dir, _, _) = site();
    let large = content(2, 3 * BLOCK + 100);
    server.put("prefix/data/large.bin", large.clone());
    let endpoint = server.endpoint();
    let url = format!("s3://{BUCKET}/prefix");
    let options = ["--origin", &url, "--s3-endpoint", &endpoint, "--s3-path-style", "--fresh", "0s"];
    let environment = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let gets = || server.control().counts().get("GetObject").copied().unwrap_or(0);
    let served = Served::start(dir.path(), &options, &environment);
    // A range fetches the block it is in, and no other.
    let part = served.curl("data/large.bin", &["-r", "1048576-1048586"]);
    assert!(part.status == 206 && part.body == large[BLOCK..BLOCK + 11]);
    assert_eq!(gets(), 1);
    let whole = served.get("data/large.bin");
    assert!(whole.status == 200 && whole.body == large);
    assert_eq!(gets(), 4, "each block once");
    eventually("the blocks are on the disk", LIMIT, || {
        (served.metric("icecache_cache_inserts_total{kind=\"block\"}") == 4).then_some(())
    });
    served.kill();

    let served = Served::start(dir.path(), &options, &environment);
    let warm = served.get("data/large.bin");
    assert!(warm.status == 200 && warm.body == large);
    assert_eq!(gets(), 4, "it came back warm");
    assert_eq!(served.metric("icecache_cache_entries"), 1);
    // While the bucket is away it is what it was; what is not here is not there.
    server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::ServiceUnavailable));
    let away = served.get("data/large.bin");
    assert!(away.status == 200 && away.body == large, "{:?}", away.status);
    server.control().clear_hook();
    // Soon it is asked again.
    eventually("the bucket is asked again", LIMIT, || {
        let before = server.control().counts().get("HeadObject").copied();
        served.get("data/large.bin");
        (server.control().counts().get("HeadObject").copied() > before).then_some(())
    });
    // Another version: other bytes, by another tag.
    let newer = content(3, BLOCK + 5);
    server.put("prefix/data/large.bin", newer.clone());
    let changed = eventually("the new version", LIMIT, || {
        let reply = served.get("data/large.bin");
        (reply.status == 200 && reply.body == newer).then_some(reply)
    });
    assert_ne!(changed.headers["etag"], whole.headers["etag"]);
    // Back to the one before; then it is that, also where the bucket cannot be asked.
    server.put("prefix/data/large.bin", large.clone());
    assert!(served.get("data/large.bin").body == large);
    eventually("the blocks are on the disk", LIMIT, || {
        (served.metric("icecache_cache_inserts_total{kind=\"block\"}") == 6).then_some(())
    });
    assert_eq!(served.metric("icecache_cache_entries"), 1, "versions that nobody is given stay");
    served.kill();
    server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::ServiceUnavailable));
    let served = Served::start(dir.path(), &options, &environment);
    let away = served.get("data/large.bin");
    assert!(away.status == 200 && away.body == large, "an old version is served");
    server.control().clear_hook();
    server.remove("prefix/data/large.bin");
    eventually("the bucket is asked again", LIMIT, || {
        (served.get("data/large.bin").status == 404).then_some(())
    });
    served.kill();
    // Nor is it back when the bucket is away.
    server.control().set_hook(|_| Fault::FailBefore(S3ErrorCode::ServiceUnavailable));
    let served = Served::start(dir.path(), &options, &environment);
    assert_eq!(served.get("data/large.bin").status, 503);
    served.stop();
}

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
    let readme = include_str!("../README.md");
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

/// HTTP, Reading: "A file that somebody still fills is streamed as it comes", and what breaks off is not taken for whole.
#[test]
fn readers_have_an_upload_as_it_comes() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let bytes = content(4, 400_000);
    let begin = |key: &str| {
        let mut upload = TcpStream::connect(served.http).unwrap();
        let head = format!(
            "PUT /files/{key} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer se cret\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        upload.write_all(head.as_bytes()).unwrap();
        upload.write_all(&bytes[..100_000]).unwrap();
        upload
    };
    let read = |key: &str| {
        let mut reader = TcpStream::connect(served.http).unwrap();
        write!(reader, "GET /files/{key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        reader
    };
    // Both have their first bytes before the last are sent.
    let mut upload = begin("stream");
    let first = |key: &str| {
        eventually("the upload is seen", LIMIT, || {
            let mut reader = read(key);
            let mut seen = Vec::new();
            let mut piece = [0; 4096];
            while !seen.windows(4).any(|w| w == b"\r\n\r\n") || seen.len() < 50_000 {
                match reader.read(&mut piece).unwrap() {
                    0 => return None, // not there yet: 404
                    n => seen.extend_from_slice(&piece[..n]),
                }
            }
            Some((reader, seen))
        })
    };
    let (mut reader, mut seen) = first("stream");
    upload.write_all(&bytes[100_000..]).unwrap();
    reader.read_to_end(&mut seen).unwrap();
    let body = seen.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(seen[body..] == bytes, "{} bytes came", seen.len() - body);
    assert!(String::from_utf8_lossy(&seen[..body]).contains("content-length: 400000"));
    eventually("the upload has ended", LIMIT, || (served.get("stream").body == bytes).then_some(()));

    // One that breaks off leaves nothing, and who read it is not told that it was all.
    let upload = begin("broken");
    let (mut reader, mut seen) = first("broken");
    drop(upload);
    let _reset = reader.read_to_end(&mut seen);
    let body = seen.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(seen.len() - body < bytes.len());
    eventually("nothing is left", LIMIT, || (served.get("broken").status == 404).then_some(()));

    // One whose key is deleted meanwhile is told so.
    let mut upload = begin("deleted");
    let _seen = first("deleted");
    let deleted = served.curl("deleted", &[&["-X", "DELETE"][..], &TOKEN].concat());
    assert_eq!(deleted.status, 204);
    let _told_already = upload.write_all(&bytes[100_000..]);
    let mut reply = String::new();
    let _reset = upload.read_to_string(&mut reply);
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 409 "), "{reply}");
    assert_eq!(served.get("deleted").status, 404);
    served.stop();
}

/// HTTP, Writing: what was acknowledged survives a kill, and whoever asks for it at once has it.
#[test]
fn an_upload_that_was_acknowledged_is_there_at_once_after_a_kill() {
    let (dir, _, url) = site();
    let token = dir.path().join("token");
    let options = ["--token-file", token.to_str().unwrap()];
    for round in 0..5_u32 {
        let served = Served::start(dir.path(), &options, &[]);
        let (key, bytes) = (format!("key-{round}"), content(round, 50_000));
        assert_eq!(write(&served, dir.path(), &key, &bytes, &[]).status, 201);
        served.kill();
        // However short the process lives that comes next.
        Served::start(dir.path(), &options, &[]).stop();
        let served = Served::start(dir.path(), &options, &[]);
        let found = served.get(&key);
        assert!(found.status == 200 && found.body == bytes, "round {round}: {}", found.status);
        assert_eq!(served.get("never").status, 404);
        served.kill();
        // Where the journal is lost as well, and an origin stands behind that knows nothing of it.
        fs::remove_dir_all(dir.path().join("cache/journal")).unwrap();
        let proxy = Served::start(dir.path(), &[&options[..], &["--origin", &url]].concat(), &[]);
        if round % 2 == 0 {
            assert_eq!(write(&proxy, dir.path(), &key, b"another", &[]).status, 409, "round {round}");
        }
        assert_eq!(proxy.curl(&key, &[&["-X", "DELETE"][..], &TOKEN].concat()).status, 204, "round {round}");
        assert_eq!(proxy.get(&key).status, 404);
        proxy.kill();
    }
}

/// HTTP, Reading: "One that changed": also where its first blocks are in the cache, and it is taken for fresh.
#[test]
fn an_object_that_changes_while_some_of_it_is_cached_comes_whole_and_new() {
    let (dir, origin, url) = site();
    let object = origin.join("data/object");
    let (old, new) = (content(6, 40 * BLOCK), content(7, 40 * BLOCK + 3));
    fs::write(&object, &old).unwrap();
    let served = Served::start(dir.path(), &["--origin", &url, "--fresh", "1h"], &[]);
    let first = served.curl("data/object", &["-r", "0-9"]);
    assert!(first.status == 206 && first.body == old[..10]);
    eventually("its first block is on the disk", LIMIT, || {
        (served.metric("icecache_cache_inserts_total{kind=\"block\"}") >= 1).then_some(())
    });
    fs::write(origin.join("data/other"), &new).unwrap();
    fs::rename(origin.join("data/other"), &object).unwrap();
    let whole = served.get("data/object");
    assert!(whole.status == 200 && whole.body == new, "{} {}", whole.status, whole.body.len());

    // The same where several parts are asked for, and the first is in the cache; and where it is shorter now.
    let put = |bytes: &[u8]| {
        fs::write(origin.join("data/other"), bytes).unwrap();
        fs::rename(origin.join("data/other"), origin.join("data/parts")).unwrap();
    };
    put(&old);
    assert_eq!(served.curl("data/parts", &["-r", "0-9"]).body, old[..10]);
    put(&new);
    let parts = served.curl("data/parts", &["-r", "0-9,41000000-41000009"]);
    let has = |bytes: &[u8]| parts.body.windows(bytes.len()).any(|window| window == bytes);
    assert!(parts.status == 206 && has(&new[..10]) && has(&new[41_000_000..41_000_010]), "{parts:?}");
    put(b"shorter");
    let whole = served.get("data/parts");
    assert!(whole.status == 200 && whole.body == b"shorter", "{} {}", whole.status, whole.body.len());
    served.stop();
}

/// HTTP, What clients may cost.
#[test]
fn clients_that_misbehave_are_bounded() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served =
        Served::start(dir.path(), &["--token-file", token.to_str().unwrap(), "--patience", "300ms"], &[]);
    let bytes = content(5, 32 << 20);
    assert_eq!(write(&served, dir.path(), "large", &bytes, &[]).status, 201);
    // One that takes nothing is cut off.
    let mut lazy = TcpStream::connect(served.http).unwrap();
    lazy.write_all(b"GET /files/large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("it is cut off", LIMIT, || {
        (served.metric("icecache_http_connections_cut_total") == 1).then_some(())
    });
    let mut rest = Vec::new();
    let _reset = lazy.read_to_end(&mut rest);
    assert!(rest.len() < bytes.len());
    // Heads that are too large.
    for head in [
        format!("GET /files/large HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000)),
        format!("GET /files/large HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200)),
        format!("GET /files/{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(100_000)),
        format!("GET /files/large HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(33_000)),
        format!("GET /files/{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(33_000)),
        "\u{0}\u{1}nonsense\r\n\r\n".to_owned(),
    ] {
        let mut client = TcpStream::connect(served.http).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _reset = client.write_all(head.as_bytes());
        let mut reply = Vec::new();
        let _reset = client.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
    }
    assert_eq!(served.curl("large", &["-r", "0-3"]).body, bytes[..4], "others are served all the same");
    served.stop();
}

/// CACHE: being short of descriptors says nothing of what is on the disk.
#[test]
fn what_cannot_be_opened_for_want_of_descriptors_is_not_dropped() {
    let (dir, origin, url) = site();
    for n in 0..150 {
        fs::write(origin.join(format!("data/{n}")), content(n, 100)).unwrap();
    }
    let cache = dir.path().join("cache");
    let mut warm = Command::new(BIN);
    warm.args(["cache", "warm", "--origin", &url, "--cache"]).arg(&cache).env("ICECACHE_CONFIG", "/dev/null");
    run(&mut warm, LIMIT).must("warm");
    let mut verify = Command::new("sh");
    verify
        .args(["-c", "ulimit -n 64; exec \"$1\" --json cache verify --cache \"$2\"", "sh", BIN])
        .arg(&cache);
    let verified = run(verify.env("ICECACHE_CONFIG", "/dev/null"), LIMIT);
    let told: Value = serde_json::from_str(&verified.must("verify").stdout).unwrap();
    let counts = ["entries", "dropped", "missing"].map(|name| told[name].as_u64().unwrap());
    assert_eq!(counts, [150, 0, 0]);
}

/// HTTP, What clients may cost: more readers at once than the descriptors that the program was given.
#[test]
fn few_descriptors_become_as_many_as_it_may_have() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start_poor(dir.path(), &["--token-file", token.to_str().unwrap()], 64);
    let bytes = content(8, 8 << 20);
    assert_eq!(write(&served, dir.path(), "large", &bytes, &[]).status, 201);
    let mut readers: Vec<_> = (0..100)
        .map(|_| {
            let mut reader = TcpStream::connect(served.http).unwrap();
            reader.write_all(b"GET /files/large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            reader.read_exact(&mut [0; 1]).unwrap();
            reader
        })
        .collect();
    for reader in &mut readers {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(&bytes));
    }
    served.stop();
}

/// The file of this length below a directory.
fn of_length(dir: &Path, length: u64) -> PathBuf {
    let mut stack = vec![dir.to_path_buf()];
    while let Some(path) = stack.pop() {
        for entry in fs::read_dir(path).unwrap().map(|e| e.unwrap()) {
            let meta = entry.metadata().unwrap();
            match meta.is_dir() {
                true => stack.push(entry.path()),
                false if meta.len() == length => return entry.path(),
                false => {}
            }
        }
    }
    panic!("there is none")
}

/// Issue: "`icecache cache {ls,stat,get,put,rm,verify,gc,warm}`; `--json` on each".
#[test]
fn the_command_line_looks_after_a_cache() {
    let (dir, origin, url) = site();
    let cache = dir.path().join("cache");
    let verb = |args: &[&str]| {
        let mut command = Command::new(BIN);
        command.arg("cache").args(args).arg("--cache").arg(&cache).env("ICECACHE_CONFIG", "/dev/null");
        run(&mut command, LIMIT)
    };
    let json = |args: &[&str]| -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        serde_json::from_str(&verb(&all).must("cache").stdout).unwrap()
    };
    assert_eq!(verb(&["ls"]).code, 5, "there is none yet");
    let file = dir.path().join("file");
    fs::write(&file, content(6, 5000)).unwrap();
    let told = json(&["put", "b", file.to_str().unwrap()]);
    let sum = blake3::hash(&content(6, 5000)).to_hex().to_string();
    assert_eq!(told, serde_json::json!({ "key": "b", "size": 5000, "checksum": sum }));
    fs::write(&file, content(7, 50_000)).unwrap();
    verb(&["put", "a", file.to_str().unwrap()]).must("put");
    assert_eq!(verb(&["put", "a", file.to_str().unwrap()]).code, 8, "it is there");
    fs::write(origin.join("data/one"), content(8, 2 * BLOCK)).unwrap();
    fs::write(origin.join("data/two"), content(9, 10)).unwrap();
    fs::write(origin.join("else"), content(9, 10)).unwrap();
    let warmed = json(&["warm", "--origin", &url, "data/"]);
    assert_eq!((&warmed["objects"], &warmed["cached"]), (&2.into(), &(2 * BLOCK + 10).into()));
    let keys = |args: &[&str]| -> Vec<String> {
        json(args).as_array().unwrap().iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["ls"]), ["a", "b", "data/one", "data/two"]);
    assert_eq!(keys(&["ls", "--sort", "size", "--limit", "2"]), ["data/one", "a"]);
    assert_eq!(keys(&["ls", "data/"]), ["data/one", "data/two"]);
    let stat = &json(&["stat", "data/one"])[0];
    assert_eq!(
        (&stat["blocks"], &stat["blocks_total"], &stat["size"]),
        (&2.into(), &2.into(), &(2 * BLOCK).into())
    );
    assert!(verb(&["ls"]).must("ls").stdout.contains("KEY"));
    let to = dir.path().join("got");
    verb(&["get", "a", "--to", to.to_str().unwrap()]).must("get");
    assert!(fs::read(&to).unwrap() == content(7, 50_000));
    assert_eq!(verb(&["get", "none"]).code, 5);
    fs::remove_file(&to).unwrap();
    assert_eq!(json(&["get", "b", "--to", to.to_str().unwrap()])["checksum"], sum);

    let well = json(&["verify"]);
    assert_eq!((&well["entries"], &well["dropped"]), (&4.into(), &0.into()));
    // A byte of a file flips.
    let damaged = fs::File::options().write(true).open(of_length(&cache, 50_000)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, &[content(7, 101)[100] ^ 1], 100).unwrap();
    let found = verb(&["--json", "verify"]);
    assert_eq!(found.code, 9, "{found:?}");
    assert_eq!(keys(&["ls"]), ["b", "data/one", "data/two"]);
    // What opening itself sees counts as well: a file that is too short.
    fs::File::options().write(true).open(of_length(&cache, 5000)).unwrap().set_len(4000).unwrap();
    let found = verb(&["--json", "verify"]);
    let told: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!((found.code, &told["dropped"], &told["entries"]), (9, &1.into(), &2.into()), "{found:?}");
    // A bit of a block's digest, in the attribute that is the witness of an object.
    let (object, name) = (of_length(&cache, 2 * BLOCK as u64), "user.icecache");
    let mut witness = vec![0; 4096];
    let length = rustix::fs::getxattr(&object, name, &mut witness[..]).unwrap();
    witness[length - 20] ^= 1;
    rustix::fs::setxattr(&object, name, &witness[..length], rustix::fs::XattrFlags::REPLACE).unwrap();
    let found = verb(&["--json", "verify"]);
    let told: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!((found.code, &told["dropped"], &told["missing"]), (9, &1.into(), &0.into()), "{found:?}");
    verb(&["warm", "--origin", &url, "data/"]).must("warm");
    // One that is gone is no damage: a kill while it was thrown out leaves that.
    verb(&["put", "b", file.to_str().unwrap()]).must("put");
    fs::remove_file(of_length(&cache, 50_000)).unwrap();
    let told = json(&["verify"]);
    assert_eq!((&told["dropped"], &told["missing"]), (&0.into(), &1.into()));
    verb(&["put", "b", file.to_str().unwrap()]).must("put");
    // What does not fit is said.
    let small = dir.path().join("small");
    let mut warm = Command::new(BIN);
    warm.args(["--json", "cache", "warm", "--origin", &url, "--max-bytes", "1200KiB", "--cache"]);
    let warm = run(warm.arg(&small).args(["data/one"]).env("ICECACHE_CONFIG", "/dev/null"), LIMIT);
    let told: Value = serde_json::from_str(&warm.stdout).unwrap();
    assert_eq!((warm.code, &told["bytes"], &told["cached"]), (1, &(2 * BLOCK).into(), &BLOCK.into()));
    assert!(warm.stderr.contains("--max-bytes"), "{warm:?}");
    // The least recently used go first: what was brought before the last put.
    assert_eq!(json(&["gc", "--max-bytes", "1050KiB"])["entries"], 1);
    let left = json(&["ls"]);
    let bytes: u64 = left.as_array().unwrap().iter().map(|line| line["on_disk"].as_u64().unwrap()).sum();
    assert!(bytes <= 1050 << 10 && keys(&["ls"]) == ["b"], "{left}");
    let held = Served::start(dir.path(), &[], &[]);
    let refused = verb(&["ls"]);
    let pid = held.pid().to_string();
    assert!(refused.code == 4 && refused.stderr.contains(&pid), "{refused:?}");
    held.stop();
    assert_eq!(json(&["rm", "b"])["removed"], 1);
    assert_eq!(verb(&["rm", "b"]).code, 5);
}
