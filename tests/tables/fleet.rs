//! Machines that share a Redis: what one has read the others need not ask the store for, and a change that one notices
//! turns all of them over.
use crate::harness::{LIMIT, detach, eventually};
use crate::lake::{Lake, TABLES, files};
use crate::server::Server;
use std::fs;
use std::path::{Path, PathBuf};

/// The second machine; unmounted when dropped.
struct Other(PathBuf);

impl Drop for Other {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

fn hint(dir: &Path) -> String {
    fs::read_to_string(dir.join(TABLES).join("refs/metadata/version-hint.text")).unwrap()
}

#[test]
fn what_one_machine_notices_turns_over_another() {
    let versions: Vec<String> = (5..=7).map(|n| format!("wh/db/refs/metadata/v{n}.metadata.json")).collect();
    let hint_key = "wh/db/refs/metadata/version-hint.text";
    let lake = Lake::prepare(|key| key == versions[1] || key == versions[2]);
    lake.cloud.server.put_into("lake", hint_key, "5");
    let redis = Server::start(&[]);
    let (url, other) = (redis.url(), Other(lake.cloud.lab.root().join("other")));
    fs::create_dir(&other.0).unwrap();
    let shared = ["--catalog", "lake=hadoop:s3://lake/wh", "--tables-redis", &url];
    // The second asks its catalog by itself when the test is long over.
    let deaf = ["--tables-poll", "12h", "--tables-poll-idle", "12h"];
    lake.mount_with(&shared).must("mount");
    lake.mount_at(&other.0, "other-state", &[&shared[..], &deaf[..]].concat()).must("mount");
    assert_eq!((hint(&lake.dir), hint(&other.0)), ("5".to_owned(), "5".to_owned()));
    eventually("both listen", LIMIT, || {
        redis.cli(&["PUBSUB", "NUMSUB", "icecache:events"]).ends_with('2').then_some(())
    });
    // Who begins to listen asks once, whatever it hears; so the second time it is the hint alone.
    for n in [6, 7] {
        lake.commit(&[&versions[n - 5]]);
        lake.cloud.server.put_into("lake", hint_key, n.to_string());
        for dir in [&lake.dir, &other.0] {
            eventually("it is turned over", LIMIT, || (hint(dir) == n.to_string()).then_some(()));
        }
    }

    let data = |dir: &Path| files(&dir.join(TABLES).join("evolved/data"));
    let read: Vec<Vec<u8>> = data(&lake.dir).iter().map(|file| fs::read(file).unwrap()).collect();
    eventually("Redis has them", LIMIT, || (redis.keys().len() >= read.len()).then_some(()));
    lake.cloud.server.control().clear_log();
    let again: Vec<Vec<u8>> = data(&other.0).iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(read == again && !read.is_empty());
    let log = lake.cloud.server.control().log();
    let asked = |request: &&crate::support::s3server::Request| {
        request.operation == "GetObject" && request.key.contains("/evolved/data/")
    };
    assert_eq!(log.iter().filter(asked).count(), 0, "the store was not asked for what Redis has");
    lake.cloud.lab.call(["unmount".as_ref(), other.0.as_os_str()]).must("unmount");
    lake.unmount();
}
