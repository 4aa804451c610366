#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::*;
use crate::layer::contents::Row;
use crate::layer::frame::FRAME_RAW_MAX;
use crate::layer::index::tests::parts;
use crate::layer::tests::{Items, content, entry, file, noise, pack, path, small};
use crate::layer::{Extractor, Kind, LayerReader, LayerWriter, PackOptions, References};
use std::os::unix::fs::FileExt;

const FRAME: u64 = FRAME_RAW_MAX as u64;

fn open<'a>(
    bytes: &'a [u8],
    index: &LayerIndex,
    span: Range<u64>,
) -> Result<LayerReader<&'a [u8]>, LayerError> {
    let range = index.range(span.clone());
    LayerReader::section(&bytes[range.start as usize..range.end as usize], index, span)
}

fn items(mut reader: LayerReader<&[u8]>) -> Result<Items, LayerError> {
    let mut items = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_content(&mut data, 64 << 20)?;
        let data = matches!(entry.kind, Kind::File { .. }).then_some(data);
        items.push((entry, data));
    }
    assert_eq!(reader.next_entry()?, None, "the end stays the end");
    Ok(items)
}

fn section(bytes: &[u8], index: &LayerIndex, span: Range<u64>) -> Result<Items, LayerError> {
    open(bytes, index, span).and_then(items)
}

/// Small files around large ones, so that entries begin and end anywhere in a frame.
fn mixed() -> Items {
    let mut items = small();
    items.push(file("large", &noise(3_500_000, 1)));
    items.extend((0..40).map(|i| file(&format!("s{i}"), &noise(100 * i, i as u64))));
    items.push((entry("x/link", Kind::HardLink { target: path("large") }), None));
    items.push(file("zeros", &vec![0; 6 << 20]));
    items.push(file("last", b"end"));
    items
}

#[test]
fn each_row_alone_gives_its_entry_and_content() {
    let items = mixed();
    let (bytes, summary) = pack(&items);
    let (index, rows) = parts(&bytes, summary);
    assert_eq!(rows.len(), items.len());
    for (row, item) in rows.iter().zip(&items) {
        assert_eq!(row.entry, item.0);
        let found = section(&bytes, &index, row.span()).expect("reads");
        assert!(found == [item.clone()], "{}", item.0.path);
    }
}

#[test]
fn a_span_of_several_rows_gives_them_in_order() {
    let items = mixed();
    let (bytes, summary) = pack(&items);
    let (index, rows) = parts(&bytes, summary);
    for (from, to) in [(0, 3), (7, 9), (5, 20), (8, items.len()), (0, items.len()), (4, 4)] {
        let span =
            |rows: &[Row]| rows.first().map_or(0, |r| r.offset)..rows.last().map_or(0, |r| r.span().end);
        let found = section(&bytes, &index, span(&rows[from..to])).expect("reads");
        assert!(found == items[from..to], "rows {from} to {to}");
    }
    // With the blocks that end the stream.
    let found = section(&bytes, &index, rows[9].offset..summary.raw_bytes).expect("reads");
    assert!(found == items[9..]);
    let reader = open(&bytes, &index, 0..summary.raw_bytes).expect("opens");
    assert!(reader.is_layer());
}

#[test]
fn content_that_is_not_read_is_passed_over() {
    let (bytes, summary) = pack(&mixed());
    let (index, rows) = parts(&bytes, summary);
    let mut reader = open(&bytes, &index, rows[8].offset..summary.raw_bytes).expect("opens");
    for row in &rows[8..] {
        assert_eq!(reader.next_entry().expect("reads").as_ref(), Some(&row.entry));
    }
    assert_eq!(reader.next_entry().expect("end"), None);
}

