#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::*;
use crate::clock::Timestamp;
use crate::layer::{Kind, LayerWriter, Metadata, PackOptions, Reference, References};
use crate::remote::{Condition, Download, Object, ObjectStore, Page, Properties, Tag, Upload};
use crate::state::head::layer_key;
use crate::sync::Mutex;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use uuid::Uuid;

/// Objects in memory, with ways to spoil them.
#[derive(Debug, Default)]
struct Shelf {
    objects: Mutex<HashMap<String, Bytes>>,
    downloads: AtomicU64,
    /// Streams end with an error after so many bytes.
    break_at: Option<usize>,
}

fn not_here() -> RemoteError {
    RemoteError::Refused { message: "not in this test".into() }
}

#[async_trait]
impl ObjectStore for Shelf {
    fn url(&self) -> String {
        "shelf".into()
    }
    async fn get(&self, _: &str) -> Result<Object, RemoteError> {
        Err(not_here())
    }
    async fn download(&self, key: &str, _: Option<Range<u64>>) -> Result<Download, RemoteError> {
        self.downloads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.objects.lock().get(key).cloned();
        let bytes = bytes.ok_or_else(|| RemoteError::NotFound { key: key.into() })?;
        let mut parts: Vec<Result<Bytes, RemoteError>> =
            bytes.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        if let Some(at) = self.break_at {
            let message = "reset".into();
            parts = vec![Ok(bytes.slice(..at.min(bytes.len()))), Err(RemoteError::Unavailable { message })];
        }
        let body = futures::stream::iter(parts).boxed();
        Ok(Download { length: bytes.len() as u64, tag: Tag("x".into()), body })
    }
    async fn put(&self, _: &str, _: Bytes, _: Condition) -> Result<Tag, RemoteError> {
        Err(not_here())
    }
    async fn upload(&self, _: &str, _: Condition) -> Result<Box<dyn Upload>, RemoteError> {
        Err(not_here())
    }
    async fn head(&self, _: &str) -> Result<Properties, RemoteError> {
        Err(not_here())
    }
    async fn delete(&self, _: &str) -> Result<(), RemoteError> {
        Err(not_here())
    }
    async fn list(&self, _: &str, _: Option<&str>) -> Result<Page, RemoteError> {
        Err(not_here())
    }
}

fn path(p: &str) -> RelPath {
    RelPath::new(p).expect("valid path")
}

const MTIME: Timestamp = Timestamp { sec: 1_600_000_000, nsec: 5 };

fn entry(p: &str, kind: Kind) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let meta = Metadata { mode: 0o755, uid, gid, mtime: MTIME, xattrs: Vec::new() };
    Entry { path: path(p), kind, meta }
}

type Item = (Entry, &'static [u8]);

fn file(p: &str, bytes: &'static [u8]) -> Item {
    (entry(p, Kind::File { size: bytes.len() as u64, fuzzy: false, refs: References::none() }), bytes)
}
fn dir(p: &str) -> Item {
    (entry(p, Kind::Directory), b"")
}
fn gone(p: &str) -> Item {
    (entry(p, Kind::Whiteout), b"")
}
fn link(p: &str, target: &str) -> Item {
    (entry(p, Kind::HardLink { target: path(target) }), b"")
}
fn symlink(p: &str, target: &str) -> Item {
    (entry(p, Kind::Symlink { target: target.into() }), b"")
}

impl Shelf {
    /// Puts layers in, newest first.
    fn with(layers: &[&[Item]]) -> (Self, Vec<LayerSource>) {
        let shelf = Self::default();
        let mut sources = Vec::new();
        for (i, items) in layers.iter().enumerate() {
            let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
            for (entry, bytes) in *items {
                let content = tempfile::tempfile().expect("temporary file");
                content.write_all_at(bytes, 0).expect("write");
                writer.append(entry, Some(&content)).expect("append");
            }
            let (bytes, summary) = writer.finish().expect("finish");
            let key = format!("layers/{i}.tar.zst");
            sources.push(LayerSource {
                key: key.clone(),
                bytes: summary.bytes,
                digest: Some(summary.digest),
                dictionary: None,
            });
            shelf.objects.lock().insert(key, bytes.into());
        }
        (shelf, sources)
    }
}

fn fd(dir: &Path) -> OwnedFd {
    File::open(dir).expect("directory").into()
}

fn run(shelf: Shelf, layers: Vec<LayerSource>, to: &Path, policy: Policy) -> Result<Restored, RestoreError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    runtime.expect("runtime").block_on(restore(Arc::new(shelf), layers, fd(to), policy, &NoProgress))
}

