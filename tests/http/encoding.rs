//! What an origin says of the bytes of an object.
use crate::harness::served::Served;
use crate::support::s3server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::{content, site};

/// HTTP, Reading: `Content-Encoding` is that of the origin.
#[test]
fn what_is_encoded_is_said_to_be() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(S3Server::start());
    let (dir, _, _) = site();
    let bytes = content(1, 1000);
    server.put("page.html", bytes.clone());
    server.encode("page.html", "aws-chunked,gzip");
    server.put("plain.html", bytes.clone());
    let (endpoint, url) = (server.endpoint(), format!("s3://{BUCKET}"));
    let options = ["--origin", &url, "--s3-endpoint", &endpoint, "--s3-path-style"];
    let environment = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let served = Served::start(dir.path(), &options, &environment);
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
