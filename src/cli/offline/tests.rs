use super::*;
use crate::config::{Layout, S3Settings};
use crate::layer::{Entry, Kind, LayerWriter, Metadata, PackOptions, References};
use crate::path::RelPath;
use std::fs::File;
use std::io::{Seek, Write};

fn remote(temp: &tempfile::TempDir, layout: Layout) -> RemoteSettings {
    RemoteSettings {
        remote: format!("file://{}", temp.path().join("remote").display()),
        name: "n".parse().expect("name"),
        layout,
        s3: S3Settings::default(),
        allow_unsafe_no_cas: false,
    }
}

/// An archive with one directory and one file.
fn archive() -> File {
    let mut content = tempfile::tempfile().expect("temp");
    content.write_all(b"hello").expect("write");
    let mut writer = LayerWriter::new(tempfile::tempfile().expect("temp"), PackOptions::default());
    let meta = Metadata { mode: 0o750, ..Metadata::default() };
    let entry =
        |path: &str, kind| Entry { path: RelPath::new(path).expect("path"), kind, meta: meta.clone() };
    writer.append(&entry("d", Kind::Directory), None).expect("append");
    writer
        .append(&entry("d/f", Kind::File { size: 5, fuzzy: false, refs: References::none() }), Some(&content))
        .expect("append");
    let (mut file, _) = writer.finish().expect("finish");
    file.rewind().expect("rewind");
    file
}

#[test]
fn an_import_is_the_first_version_and_never_replaces_one() {
    let temp = tempfile::tempdir().expect("temp");
    let remote = remote(&temp, Layout::Layered);
    assert_eq!(log(&remote).expect_err("nothing yet").kind(), ErrorKind::NotFound);
    let seen = Mutex::new(0);
    let imported = import(&remote, archive(), &|p| *seen.lock() = p.entries).expect("imported");
    assert_eq!((imported.version.as_str(), imported.entries, *seen.lock()), ("1", 2, 2));
    let lines = log(&remote).expect("log");
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].version.as_str(), lines[0].entries, lines[0].bytes), ("1", Some(2), imported.bytes));
    assert_eq!((lines[0].changed, lines[0].removed), (Some(2), Some(0)));
    let again = import(&remote, archive(), &|_| {}).expect_err("taken");
    assert_eq!(again.kind(), ErrorKind::Conflict);
}

#[test]
fn what_was_imported_is_restored() {
    for layout in [Layout::Layered, Layout::Single] {
        let temp = tempfile::tempdir().expect("temp");
        let remote = remote(&temp, layout);
        import(&remote, archive(), &|_| {}).expect("imported");
        let to = temp.path().join("to");
        std::fs::create_dir(&to).expect("mkdir");
        let target = File::open(&to).expect("opens");
        let last = Mutex::new(Progress::default());
        let show = |p: &Progress| last.lock().clone_from(p);
        let (restored, notes) = restore(&remote, &Choice::Newest, &target, &show).expect("restored");
        assert_eq!((restored.entries, notes.len()), (2, 0), "{notes:?}");
        assert_eq!(std::fs::read(to.join("d/f")).expect("there"), b"hello");
        let last = last.lock().clone();
        assert_eq!((last.bytes, last.bytes_total), (restored.bytes, restored.bytes));
        let wrong =
            restore(&remote, &Choice::Version("7".into()), &target, &show).expect_err("no such version");
        let expected = if layout == Layout::Single { ErrorKind::Invalid } else { ErrorKind::NotFound };
        assert_eq!(wrong.kind(), expected);
    }
}

#[test]
fn a_broken_archive_leaves_no_version() {
    let temp = tempfile::tempdir().expect("temp");
    let remote = remote(&temp, Layout::Layered);
    let whole = archive();
    whole.set_len(whole.metadata().expect("metadata").len() / 2).expect("cut");
    assert!(import(&remote, whole, &|_| {}).is_err());
    assert_eq!(log(&remote).expect_err("nothing").kind(), ErrorKind::NotFound);
}

#[test]
fn an_archive_that_no_restore_would_take_is_refused_with_the_entrys_name() {
    let temp = tempfile::tempdir().expect("temp");
    let remote = remote(&temp, Layout::Layered);
    let link = Kind::Symlink { target: b"/etc".to_vec() };
    let hard = Kind::HardLink { target: RelPath::new("l/passwd").expect("path") };
    for (name, kind) in [("l/pipe", Kind::Fifo), ("hard", hard)] {
        let mut writer = LayerWriter::new(tempfile::tempfile().expect("temp"), PackOptions::default());
        for (path, kind) in [("l", link.clone()), (name, kind)] {
            let path = RelPath::new(path).expect("path");
            writer.append(&Entry { path, kind, meta: Metadata::default() }, None).expect("append");
        }
        let (mut archive, _) = writer.finish().expect("finish");
        archive.rewind().expect("rewind");
        let refused = import(&remote, archive, &|_| {}).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        assert!(refused.to_string().ends_with(name), "{refused}");
        assert_eq!(log(&remote).expect_err("nothing").kind(), ErrorKind::NotFound);
    }
}

#[test]
fn the_single_layout_is_one_archive() {
    let temp = tempfile::tempdir().expect("temp");
    let remote = remote(&temp, Layout::Single);
    import(&remote, archive(), &|_| {}).expect("imported");
    assert!(temp.path().join("remote/n.zst").is_file());
    assert_eq!(log(&remote).expect("log").len(), 1);
    assert_eq!(import(&remote, archive(), &|_| {}).expect_err("taken").kind(), ErrorKind::Conflict);
}