fn into_empty(layers: &[&[Item]]) -> (tempfile::TempDir, Result<Restored, RestoreError>) {
    let to = tempfile::tempdir().expect("directory");
    let (shelf, sources) = Shelf::with(layers);
    let result = run(shelf, sources, to.path(), Policy::default());
    (to, result)
}

/// Every path with its content (directories end in a slash).
fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, prefix: &str, out: &mut Vec<String>) {
        for item in std::fs::read_dir(dir).expect("list") {
            let item = item.expect("item");
            let name = format!("{prefix}{}", item.file_name().to_string_lossy());
            let kind = item.file_type().expect("type");
            if kind.is_dir() {
                out.push(format!("{name}/"));
                walk(&item.path(), &format!("{name}/"), out);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(item.path()).expect("readlink");
                out.push(format!("{name}->{}", target.display()));
            } else {
                let content = String::from_utf8(std::fs::read(item.path()).expect("read")).expect("text");
                out.push(format!("{name}={content}"));
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, "", &mut out);
    out.sort();
    out
}

#[test]
fn the_newest_layer_decides_each_path() {
    let (to, done) = into_empty(&[
        &[file("a", b"3"), gone("d/x"), file("was-dir", b"file"), dir("was-file"), file("was-file/n", b"n")],
        &[
            file("a", b"2"),
            file("b", b"2"),
            file("was-file", b"old"),
            gone("refilled"),
            dir("refilled"),
            file("refilled/new", b"new"),
        ],
        &[
            file("a", b"1"),
            file("c", b"1"),
            dir("d"),
            file("d/x", b"x"),
            file("d/y", b"y"),
            dir("was-dir"),
            file("was-dir/old", b"old"),
            dir("was-file"),
            file("was-file/older", b"o"),
            dir("refilled"),
            file("refilled/old", b"old"),
        ],
    ]);
    let done = done.expect("restores");
    assert_eq!(
        tree(to.path()),
        [
            "a=3",
            "b=2",
            "c=1",
            "d/",
            "d/y=y",
            "refilled/",
            "refilled/new=new",
            "was-dir=file",
            "was-file/",
            "was-file/n=n"
        ]
    );
    assert_eq!((done.entries, done.files), (10, 7));
    assert_eq!(to.path().join("d").metadata().expect("stat").mtime(), MTIME.sec, "directories come last");
}

#[test]
fn a_hard_link_outlives_the_first_name_of_its_file() {
    // Both names in one layer; later the first name went, or was taken by another file.
    for newer in [gone("a"), file("a", b"another")] {
        let (to, done) = into_empty(&[&[newer], &[file("a", b"shared"), link("b", "a"), link("c", "a")]]);
        done.expect("restores");
        assert_eq!(std::fs::read(to.path().join("b")).expect("read"), b"shared");
        assert_eq!(to.path().join("b").metadata().expect("stat").nlink(), 2);
        let both = ["b", "c"].map(|p| to.path().join(p).metadata().expect("stat").ino());
        assert_eq!(both[0], both[1]);
    }
    let (_, done) = into_empty(&[&[gone("a"), link("b", "a")], &[file("a", b"older layers do not count")]]);
    let error = done.expect_err("the layer itself does not have it").to_string();
    assert!(error.contains("layers/0.tar.zst") && error.contains(": a: b"), "{error}");
}

#[test]
fn restored_paths_come_with_their_last_identity() {
    let to = tempfile::tempdir().expect("directory");
    let (shelf, sources) =
        Shelf::with(&[&[dir("d"), file("d/a", b"x"), link("d/b", "d/a")], &[file("old", b"o")]]);
    let seen: Arc<Mutex<HashMap<RelPath, RestoredPath>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let on_restored = Box::new(move |batch: Vec<RestoredPath>| {
        sink.lock().extend(batch.into_iter().map(|r| (r.path.clone(), r)));
    });
    let policy = Policy { on_restored: Some(on_restored), ..Policy::default() };
    run(shelf, sources, to.path(), policy).expect("restores");
    let seen = seen.lock();
    assert_eq!(seen.len(), 4);
    for (path, restored) in seen.iter() {
        let stat = rustix::fs::lstat(to.path().join(path.as_path())).expect("stat");
        assert_eq!(restored.identity, Identity::from(&stat), "{path}");
        assert_eq!(restored.layer, usize::from(path.as_bytes() == b"old"));
    }
}

#[test]
fn what_the_disk_holds_is_kept_moved_or_left() {
    let to = tempfile::tempdir().expect("directory");
    let aside = tempfile::tempdir().expect("directory");
    let layers: &[&[Item]] = &[&[
        dir("d"),
        file("d/kept", b"remote"),
        file("d/differs", b"remote"),
        file("blocked/f", b"remote"),
        file("was-dir", b"remote"),
        symlink("link", "there"),
        file("same", b"remote"),
        file("attributes", b"remote"),
        file("looks-same", b"remote"),
        file("saved", b"remote"),
        file("wins", b"remote"),
        file("wins-too", b"remote"),
        file("zlink", b"remote"),
        link("zlink2", "zlink"),
    ]];
    let p = |s: &str| to.path().join(s);
    std::fs::create_dir_all(p("d")).expect("mkdir");
    std::fs::create_dir_all(p("was-dir/deep")).expect("mkdir");
    for (name, content) in [
        ("d/kept", "LOCAL!"),
        ("d/differs", "local"),
        ("blocked", "in the way"),
        ("was-dir/deep/f", "deep"),
        ("d/local-only", "mine"),
        ("same", "remote"),
        ("attributes", "remote"),
        ("looks-same", "REMOTE"),
        ("saved", "REMOTE"),
        ("wins", "REMOTE"),
        ("wins-too", "longer than that"),
        ("zlink2", "REMOTE"),
    ] {
        std::fs::write(p(name), content).expect("write");
    }
    std::os::unix::fs::symlink("elsewhere", p("link")).expect("symlink");
    let mtime = std::time::SystemTime::from(MTIME);
    for name in ["same", "looks-same", "saved", "wins", "zlink2"] {
        let file = File::options().write(true).open(p(name)).expect("open");
        file.set_modified(mtime).expect("mtime");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(p("attributes"), mode).expect("mode");
    let same_ino = p("same").metadata().expect("stat").ino();
    let kept_ino = p("d/kept").metadata().expect("stat").ino();
    let (shelf, sources) = Shelf::with(layers);
    let policy = Policy {
        existing: Existing::Keep(Box::new(|path, _, _, _| match path.as_bytes() {
            b"d/kept" => Standing::Stays,
            b"saved" => Standing::Saved,
            b"wins" | b"wins-too" => Standing::Wins { changed: false },
            _ => Standing::Unknown,
        })),
        aside: Some(fd(aside.path())),
        ..Policy::default()
    };
    let done = run(shelf, sources, to.path(), policy).expect("restores");
    assert_eq!(
        tree(to.path()),
        [
            "attributes=remote",
            "blocked/",
            "blocked/f=remote",
            "d/",
            "d/differs=remote",
            "d/kept=LOCAL!",
            "d/local-only=mine",
            "link->there",
            "looks-same=remote",
            "same=remote",
            "saved=remote",
            "was-dir=remote",
            "wins-too=longer than that",
            "wins=REMOTE",
            "zlink2=remote",
            "zlink=remote",
        ]
    );
    assert_eq!(p("d/kept").metadata().expect("stat").ino(), kept_ino);
    assert_eq!(p("same").metadata().expect("stat").ino(), same_ino, "rewritten for nothing");
    assert_eq!(p("attributes").metadata().expect("stat").mode() & 0o7777, 0o755);
    assert_eq!(done.kept, 2);
    assert_eq!(
        tree(aside.path()),
        [
            "blocked=in the way",
            "d/",
            "d/differs=local",
            "link->elsewhere",
            "looks-same=REMOTE",
            "was-dir/",
            "was-dir/deep/",
            "was-dir/deep/f=deep",
            "zlink2=REMOTE",
        ]
    );
    let mut moved = done.moved;
    moved.sort();
    assert_eq!(moved, ["blocked", "d/differs", "link", "looks-same", "was-dir", "zlink2"].map(path));
}

#[test]
fn files_move_aside_to_another_file_system_too() {
    let Ok(aside) = tempfile::tempdir_in("/dev/shm") else { return };
    let to = tempfile::tempdir().expect("directory");
    std::fs::create_dir_all(to.path().join("t/u")).expect("mkdir");
    std::fs::write(to.path().join("t/u/f"), "local").expect("write");
    let (shelf, sources) = Shelf::with(&[&[file("t", b"remote")]]);
    let policy = Policy { aside: Some(fd(aside.path())), ..Policy::default() };
    run(shelf, sources, to.path(), policy).expect("restores");
    assert_eq!(tree(to.path()), ["t=remote"]);
    assert_eq!(tree(aside.path()), ["t/", "t/u/", "t/u/f=local"]);
}

#[test]
fn an_archive_is_not_led_through_its_own_link_by_another_layer() {
    let outside = tempfile::tempdir().expect("directory");
    let target = outside.path().to_str().expect("utf-8").to_owned();
    let to = tempfile::tempdir().expect("directory");
    std::fs::write(to.path().join("local"), "not empty").expect("write");
    let (shelf, sources) = Shelf::with(&[&[symlink("a", &target), file("a/evil", b"x")]]);
    let error = run(shelf, sources, to.path(), Policy::default()).expect_err("refused").to_string();
    assert!(error.contains("layers/0") && error.ends_with("a/evil"), "{error}");
    // In an older layer it is hidden by the newer link.
    let (to, done) = into_empty(&[&[symlink("a", &target)], &[dir("a"), file("a/old", b"x")]]);
    done.expect("restores");
    assert_eq!(tree(to.path()), [format!("a->{target}")]);
    assert_eq!(tree(outside.path()), Vec::<String>::new());
}

#[test]
fn layers_that_contradict_each_other_destroy_nothing() {
    let newer: &[Item] = &[file("a/deep/b", b"new")];
    for older in [file("a", b"old"), symlink("a/deep", "elsewhere")] {
        let culprit = older.0.path.to_string();
        let (to, done) = into_empty(&[newer, &[older]]);
        let error = done.expect_err("contradiction").to_string();
        assert!(error.contains("layers/1") && error.ends_with(&format!(": {culprit}")), "{error}");
        assert_eq!(std::fs::read(to.path().join("a/deep/b")).expect("read"), b"new");
    }
}

#[test]
fn spoiled_objects_are_errors_that_name_the_layer() {
    let items: &[Item] = &[file("a", b"content"), file("b", b"more content")];
    let spoil = |how: &dyn Fn(&mut Shelf, &mut Vec<LayerSource>)| {
        let to = tempfile::tempdir().expect("directory");
        let (mut shelf, mut sources) = Shelf::with(&[items]);
        how(&mut shelf, &mut sources);
        run(shelf, sources, to.path(), Policy::default()).expect_err("spoiled")
    };
    let error = spoil(&|_, sources| sources[0].digest.as_mut().expect("digest")[0] ^= 1);
    assert!(matches!(error, RestoreError::Mismatch { .. }), "{error}");
    let error = spoil(&|_, sources| sources[0].bytes += 1);
    assert!(matches!(error, RestoreError::Mismatch { .. }), "{error}");
    let error = spoil(&|shelf, _| drop(shelf.objects.lock().drain()));
    assert!(matches!(error, RestoreError::Remote { .. }), "{error}");
    assert_eq!(Error::from(error).kind(), ErrorKind::Corrupt);
    for at in [0, 30, 100, 200] {
        let error = spoil(&|shelf, _| shelf.break_at = Some(at));
        assert_eq!(Error::from(error).kind(), ErrorKind::Unavailable);
    }
    let error = spoil(&|shelf, sources| {
        let mut objects = shelf.objects.lock();
        let object = objects.get_mut(&sources[0].key).expect("there");
        let mut bytes = object.to_vec();
        bytes[100] ^= 4;
        *object = bytes.into();
    });
    assert_eq!(Error::from(error).kind(), ErrorKind::Corrupt);
}

#[test]
fn many_layers_are_restored_in_order_with_few_of_them_under_way() {
    let layers: Vec<Vec<Item>> = (0..30)
        .map(|i| {
            let content: &'static [u8] = Box::leak(format!("{i}").into_bytes().into_boxed_slice());
            vec![
                file("same", content),
                (
                    entry(
                        &format!("own-{i}"),
                        Kind::File { size: content.len() as u64, fuzzy: false, refs: References::none() },
                    ),
                    content,
                ),
            ]
        })
        .collect();
    let borrowed: Vec<&[Item]> = layers.iter().map(Vec::as_slice).collect();
    let (to, done) = into_empty(&borrowed);
    assert_eq!(done.expect("restores").entries, 31);
    assert_eq!(std::fs::read(to.path().join("same")).expect("read"), b"0");
    assert_eq!(std::fs::read(to.path().join("own-29")).expect("read"), b"29");
}

#[test]
fn parts_that_older_layers_have_are_taken_as_they_go_by() {
    let content: Vec<u8> = (0..900_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sized = |p: &str, size, refs| entry(p, Kind::File { size, fuzzy: false, refs });
    let pack = |items: &[(Entry, &[u8])]| {
        let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
        for (entry, bytes) in items {
            let content = tempfile::tempfile().expect("temporary file");
            content.write_all_at(bytes, 0).expect("write");
            writer.append(entry, Some(&content)).expect("append");
        }
        writer.finish().expect("finish")
    };
    let old = pack(&[(sized("old", content.len() as u64, References::none()), &content)]);
    let stream = zstd::decode_all(&old.0[..]).expect("tar stream");
    let begin = stream.windows(64).position(|bytes| bytes == &content[..64]).expect("content") as u64;
    let (id, own) = (Uuid::from_u128(7), b"of its own");
    let parts = |parts: [(u64, u64, u64); 2], size| {
        let part = |(at, length, from)| Reference { at, length, layer: id, from: begin + from };
        References::new(parts.map(part), size).expect("references")
    };
    let first = parts([(10, 400_000, 50), (400_010, 5, 800_000)], 400_015);
    let second = parts([(0, 300_000, 100_000), (300_000, 100, 0)], 300_100);
    let filled = [&own[..], &[0; 400_005]].concat();
    let new = pack(&[
        (sized("first", 400_015, first), &filled),
        (entry("old", Kind::Whiteout), b""),
        (sized("second", 300_100, second), &[0; 300_100]),
    ]);
    let (shelf, mut sources) = (Shelf::default(), Vec::new());
    for (key, (bytes, summary)) in [(layer_key(Uuid::from_u128(8)), new), (layer_key(id), old)] {
        let digest = Some(summary.digest);
        sources.push(LayerSource { key: key.clone(), bytes: summary.bytes, digest, dictionary: None });
        shelf.objects.lock().insert(key, bytes.into());
    }
    let (shelf, to) = (Arc::new(shelf), tempfile::tempdir().expect("directory"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let restored = restore(shelf.clone(), sources, fd(to.path()), Policy::default(), &NoProgress);
    runtime.expect("runtime").block_on(restored).expect("restores");
    let read = |name: &str| std::fs::read(to.path().join(name)).expect("read");
    let expected = [&own[..], &content[50..400_050], &content[800_000..800_005]].concat();
    assert!(read("first") == expected, "a file with parts of its own");
    assert!(read("second") == [&content[100_000..400_000], &content[..100]].concat(), "one without");
    assert!(!to.path().join("old").exists());
    let time = std::fs::metadata(to.path().join("first")).expect("stat");
    assert_eq!((time.mtime(), time.mtime_nsec()), (MTIME.sec, i64::from(MTIME.nsec)));
    assert_eq!(shelf.downloads.load(Ordering::Relaxed), 2, "each layer once");
}
