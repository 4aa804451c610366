#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::*;
use crate::clock::Timestamp;
use crate::layer::content::Content;
use crate::layer::tar::SparseMap;
use crate::layer::{LayerWriter, PackOptions, References};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

mod strangers;

pub(crate) fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes).expect("valid path")
}

fn meta(mode: u32) -> Metadata {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mtime = Timestamp { sec: 1_600_000_000, nsec: 7 };
    Metadata { mode, uid, gid, mtime, xattrs: Vec::new() }
}

fn entry(p: &str, kind: Kind) -> Entry {
    Entry { path: path(p), kind, meta: meta(0o755) }
}

fn file(p: &str, bytes: &[u8]) -> (Entry, Vec<u8>) {
    (
        entry(p, Kind::File { size: bytes.len() as u64, fuzzy: false, refs: References::none() }),
        bytes.to_vec(),
    )
}

fn symlink(p: &str, target: &str) -> (Entry, Vec<u8>) {
    (entry(p, Kind::Symlink { target: target.into() }), Vec::new())
}

fn pack(items: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    for (entry, bytes) in items {
        let content = tempfile::tempfile().expect("temporary file");
        content.write_all_at(bytes, 0).expect("write");
        writer.append(entry, Some(&content)).expect("append");
    }
    writer.finish().expect("finish").0
}

fn open(dir: &Path) -> OwnedFd {
    File::open(dir).expect("directory").into()
}

fn extract_with(extractor: &mut Extractor, layer: &[u8]) -> Result<Extracted, LayerError> {
    let mut reader = LayerReader::new(layer)?;
    while let Some(entry) = reader.next_entry()? {
        extractor.place(&entry, &mut reader)?;
    }
    extractor.finish()
}

