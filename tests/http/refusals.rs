//! What clients are told whose request fails, or is none.
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::{content, of_length, site, write};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

fn connect(served: &Served) -> TcpStream {
    let stream = TcpStream::connect(served.http).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The status and all that is said to a request, until the connection ends.
fn said(served: &Served, request: &str) -> (u16, String) {
    let mut client = connect(served);
    client.write_all(request.as_bytes()).unwrap();
    told(&mut client)
}

fn told(client: &mut TcpStream) -> (u16, String) {
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).unwrap();
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let status = reply.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{reply:?}")), reply)
}

/// HTTP, What clients may cost: "What still comes of a request that was refused is read and thrown away".
#[test]
fn the_answer_to_a_refused_upload_arrives() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    assert_eq!(write(&served, dir.path(), "there", b"x", &[]).status, 201);
    let bytes = content(1, 60_000_000);
    for (line, status) in [("Authorization: Bearer se cret", 409), ("Authorization: Bearer wrong", 401)] {
        for _ in 0..3 {
            let mut client = connect(&served);
            let length = bytes.len();
            write!(
                client,
                "PUT /files/there HTTP/1.1\r\nHost: x\r\n{line}\r\nContent-Length: {length}\r\n\r\n"
            )
            .unwrap();
            // As clients do that look for an answer when all is sent.
            client.write_all(&bytes).unwrap();
            let (told, reply) = told(&mut client);
            assert_eq!(told, status, "{reply}");
            assert!(reply.contains("connection: close"), "{reply}");
        }
    }
    // One that is small costs nobody his connection.
    let small = write(&served, dir.path(), "there", b"y", &[]);
    assert!(small.status == 409 && !small.headers.contains_key("connection"), "{small:?}");
    eventually("nobody is waited for", LIMIT, || {
        (served.metric("icecache_http_connections") == 0).then_some(())
    });
    served.stop();
}

/// HTTP, Reading: "If its fill fails the connection breaks off, so that nobody takes it for whole": nor does he to whom
/// the end of the connection is the end of the content.
#[test]
fn who_speaks_1_0_is_not_given_some_for_all() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let waiting = || served.metric("icecache_cache_file_lookups_total{result=\"filling\"}");
    for whole in [false, true] {
        let mut upload = connect(&served);
        let head = "PUT /files/key HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer se cret\r\n\
                    Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        upload.write_all(head.as_bytes()).unwrap();
        eventually("the upload is seen", LIMIT, || {
            (served.curl("key", &["--head"]).status == 200).then_some(())
        });
        let before = waiting();
        let mut reader = connect(&served);
        reader.write_all(b"GET /files/key HTTP/1.0\r\n\r\n").unwrap();
        eventually("it is looked up", LIMIT, || (waiting() > before).then_some(()));
        if whole {
            upload.write_all(b"4\r\nlast\r\n0\r\n\r\n").unwrap();
            let (status, reply) = told(&mut reader);
            assert!(status == 200 && reply.ends_with("\r\n\r\nfirstlast"), "{reply}");
            assert!(reply.contains("content-length: 9"), "{reply}");
        } else {
            drop(upload);
            let (status, reply) = told(&mut reader);
            assert_eq!(status, 404, "{reply}");
        }
    }
    served.stop();
}

/// HTTP, Writing: what would not be what was sent is refused, whole: RFC 9112, 6.1, RFC 9110, 8.4, RFC 1945, 8.3.
#[test]
fn bytes_of_which_it_is_not_known_what_they_are_make_no_file() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for (lines, body, status) in [
        ("HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", chunked, 501),
        ("HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", chunked, 501),
        ("HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n", "hello", 415),
        ("HTTP/1.0\r\n", "hello", 411),
        ("HTTP/1.0\r\nContent-Length: 5\r\n", "hello", 201),
        ("HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n", chunked, 201),
    ] {
        let authorized = "Host: x\r\nAuthorization: Bearer se cret\r\nConnection: close\r\n";
        let request = format!("PUT /files/new {lines}{authorized}\r\n{body}");
        let (told, reply) = said(&served, &request);
        assert_eq!(told, status, "{lines:?}: {reply}");
        let found = served.get("new");
        assert_eq!(found.status, if status == 201 { 200 } else { 404 }, "{lines:?}");
        if status == 201 {
            assert_eq!(found.body, b"hello", "{lines:?}");
            let removed = served.curl("new", &["-X", "DELETE", "-H", "Authorization: Bearer se cret"]);
            assert_eq!(removed.status, 204, "{lines:?}");
        }
    }
    served.stop();
}

/// RFC 9112, 3.2.
#[test]
fn a_request_has_one_host() {
    let (dir, _, _) = site();
    let served = Served::start(dir.path(), &[], &[]);
    for (lines, status) in [
        ("HTTP/1.1\r\n", 400),
        ("HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
        ("HTTP/1.1\r\nHost: user@a\r\n", 400),
        ("HTTP/1.1\r\nHost: a/b\r\n", 400),
        ("HTTP/1.0\r\nHost: a\r\nHost: b\r\n", 400),
        ("HTTP/1.1\r\nHost: a\r\n", 404),
        ("HTTP/1.1\r\nHost: [::1]:80\r\n", 404),
        ("HTTP/1.1\r\nHost:\r\n", 404),
        ("HTTP/1.0\r\n", 404),
    ] {
        let request = format!("GET /files/none {lines}Connection: close\r\n\r\n");
        assert_eq!(said(&served, &request).0, status, "{lines:?}");
    }
    // Section 3.2.4: a question about the server.
    let (status, reply) = said(&served, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(status == 204 && reply.contains("allow: GET, HEAD, PUT, DELETE"), "{reply}");
    served.stop();
}

/// HTTP, Reading: a file that has vanished is none, from the first request on.
#[test]
fn what_has_vanished_is_not_there() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    assert_eq!(write(&served, dir.path(), "key", &content(1, 54_321), &[]).status, 201);
    fs::remove_file(of_length(&dir.path().join("cache"), 54_321)).unwrap();
    let gone = served.get("key");
    assert_eq!(gone.status, 404, "{}", String::from_utf8_lossy(&gone.body));
    assert_eq!(served.metric("icecache_cache_vanished_total"), 1);
    assert_eq!(write(&served, dir.path(), "key", b"again", &[]).status, 201);
    served.stop();
}

/// HTTP, Reading: "No answer names a path of this machine".
#[test]
fn nobody_is_told_where_things_are_on_this_machine() {
    let (dir, origin, url) = site();
    fs::create_dir(origin.join("data/folder")).unwrap();
    fs::write(origin.join("data/object"), content(1, 2000)).unwrap();
    let served = Served::start(dir.path(), &["--origin", &url], &[]);
    let here = dir.path().to_str().unwrap();
    let is_silent = |key: &str, status: u16| {
        let reply = served.get(key);
        let text = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, status, "{key}: {text}");
        assert!(!text.contains(here), "{key}: {text}");
    };
    // A directory is no object.
    is_silent("data", 404);
    is_silent("data/folder", 404);
    // The origin is gone.
    fs::rename(&origin, dir.path().join("away")).unwrap();
    is_silent("data/object", 503);
    fs::rename(dir.path().join("away"), &origin).unwrap();
    assert_eq!(served.get("data/object").status, 200);
    served.stop();
}
