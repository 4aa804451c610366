//! What an origin says of its objects, and what it does not.
use crate::harness::served::Served;
use crate::harness::{LIMIT, eventually};
use crate::support::s3server::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};
use crate::{content, site};
use s3s::S3ErrorCode;
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