fn extract(dir: &Path, items: &[(Entry, Vec<u8>)]) -> Result<Extracted, LayerError> {
    extract_with(&mut Extractor::new(open(dir)), &pack(items))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn nothing_is_written_through_a_symbolic_link() {
    let dir = tempfile::tempdir().expect("directory");
    let outside = dir.path().join("outside");
    let inside = dir.path().join("inside");
    std::fs::create_dir_all(&outside).expect("mkdir");
    std::fs::create_dir_all(inside.join("real")).expect("mkdir");
    std::fs::write(outside.join("passwd"), "true").expect("write");
    let target = outside.to_str().expect("utf-8");
    let link = |p: &str, t: &str| (entry(p, Kind::HardLink { target: path(t) }), Vec::new());
    let attacks: Vec<Vec<(Entry, Vec<u8>)>> = vec![
        vec![symlink("a", target), file("a/passwd", b"evil")],
        vec![symlink("a", "real"), file("a/x", b"even inside")],
        vec![symlink("a", ".."), file("a/outside/passwd", b"evil")],
        vec![symlink("a", target), (entry("a/dir", Kind::Directory), Vec::new())],
        vec![symlink("a", target), link("mine", "a/passwd")],
        vec![symlink("a", target), (entry("a/gone", Kind::Fifo), Vec::new())],
        vec![symlink("a", target), (entry("a/passwd", Kind::Whiteout), Vec::new())],
        vec![file("f", b""), file("f/x", b"evil")],
    ];
    for attack in attacks {
        let _ = std::fs::remove_file(inside.join("a"));
        let error = extract(&inside, &attack).expect_err("refused");
        assert!(matches!(error, LayerError::Refused { .. }), "{error}");
        let culprit = attack.last().expect("not empty").0.path.to_string();
        assert!(error.to_string().ends_with(&culprit), "{error} names {culprit}");
        assert_eq!(std::fs::read(outside.join("passwd")).expect("read"), b"true");
        assert_eq!(std::fs::read_dir(&outside).expect("list").count(), 1);
    }
    // A link that comes as the last component is replaced, not followed.
    extract(&inside, &[symlink("l", &format!("{target}/passwd"))]).expect("link");
    extract(&inside, &[file("l", b"new")]).expect("file");
    assert_eq!(std::fs::read(inside.join("l")).expect("read"), b"new");
    assert_eq!(std::fs::read(outside.join("passwd")).expect("read"), b"true");
}

#[test]
fn names_of_processes_that_ended_are_left_over() {
    let mut ended = Command::new("true").spawn().expect("true");
    let gone = ended.id();
    ended.wait().expect("ends");
    let name = |process: u32| format!(".icecache-{process:x}-3~");
    assert!(is_left_over(name(gone).as_bytes()));
    assert!(is_left_over(name(std::process::id()).as_bytes()), "as the first process of a container");
    assert!(!is_left_over(name(std::os::unix::process::parent_id()).as_bytes()), "it may be at work");
    for other in [".icecache-1~", ".icecache--3~", ".icecache-zz-3~", ".icecache-1-3", "icecache-1-3~"] {
        assert!(!is_left_over(other.as_bytes()), "{other}");
    }
}

#[test]
fn a_directory_entry_over_a_link_replaces_the_link() {
    let dir = tempfile::tempdir().expect("directory");
    let outside = tempfile::tempdir().expect("directory");
    let items = [
        symlink("a", outside.path().to_str().expect("utf-8")),
        (entry("a", Kind::Directory), Vec::new()),
        file("a/f", b"x"),
    ];
    extract(dir.path(), &items).expect("extracts");
    assert!(dir.path().join("a").symlink_metadata().expect("stat").is_dir());
    assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
}

/// A directory that is there stays; what it has of before does not.
#[test]
fn a_directory_has_the_attributes_of_its_entry_alone() {
    use rustix::fs::{XattrFlags, lgetxattr, setxattr};
    let dir = tempfile::tempdir().expect("directory");
    let there = dir.path().join("d");
    std::fs::create_dir(&there).expect("mkdir");
    for name in ["user.old", "user.kept"] {
        match setxattr(&there, name, b"before", XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => return, // nothing to lose
            set => set.expect("sets"),
        }
    }
    let mut directory = entry("d", Kind::Directory);
    directory.meta.xattrs = vec![(b"user.kept".to_vec(), b"now".to_vec())];
    extract(dir.path(), &[(directory, Vec::new())]).expect("extracts");
    let mut value = [0; 16];
    assert_eq!(lgetxattr(&there, "user.old", &mut value), Err(Errno::NODATA));
    let length = lgetxattr(&there, "user.kept", &mut value).expect("is there");
    assert_eq!(&value[..length], b"now");
}

#[test]
fn devices_are_refused_to_ordinary_users() {
    let dir = tempfile::tempdir().expect("directory");
    let mut extractor = Extractor::new(open(dir.path()));
    extractor.root = false;
    let layer = pack(&[(entry("disk", Kind::BlockDevice { rdev: (8, 0) }), Vec::new())]);
    let error = extract_with(&mut extractor, &layer).expect_err("refused");
    assert!(error.to_string().ends_with(": disk"), "{error}");
}

/// The kernel lets everybody make the whiteout of an overlay file system.
#[test]
fn a_whiteout_device_is_none_to_refuse() {
    let dir = tempfile::tempdir().expect("directory");
    let mut extractor = Extractor::new(open(dir.path()));
    extractor.root = false;
    let layer = pack(&[(entry("gone", Kind::CharDevice { rdev: (0, 0) }), Vec::new())]);
    match extract_with(&mut extractor, &layer) {
        Ok(_) => {
            let stat = rustix::fs::lstat(dir.path().join("gone")).expect("stat");
            assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::CharacterDevice);
            assert_eq!(stat.st_rdev, 0);
        }
        Err(error) => assert!(error.to_string().contains("privileges"), "an old kernel: {error}"),
    }
    let layer = pack(&[(entry("null", Kind::CharDevice { rdev: (1, 3) }), Vec::new())]);
    extract_with(&mut extractor, &layer).expect_err("refused");
    let layer = pack(&[(entry("disk", Kind::BlockDevice { rdev: (0, 0) }), Vec::new())]);
    extract_with(&mut extractor, &layer).expect_err("refused");
}

#[test]
fn whatever_stands_in_the_way_is_replaced() {
    let dir = tempfile::tempdir().expect("directory");
    std::fs::create_dir_all(dir.path().join("was-dir/deep")).expect("mkdir");
    std::fs::write(dir.path().join("was-dir/deep/f"), "old").expect("write");
    std::fs::create_dir_all(dir.path().join("to-link/x")).expect("mkdir");
    std::fs::write(dir.path().join("was-file"), "old").expect("write");
    std::fs::write(dir.path().join("same"), "a longer old file").expect("write");
    let items = [
        file("was-dir", b"file now"),
        symlink("to-link", "anywhere"),
        (entry("was-file", Kind::Directory), Vec::new()),
        file("was-file/f", b"below"),
        file("same", b"new"),
    ];
    extract(dir.path(), &items).expect("extracts");
    let read = |p: &str| std::fs::read(dir.path().join(p)).expect("read");
    assert_eq!(read("was-dir"), b"file now");
    assert_eq!(read("was-file/f"), b"below");
    assert_eq!(read("same"), b"new");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("list").collect();
    assert_eq!(left.len(), 4, "no temporary name is left: {left:?}");
}

