//! Other people's programs read our layers, and we read theirs.
use super::*;

/// A tree with everything a stranger's tar should understand, and the layer of it.
fn showcase(dir: &Path) -> Vec<u8> {
    let sparse = tempfile::tempfile().expect("temporary file");
    sparse.write_all_at(b"begin", 0).expect("write");
    sparse.write_all_at(&[9; 5000], 700_000).expect("write");
    sparse.set_len(3_000_000).expect("length");
    let ends_in_data = tempfile::tempfile().expect("temporary file");
    ends_in_data.write_all_at(b"end", 1 << 20).expect("write");
    let long = ["component".repeat(20), "component".repeat(20), "n".repeat(255)].join("/");
    let mut plain = file("dir/plain", b"hello");
    plain.0.meta.mode = 0o640;
    plain.0.meta.xattrs = vec![(b"user.k=%".to_vec(), b"v\n\0w".to_vec())];
    let mut fuzzy = file("fuzzy", b"torn?");
    fuzzy.0.kind = Kind::File { size: 5, fuzzy: true, refs: References::none() };
    let raw = Entry { path: path(b"dir/\xff\xfe"), kind: Kind::Directory, meta: meta(0o711) };
    let items = vec![
        (Entry { path: RelPath::root(), kind: Kind::Directory, meta: meta(0o755) }, vec![]),
        (entry("dir", Kind::Directory), vec![]),
        (raw, vec![]),
        plain,
        (entry("dir/hard", Kind::HardLink { target: path("dir/plain") }), vec![]),
        symlink("sym", "dir/plain"),
        symlink("long-link", &"t".repeat(300)),
        (entry("fifo", Kind::Fifo), vec![]),
        file(&long, b"long"),
        file("new\nline", b"nl"),
        file(
            "noise",
            &(0..2_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect::<Vec<_>>(),
        ),
        fuzzy,
        (entry("gone", Kind::Whiteout), vec![]),
        (entry(&"g".repeat(254), Kind::Whiteout), vec![]),
    ];
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    for (entry, bytes) in &items {
        let content = tempfile::tempfile().expect("temporary file");
        content.write_all_at(bytes, 0).expect("write");
        writer.append(entry, Some(&content)).expect("append");
    }
    for (name, size, content) in [("sparse", 3_000_000, &sparse), ("tail", (1 << 20) + 3, &ends_in_data)] {
        let entry = entry(name, Kind::File { size, fuzzy: false, refs: References::none() });
        writer.append(&entry, Some(content)).expect("append");
    }
    let layer = writer.finish().expect("finish").0;
    std::fs::write(dir.join("layer.tar.zst"), &layer).expect("write");
    layer
}

fn compare_with_stranger(program: &str, arguments: &[&str], xattrs: bool) {
    let dir = tempfile::tempdir().expect("directory");
    let layer = showcase(dir.path());
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    std::fs::create_dir(&ours).expect("mkdir");
    std::fs::create_dir(&theirs).expect("mkdir");
    // Ours, whiteouts as the files that they are to strangers.
    let mut reader = LayerReader::new(&layer[..]).expect("opens");
    let mut extractor = Extractor::new(open(&ours));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().expect("entry") {
        extractor.place(&entry, &mut reader).expect("place");
        entries.push(entry);
    }
    extractor.finish().expect("finish");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(dir.path().join("layer.tar.zst"))
        .current_dir(&theirs)
        .env("LC_ALL", "C.UTF-8");
    let Ok(out) = command.output() else {
        return; // not installed
    };
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{program} has something to say");
    let (a, b) = (open(&ours), open(&theirs));
    for entry in &entries {
        if matches!(entry.kind, Kind::Whiteout) {
            continue;
        }
        let name = if entry.path.is_root() { b"." } else { entry.path.as_bytes() };
        let stats = [&a, &b].map(|fd| {
            let stat = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.unwrap_or_else(|e| panic!("{program}: {}: {e}", entry.path))
        });
        let [mut x, mut y] = [0, 1].map(|i| {
            let fd = [&a, &b][i];
            attributes::metadata(fd.as_fd(), name, &stats[i]).expect("metadata")
        });
        if entry.path.is_root() {
            y.mtime = x.mtime; // not every tar sets that of the directory it extracts into
        }
        if !xattrs {
            (x.xattrs, y.xattrs) = (vec![], vec![]);
        }
        assert_eq!(x, y, "{program}: {}", entry.path);
        assert_eq!(stats[0].st_mode, stats[1].st_mode);
        assert_eq!(stats[0].st_nlink, stats[1].st_nlink, "{program}: {}", entry.path);
        if let Kind::File { size, .. } = entry.kind {
            let read = |root: &Path| std::fs::read(root.join(entry.path.as_path())).expect("read");
            assert!(read(&ours) == read(&theirs), "{program}: {} differs", entry.path);
            assert_eq!(stats[1].st_size as u64, size);
        }
    }
    let blocks = |p: &Path| p.metadata().expect("stat").blocks();
    assert!(blocks(&ours.join("sparse")) < 100, "holes are holes");
    let whiteout = theirs.join(".wh.gone").metadata().expect("a file to strangers");
    assert_eq!(whiteout.len(), 0);
}

#[test]
fn gnu_tar_extracts_the_same_tree_and_says_nothing() {
    compare_with_stranger("tar", &["--zstd", "--xattrs", "--xattrs-include=*", "-xpf"], true);
}

#[test]
fn bsdtar_extracts_the_same_tree_and_says_nothing() {
    compare_with_stranger("bsdtar", &["-xpf"], false);
}

#[test]
fn long_names_that_are_not_utf_8_fail_no_tar() {
    let dir = tempfile::tempdir().expect("directory");
    let name = [&[b'd'; 60][..], b"\xff\xfe", &[b'e'; 100]].concat();
    let mut item = file("x", b"content");
    item.0.path = path(&name);
    let mut link = symlink("link", "x");
    link.0.kind = Kind::Symlink { target: name };
    std::fs::write(dir.path().join("layer.tar.zst"), pack(&[item, link])).expect("write");
    for program in ["tar", "bsdtar"] {
        let to = dir.path().join(program);
        std::fs::create_dir(&to).expect("mkdir");
        let mut command = Command::new(program);
        command.arg("-xf").arg("../layer.tar.zst").current_dir(&to).env("LC_ALL", "C.UTF-8");
        let Ok(out) = command.output() else { continue };
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(std::fs::read(to.join("link")).expect("through the link"), b"content", "{program}");
    }
}

#[test]
fn zstd_finds_every_checksum_right() {
    let dir = tempfile::tempdir().expect("directory");
    showcase(dir.path());
    let Ok(out) = Command::new("zstd").arg("-t").arg(dir.path().join("layer.tar.zst")).output() else {
        return; // not installed
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn archives_of_gnu_tar_are_imported() {
    let dir = tempfile::tempdir().expect("directory");
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("d").join("x".repeat(120)).join("y".repeat(200))).expect("mkdir");
    std::fs::write(tree.join("d/f"), "content").expect("write");
    std::fs::hard_link(tree.join("d/f"), tree.join("g")).expect("link");
    std::os::unix::fs::symlink("z".repeat(180), tree.join("l")).expect("symlink");
    let sparse = File::create(tree.join("sparse")).expect("create");
    for i in 0..40u64 {
        sparse.write_all_at(&[i as u8 + 1; 4096], i * 65536).expect("write");
    }
    sparse.set_len(5 << 20).expect("length");
    for format in ["gnu", "posix", "ustar"] {
        let archive = dir.path().join(format!("{format}.tar.zst"));
        let mut tar = Command::new("tar");
        tar.args(["--zstd", "--sparse", "--format", format, "-C"])
            .arg(&tree)
            .arg("-cf")
            .arg(&archive)
            .arg(".");
        let Ok(out) = tar.output() else { return };
        if format == "ustar" && !out.status.success() {
            continue; // it has no form for the long link
        }
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let to = dir.path().join(format);
        std::fs::create_dir(&to).expect("mkdir");
        let mut reader = LayerReader::lenient(File::open(&archive).expect("open")).expect("opens");
        let mut extractor = Extractor::new(open(&to));
        while let Some(entry) = reader.next_entry().expect("entry") {
            extractor.place(&entry, &mut reader).expect("place");
        }
        extractor.finish().expect("finish");
        let diff =
            Command::new("diff").args(["-r", "--no-dereference"]).arg(&tree).arg(&to).output().expect("diff");
        assert!(diff.status.success(), "{format}: {}", String::from_utf8_lossy(&diff.stdout));
        assert_eq!(to.join("g").metadata().expect("stat").nlink(), 2);
        assert!(to.join("sparse").metadata().expect("stat").blocks() < 1000, "{format}: holes are holes");
    }
}
