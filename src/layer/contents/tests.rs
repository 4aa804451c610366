#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::*;
use crate::layer::frame::{SKIPPABLE_HEADER_BYTES, VERSION};
use crate::layer::index::tests::parts;
use crate::layer::table::{self, Counts};
use crate::layer::tar::{self, Decoder, Dialect};
use crate::layer::tests::{content, entry, meta, noise, path};
use crate::layer::{
    Kind, LayerError, LayerIndex, LayerReader, LayerWriter, Metadata, PackOptions, References,
};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

/// A tail that holds but for what the pieces say: for a stream of `raw_bytes` that is not there.
fn tail(pieces: &[Vec<u8>], entries: u64, raw_bytes: u64) -> (Vec<u8>, u64) {
    let frames = raw_bytes.div_ceil(1 << 20);
    let mut counts = Counts { frames, entries, raw_bytes, ..Counts::default() };
    let (mut contents, mut rows) = (Vec::new(), Vec::new());
    for n in 0..frames {
        rows.extend(table::row(9, (raw_bytes - (n << 20)).min(1 << 20) as u32, &[0; 32]));
    }
    for raw in pieces {
        let payload = zstd::bulk::compress(raw, 3).expect("compresses");
        let header = table::skippable(crate::layer::frame::CONTENTS_MAGIC, payload.len() as u32);
        let frame = [&header[..], &payload].concat();
        rows.extend(table::row(frame.len() as u32, raw.len() as u32, blake3::hash(&frame).as_bytes()));
        counts.pieces += 1;
        counts.contents_bytes += frame.len() as u64;
        contents.extend(frame);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&rows);
    let header = table::header(VERSION, counts).expect("a header");
    let tail = [&contents[..], &header, &rows, &table::footer(VERSION, counts, &hasher)].concat();
    let length = 512 + 9 * frames + tail.len() as u64;
    (tail, length)
}

fn read(pieces: &[Vec<u8>], entries: u64, raw_bytes: u64) -> Result<Vec<Row>, LayerError> {
    let (tail, length) = tail(pieces, entries, raw_bytes);
    LayerIndex::read(&tail, length).expect("the table holds").1.collect()
}

fn piece(first: u64, rows: &[&[u8]]) -> Vec<u8> {
    [&first.to_le_bytes()[..], &(rows.len() as u64).to_le_bytes(), &rows.concat()].concat()
}

/// A directory `a` of one block, without attributes.
const ROW: &[u8] = &[1, 0, 1, b'a', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_piece_is_these_bytes() {
    let mut encoder = Encoder::new(3);
    let mut put = |kind, p: &str, meta: Metadata| {
        encoder.push(&Entry { path: path(p), kind, meta }, 1536).expect("row");
    };
    put(Kind::Directory, "dir", meta());
    put(
        Kind::File { size: 300, fuzzy: true, refs: References::none() },
        "dir/f",
        Metadata { xattrs: Vec::new(), ..meta() },
    );
    put(Kind::HardLink { target: path("dir/f") }, "dir/g", Metadata::default());
    put(Kind::Whiteout, "old", Metadata::default());
    put(Kind::CharDevice { rdev: (1, 300) }, "z", Metadata::default());
    let pieces = encoder.finish().expect("one piece");
    let raw = zstd::decode_all(&pieces[0].frame[SKIPPABLE_HEADER_BYTES..]).expect("decompresses");
    let expected: &[&[u8]] = &[
        &[0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 3, b'd', b'i', b'r', 1],
        &[0xA0, 3, 0xE8, 7, 0xC0, 0x8D, 0xB7, 1], // mode, owner, group
        &[0x80, 0xC4, 0x9F, 0xD5, 0x0C, 0x15, 0xCD, 0x5B, 0x07], // mtime
        &[1, 8],
        b"user.key",
        &[6],
        b"a\nb\0c=",
        &[3, 3, 2, b'/', b'f', 8, 0xAC, 2],
        &[0xA0, 3, 0xE8, 7, 0xC0, 0x8D, 0xB7, 1, 0, 0x15, 0xCD, 0x5B, 0x07, 0],
        &[3, 4, 1, b'g', 3, 5],
        b"dir/f",
        &[3, 0, 3, b'o', b'l', b'd', 7],
        &[3, 0, 1, b'z', 5, 1, 0xAC, 2, 0, 0, 0, 0xFF, 0xC3, 0x9F, 0xD5, 0x0C, 0, 0, 0, 0, 0],
    ];
    assert_eq!(raw, expected.concat());
    assert_eq!(pieces[0].raw as usize, raw.len());
}

#[test]
fn many_rows_are_several_pieces() {
    let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 3, threads: 2 });
    let mut entries = vec![entry("dir", Kind::Directory)];
    entries.extend((0..30_000u32).map(|i| {
        let mut entry = entry(&format!("dir/file-{i:06}"), Kind::Symlink { target: b"x".to_vec() });
        entry.meta.mtime.sec += i64::from(i % 7) - 3;
        entry.meta.xattrs.clear();
        entry
    }));
    // One row that is longer than pieces are, and one after it.
    let mut heavy = entry("heavy", Kind::Directory);
    heavy.meta.xattrs = (0..60).map(|i| (format!("user.{i:02}").into_bytes(), noise(64 << 10, i))).collect();
    entries.push(heavy);
    entries.push(entry("last", Kind::Fifo));
    for entry in &entries {
        writer.append(entry, None).expect("append");
    }
    let (bytes, summary) = writer.finish().expect("finish");
    let (_, rows) = parts(&bytes, summary);
    assert!(rows.into_iter().map(|row| row.entry).eq(entries));
    let mut reader = LayerReader::new(&bytes[..]).expect("opens");
    while reader.next_entry().expect("reads").is_some() {}
}

