//! The directory store by itself, and how [`open`] finds its settings.
use super::support::s3server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use super::{MIB, assert_error, noise, send};
use bytes::Bytes;
use icecache::ErrorKind;
use icecache::remote::{Condition, DirectoryStore, ObjectStore, RemoteError, RemoteUrl, S3Options, open};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[tokio::test]
async fn abort_leaves_no_file_aside() {
    let directory = tempfile::tempdir().unwrap();
    let aside = directory.path().join(".icecache.aside");
    let left = || std::fs::read_dir(&aside).unwrap().count();
    let store = DirectoryStore::open(directory.path()).unwrap();
    let mut upload = store.upload("k", Condition::Always).await.unwrap();
    upload.write(noise(3 * MIB)).await.unwrap();
    assert_eq!(left(), 1);
    upload.abort().await;
    assert_eq!(left(), 0);
    // What a killed writer left goes with the first PUT of the next store; what a live one has stays.
    std::fs::write(aside.join("orphan"), "x").unwrap();
    let live = store.upload("live", Condition::Always).await.unwrap();
    let next = DirectoryStore::open(directory.path()).unwrap();
    next.put("n", Bytes::from("x"), Condition::Always).await.unwrap();
    assert_eq!(left(), 1);
    live.finish().await.unwrap();
    assert_eq!(left(), 0);
}

/// SEMANTICS, Outage: "It and what is made in it are for its owner alone, whatever the umask; in a directory that was
/// there its group may read and write as it may in the directory itself, and others never."
#[tokio::test]
async fn what_a_directory_holds_is_not_for_others() {
    for umask in ["0", "77", "777"] {
        assert!(
            child("local::in_a_child_keep_others_out", vec![("ICECACHE_TEST_UMASK", umask.into())]).await,
            "umask {umask}"
        );
    }
}

#[tokio::test]
#[ignore = "run by what_a_directory_holds_is_not_for_others"]
async fn in_a_child_keep_others_out() {
    let umask = std::env::var("ICECACHE_TEST_UMASK").expect("only makes sense as a child");
    let temp = tempfile::tempdir().unwrap(); // before the umask, which may leave nothing
    let umask = rustix::fs::Mode::from_raw_mode(u32::from_str_radix(&umask, 8).unwrap());
    rustix::process::umask(umask);
    for (top, directories, files) in [
        (None, 0o700, 0o600),
        (Some(0o755), 0o750, 0o640),
        (Some(0o2777), 0o2770, 0o660),
        (Some(0o707), 0o700, 0o600),
    ] {
        let root = temp.path().join(format!("{top:?}/remote"));
        if let Some(mode) = top {
            for dir in [root.parent().unwrap(), &root] {
                std::fs::create_dir(dir).unwrap();
                std::fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
            }
        }
        let store = DirectoryStore::open(&root).unwrap();
        store.put("layers/small", Bytes::from("x"), Condition::Always).await.unwrap();
        let mut large = store.upload("a/b/large", Condition::Always).await.unwrap();
        large.write(noise(3 * MIB)).await.unwrap();
        let mut modes = vec![];
        let mut stack = vec![root.clone()];
        while let Some(dir) = stack.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
                let wanted = if meta.is_dir() { directories } else { files };
                modes.push((meta.mode() & 0o7777 == wanted, meta.mode(), path.clone()));
                if meta.is_dir() {
                    stack.push(path);
                }
            }
        }
        // The lock, what is aside, and its directory; the object, and its directory.
        assert_eq!(modes.len(), 5, "{modes:?}");
        large.finish().await.unwrap();
        for name in ["a", "a/b", "a/b/large"] {
            let meta = std::fs::metadata(root.join(name)).unwrap();
            let wanted = if meta.is_dir() { directories } else { files };
            modes.push((meta.mode() & 0o7777 == wanted, meta.mode(), name.into()));
        }
        assert!(modes.iter().all(|(right, ..)| *right), "{top:?}: {modes:?}");
        let mode = std::fs::metadata(&root).unwrap().mode() & 0o7777;
        assert_eq!(mode, top.unwrap_or(0o700), "the top directory");
        // Who comes later uses the same lock.
        DirectoryStore::open(&root).unwrap().put("n", Bytes::new(), Condition::Always).await.unwrap();
    }
}