#[test]
fn attributes_are_exact_and_directories_get_theirs_last() {
    let dir = tempfile::tempdir().expect("directory");
    let mut read_only = entry("ro", Kind::Directory);
    read_only.meta.mode = 0o555;
    let mut suid = file("ro/suid", b"x");
    suid.0.meta.mode = 0o4755;
    suid.0.meta.xattrs = vec![(b"user.a".to_vec(), b"1\0\n2".to_vec())];
    let mut early = symlink("ro/link", "nowhere at all");
    early.0.meta.mtime = Timestamp { sec: -5, nsec: 999_999_999 };
    let mut secret = file("ro/secret", b"y");
    secret.0.meta.mode = 0;
    secret.0.meta.xattrs = vec![(b"user.b".to_vec(), vec![])];
    if is_root() {
        (suid.0.meta.uid, suid.0.meta.gid) = (12345, 54321);
        (early.0.meta.uid, early.0.meta.gid) = (12345, 54321);
    }
    let mut root = Entry { path: RelPath::root(), kind: Kind::Directory, meta: meta(0o750) };
    root.meta.mtime.nsec = 999_999_999;
    let items = [(root, Vec::new()), (read_only, Vec::new()), suid, early, secret];
    let done = extract(dir.path(), &items).expect("extracts");
    assert_eq!(done.placed.len(), items.len());
    let fd = open(dir.path());
    for (entry, _) in &items {
        let name = if entry.path.is_root() { b"." } else { entry.path.as_bytes() };
        let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).expect("stat");
        let mut found = attributes::metadata(fd.as_fd(), name, &stat).expect("metadata");
        if matches!(entry.kind, Kind::Symlink { .. }) {
            found.mode = entry.meta.mode; // always 0777 on Linux
        }
        found.xattrs.retain(|(name, _)| name.starts_with(b"user."));
        assert_eq!(found, entry.meta, "{}", entry.path);
        let placed = done.placed.iter().find(|p| p.path == entry.path).expect("reported");
        assert_eq!((placed.stat.st_ino, placed.stat.st_ctime_nsec), (stat.st_ino, stat.st_ctime_nsec));
    }
}

/// Credentials are of the thread; the writing threads inherit them.
fn extract_as_nobody(dir: &Path, layer: Vec<u8>) -> Extracted {
    let root = open(dir);
    let extracted = std::thread::spawn(move || {
        let nobody = rustix::fs::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("become nobody");
        extract_with(&mut Extractor::new(root), &layer)
    });
    extracted.join().expect("thread").expect("extracts")
}

#[test]
fn an_ordinary_user_gets_everything_but_owners() {
    if !is_root() {
        return; // the other tests are this one
    }
    let dir = tempfile::tempdir().expect("directory");
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).expect("chown");
    let layer = pack(&[(entry("d", Kind::Directory), Vec::new()), {
        let mut f = file("d/f", b"content");
        f.0.meta.mode = 0o440;
        f.0.meta.xattrs = vec![(b"trusted.x".to_vec(), vec![1]), (b"user.x".to_vec(), vec![2])];
        f
    }]);
    let done = extract_as_nobody(dir.path(), layer);
    assert_eq!(done.notes, [Note::Owner, Note::XattrDenied]);
    let stat = dir.path().join("d/f").metadata().expect("stat");
    assert_eq!((stat.uid(), stat.permissions().mode() & 0o7777), (65534, 0o440));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_600_000_000, 7));
}

/// Such as a volume of a group, or `/tmp`.
#[test]
fn a_directory_of_another_user_keeps_its_mode_and_times() {
    if !is_root() {
        return; // nobody else's can be made
    }
    let dir = tempfile::tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let root = Entry { path: RelPath::root(), kind: Kind::Directory, meta: meta(0o755) };
    let layer = pack(&[(root, Vec::new()), file("f", b"content")]);
    let done = extract_as_nobody(dir.path(), layer);
    assert!(done.notes.contains(&Note::Root), "{:?}", done.notes);
    assert_eq!(std::fs::read(dir.path().join("f")).expect("read"), b"content");
    assert_eq!(dir.path().metadata().expect("stat").permissions().mode() & 0o7777, 0o777);
}

