#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::frame::{FRAME_RAW_MAX, PREAMBLE_BYTES};
use super::*;
use crate::clock::Timestamp;
use crate::layer::content::Content;
use crate::path::RelPath;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

pub(super) fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes).expect("valid path")
}

pub(super) fn meta() -> Metadata {
    Metadata {
        mode: 0o640,
        uid: 1000,
        gid: 3_000_000,
        mtime: Timestamp { sec: 1_700_000_000, nsec: 123_456_789 },
        xattrs: vec![(b"user.key".to_vec(), b"a\nb\0c=".to_vec())],
    }
}

pub(super) fn entry(p: &str, kind: Kind) -> Entry {
    let bare = matches!(kind, Kind::HardLink { .. } | Kind::Whiteout);
    Entry { path: path(p), kind, meta: if bare { Metadata::default() } else { meta() } }
}

pub(super) fn content(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("temporary file");
    file.write_all_at(bytes, 0).expect("write");
    file
}

/// Incompressible, the same each time.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(super) fn pack(items: &[(Entry, Option<Vec<u8>>)]) -> (Vec<u8>, Summary) {
    let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 3, threads: 2 });
    append(&mut writer, items);
    writer.finish().expect("finish")
}

pub(super) fn append(writer: &mut LayerWriter<Vec<u8>>, items: &[(Entry, Option<Vec<u8>>)]) {
    for (entry, bytes) in items {
        writer
            .append(entry, bytes.as_deref().map(content).as_ref().map(|f| f as &dyn Content))
            .expect("append");
    }
}

pub(super) type Items = Vec<(Entry, Option<Vec<u8>>)>;

pub(super) fn read(bytes: &[u8]) -> Result<Items, LayerError> {
    let mut reader = LayerReader::new(bytes)?;
    let mut items = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_content(&mut data, 64 << 20)?;
        let data = matches!(entry.kind, Kind::File { .. }).then_some(data);
        items.push((entry, data));
    }
    Ok(items)
}

pub(super) fn file(p: &str, bytes: &[u8]) -> (Entry, Option<Vec<u8>>) {
    (
        entry(p, Kind::File { size: bytes.len() as u64, fuzzy: false, refs: References::none() }),
        Some(bytes.to_vec()),
    )
}

pub(super) fn small() -> Items {
    vec![
        (Entry { path: RelPath::root(), kind: Kind::Directory, meta: meta() }, None),
        (entry("d", Kind::Directory), None),
        file("d/f", b"hello"),
        (entry("d/g", Kind::HardLink { target: path("d/f") }), None),
        (entry("l", Kind::Symlink { target: b"d/f".to_vec() }), None),
        (entry("p", Kind::Fifo), None),
        (entry("old", Kind::Whiteout), None),
        (entry("m", Kind::File { size: 0, fuzzy: true, refs: References::none() }), Some(Vec::new())),
    ]
}

pub(super) const GOLDEN_V1: &[u8] = include_bytes!("../../tests/golden/layer-v1.tar.zst");
pub(super) const GOLDEN_V2: &[u8] = include_bytes!("../../tests/golden/layer-v2.tar.zst");
pub(super) const GOLDEN: &[u8] = include_bytes!("../../tests/golden/layer-v3.tar.zst");

/// What the golden layer holds: also files of which other layers have a part, or all.
pub(super) fn golden() -> Items {
    let part = |at, length, from| Reference { at, length, layer: uuid::Uuid::from_bytes([0xAB; 16]), from };
    let borrowed = |p: &str, size, parts: &[Reference], data: Vec<u8>| {
        let refs = References::new(parts.iter().copied(), size).expect("references");
        (entry(p, Kind::File { size, fuzzy: false, refs }), Some(data))
    };
    let mut items = small();
    let half = [vec![0; 3000], vec![b'x'; 2000]].concat();
    items.push(borrowed("q", 5000, &[part(0, 3000, 512)], half));
    items.push(borrowed("r", 700, &[part(0, 600, 90_000), part(600, 100, 4096)], vec![0; 700]));
    items
}

