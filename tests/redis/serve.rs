//! `icecache serve --redis`: what one machine has read another one has from Redis.
use crate::common::content;
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::server::Server;
use std::fs;
use tempfile::TempDir;

/// Two servers of one origin, on two machines that share a Redis.
struct Shared {
    redis: Server,
    origin: TempDir,
    places: [TempDir; 2],
}

impl Shared {
    fn new() -> Self {
        let place = |name: &str| tempfile::Builder::new().prefix(name).tempdir_in("/var/tmp").unwrap();
        let places = [place("icecache-http-"), place("icecache-http-")];
        Self { redis: Server::start(&[]), origin: place("icecache-origin-"), places }
    }

    /// Makes it the object, at once.
    fn put(&self, bytes: &[u8]) {
        fs::write(self.origin.path().join("new"), bytes).unwrap();
        fs::rename(self.origin.path().join("new"), self.origin.path().join("object")).unwrap();
    }

    /// The server of this machine.
    fn serve(&self, machine: usize, options: &[&str]) -> Served {
        let (url, asked) = (format!("file://{}", self.origin.path().display()), self.redis.url());
        let options = [&["--origin", &url, "--redis", &asked], options].concat();
        Served::start(self.places[machine].path(), &options, &[])
    }

    fn wait_for_block(&self) {
        eventually("the block is in redis", LIMIT, || (!self.redis.keys().is_empty()).then_some(()));
    }
}

fn asked(served: &Served, result: &str) -> u64 {
    served.metric(&format!("icecache_tier_requests_total{{tier=\"redis\",result=\"{result}\"}}"))
}

/// HTTP, Reading: "blocks that are not on the disk are asked of a Redis that machines share, before the origin".
#[test]
fn a_second_server_has_blocks_from_redis() {
    let (shared, bytes) = (Shared::new(), content(7, 0..100_000));
    shared.put(&bytes);
    let first = shared.serve(0, &[]);
    assert!(first.get("object").body == bytes);
    assert_eq!(asked(&first, "miss"), 1);
    shared.wait_for_block();
    let second = shared.serve(1, &[]);
    assert!(second.get("object").body == bytes);
    assert_eq!(asked(&second, "hit"), 1);
    first.stop();
    second.stop();
}

/// docs/metrics.md: `icecache_tier_corrupt_total`, and `skipped`: nobody was asked, so nothing has failed.
#[test]
fn what_redis_did_not_have_as_written_is_counted_and_what_it_was_not_asked_for_is_no_error() {
    let (mut shared, bytes) = (Shared::new(), content(7, 0..100_000));
    shared.put(&bytes);
    let corrupt = |served: &Served| served.metric("icecache_tier_corrupt_total{tier=\"redis\"}");
    let first = shared.serve(0, &[]);
    assert!(first.get("object").body == bytes);
    shared.wait_for_block();
    for key in shared.redis.keys() {
        shared.redis.cli(&["SET", &key, "rubbish"]);
    }
    let second = shared.serve(1, &[]);
    assert!(second.get("object").body == bytes);
    assert_eq!((corrupt(&first), corrupt(&second), asked(&second, "miss")), (0, 1, 1));
    second.stop();

    shared.redis.kill();
    fs::remove_dir_all(shared.places[1].path().join("cache")).unwrap();
    let alone = shared.serve(1, &[]);
    assert!(alone.get("object").body == bytes);
    assert_eq!((asked(&alone, "skipped"), asked(&alone, "error"), asked(&alone, "miss")), (1, 0, 0));
    alone.stop();
    first.stop();
}

/// HTTP, Reading: "tells the others": who believes for an hour what it knows has the new version all the same.
#[test]
fn who_notices_a_change_tells_the_other_servers() {
    let shared = Shared::new();
    let put = |version: u64| {
        let bytes = content(version, 0..100_000 + version);
        shared.put(&bytes);
        bytes
    };
    let old = put(1);
    let (watchful, credulous) = (shared.serve(0, &["--fresh", "0s"]), shared.serve(1, &["--fresh", "1h"]));
    eventually("both listen", LIMIT, || {
        let listening = shared.redis.cli(&["PUBSUB", "NUMSUB", "icecache:events"]);
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