#[test]
fn hard_links_share_their_file_and_report_its_last_state() {
    let dir = tempfile::tempdir().expect("directory");
    let link = |p: &str| (entry(p, Kind::HardLink { target: path("z/first") }), Vec::new());
    let items = [file("z/first", b"one inode"), link("a"), link("b/c")];
    let done = extract(dir.path(), &items).expect("extracts");
    let stat = dir.path().join("a").metadata().expect("stat");
    assert_eq!((stat.nlink(), stat.len()), (3, 9));
    for p in ["a", "b/c", "z/first"] {
        let last = done.placed.iter().rfind(|x| x.path == path(p)).expect("reported");
        assert_eq!((last.stat.st_ino, last.stat.st_nlink as u64), (stat.ino(), 3));
        assert_eq!(last.stat.st_ctime_nsec as i64, stat.ctime_nsec());
    }
    // Again over itself: nothing changes, nothing is left over.
    extract(dir.path(), &items).expect("extracts");
    assert_eq!(dir.path().join("a").metadata().expect("stat").nlink(), 3);
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 3);
    let error = extract(dir.path(), &[(entry("x", Kind::HardLink { target: path("nope") }), vec![])]);
    assert!(error.expect_err("missing").to_string().contains("nope: x"));
}

#[test]
fn paths_longer_than_the_kernel_takes() {
    let dir = tempfile::tempdir().expect("directory");
    let deep = path(vec!["d".repeat(200); 60].join("/"));
    let mut deepest = file("x", b"deep");
    deepest.0.path = deep.join(b"f");
    let done = extract(dir.path(), &[deepest]).expect("extracts");
    assert_eq!(done.placed[0].stat.st_size, 4);
    let mut dirs = Dirs::new(open(dir.path()));
    let parent = dirs.existing_parent(&deep.join(b"f")).expect("opens").expect("is there");
    assert_eq!(rustix::fs::statat(&parent, "f", AtFlags::empty()).expect("stat").st_size, 4);
    // `TempDir` removes by path and so cannot.
    remove_all(open(dir.path()).as_fd(), &b"d".repeat(200)).expect("removes");
}

#[test]
fn a_copied_tree_is_the_same_tree() {
    let dir = tempfile::tempdir().expect("directory");
    let mut f = file("t/f", b"content");
    f.0.meta.xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
    f.0.meta.mode = 0o400;
    let items =
        [(entry("t", Kind::Directory), vec![]), f, symlink("t/l", "x"), (entry("t/p", Kind::Fifo), vec![])];
    extract(dir.path(), &items).expect("extracts");
    let fd = open(dir.path());
    let placer = Placer::default();
    let name = copy::copy_to_free_name(&placer, fd.as_fd(), b"t", fd.as_fd()).expect("copies");
    assert_eq!(name, b"t.~1~");
    for p in ["", "/f", "/l", "/p"] {
        let both = ["t", "t.~1~"].map(|t| {
            let name = format!("{t}{p}");
            let stat = rustix::fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW).expect("stat");
            (attributes::metadata(fd.as_fd(), name.as_bytes(), &stat).expect("metadata"), stat.st_size)
        });
        if p.is_empty() {
            assert_eq!(both[0].0, both[1].0);
        } else {
            assert_eq!(both[0], both[1]);
        }
    }
    assert_eq!(std::fs::read(dir.path().join("t.~1~/f")).expect("read"), b"content");
}

fn hostile_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'\n'), Just(0xFFu8), Just(b' '), Just(b'-'), 1u8..=255];
    prop_oneof![5 => 1..20usize, 1 => Just(255)]
        .prop_flat_map(move |n| proptest::collection::vec(byte.clone(), n))
        .prop_map(|v| v.into_iter().map(|b| if b == b'/' { b'+' } else { b }).collect::<Vec<u8>>())
        .prop_filter("a name", |v| v != b"." && v != b"..")
}

