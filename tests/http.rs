//! The cache over HTTP: the real program, asked by curl and by clients that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "http/clients.rs"]
mod clients;
#[path = "http/command.rs"]
mod command;
#[path = "http/conditions.rs"]
mod conditions;
#[path = "http/counts.rs"]
mod counts;
mod harness;
#[path = "http/origin.rs"]
mod origin;
#[path = "http/readme.rs"]
mod readme;
#[path = "http/refusals.rs"]
mod refusals;
mod support;
#[path = "http/uploads.rs"]
mod uploads;

use harness::served::{Reply, Served};
use harness::{LIMIT, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