#[test]
fn golden_bytes_of_the_format() {
    let (bytes, summary) = pack(&golden());
    // What is stored must be read for ever; what is written may only change with the zstd library.
    assert_eq!(read(GOLDEN_V1).expect("reads"), small());
    assert_eq!(read(GOLDEN_V2).expect("reads"), small());
    assert_eq!(read(GOLDEN).expect("reads"), golden());
    let raw = |b: &[u8]| zstd::decode_all(b).expect("plain zstd reads it");
    assert!(raw(&bytes) == raw(GOLDEN), "the tar stream differs from the golden one");
    let plain = raw(&pack(&small()).0);
    assert!(
        plain == raw(GOLDEN_V1) && plain == raw(GOLDEN_V2),
        "the tar stream differs from earlier versions"
    );
    assert!(bytes == GOLDEN, "the frames differ from the golden ones: is the zstd library another?");
    assert_eq!(summary.entries, 10);
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(summary.raw_bytes, raw(&bytes).len() as u64);
    assert_eq!(summary.digest, *blake3::hash(&bytes).as_bytes());
    let tail = &bytes[bytes.len() - summary.tail.bytes as usize..];
    assert_eq!(summary.tail.digest, *blake3::hash(tail).as_bytes());
}

#[test]
fn many_frames_keep_their_order_at_any_number_of_threads() {
    let mut items: Items = (0..5).map(|i| file(&format!("f{i}"), &noise(1_700_000, i))).collect();
    items.push(file("zeros", &vec![0; 3 << 20]));
    let (one, _) = pack(&items);
    assert_eq!(read(&one).expect("reads"), items);
    for threads in [1, 4] {
        let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 3, threads });
        for (entry, bytes) in &items {
            writer
                .append(entry, bytes.as_deref().map(content).as_ref().map(|f| f as &dyn Content))
                .expect("append");
        }
        assert!(writer.finish().expect("finish").0 == one, "the bytes depend on the threads");
    }
}

#[test]
fn frames_are_at_most_one_mebibyte_of_tar() {
    let (bytes, summary) = pack(&[file("f", &noise(3 * FRAME_RAW_MAX, 7))]);
    let frames = ((bytes.len() - PREAMBLE_BYTES) as u64 - summary.tail.bytes) / FRAME_RAW_MAX as u64;
    assert_eq!(frames, summary.raw_bytes / FRAME_RAW_MAX as u64);
    assert!(bytes.len() < 3 * FRAME_RAW_MAX + 16 * 1024, "noise is stored, not blown up");
}

#[test]
fn an_empty_layer_is_a_layer() {
    let (bytes, summary) = pack(&[]);
    assert_eq!(summary.entries, 0);
    assert_eq!(read(&bytes).expect("reads"), []);
}

#[test]
fn truncation_at_every_byte_is_found() {
    let (bytes, _) = pack(&small());
    for len in 0..bytes.len() {
        read(&bytes[..len]).expect_err("truncated");
        let lenient = LayerReader::lenient(&bytes[..len]).and_then(|mut reader| {
            while reader.next_entry()?.is_some() {}
            Ok(())
        });
        lenient.expect_err("truncated");
    }
    let mut longer = bytes;
    longer.push(0);
    read(&longer).expect_err("something after the end");
}

#[test]
fn every_flipped_bit_of_a_small_layer_is_found() {
    for mut bytes in [pack(&small()).0, GOLDEN_V1.to_vec()] {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).is_err(), "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn flipped_bits_of_a_large_layer_are_found() {
    let (mut bytes, _) = pack(&[file("a", &noise(2_500_000, 1)), file("b", &vec![7; 1_000_000])]);
    for i in 0..60u64 {
        let at = u64::from_le_bytes(noise(8, 100 + i).try_into().expect("eight")) as usize % bytes.len();
        bytes[at] ^= 1 << (i % 8);
        assert!(read(&bytes).is_err(), "byte {at}");
        bytes[at] ^= 1 << (i % 8);
    }
}

