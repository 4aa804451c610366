//! What an origin says of its objects, and what it does not.
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::support::s3server::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};
use crate::{BLOCK, content, site};
use s3s::S3ErrorCode;
use std::fs;
use tokio::runtime::Runtime;

/// A server of a bucket.
struct Proxy {
    _dir: tempfile::TempDir,
    bucket: S3Server,
    served: Served,
    _runtime: Runtime,
}

impl Proxy {
    fn start(options: &[&str]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bucket = runtime.block_on(S3Server::start());
        let (dir, _, _) = site();
        let (endpoint, url) = (bucket.endpoint(), format!("s3://{BUCKET}"));
        let options = [&["--origin", &url, "--s3-endpoint", &endpoint, "--s3-path-style"], options].concat();
        let environment = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let served = Served::start(dir.path(), &options, &environment);
        Self { _dir: dir, bucket, served, _runtime: runtime }
    }
}

/// HTTP, Reading: `Content-Encoding` is that of the origin.
#[test]
fn what_is_encoded_is_said_to_be() {
    let Proxy { bucket, served, _dir, _runtime } = Proxy::start(&[]);
    let bytes = content(1, 1000);
    bucket.put("page.html", bytes.clone());
    bucket.encode("page.html", "aws-chunked,gzip");
    bucket.put("plain.html", bytes.clone());
    for options in [&[][..], &["--head"], &["-r", "10-19"]] {
        let reply = served.curl("page.html", options);
        assert_eq!(reply.headers.get("content-encoding").map(String::as_str), Some("gzip"), "{options:?}");
    }
    assert!(served.get("page.html").body == bytes);
    // Of several parts each says so, and not the envelope.
    let parts = served.curl("page.html", &["-r", "0-9,20-29"]);
    let text = String::from_utf8_lossy(&parts.body).matches("Content-Encoding: gzip\r\n").count();
    assert_eq!((parts.headers.get("content-encoding"), text), (None, 2));
    assert!(!served.get("plain.html").headers.contains_key("content-encoding"));
    served.stop();
}

/// HTTP, Reading: "The same goes for an object of which the origin gives no answer while it answers for others".
#[test]
fn an_object_without_an_answer_is_not_the_origin() {
    let Proxy { bucket, served, _dir, _runtime } = Proxy::start(&["--fresh", "0s"]);
    let [first, second, third] = [1, 2, 3].map(|seed| content(seed, 1000));
    bucket.put("bad", first.clone());
    bucket.put("good", first.clone());
    assert!(served.get("bad").body == first && served.get("good").body == first);
    bucket.control().set_hook(|request| match request.key.as_str() {
        "bad" => Fault::FailBefore(S3ErrorCode::InternalError),
        _ => Fault::None,
    });
    // What is known of it is good enough; and the others are asked about, at once.
    assert!(served.get("bad").body == first);
    bucket.put("good", second.clone());
    assert!(served.get("good").body == second, "one bad object keeps others from being looked at");
    // Nobody waits for it again, and it is asked about all the same.
    assert!(served.get("bad").body == first);
    bucket.control().clear_hook();
    bucket.put("bad", third.clone());
    eventually("it is asked about again", LIMIT, || (served.get("bad").body == third).then_some(()));
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