#[derive(Debug, Clone)]
struct Spec {
    parts: Vec<Vec<u8>>,
    what: u8,
    data: Vec<(u32, u32)>,
    mode: u32,
    mtime: (i32, u32),
    xattr: Option<Vec<u8>>,
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        proptest::collection::vec(hostile_name(), 1..4),
        0..6u8,
        proptest::collection::vec((0..200_000u32, 1..200_000u32), 0..3),
        0..0o10000u32,
        (any::<i32>(), 0..1_000_000_000u32),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
    )
        .prop_map(|(parts, what, data, mode, mtime, xattr)| Spec {
            parts,
            what,
            data,
            mode,
            mtime,
            xattr,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_stands_on_the_disk(specs in proptest::collection::vec(spec(), 1..12)) {
        let dir = tempfile::tempdir().expect("directory");
        let mut taken = BTreeMap::new();
        let mut items: Vec<(Entry, Option<File>)> = Vec::new();
        let mut first_file = None;
        for spec in specs {
            let p = path(spec.parts.join(&b'/'));
            // No path twice, and nothing below what is no directory.
            let blocked = taken.contains_key(&p) || p.ancestors().any(|a| taken.get(&a) == Some(&false))
                || taken.keys().any(|k: &RelPath| k.starts_with(&p));
            if blocked { continue; }
            taken.insert(p.clone(), spec.what == 1);
            let mut meta = meta(spec.mode);
            meta.mtime = Timestamp { sec: i64::from(spec.mtime.0), nsec: spec.mtime.1 };
            let mut content = None;
            let kind = match (spec.what, &first_file) {
                (1, _) => Kind::Directory,
                (2, _) => Kind::Symlink { target: spec.parts[0].clone() },
                (3, _) => Kind::Fifo,
                (4, Some(target)) => Kind::HardLink { target: RelPath::clone(target) },
                _ => {
                    let file = tempfile::tempfile().expect("temporary file");
                    let mut at = 0;
                    for (hole, len) in &spec.data {
                        at += u64::from(*hole);
                        file.write_all_at(&vec![at as u8 | 1; *len as usize], at).expect("write");
                        at += u64::from(*len);
                    }
                    file.set_len(at + 5000).expect("length");
                    content = Some(file);
                    first_file.get_or_insert(p.clone());
                    Kind::File { size: at + 5000, fuzzy: false, refs: References::none() }
                }
            };
            if let (Some(value), Kind::File { .. } | Kind::Directory) = (&spec.xattr, &kind) {
                meta.xattrs = vec![(b"user.any".to_vec(), value.clone())];
            }
            items.push((Entry { path: p, kind, meta }, content));
        }
        let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
        for (entry, content) in &items {
            writer.append(entry, content.as_ref().map(|f| f as &dyn Content)).expect("append");
        }
        let layer = writer.finish().expect("finish").0;
        extract_with(&mut Extractor::new(open(dir.path())), &layer).expect("extracts");
        let fd = open(dir.path());
        for (entry, content) in &items {
            let name = entry.path.as_bytes();
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).expect("stat");
            if let Kind::HardLink { target } = &entry.kind {
                let of = rustix::fs::statat(&fd, target.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).expect("stat");
                prop_assert_eq!(stat.st_ino, of.st_ino);
                continue;
            }
            let mut found = attributes::metadata(fd.as_fd(), name, &stat).expect("metadata");
            found.xattrs.retain(|(name, _)| name.starts_with(b"user."));
            if let Kind::Symlink { target } = &entry.kind {
                let read = rustix::fs::readlinkat(&fd, name, Vec::new()).expect("readlink");
                prop_assert_eq!(read.as_bytes(), target.as_slice());
                found.mode = entry.meta.mode;
            }
            prop_assert_eq!(&found, &entry.meta);
            if let (Some(content), Kind::File { size, .. }) = (content, &entry.kind) {
                let out: File = rustix::fs::openat(&fd, name, OFlags::RDONLY, Mode::empty())
                    .expect("open").into();
                let all = |f: &File| { let mut v = vec![0; *size as usize]; f.read_exact_at(&mut v, 0).expect("read"); v };
                prop_assert!(all(&out) == all(content));
                prop_assert_eq!(out.metadata().expect("stat").len(), *size);
                let holes = |f: &File| *size - SparseMap::of(f, *size).expect("map").data_len();
                prop_assert!(holes(&out) >= holes(content) || holes(content) < 2048, "holes were lost");
            }
        }
    }
}