#[test]
fn lost_and_swapped_frames_are_found() {
    let (bytes, _) = pack(&[file("a", &vec![0; 5 << 20])]);
    let mut at = PREAMBLE_BYTES;
    let mut frames = Vec::new();
    let mut source = &bytes[at..];
    let mut buf = Vec::new();
    while let frame::Next::Data = frame::read_frame(&mut source, &mut buf).expect("a frame") {
        frames.push(at..at + buf.len());
        at += buf.len();
    }
    assert!(frames.len() >= 5);
    // All zeros in the middle: without the table nobody would miss or notice one.
    let without = [&bytes[..frames[2].start], &bytes[frames[3].start..]].concat();
    read(&without).expect_err("a frame is missing");
    let twice = [&bytes[..frames[2].end], &bytes[frames[2].start..]].concat();
    read(&twice).expect_err("a frame is there twice");
}

#[test]
fn unknown_versions_are_named_and_strangers_refused() {
    let (mut bytes, _) = pack(&small());
    bytes[16] = 4;
    let sum = blake3::hash(&bytes[..24]);
    bytes[24..40].copy_from_slice(&sum.as_bytes()[..16]);
    assert!(matches!(read(&bytes), Err(LayerError::UnknownVersion { found: 4 })));
    assert!(matches!(LayerReader::lenient(&bytes[..]), Err(LayerError::UnknownVersion { found: 4 })));
    let strange = zstd::encode_all(&[1u8; 4096][..], 3).expect("compresses");
    assert!(matches!(read(&strange), Err(LayerError::NotALayer)));
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    for size in [10, 10 << 20] {
        let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
        let promised = entry("f", Kind::File { size, fuzzy: false, refs: References::none() });
        let error = writer.append(&promised, Some(&content(b"12345"))).expect_err("short");
        assert!(matches!(error, LayerError::Changed { .. }), "{error}");
        assert!(error.to_string().ends_with(": f"), "{error}");
    }
}

#[test]
fn an_entry_that_cannot_be_stored_leaves_the_layer_good() {
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    let mut heavy = entry("heavy", Kind::Directory);
    heavy.meta.xattrs = (0..200).map(|i| (format!("user.{i}").into_bytes(), vec![0; 64 << 10])).collect();
    let error = writer.append(&heavy, None).expect_err("too much");
    assert!(matches!(error, LayerError::Unstorable { .. }), "{error}");
    let none = writer
        .append(&entry("f", Kind::File { size: 3, fuzzy: false, refs: References::none() }), None)
        .expect_err("no content");
    assert!(matches!(none, LayerError::Unstorable { .. }), "{none}");
    writer.append(&entry("d", Kind::Directory), None).expect("append");
    let bytes = writer.finish().expect("finish").0;
    assert_eq!(read(&bytes).expect("reads"), [(entry("d", Kind::Directory), None)]);
}

#[test]
fn a_layer_with_half_an_entry_cannot_be_finished() {
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    let promised = entry("f", Kind::File { size: 1, fuzzy: false, refs: References::none() });
    let long = tempfile::tempfile().expect("temporary file");
    long.set_len(1).expect("length");
    // The descriptor cannot read: the entry is begun and breaks off.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&long));
    let write_only = File::options().write(true).open(path).expect("open");
    writer.append(&promised, Some(&write_only)).expect_err("unreadable");
    writer.append(&entry("d", Kind::Directory), None).expect_err("spoiled");
    writer.finish().map(|_| ()).expect_err("spoiled");
}

