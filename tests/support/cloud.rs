//! A mount whose remote is an S3 in this process. For test programs that have `mod harness` and `mod support`.
use crate::harness::{Lab, Setup};
use crate::support::s3server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// The lab goes first when dropped.
pub struct Cloud {
    pub lab: Lab,
    pub server: S3Server,
    _runtime: tokio::runtime::Runtime,
}

impl Cloud {
    /// A server and directories, but no mount yet. Keys begin with `prefix/`.
    pub fn prepare() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = runtime.block_on(S3Server::start());
        let environment = [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        let setup = Setup {
            remote: Some(format!("s3://{BUCKET}/prefix")),
            remote_options: vec!["--s3-path-style".into(), "--s3-endpoint".into(), server.endpoint()],
            environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            ..Setup::default()
        };
        Self { lab: Lab::prepare(setup), server, _runtime: runtime }
    }
}