#[test]
fn holes_survive_a_section() {
    let source = tempfile::tempfile().expect("temporary file");
    source.write_all_at(b"middle", 5 << 20).expect("write");
    source.set_len(9 << 20).expect("length");
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    writer
        .append(
            &entry("a", Kind::File { size: 3, fuzzy: false, refs: References::none() }),
            Some(&content(b"abc")),
        )
        .expect("append");
    let sparse = entry("sparse", Kind::File { size: 9 << 20, fuzzy: false, refs: References::none() });
    writer.append(&sparse, Some(&source)).expect("append");
    let (bytes, summary) = writer.finish().expect("finish");
    let (index, rows) = parts(&bytes, summary);
    let mut reader = open(&bytes, &index, rows[1].span()).expect("opens");
    assert_eq!(reader.next_entry().expect("entry"), Some(sparse));
    assert!(reader.has_holes());
    let out = tempfile::tempfile().expect("temporary file");
    reader.content_to_file(&out).expect("content");
    assert_eq!(out.metadata().expect("stat").len(), 9 << 20);
    let mut middle = [0; 6];
    out.read_exact_at(&mut middle, 5 << 20).expect("read");
    assert_eq!(&middle, b"middle");
    assert_eq!(reader.next_entry().expect("end"), None);
}

#[test]
fn frames_that_are_damaged_swapped_or_of_another_place_are_refused() {
    let (bytes, summary) = pack(&[file("zeros", &vec![0; 5 << 20]), file("f", &noise(2 << 20, 3))]);
    let (index, rows) = parts(&bytes, summary);
    let span = rows[0].span();
    let range = index.range(span.clone());
    let good = &bytes[range.start as usize..range.end as usize];
    let read = |source: &[u8], span: Range<u64>| LayerReader::section(source, &index, span).and_then(items);
    read(good, span.clone()).expect("good");
    let mut bad = good.to_vec();
    for at in (0..bad.len()).step_by(bad.len() / 150) {
        bad[at] ^= 4;
        assert!(matches!(read(&bad, span.clone()), Err(LayerError::Corrupt { .. })), "byte {at}");
        bad[at] ^= 4;
    }
    // Frames of zeros have all one length, so only their digests tell them from the first.
    let frame = |n: u64| {
        let r = index.range(n * FRAME..n * FRAME + 1);
        &bytes[r.start as usize..r.end as usize]
    };
    let swapped = [frame(1), frame(0), frame(2), frame(3), frame(4), frame(5)].concat();
    assert_eq!(swapped.len(), good.len());
    assert!(matches!(read(&swapped, span.clone()), Err(LayerError::Corrupt { .. })));
    assert!(
        read(&good[..good.len() - 1], span.clone()).is_err_and(|e| matches!(e, LayerError::Truncated { .. }))
    );
    assert!(read(b"", span).is_err_and(|e| matches!(e, LayerError::Truncated { .. })));
}

#[test]
fn spans_that_are_no_rows_are_errors() {
    let (bytes, summary) = pack(&[file("a", &noise(3 << 20, 1)), file("b", &noise(1 << 20, 2))]);
    let (index, rows) = parts(&bytes, summary);
    let outside = LayerReader::section(&b""[..], &index, 0..summary.raw_bytes + 1).map(|_| ());
    assert!(matches!(outside, Err(LayerError::Io { .. })));
    let backwards = Range { start: 512, end: 0 };
    LayerReader::section(&b""[..], &index, backwards).map(|_| ()).expect_err("backwards");
    section(&bytes, &index, rows[0].offset + 512..rows[0].span().end)
        .map(|_| ())
        .expect_err("begins in an entry");
    let short = section(&bytes, &index, rows[0].offset..rows[0].offset + FRAME);
    assert!(matches!(short, Err(LayerError::Truncated { .. })), "ends in an entry");
    assert_eq!(section(&bytes, &index, 0..0).expect("nothing"), []);
}

#[test]
fn a_section_is_extracted_like_a_layer() {
    let items = mixed();
    let (bytes, summary) = pack(&items);
    let (index, rows) = parts(&bytes, summary);
    let dir = tempfile::tempdir().expect("directory");
    let root = std::fs::File::open(dir.path()).expect("open");
    let mut extractor = Extractor::new(root.into());
    for row in rows.iter().filter(|row| !matches!(row.entry.kind, Kind::Whiteout)) {
        let mut reader = open(&bytes, &index, row.span()).expect("opens");
        let entry = reader.next_entry().expect("reads").expect("one");
        extractor.place(&entry, &mut reader).expect("place");
        assert_eq!(reader.next_entry().expect("end"), None);
    }
    extractor.finish().expect("finish");
    for (entry, data) in items.iter().filter(|(_, data)| data.is_some()) {
        let found = std::fs::read(dir.path().join(entry.path.as_path())).expect("read");
        assert!(Some(&found) == data.as_ref(), "{}", entry.path);
    }
}
