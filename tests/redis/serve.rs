//! `icecache serve --redis`: what one machine has read another one has from Redis.
use crate::common::content;
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::server::Server;
use std::fs;

/// HTTP, Reading: "blocks that are not on the disk are asked of a Redis that machines share, before the origin".
#[test]
fn a_second_server_has_blocks_from_redis() {
    let redis = Server::start(&[]);
    let place = |name: &str| tempfile::Builder::new().prefix(name).tempdir_in("/var/tmp").unwrap();
    let (origin, one, two) = (place("icecache-origin-"), place("icecache-http-"), place("icecache-http-"));
    let bytes = content(7, 0..100_000);
    fs::write(origin.path().join("object"), &bytes).unwrap();
    let (url, asked) = (format!("file://{}", origin.path().display()), redis.url());
    let options = ["--origin", &url, "--redis", &asked];
    let metric = |served: &Served, result: &str| {
        served.metric(&format!("icecache_tier_requests_total{{tier=\"redis\",result=\"{result}\"}}"))
    };
    let first = Served::start(one.path(), &options, &[]);
    assert!(first.get("object").body == bytes);
    assert_eq!(metric(&first, "miss"), 1);
    eventually("the block is in redis", LIMIT, || (!redis.keys().is_empty()).then_some(()));
    let second = Served::start(two.path(), &options, &[]);
    assert!(second.get("object").body == bytes);
    assert_eq!(metric(&second, "hit"), 1);
    first.stop();
    second.stop();
}

/// docs/metrics.md: `icecache_tier_corrupt_total`, and `skipped`: nobody was asked, so nothing has failed.
#[test]
fn what_redis_did_not_have_as_written_is_counted_and_what_it_was_not_asked_for_is_no_error() {
    let mut redis = Server::start(&[]);
    let place = |name: &str| tempfile::Builder::new().prefix(name).tempdir_in("/var/tmp").unwrap();
    let (origin, one, two) = (place("icecache-origin-"), place("icecache-http-"), place("icecache-http-"));
    let bytes = content(7, 0..100_000);
    fs::write(origin.path().join("object"), &bytes).unwrap();
    let (url, asked) = (format!("file://{}", origin.path().display()), redis.url());
    let options = ["--origin", &url, "--redis", &asked];
    let metric = |served: &Served, result: &str| {
        served.metric(&format!("icecache_tier_requests_total{{tier=\"redis\",result=\"{result}\"}}"))
    };
    let corrupt = |served: &Served| served.metric("icecache_tier_corrupt_total{tier=\"redis\"}");
    let first = Served::start(one.path(), &options, &[]);
    assert!(first.get("object").body == bytes);
    eventually("the block is in redis", LIMIT, || (!redis.keys().is_empty()).then_some(()));
    for key in redis.keys() {
        redis.cli(&["SET", &key, "rubbish"]);
    }
    let second = Served::start(two.path(), &options, &[]);
    assert!(second.get("object").body == bytes);
    assert_eq!((corrupt(&first), corrupt(&second), metric(&second, "miss")), (0, 1, 1));
    second.stop();

    redis.kill();
    fs::remove_dir_all(two.path().join("cache")).unwrap();
    let alone = Served::start(two.path(), &options, &[]);
    assert!(alone.get("object").body == bytes);
    assert_eq!((metric(&alone, "skipped"), metric(&alone, "error"), metric(&alone, "miss")), (1, 0, 0));
    alone.stop();
    first.stop();
}

/// HTTP, Reading: "tells the others": who believes for an hour what it knows has the new version all the same.
#[test]
fn who_notices_a_change_tells_the_other_servers() {
    let redis = Server::start(&[]);
    let place = |name: &str| tempfile::Builder::new().prefix(name).tempdir_in("/var/tmp").unwrap();
    let (origin, one, two) = (place("icecache-origin-"), place("icecache-http-"), place("icecache-http-"));
    let put = |version: u64| {
        let bytes = content(version, 0..100_000 + version);
        fs::write(origin.path().join("new"), &bytes).unwrap();
        fs::rename(origin.path().join("new"), origin.path().join("object")).unwrap();
        bytes
    };
    let old = put(1);
    let (url, asked) = (format!("file://{}", origin.path().display()), redis.url());
    let watchful = Served::start(one.path(), &["--origin", &url, "--redis", &asked, "--fresh", "0s"], &[]);
    let credulous = Served::start(two.path(), &["--origin", &url, "--redis", &asked, "--fresh", "1h"], &[]);
    eventually("both listen", LIMIT, || {
        let listening = redis.cli(&["PUBSUB", "NUMSUB", "icecache:events"]);
        listening.split_whitespace().last().filter(|count| *count == "2").map(drop)
    });
    assert!(watchful.get("object").body == old && credulous.get("object").body == old);
    // Twice: that a subscription has begun makes it ask anew as well, once.
    for version in [2, 3] {
        let new = put(version);
        assert!(watchful.get("object").body == new);
        eventually("the other one hears of it", LIMIT, || {
            (credulous.get("object").body == new).then_some(())
        });
    }
    watchful.stop();
    credulous.stop();
}
