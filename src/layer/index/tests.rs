#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::*;
use crate::layer::contents::Row;
use crate::layer::frame::VERSION;
use crate::layer::tests::{GOLDEN, GOLDEN_V1, GOLDEN_V2, Items};
use crate::layer::tests::{content, file, golden, noise, pack, read, small};
use crate::layer::{LayerWriter, PackOptions, Summary};

/// The tail of a layer, and how long the layer is.
pub(in crate::layer) fn tail_of(bytes: &[u8], summary: Summary) -> (&[u8], u64) {
    (&bytes[bytes.len() - summary.tail.bytes as usize..], summary.bytes)
}

/// Reads the tail to its last row.
fn rows(tail: &[u8], layer_bytes: u64) -> Result<(LayerIndex, Vec<Row>), LayerError> {
    let (index, contents) = LayerIndex::read(tail, layer_bytes)?;
    Ok((index, contents.collect::<Result<_, _>>()?))
}

/// Index and rows of a layer.
pub(in crate::layer) fn parts(bytes: &[u8], summary: Summary) -> (LayerIndex, Vec<Row>) {
    let (tail, length) = tail_of(bytes, summary);
    rows(tail, length).expect("reads")
}

fn sealed(mut counts: Counts, rows: &[u8], contents: &[u8], header: Option<[u8; 8]>) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(rows);
    counts.contents_bytes = counts.contents_bytes.max(contents.len() as u64);
    let header = header.unwrap_or_else(|| table::header(VERSION, counts).expect("a header"));
    [contents, &header, rows, &table::footer(VERSION, counts, &hasher)].concat()
}

#[test]
fn golden_rows() {
    let tail = LayerIndex::tail_bytes(GOLDEN).expect("a footer");
    let (index, rows) =
        rows(&GOLDEN[GOLDEN.len() - tail as usize..], GOLDEN.len() as u64).expect("golden layer");
    let entries: Vec<_> = golden().into_iter().map(|(entry, _)| entry).collect();
    assert_eq!(rows.iter().map(|row| row.entry.clone()).collect::<Vec<_>>(), entries);
    let offsets: Vec<u64> = rows.iter().map(|row| row.offset).collect();
    assert_eq!(offsets, [0, 1536, 3072, 5120, 5632, 7168, 8704, 10240, 11776, 15872]);
    assert_eq!(rows.last().map(|row| row.span().end + END_BYTES), Some(index.raw_bytes()));
    assert_eq!(index.entries(), 10);
    assert_eq!(index.range(0..index.raw_bytes()), PREAMBLE_BYTES as u64..GOLDEN.len() as u64 - tail);
}

#[test]
fn a_layer_of_version_2_is_read_in_parts() {
    let tail = LayerIndex::tail_bytes(GOLDEN_V2).expect("a footer");
    let start = GOLDEN_V2.len() - tail as usize;
    let (_, rows) = rows(&GOLDEN_V2[start..], GOLDEN_V2.len() as u64).expect("whole");
    assert!(rows.into_iter().map(|row| row.entry).eq(small().into_iter().map(|(entry, _)| entry)));
}