#[test]
fn holes_survive_and_cost_nothing() {
    let file = tempfile::tempfile().expect("temporary file");
    file.write_all_at(b"start", 0).expect("write");
    file.write_all_at(b"middle", 5 << 30).expect("write");
    file.set_len(9 << 30).expect("length");
    let whole = entry("sparse", Kind::File { size: 9 << 30, fuzzy: false, refs: References::none() });
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    writer.append(&whole, Some(&file)).expect("append");
    let (bytes, summary) = writer.finish().expect("finish");
    assert!(summary.raw_bytes < 64 << 10, "{summary:?}");
    let mut reader = LayerReader::new(&bytes[..]).expect("reads");
    assert_eq!(reader.next_entry().expect("entry"), Some(whole));
    let out = tempfile::tempfile().expect("temporary file");
    reader.content_to_file(&out).expect("content");
    assert_eq!(reader.next_entry().expect("end"), None);
    let map = |f| tar::SparseMap::of(f, 9 << 30).expect("map");
    assert_eq!(map(&out), map(&file));
    let mut middle = [0; 6];
    out.read_exact_at(&mut middle, 5 << 30).expect("read");
    assert_eq!(&middle, b"middle");
}

#[test]
fn foreign_archives_are_read_by_the_lenient_reader_only() {
    let mut header = tar::Header::new(tar::TypeFlag::FILE);
    header.name = b"./dir//file".to_vec();
    header.size = 3;
    let mut tar = header.encode().to_vec();
    tar.extend_from_slice(b"abc");
    tar.resize(tar.len().next_multiple_of(512) + 10240, 0);
    for bytes in [zstd::encode_all(&tar[..], 3).expect("compresses"), tar] {
        let mut reader = LayerReader::lenient(&bytes[..]).expect("opens");
        assert!(!reader.is_layer());
        assert_eq!(reader.next_entry().expect("entry").expect("one").path, path("dir/file"));
        let mut data = Vec::new();
        reader.read_content(&mut data, 10).expect("content");
        assert_eq!(data, b"abc");
        assert_eq!(reader.next_entry().expect("end"), None);
    }
    let (ours, _) = pack(&small());
    let mut reader = LayerReader::lenient(&ours[..]).expect("opens");
    assert!(reader.is_layer());
    let mut n = 0;
    while reader.next_entry().expect("entry").is_some() {
        n += 1;
    }
    assert_eq!(n, small().len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_read(
        entries in proptest::collection::vec(tar::test_entry(), 0..20),
        runs in proptest::collection::vec((0..70_000usize, 0..70_000usize), 0..6),
    ) {
        let mut items: Items = Vec::new();
        for (i, mut entry) in entries.into_iter().enumerate() {
            let bytes = if let Kind::File { size, .. } = &mut entry.kind {
                let mut bytes = Vec::new();
                for (hole, data) in &runs {
                    bytes.resize(bytes.len() + hole, 0);
                    bytes.extend(noise(*data, i as u64));
                }
                *size = bytes.len() as u64;
                Some(bytes)
            } else {
                None
            };
            items.push((entry, bytes));
        }
        let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 1, threads: 2 });
        for (entry, bytes) in &items {
            let file = bytes.as_ref().map(|bytes| {
                let file = tempfile::tempfile().expect("temporary file");
                file.set_len(bytes.len() as u64).expect("length");
                let mut at = 0;
                for (hole, data) in &runs {
                    at += hole;
                    file.write_all_at(&bytes[at..at + data], at as u64).expect("write");
                    at += data;
                }
                file
            });
            writer.append(entry, file.as_ref().map(|f| f as &dyn Content)).expect("append");
        }
        let (bytes, _) = writer.finish().expect("finish");
        prop_assert_eq!(read(&bytes).expect("reads"), items);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
        let _ = read(&[&frame::preamble()[..], &bytes].concat());
        let mut lenient = match LayerReader::lenient(&bytes[..]) { Ok(r) => r, Err(_) => return Ok(()) };
        while let Ok(Some(_)) = lenient.next_entry() {}
    }
}

/// Writes the golden file; run by hand when the format gets a new version.
#[test]
#[ignore = "writes the golden file"]
fn write_golden_file() {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/layer-v3.tar.zst");
    std::fs::write(target, pack(&golden()).0).expect("write");
}
