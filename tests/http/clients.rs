//! What clients may cost.
use crate::harness::lab::BIN;
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually, run};
use crate::{content, site, write};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

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