#[test]
fn every_flipped_bit_of_a_tail_is_found() {
    let (bytes, summary) = pack(&golden());
    let (tail, length) = tail_of(&bytes, summary);
    let mut tail = tail.to_vec();
    rows(&tail, length).expect("whole");
    for at in 0..tail.len() {
        for bit in 0..8 {
            tail[at] ^= 1 << bit;
            assert!(rows(&tail, length).is_err(), "bit {bit} of byte {at}");
            tail[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_tail_that_is_cut_or_longer_is_refused() {
    let (bytes, summary) = pack(&golden());
    let (tail, length) = tail_of(&bytes, summary);
    for n in 0..tail.len() {
        rows(&tail[..n], length).expect_err("cut at its end");
        rows(&tail[n + 1..], length).expect_err("cut at its start");
    }
    rows(&bytes[bytes.len() - tail.len() - 1..], length).expect_err("a byte more");
    rows(&bytes, length).expect_err("the whole layer");
    for other in [0, length - 1, length + 1, u64::MAX] {
        rows(tail, other).expect_err("the length of another layer");
    }
}

#[test]
fn pieces_of_the_contents_that_are_lost_or_swapped_are_found_by_both_readers() {
    let items: Items = (0..12_000).map(|i| file(&format!("{:032x}", i * 7919), b"")).collect();
    let mut writer = LayerWriter::new(Vec::new(), PackOptions { level: 1, threads: 2 });
    for (entry, _) in &items {
        writer.append(entry, Some(&content(b""))).expect("append");
    }
    let (bytes, summary) = writer.finish().expect("finish");
    let (tail, length) = tail_of(&bytes, summary);
    let data = &bytes[..bytes.len() - tail.len()];
    let first = 8 + u32::from_le_bytes(tail[4..8].try_into().expect("four")) as usize;
    let second = first + 8 + u32::from_le_bytes(tail[first + 4..][..4].try_into().expect("four")) as usize;
    assert!(tail[first..].starts_with(&CONTENTS_MAGIC), "more than one piece");
    let swapped = [&tail[first..second], &tail[..first], &tail[second..]].concat();
    let lost = &tail[first..];
    let twice = [&tail[..first], tail].concat();
    for spoiled in [&swapped[..], lost, &twice] {
        let difference = spoiled.len() as i64 - tail.len() as i64;
        rows(spoiled, length.wrapping_add_signed(difference)).expect_err("other pieces");
        read(&[data, spoiled].concat()).expect_err("other pieces");
    }
    read(&bytes).expect("the layer itself is good");
}

#[test]
fn counts_beyond_reason_are_refused_before_anything_is_allocated() {
    let row = table::row(100, 1 << 20, &[0; 32]);
    let far = 1 << 61;
    for counts in [
        Counts { frames: u64::MAX, ..Counts::default() },
        Counts { frames: far, pieces: far, ..Counts::default() },
        Counts { frames: 1 << 30, ..Counts::default() },
        Counts { frames: 1, contents_bytes: u64::MAX, ..Counts::default() },
        Counts { frames: 1, raw_bytes: u64::MAX, entries: u64::MAX, ..Counts::default() },
        Counts { frames: 1, raw_bytes: 0, ..Counts::default() },
        Counts { frames: 1, raw_bytes: (1 << 20) + 1, ..Counts::default() },
        Counts { pieces: 1, raw_bytes: 1 << 20, ..Counts::default() },
    ] {
        let tail = sealed(counts, &row, b"", Some(table::skippable(*b"\x51\x2A\x4D\x18", 40 + 88)));
        let error = rows(&tail, 512 + 100 + tail.len() as u64).expect_err("refused");
        assert!(matches!(error, LayerError::Corrupt { .. }), "{counts:?}: {error}");
    }
    // Frames too long or of nothing.
    for length in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let counts = Counts { frames: 1, raw_bytes: 1024, ..Counts::default() };
        let tail = sealed(counts, &table::row(length, 1024, &[0; 32]), b"", None);
        rows(&tail, 512 + u64::from(length) + tail.len() as u64).expect_err("refused");
    }
    // Pieces too long, compressed or not.
    for (length, raw) in [(7, 16), (9, PIECE_RAW_MAX as u32 + 1), (PIECE_BYTES_MAX as u32 + 9, 16)] {
        let counts = Counts { frames: 1, raw_bytes: 1024, pieces: 1, entries: 1, contents_bytes: 0 };
        let list = [table::row(100, 1024, &[0; 32]), table::row(length, raw, &[0; 32])].concat();
        let contents = vec![0; length as usize];
        let tail = sealed(counts, &list, &contents, None);
        rows(&tail, 512 + 100 + tail.len() as u64).expect_err("refused");
    }
}

#[test]
fn ranges_are_whole_frames() {
    let (bytes, summary) = pack(&[file("a", &noise(2 << 20, 1)), file("b", &noise(3 << 20, 2))]);
    let (index, rows) = parts(&bytes, summary);
    let end = summary.bytes - summary.tail.bytes;
    let all = index.range(0..summary.raw_bytes);
    assert_eq!(all, PREAMBLE_BYTES as u64..end);
    assert_eq!(index.range(0..1).start, all.start);
    assert_eq!(index.range(0..STEP), index.range(0..1));
    assert_eq!(index.range(0..STEP + 1).end, index.range(STEP..STEP + 1).end);
    assert_eq!(index.range(0..STEP).end, index.range(STEP..STEP + 1).start);
    assert_eq!(index.range(summary.raw_bytes - 1..u64::MAX).end, end);
    for nothing in [0..0, STEP..STEP, summary.raw_bytes..u64::MAX, u64::MAX..u64::MAX] {
        assert!(index.range(nothing).is_empty());
    }
    // Of the second file's frames none has anything of the first one's but the one they share.
    assert!(index.range(rows[1].span()).start > index.range(0..2 * STEP).start);
    assert!(index.range(rows[1].span()).start < index.range(0..2 * STEP + 1).end);
}

#[test]
fn an_empty_layer_has_no_rows() {
    let (bytes, summary) = pack(&[]);
    let (index, rows) = parts(&bytes, summary);
    assert_eq!((index.entries(), index.raw_bytes(), rows.len()), (0, END_BYTES, 0));
}

#[test]
fn version_1_says_that_it_has_no_contents() {
    let error = LayerIndex::read(&GOLDEN_V1[GOLDEN_V1.len() - 120..], GOLDEN_V1.len() as u64);
    assert!(matches!(error, Err(LayerError::NoContents { version: 1 })));
    assert!(matches!(LayerIndex::tail_bytes(GOLDEN_V1), Err(LayerError::NoContents { version: 1 })));
    assert!(matches!(LayerIndex::tail_bytes(&[0; 200]), Err(LayerError::Corrupt { .. })));
    assert!(matches!(LayerIndex::tail_bytes(b"ICEFOOT\0"), Err(LayerError::Truncated { .. })));
}
