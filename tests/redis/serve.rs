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
