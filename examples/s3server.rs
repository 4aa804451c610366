//! The tests' S3 server as a program, for scripts: prints `ENDPOINT,BUCKET,KEY,SECRET` in one line (the form
//! of `ICECACHE_TEST_S3`) and serves from memory until it is stopped. Takes an address to listen on
//! (default `127.0.0.1:0`).
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;
use support::s3server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let server = S3Server::start_at(&address).await;
    let mut out = std::io::stdout();
    writeln!(out, "{},{BUCKET},{ACCESS_KEY},{SECRET_KEY}", server.endpoint())?;
    out.flush()?;
    std::future::pending().await
}
