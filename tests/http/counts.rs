//! What a server counts, by what happened.
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::{TOKEN, content, site, write};
use std::io::{Read, Write};
use std::net::TcpStream;

/// docs/metrics.md: every answer counts, whoever gave it.
#[test]
fn answers_to_what_is_no_request_are_counted() {
    let (dir, _, _) = site();
    let served = Served::start(dir.path(), &[], &[]);
    for (count, head) in [
        // Too long for us, not for the library.
        format!("GET /files/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {}\r\n\r\n", "y".repeat(33_000)),
        format!("GET /files/x HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200)),
        "GET /files/x HTTP/1.1\r\n bad header\r\n\r\n".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let mut client = TcpStream::connect(served.http).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        assert!(reply.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&reply));
        eventually("it is counted", LIMIT, || {
            let counted = served.metric("icecache_http_responses_total{class=\"4xx\"}");
            (counted == count as u64 + 1).then_some(())
        });
    }
    served.stop();
}

/// docs/metrics.md: `icecache_cache_refused_total` are files, `icecache_cache_not_kept_total` blocks.
#[test]
fn a_refused_upload_was_not_read_past_the_cache() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let options = ["--token-file", token.to_str().unwrap(), "--max-bytes", "4MiB", "--min-free", "0"];
    let served = Served::start(dir.path(), &options, &[]);
    assert_eq!(write(&served, dir.path(), "large", &content(1, 5 << 20), &[]).status, 413);
    assert_eq!(served.metric("icecache_cache_refused_total{reason=\"size\"}"), 1);
    assert_eq!(served.metric("icecache_cache_not_kept_total{reason=\"size\"}"), 0);
    served.stop();
}

/// docs/metrics.md: `icecache_cache_deletes_total` has fills, too.
#[test]
fn a_fill_that_is_deleted_counts() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let mut upload = TcpStream::connect(served.http).unwrap();
    let head = "PUT /files/key HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer se cret\r\nContent-Length: 9\r\n\r\nsome";
    upload.write_all(head.as_bytes()).unwrap();
    eventually("the upload is seen", LIMIT, || (served.curl("key", &["--head"]).status == 200).then_some(()));
    assert_eq!(served.curl("key", &[&["-X", "DELETE"][..], &TOKEN].concat()).status, 204);
    assert_eq!(served.metric("icecache_cache_deletes_total"), 1);
    served.stop();
}
