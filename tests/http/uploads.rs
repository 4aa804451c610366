//! Files while they come, and right after.
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::{TOKEN, content, site, write};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

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
