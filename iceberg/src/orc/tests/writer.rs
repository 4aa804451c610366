//! A writer of ORC: of what the format allows it writes more than any real one.
use super::chunks::chunked;
use super::runs::{packed_runs, put_varint, simple_runs};
use crate::orc::codec::Codec;
use crate::orc::stream::Layout;

/// A field of a message that is a number.
fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// A field of a message that is a text or a message.
pub(super) fn put_field(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

pub(super) fn message(numbers: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.iter().for_each(|(field, value)| put_number(&mut out, *field, *value));
    out
}

/// How a file is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    layout: Layout,
    dictionary: bool,
    /// Runs of version 1.
    simple: bool,
    /// Columns have Iceberg's ids, and other names; not the other way around.
    ids: bool,
    /// Streams PRESENT where none are needed.
    present: bool,
    /// So many rows in each stripe.
    stripe: usize,
    ways: u64,
}

impl Style {
    /// The same, with packed runs by other ways.
    pub(super) fn by(self, ways: u64) -> Self {
        Self { ways, ..self }
    }
}

/// A byte run of ones for so many rows.
fn ones(rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut left = rows.div_ceil(8);
    while left > 0 {
        let run = left.min(130);
        if run < 3 {
            out.extend_from_slice(&[0xff, 0xff]);
        } else {
            out.extend_from_slice(&[run as u8 - 3, 0xff]);
        }
        left -= if run < 3 { 1 } else { run };
    }
    out
}

/// The streams of a stripe, `(kind, column, content)`, and how many strings its dictionary has.
fn streams(style: Style, rows: &[(String, i64)]) -> (Vec<(u64, u64, Vec<u8>)>, u64) {
    let runs = |numbers: &[i64], signed| {
        if style.simple { simple_runs(numbers, signed) } else { packed_runs(numbers, signed, style.ways) }
    };
    let mut out = vec![(6, 0, b"an index".to_vec())];
    if style.present {
        (0..3).for_each(|column| out.push((0, column, ones(rows.len()))));
    }
    let positions: Vec<i64> = rows.iter().map(|(_, position)| *position).collect();
    let mut strings: Vec<&str> = rows.iter().map(|(path, _)| path.as_str()).collect();
    let lengths = |strings: &[&str]| runs(&strings.iter().map(|s| s.len() as i64).collect::<Vec<_>>(), false);
    let mut size = 0;
    if style.dictionary {
        let all = strings.clone();
        strings.sort_unstable();
        strings.dedup();
        size = strings.len() as u64;
        let indices: Vec<i64> = all.iter().map(|s| strings.binary_search(s).unwrap() as i64).collect();
        out.push((1, 1, runs(&indices, false)));
        out.push((3, 1, strings.concat().into_bytes()));
    } else {
        out.push((1, 1, strings.concat().into_bytes()));
    }
    out.push((2, 1, lengths(&strings)));
    out.push((1, 2, runs(&positions, true)));
    (out, size)
}

/// A file of position deletes.
pub(crate) fn write(style: Style, rows: &[(String, i64)]) -> Vec<u8> {
    let (mut out, mut footer) = (b"ORC".to_vec(), Vec::new());
    for stripe in rows.chunks(style.stripe) {
        let (start, mut stripe_footer, mut index) = (out.len(), Vec::new(), 0);
        let (streams, size) = streams(style, stripe);
        for (kind, column, content) in streams {
            let bytes = chunked(style.layout, &content);
            put_field(&mut stripe_footer, 1, &message(&[(1, kind), (2, column), (3, bytes.len() as u64)]));
            out.extend_from_slice(&bytes);
            if kind == 6 {
                index = out.len() - start;
            }
        }
        let data = out.len() - start - index;
        let two = if style.simple { 0 } else { 2 };
        let strings = two + u64::from(style.dictionary);
        for encoding in [&[(1, 0)][..], &[(1, strings), (2, size)], &[(1, two)]] {
            put_field(&mut stripe_footer, 2, &message(encoding));
        }
        let stripe_footer = chunked(style.layout, &stripe_footer);
        out.extend_from_slice(&stripe_footer);
        let lengths = [start, index, data, stripe_footer.len(), stripe.len()].map(|n| n as u64);
        let numbers: Vec<(u64, u64)> = (1..).zip(lengths).collect();
        put_field(&mut footer, 3, &message(&numbers));
    }
    let mut root = message(&[(1, 12)]);
    put_field(&mut root, 2, &[1, 2]);
    for name in if style.ids { ["p", "n"] } else { ["file_path", "pos"] } {
        put_field(&mut root, 3, name.as_bytes());
    }
    put_field(&mut footer, 4, &root);
    for (kind, id) in [(7, "2147483546"), (4, "2147483545")] {
        let mut column = message(&[(1, kind)]);
        let mut pair = Vec::new();
        put_field(&mut pair, 1, b"iceberg.id");
        put_field(&mut pair, 2, id.as_bytes());
        if style.ids {
            put_field(&mut column, 7, &pair);
        }
        put_field(&mut footer, 4, &column);
    }
    put_number(&mut footer, 6, rows.len() as u64);
    let footer = chunked(style.layout, &footer);
    out.extend_from_slice(&footer);
    let codec = match style.layout.codec {
        Codec::None => 0,
        Codec::Zlib => 1,
        Codec::Snappy => 2,
        Codec::Lz4 => 4,
        Codec::Zstd => 5,
    };
    let mut postscript = message(&[(1, footer.len() as u64), (2, codec), (3, style.layout.chunk as u64)]);
    put_field(&mut postscript, 4, &[0, 12]);
    put_field(&mut postscript, 8000, b"ORC");
    out.extend_from_slice(&postscript);
    out.push(postscript.len() as u8);
    out
}

/// Every style, with chunks and stripes that are small.
pub(crate) fn styles() -> impl Iterator<Item = Style> {
    (0..160_usize).map(|n| Style {
        layout: Layout {
            codec: [Codec::None, Codec::Zlib, Codec::Snappy, Codec::Lz4, Codec::Zstd][n % 5],
            chunk: if n % 3 == 0 { 100 } else { 1 << 18 },
        },
        dictionary: n & 1 == 1,
        simple: n & 2 == 2,
        ids: n & 4 == 4,
        present: n & 8 == 8,
        stripe: if n & 16 == 16 { 70 } else { 10_000 },
        ways: n as u64,
    })
}