/// Runs one test of this program in a process of its own, with nothing in its environment but `variables`;
/// says whether it passed.
async fn child(test: &'static str, variables: Vec<(&'static str, String)>) -> bool {
    let run = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored"]).env_clear().envs(variables);
        command.output().unwrap()
    });
    let output = run.await.unwrap();
    // Zero tests run is a success too, and would prove nothing.
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed")
}

#[tokio::test]
async fn a_directory_is_exact_between_processes() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(directory.path()).unwrap();
    store.put("counter", Bytes::from("0"), Condition::Always).await.unwrap();
    let path = directory.path().to_str().unwrap();
    let children =
        (0..4).map(|_| child("local::in_a_child_count_to_25", vec![("ICECACHE_TEST_CHILD", path.into())]));
    assert_eq!(futures::future::join_all(children).await, [true; 4]);
    assert_eq!(store.get("counter").await.unwrap().bytes, "100");
}

#[tokio::test]
#[ignore = "run by a_directory_is_exact_between_processes"]
async fn in_a_child_count_to_25() {
    let root = std::env::var("ICECACHE_TEST_CHILD").expect("only makes sense as a child");
    let store = DirectoryStore::open(root.as_ref()).unwrap();
    let mut done = 0;
    while done < 25 {
        let seen = store.get("counter").await.unwrap();
        let count: u32 = std::str::from_utf8(&seen.bytes).unwrap().parse().unwrap();
        let next = Bytes::from((count + 1).to_string());
        match store.put("counter", next, Condition::IfMatch(seen.tag)).await {
            Ok(_) => done += 1,
            Err(RemoteError::Precondition { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn credentials_and_endpoint_come_from_the_environment() {
    let server = S3Server::start().await;
    let base = vec![
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ("HOME", "/nonexistent".into()),
    ];
    let keys = vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ("ICECACHE_TEST_CHILD", "works".into()),
    ];
    assert!(child("local::in_a_child_open_from_environment", [base.clone(), keys].concat()).await);
    assert_eq!(server.keys(), ["from/environment/k"]);
    // Without them there is a clear denial, and no request.
    server.control().clear_log();
    let missing = [base, vec![("ICECACHE_TEST_CHILD", "denied".into())]].concat();
    assert!(child("local::in_a_child_open_from_environment", missing).await);
    assert_eq!(server.control().log(), []);
}

#[tokio::test]
#[ignore = "run by credentials_and_endpoint_come_from_the_environment"]
async fn in_a_child_open_from_environment() {
    let expected = std::env::var("ICECACHE_TEST_CHILD").expect("only makes sense as a child");
    let url = format!("s3://{BUCKET}/from/environment").parse().unwrap();
    let store = open(&url, &S3Options::default()).await.unwrap();
    assert_eq!(store.url(), url.to_string());
    let result = store.put("k", Bytes::from("v"), Condition::IfAbsent).await;
    match expected.as_str() {
        "works" => drop(result.unwrap()),
        _ => assert_error!(result, Denied, "no credentials"),
    }
}

#[tokio::test]
async fn open_gives_advice() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = open(&RemoteUrl::File(file), &S3Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
    let bucket = "s3://bucket".parse().unwrap();
    let options = S3Options { endpoint: Some("localhost:9000".into()), ..S3Options::default() };
    let error = open(&bucket, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("must begin with http://"), "{error}");
    // Two openings of one memory remote see the same objects.
    let memory = "mem:open-gives-advice".parse().unwrap();
    let one = open(&memory, &S3Options::default()).await.unwrap();
    one.put("k", Bytes::from("v"), Condition::Always).await.unwrap();
    assert_eq!(open(&memory, &options).await.unwrap().get("k").await.unwrap().bytes, "v");
}

#[tokio::test]
async fn directory_tags_are_stable() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(directory.path()).unwrap();
    let tag = store.put("k", Bytes::from("one"), Condition::Always).await.unwrap();
    assert_eq!(tag.0, format!("b{}", blake3::hash(b"one").to_hex()));
    // The file is the object, plain, for any other tool.
    assert_eq!(std::fs::read(directory.path().join("k")).unwrap(), b"one");
    let large = send(&store, "l", &noise(2 * MIB), Condition::Always).await.unwrap();
    let again = DirectoryStore::open(directory.path()).unwrap();
    assert_eq!(again.download("l", None).await.unwrap().tag, large);
    let refused = store.put("k/below", Bytes::new(), Condition::Always).await;
    assert_error!(refused, Refused, "an object cannot be a directory");
}

#[tokio::test]
async fn a_directory_lists_objects_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let absent = DirectoryStore::open(&root.join("absent")).unwrap();
    assert_eq!(absent.list("", None).await.unwrap().objects, []);
    absent.delete("k").await.unwrap();
    assert!(!root.join("absent").exists(), "looking makes nothing");
    let store = DirectoryStore::open(root).unwrap();
    store.put("n/HEAD", Bytes::from("v"), Condition::Always).await.unwrap();
    std::fs::create_dir(root.join("empty")).unwrap();
    std::os::unix::net::UnixListener::bind(root.join("n/socket")).unwrap();
    std::os::unix::fs::symlink("HEAD", root.join("n/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("n/broken")).unwrap();
    let keys: Vec<String> = store.list("", None).await.unwrap().objects.into_iter().map(|o| o.key).collect();
    assert_eq!(keys, ["n/HEAD", "n/link"]);
    assert_error!(store.delete("n").await, Refused, "a directory is no object");
    // Objects behind such a link can be read, so a list without them would be a lie.
    std::os::unix::fs::symlink("n", root.join("other")).unwrap();
    assert_eq!(store.get("other/HEAD").await.unwrap().bytes, "v");
    assert_error!(store.list("", None).await, Refused, "a symlink to a directory");
    std::fs::remove_dir_all(root).unwrap();
    assert_error!(store.list("", None).await, NoBucket, "the root is gone");
    assert_error!(store.delete("k").await, NoBucket, "the root is gone");
    std::fs::create_dir(root).unwrap();
}

/// Whoever reads it is not to wait for a writer that never comes.
#[tokio::test]
async fn a_fifo_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(directory.path()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    let asked = async { (store.head("fifo").await, store.download("fifo", None).await.map(drop)) };
    let (head, download) =
        tokio::time::timeout(std::time::Duration::from_secs(20), asked).await.expect("answers");
    assert!(matches!(head, Err(RemoteError::Refused { .. })), "{head:?}");
    assert!(matches!(download, Err(RemoteError::Refused { .. })), "{download:?}");
}

/// Another program writes in place and sets the time back, as `rsync --inplace --times` may do.
#[tokio::test]
async fn what_is_written_in_place_has_another_tag() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(directory.path()).unwrap();
    store.put("k", noise(2 * MIB), Condition::Always).await.unwrap();
    let before = store.head("k").await.unwrap();
    let path = directory.path().join("k");
    let time = path.metadata().unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"other", 1 << 20).unwrap();
    file.set_modified(time).unwrap();
    let after = store.head("k").await.unwrap();
    assert_eq!((before.length, before.modified), (after.length, after.modified));
    assert_ne!(before.tag, after.tag);
}

/// Two stores may have a bucket of the same name.
#[tokio::test]
async fn a_named_endpoint_is_part_of_the_identity() {
    let url: RemoteUrl = "s3://bucket/a b".parse().unwrap();
    let identity = async |endpoint: Option<&str>| {
        let options = S3Options { endpoint: endpoint.map(str::to_owned), ..S3Options::default() };
        let store = open(&url, &options).await.unwrap();
        assert_eq!(store.url(), "s3://bucket/a b");
        assert_eq!(icecache::remote::url_of(&store.identity()), store.url());
        store.identity()
    };
    let [one, other] =
        [identity(Some("http://127.0.0.1:1")).await, identity(Some("http://127.0.0.1:2/")).await];
    assert_eq!(one, "http://127.0.0.1:1 s3://bucket/a b");
    assert_eq!(other, "http://127.0.0.1:2 s3://bucket/a b");
}
