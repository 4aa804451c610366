//! Conditions of those who read and of those who write.
use crate::harness::served::Served;
use crate::{TOKEN, content, site, write};
use std::fs;

fn remove(served: &Served, key: &str, condition: &str) -> u16 {
    served.curl(key, &["-X", "DELETE", TOKEN[0], TOKEN[1], "-H", condition]).status
}

/// HTTP, Writing: "`If-Match`, `If-None-Match` and `If-Unmodified-Since` hold for both, by what a `GET` would give".
#[test]
fn writes_happen_only_where_their_conditions_hold() {
    let (dir, origin, url) = site();
    let token = dir.path().join("token");
    let options = ["--token-file", token.to_str().unwrap(), "--origin", &url];
    let served = Served::start(dir.path(), &options, &[]);
    let put = |key: &str, bytes: &[u8], condition: &str| {
        write(&served, dir.path(), key, bytes, &["-H", condition]).status
    };
    for condition in ["If-Match: \"x\"", "If-Match: *"] {
        assert_eq!(put("key", b"x", condition), 412, "{condition}: nothing is there");
    }
    assert_eq!(served.get("key").status, 404);
    assert_eq!(put("key", b"version", "If-None-Match: *"), 201);
    let refused = write(&served, dir.path(), "key", b"another", &["-H", "If-None-Match: *"]);
    let etag = served.get("key").headers["etag"].clone();
    assert_eq!((refused.status, &refused.headers["etag"]), (412, &etag), "{refused:?}");
    // It is the one that is meant, and is not overwritten all the same.
    let matches = format!("If-Match: {etag}");
    assert_eq!(put("key", b"another", &matches), 409);
    assert_eq!(put("key", b"another", "If-Match: \"other\""), 412);

    const LONG_AGO: &str = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
    for condition in ["If-Match: \"other\"", "If-None-Match: *", LONG_AGO] {
        assert_eq!(remove(&served, "key", condition), 412, "{condition}");
    }
    assert_eq!(served.get("key").body, b"version");
    assert_eq!(remove(&served, "key", &matches), 204);
    assert_eq!(served.get("key").status, 404);
    assert_eq!(remove(&served, "key", &matches), 412);
    assert_eq!(remove(&served, "key", "If-None-Match: \"x\""), 404);

    // What the origin has is there, to whoever reads.
    fs::write(origin.join("data/object"), "of the origin").unwrap();
    assert_eq!(put("data/object", b"mine", "If-None-Match: *"), 412);
    let matches = format!("If-Match: {}", served.get("data/object").headers["etag"]);
    assert_eq!(remove(&served, "data/object", "If-Match: \"other\""), 412);
    assert_eq!(remove(&served, "data/object", &matches), 404, "it is in no file of the cache");
    assert_eq!(put("data/object", b"mine", &matches), 201);
    assert_eq!(served.get("data/object").body, b"mine");
    served.stop();
}

/// HTTP, Writing: "A part (`Content-Range`) is refused".
#[test]
fn a_part_does_not_become_the_whole() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let part = write(&served, dir.path(), "key", &content(1, 100), &["-H", "Content-Range: bytes 0-99/300"]);
    assert_eq!(part.status, 400, "{part:?}");
    assert_eq!(served.get("key").status, 404);
    served.stop();
}

/// HTTP, Reading: "`If-Range` takes a tag".
#[test]
fn parts_of_two_versions_are_never_joined_by_a_date() {
    let (dir, _, _) = site();
    let token = dir.path().join("token");
    let served = Served::start(dir.path(), &["--token-file", token.to_str().unwrap()], &[]);
    let (old, new) = (content(1, 1000), content(2, 1000));
    assert_eq!(write(&served, dir.path(), "key", &old, &[]).status, 201);
    let date = served.get("key").headers["last-modified"].clone();
    assert_eq!(remove(&served, "key", "If-Match: *"), 204);
    // Often within the same second.
    assert_eq!(write(&served, dir.path(), "key", &new, &[]).status, 201);
    for date in [date, served.get("key").headers["last-modified"].clone()] {
        let rest = served.curl("key", &["-r", "500-", "-H", &format!("If-Range: {date}")]);
        assert!(rest.status == 200 && rest.body == new, "{}", rest.status);
    }
    served.stop();
}