#[test]
fn attributes_out_of_order_are_listed_as_the_stream_is_read() {
    let mut odd = entry("d", Kind::Directory);
    let xattr = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    odd.meta.xattrs = vec![xattr("user.b", "1"), xattr("user.a", "2"), xattr("user.b", "3")];
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    writer.append(&odd, None).expect("append");
    let (bytes, summary) = writer.finish().expect("finish");
    let read = LayerReader::new(&bytes[..]).expect("opens").next_entry().expect("reads").expect("one");
    assert_eq!(read.meta.xattrs, [xattr("user.a", "2"), xattr("user.b", "3")]);
    assert_eq!(parts(&bytes, summary).1[0].entry, read);
}

type Edit<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn rows_that_lie_are_refused() {
    assert_eq!(read(&[piece(0, &[ROW])], 1, 1536).expect("reads").len(), 1);
    let two = [1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(read(&[piece(0, &[ROW, &two])], 2, 2048).expect("the same path").len(), 2);
    assert_eq!(read(&[piece(0, &[ROW]), piece(512, &[ROW])], 2, 2048).expect("reads").len(), 2);
    let row = |edit: Edit<'_>| {
        let mut row = ROW.to_vec();
        edit(&mut row);
        row
    };
    let mut lies: Vec<(&str, Vec<Vec<u8>>, u64, u64)> = vec![
        ("no piece", vec![], 1, 1536),
        ("fewer rows", vec![piece(0, &[ROW])], 2, 2048),
        ("more rows", vec![piece(0, &[ROW, &two])], 1, 2048),
        ("beyond the stream", vec![piece(0, &[ROW, &two])], 2, 1536),
        ("before the end", vec![piece(0, &[ROW])], 1, 2048),
        ("begins late", vec![piece(512, &[ROW])], 1, 2048),
        ("overlaps", vec![piece(0, &[ROW]), piece(0, &[ROW])], 2, 2048),
        ("no rows", vec![piece(0, &[]), piece(0, &[ROW])], 1, 1536),
        ("shares with another piece", vec![piece(0, &[ROW]), piece(512, &[&two])], 2, 2048),
        ("bytes left", vec![[piece(0, &[ROW]), vec![0]].concat()], 1, 1536),
        ("no header", vec![vec![0; 15]], 1, 1536),
        ("too much in a piece", vec![piece(0, &vec![ROW; 20_000])], 20_000, 20_000 * 512 + 1024),
    ];
    let edits: [(&str, Edit<'_>); 13] = [
        ("no length", &|r| r[0] = 0),
        ("length beyond any number", &|r| {
            drop(r.splice(0..1, [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]));
        }),
        ("number of eleven bytes", &|r| drop(r.splice(0..1, [0x81; 11]))),
        ("idle byte", &|r| drop(r.splice(0..1, [0x81, 0]))),
        ("shares too much", &|r| r[1] = 1),
        ("path is too long for the piece", &|r| r[2] = 100),
        ("path is too long for the entry", &|r| drop(r.splice(2..3, [0x81, 4]))),
        ("leaves the tree", &|r| drop(r.splice(2..4, [2, b'.', b'.']))),
        ("unknown kind", &|r| r[4] = 9),
        ("the root is a pipe", &|r| drop(r.splice(2..5, [0, 4]))),
        ("mode", &|r| drop(r.splice(5..6, [0x80, 0x20]))),
        ("nanoseconds", &|r| r[12] = 0xFF),
        ("xattrs", &|r| r[13] = 1),
    ];
    for (what, edit) in edits {
        lies.push((what, vec![piece(0, &[&row(edit)])], 1, 1536));
    }
    let xattrs = |xattrs: &[u8]| [&ROW[..13], xattrs].concat();
    for (what, list) in [
        ("without a name", &[1, 0, 0][..]),
        ("with a NUL", &[1, 1, 0, 0]),
        ("out of order", &[2, 1, b'b', 0, 1, b'a', 0]),
        ("twice", &[2, 1, b'a', 0, 1, b'a', 0]),
    ] {
        lies.push((what, vec![piece(0, &[&xattrs(list)])], 1, 1536));
    }
    let mut crowd = vec![33];
    (0..33).for_each(|i| crowd.extend([1, b'A' + i, 0]));
    lies.push(("more attributes than the headers hold", vec![piece(0, &[&xattrs(&crowd)])], 1, 1536));
    for target in [&[2, 0][..], &[2, 1, 0], &[3, 0], &[3, 1, b'/'], &[3, 200, 4]] {
        lies.push(("target", vec![piece(0, &[&[&ROW[..4], target, &ROW[5..]].concat()])], 1, 1536));
    }
    // A directory of 16 MiB.
    let long = row(&|r| drop(r.splice(0..1, [0x80, 0x80, 2])));
    lies.push(("too long without data", vec![piece(0, &[&long])], 1, (16 << 20) + 1024));
    for (what, pieces, entries, raw_bytes) in lies {
        let error = read(&pieces, entries, raw_bytes).expect_err(what);
        assert!(matches!(error, LayerError::Corrupt { .. } | LayerError::Refused { .. }), "{what}: {error}");
    }
}

#[test]
fn after_an_error_there_is_no_row() {
    let (tail, length) = tail(&[piece(0, &[ROW, &[0], ROW])], 3, 2560);
    let mut contents = LayerIndex::read(&tail, length).expect("the table holds").1;
    contents.next().expect("a row").expect("good");
    contents.next().expect("a row").expect_err("bad");
    assert!(contents.next().is_none());
}

#[test]
fn a_piece_that_unpacks_to_more_than_it_says_is_refused() {
    for claimed in [13, 40, 1 << 20] {
        let (mut bytes, length) = tail(&[piece(0, &[ROW])], 1, 1536);
        // The row of the piece stands before the footer; its length of content is its second field.
        let at = bytes.len() - table::FOOTER_BYTES - table::ROW_BYTES;
        bytes[at + 4..at + 8].copy_from_slice(&u32::to_le_bytes(claimed));
        let rows = at - table::ROW_BYTES;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes[rows..at + table::ROW_BYTES]);
        let contents_bytes = (rows - SKIPPABLE_HEADER_BYTES) as u64;
        let counts = Counts { frames: 1, entries: 1, raw_bytes: 1536, pieces: 1, contents_bytes };
        let footer = bytes.len() - table::FOOTER_BYTES;
        bytes[footer..].copy_from_slice(&table::footer(VERSION, counts, &hasher));
        let contents = LayerIndex::read(&bytes, length).expect("the table holds").1;
        contents.collect::<Result<Vec<_>, _>>().expect_err("another length");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_what_the_stream_says(
        mut entries in proptest::collection::vec(tar::test_entry(), 0..40),
        runs in proptest::collection::vec((0..300_000usize, 0..300_000usize), 0..6),
    ) {
        let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 1, threads: 2 });
        for entry in &mut entries {
            let Kind::File { size, .. } = &mut entry.kind else {
                writer.append(entry, None).expect("append");
                continue;
            };
            let file = content(b"");
            let mut at = 0;
            for (hole, data) in &runs {
                at += hole;
                file.write_all_at(&noise(*data, at as u64), at as u64).expect("write");
                at += data;
            }
            file.set_len(at as u64).expect("length");
            *size = at as u64;
            writer.append(entry, Some(&file)).expect("append");
        }
        let (bytes, summary) = writer.finish().expect("finish");
        let (index, rows) = parts(&bytes, summary);
        let tar = zstd::decode_all(&bytes[..]).expect("decompresses");
        prop_assert_eq!(index.entries(), entries.len() as u64);
        prop_assert_eq!(rows.len(), entries.len());
        let mut at = 0;
        for (row, entry) in rows.iter().zip(entries) {
            prop_assert_eq!(row.offset, at);
            at += row.length;
            let mut stream = &tar[row.offset as usize..at as usize];
            let whole = Decoder::new(Dialect::Layer).next(&mut stream).expect("reads").expect("an entry");
            let data = whole.map.data_len();
            prop_assert_eq!(stream.len() as u64, data + padding(data) as u64);
            prop_assert_eq!(&row.entry, &whole.entry);
            prop_assert_eq!(&row.entry, &entry);
        }
        prop_assert_eq!(at + END_BYTES, tar.len() as u64);
    }

    #[test]
    fn arbitrary_pieces_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300), entries in 0..20u64) {
        let _ = read(std::slice::from_ref(&raw), entries, 5 << 20);
        // Behind a right header, so that the rows are reached.
        let _ = read(&[[&0u64.to_le_bytes()[..], &entries.to_le_bytes(), &raw].concat()], entries, 5 << 20);
    }
}
