//! A writer of ORC, for tests: of what the format allows it writes more than any real one. And files of real ones.
use super::codec::Codec;
use super::packed::WIDTHS;
use super::stream::Layout;
use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::path::Path;

// ---- Compression -------------------------------------------------------------------------------------------------

/// A chunk of this content, without its header.
pub(super) fn compress(codec: Codec, content: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => content.to_vec(),
        Codec::Zlib => {
            let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(content).unwrap();
            out.finish().unwrap()
        }
        Codec::Snappy => snap::raw::Encoder::new().compress_vec(content).unwrap(),
        Codec::Lz4 => lz4_flex::block::compress(content),
        Codec::Zstd => zstd::encode_all(content, 1).unwrap(),
    }
}

/// A stream of this content. Chunks that do not become smaller stay as they are, as writers do it.
pub(super) fn chunked(layout: Layout, content: &[u8]) -> Vec<u8> {
    if layout.codec == Codec::None {
        return content.to_vec();
    }
    let mut out = Vec::new();
    for chunk in content.chunks(layout.chunk) {
        let packed = compress(layout.codec, chunk);
        let (bytes, original) = if packed.len() < chunk.len() { (&packed[..], 0) } else { (chunk, 1) };
        out.extend_from_slice(&((bytes.len() as u32) << 1 | original).to_le_bytes()[..3]);
        out.extend_from_slice(bytes);
    }
    out
}

// ---- Numbers -----------------------------------------------------------------------------------------------------

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64, signed: bool) -> u64 {
    if signed { (value << 1 ^ value >> 63) as u64 } else { value as u64 }
}

/// How many numbers from the first on have the same distance, at most `limit`.
fn even_steps(numbers: &[i64], limit: usize) -> usize {
    let steps: Vec<i64> = numbers.windows(2).take(limit - 1).map(|w| w[1].wrapping_sub(w[0])).collect();
    1 + steps.iter().take_while(|step| **step == steps[0]).count()
}

/// Runs of version 1.
pub(super) fn simple_runs(numbers: &[i64], signed: bool) -> Vec<u8> {
    let (mut out, mut at, mut literals) = (Vec::new(), 0, Vec::new());
    let flush = |out: &mut Vec<u8>, literals: &mut Vec<i64>| {
        if !literals.is_empty() {
            out.push((literals.len() as u8).wrapping_neg());
            literals.drain(..).for_each(|number| put_varint(out, zigzag(number, signed)));
        }
    };
    while at < numbers.len() {
        let run = even_steps(&numbers[at..], 130);
        let step = numbers.get(at + 1).map_or(0, |next| next.wrapping_sub(numbers[at]));
        match i8::try_from(step) {
            Ok(step) if run >= 3 => {
                flush(&mut out, &mut literals);
                out.extend_from_slice(&[run as u8 - 3, step as u8]);
                put_varint(&mut out, zigzag(numbers[at], signed));
                at += run;
            }
            _ => {
                literals.push(numbers[at]);
                at += 1;
                if literals.len() == 128 {
                    flush(&mut out, &mut literals);
                }
            }
        }
    }
    flush(&mut out, &mut literals);
    out
}

/// The code of the smallest width that has so many bits.
fn width_code(bits: u32) -> u8 {
    WIDTHS.iter().position(|width| *width >= bits.max(1)).unwrap() as u8
}

fn bits(value: u64) -> u32 {
    64 - value.leading_zeros()
}

fn put_packed(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>, width: u32) {
    let (mut byte, mut used) = (0_u8, 0);
    for number in numbers {
        for bit in (0..width).rev() {
            byte = byte << 1 | (number >> bit & 1) as u8;
            used += 1;
            if used == 8 {
                out.push(byte);
                (byte, used) = (0, 0);
            }
        }
    }
    if used > 0 {
        out.push(byte << (8 - used));
    }
}

fn put_head(out: &mut Vec<u8>, encoding: u8, code: u8, length: usize) {
    let length = length - 1;
    out.extend_from_slice(&[encoding << 6 | code << 1 | (length >> 8) as u8, length as u8]);
}

fn put_direct(out: &mut Vec<u8>, numbers: &[i64], signed: bool) {
    let code = width_code(numbers.iter().map(|n| bits(zigzag(*n, signed))).max().unwrap());
    put_head(out, 1, code, numbers.len());
    put_packed(out, numbers.iter().map(|n| zigzag(*n, signed)), WIDTHS[usize::from(code)]);
}

/// A short repeat of the first numbers, if they are one; says how many.
fn put_repeat(out: &mut Vec<u8>, numbers: &[i64], signed: bool) -> Option<usize> {
    let count = numbers.iter().take(10).take_while(|n| **n == numbers[0]).count();
    let value = zigzag(numbers[0], signed);
    let bytes = bits(value).div_ceil(8).max(1);
    if count < 3 {
        return None;
    }
    out.push((bytes as u8 - 1) << 3 | (count as u8 - 3));
    out.extend_from_slice(&value.to_be_bytes()[8 - bytes as usize..]);
    Some(count)
}

/// A run of steps in one direction from the first number on.
fn put_delta(out: &mut Vec<u8>, numbers: &[i64], signed: bool, even: bool) -> usize {
    let mut body = Vec::new();
    put_varint(&mut body, zigzag(numbers[0], signed));
    let step = numbers.get(1).map_or(0, |next| next.wrapping_sub(numbers[0]));
    put_varint(&mut body, zigzag(step, true));
    let (mut count, mut code) = (even_steps(numbers, 512), 0);
    if !even {
        let mut steps = Vec::new();
        for pair in numbers[..numbers.len().min(512)].windows(2).skip(1) {
            let by = pair[1].checked_sub(pair[0]).filter(|by| if step < 0 { *by <= 0 } else { *by >= 0 });
            match by {
                Some(by) => steps.push(by.unsigned_abs()),
                None => break,
            }
        }
        count = numbers.len().min(2) + steps.len();
        code = width_code(bits(steps.iter().copied().max().unwrap_or(0)).max(2));
        put_packed(&mut body, steps.into_iter(), WIDTHS[usize::from(code)]);
    }
    put_head(out, 3, code, count);
    out.extend_from_slice(&body);
    count
}

/// A run above its smallest number, with patches; `None` where that cannot be.
fn put_patched(out: &mut Vec<u8>, numbers: &[i64]) -> Option<()> {
    let base = *numbers.iter().min()?;
    let above: Vec<u64> =
        numbers.iter().map(|n| n.checked_sub(base).map(|n| n as u64)).collect::<Option<_>>()?;
    let mut sorted = above.clone();
    sorted.sort_unstable();
    let code = width_code(bits(sorted[sorted.len() * 9 / 10]));
    let width = WIDTHS[usize::from(code)];
    let most = bits(*sorted.last()?).checked_sub(width).filter(|most| *most > 0)?;
    let patch_code = width_code(most);
    let patch_width = WIDTHS[usize::from(patch_code)];
    let (mut patches, mut last) = (Vec::new(), 0);
    for (at, number) in above.iter().enumerate().filter(|(_, n)| bits(**n) > width) {
        let mut gap = at - last;
        while gap > 255 {
            patches.push((255, 0));
            gap -= 255;
        }
        patches.push((gap as u64, number >> width));
        last = at;
    }
    let gap_width = bits(patches.iter().map(|(gap, _)| *gap).max()?).max(1);
    if patches.len() > 31 || patch_width + gap_width > 64 || base == i64::MIN {
        return None;
    }
    let bytes = (bits(base.unsigned_abs()) + 1).div_ceil(8);
    let sign = if base < 0 { 1 << (bytes * 8 - 1) } else { 0 };
    put_head(out, 2, code, numbers.len());
    out.push((bytes as u8 - 1) << 5 | patch_code);
    out.push((gap_width as u8 - 1) << 5 | patches.len() as u8);
    out.extend_from_slice(&(base.unsigned_abs() | sign).to_be_bytes()[8 - bytes as usize..]);
    let mask = u64::MAX >> (64 - width);
    put_packed(out, above.iter().map(|n| n & mask), width);
    let both = WIDTHS[usize::from(width_code(patch_width + gap_width))];
    put_packed(out, patches.into_iter().map(|(gap, patch)| gap << patch_width | patch), both);
    Some(())
}

/// Runs of version 2; `ways` says by which of the encodings that are possible.
pub(super) fn packed_runs(numbers: &[i64], signed: bool, ways: u64) -> Vec<u8> {
    let (mut out, mut at, mut ways) = (Vec::new(), 0, ways | 1);
    while at < numbers.len() {
        let mut random = || {
            ways = ways.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (ways >> 33) as usize
        };
        let rest = &numbers[at..];
        let some = &rest[..rest.len().min(1 + random() % 512)];
        at += match random() % 5 {
            0 => put_repeat(&mut out, rest, signed).unwrap_or(0),
            1 => put_delta(&mut out, some, signed, true),
            2 => put_delta(&mut out, some, signed, false),
            3 => put_patched(&mut out, some).map_or(0, |()| some.len()),
            _ => {
                put_direct(&mut out, some, signed);
                some.len()
            }
        };
    }
    out
}

// ---- Files -------------------------------------------------------------------------------------------------------

/// A field of a message that is a number.
fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// A field of a message that is a text or a message.
fn put_field(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn message(numbers: &[(u64, u64)]) -> Vec<u8> {
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

pub(crate) fn read(bytes: &[u8]) -> Result<Vec<(String, i64)>, OrcError> {
    let file = OrcFile::parse(bytes)?;
    let missing = OrcError::Malformed("a column is missing");
    let paths = file.column(2_147_483_546, "file_path").ok_or_else(|| missing.clone())?;
    let positions = file.column(2_147_483_545, "pos").ok_or(missing)?;
    let mut rows = Vec::new();
    file.pairs(paths, positions, |path, position| {
        let path = std::str::from_utf8(path).map_err(|_| OrcError::Malformed("not UTF-8"))?;
        rows.push((path.to_owned(), position));
        Ok::<_, OrcError>(())
    })?;
    assert_eq!(rows.len() as u64, file.rows());
    Ok(rows)
}

/// The rows of the files that scripts/fixtures/orc.py has written: by the same rule.
fn rows_of_the_fixtures() -> Vec<(String, i64)> {
    let mut random = 1_i64;
    let row = |n: i64| {
        random = random * 48_271 % 2_147_483_647;
        let position = match n / 500 {
            0 => 7,
            1 => n,
            2 => n * n,
            3 => random,
            4 => random % 100 + if n % 97 == 0 { 1 << 40 } else { 0 },
            _ => 3_000 - n,
        };
        let file = if n < 2_000 { n / 100 } else { random % 5 };
        (format!("s3://lake/wh/db/t/data/{file:05}-0-00001.parquet"), position)
    };
    (0..3_000).map(row).collect()
}

/// Files of real writers: Iceberg's own (Java) and Arrow's (C++), with each codec and both versions of runs.
#[test]
fn files_of_real_writers_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/orc");
    let expected = rows_of_the_fixtures();
    let mut met = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let rows = read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(rows == expected, "{}", path.display());
        met += 1;
        // And what the end or the middle is missing of is refused.
        for cut in [0, 2, 3, 4, bytes.len() / 2, bytes.len() - 1] {
            assert!(read(&bytes[..cut]).is_err(), "{}, cut at {cut}", path.display());
        }
        let mut bytes = bytes;
        for at in (met * 7..bytes.len()).step_by(211) {
            for wrong in [0x01, 0xff] {
                bytes[at] ^= wrong;
                let _refused_or_read = read(&bytes);
                bytes[at] ^= wrong;
            }
        }
    }
    assert!(met >= 8, "{met} files");
}

#[test]
fn files_of_every_style_are_read() {
    let rows: Vec<(String, i64)> = (0..500_i64)
        .map(|n| (format!("s3://b/{}", n / 90), if n % 50 < 40 { n * 3 } else { n * n % 7 }))
        .collect();
    for style in styles() {
        assert_eq!(read(&write(style, &rows)).unwrap(), rows, "{style:?}");
        assert_eq!(read(&write(style, &[])).unwrap(), [], "{style:?}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let style = |n| styles().nth(n).unwrap();
    let rows = [("s3://b/x".to_owned(), 1), ("s3://b/y".to_owned(), 2)];
    let plain = write(style(0), &rows);
    let why = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    assert_eq!(why(b"PAR1"), "it is not an ORC file: it does not begin with ORC");
    assert_eq!(
        why(b"ORC and then nothing of the kind"),
        "it is not an ORC file: it does not end in a postscript"
    );
    assert_eq!(why(b"ORC"), "it is not an ORC file: it does not end in a postscript");
    assert_eq!(why(&plain[..plain.len() - 1]), "it is not an ORC file: it does not end in a postscript");
    // The last bytes but for the length: magic, then from its front: 08 footer 10 codec 18 chunk.
    let at = plain.len() - 1 - usize::from(plain[plain.len() - 1]);
    let with = |at: usize, byte: u8| {
        let mut bytes = plain.clone();
        bytes[at] = byte;
        bytes
    };
    let (footer, codec) = (at + 1, at + 3);
    assert_eq!((plain[at], plain[codec - 1]), (0x08, 0x10));
    assert_eq!(why(&with(codec, 3)), "compression LZO is not known");
    assert_eq!(why(&with(footer, 0)), "its rows have no columns");
    let version = plain.windows(4).rposition(|window| window == [0x22, 2, 0, 12]).unwrap();
    assert_eq!(why(&with(version + 2, 1)), "version 1.12 of ORC is not known");
    // Rows of a stripe are `28 n`, of the file `30 n`.
    let all = plain.windows(2).rposition(|window| window == [0x30, 2]).unwrap();
    assert_eq!(why(&with(all + 1, 1)), "its stripes have more rows than it");
    assert_eq!(why(&with(all + 1, 3)), "its stripes have fewer rows than it");
    // A type of another kind, and none by that name.
    let name = plain.windows(3).rposition(|window| window == b"pos").unwrap();
    assert_eq!(why(&with(name, b'x')), "a column is missing");
    let number = plain.windows(4).rposition(|window| window == [0x22, 2, 0x08, 4]).unwrap();
    assert_eq!(why(&with(number + 3, 7)), "a column has not the type that belongs there");
}

/// A footer that has a field of its own: what writers of encrypted files add.
#[test]
fn what_is_encrypted_is_refused() {
    let layout = Layout { codec: Codec::None, chunk: 1 << 18 };
    for (encrypted, field) in [(true, 10), (false, 11)] {
        let (mut footer, mut out) = (Vec::new(), b"ORC".to_vec());
        let mut root = message(&[(1, 12)]);
        put_field(&mut root, 2, &[1]);
        put_field(&mut root, 3, b"file_path");
        put_field(&mut footer, 4, &root);
        put_field(&mut footer, 4, &message(&[(1, 7)]));
        put_field(&mut footer, field, b"");
        out.extend_from_slice(&chunked(layout, &footer));
        let mut postscript = message(&[(1, footer.len() as u64), (2, 0)]);
        put_field(&mut postscript, 8000, b"ORC");
        out.extend_from_slice(&postscript);
        out.push(postscript.len() as u8);
        assert_eq!(OrcFile::parse(&out).err() == Some(OrcError::Encrypted), encrypted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_comes_back(
        style in (0..160_usize, any::<u64>()).prop_map(|(n, ways)| Style { ways, ..styles().nth(n).unwrap() }),
        rows in proptest::collection::vec(("[a-z]{0,3}", 0..i64::MAX), 0..300),
    ) {
        prop_assert_eq!(read(&write(style, &rows)).unwrap(), rows);
    }

    #[test]
    fn wrong_bytes_are_refused_or_read(
        n in 0..160_usize,
        wrong in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let rows: Vec<(String, i64)> = (0..200).map(|n| (format!("s3://b/{}", n / 70), n * n % 90)).collect();
        let mut bytes = write(styles().nth(n).unwrap(), &rows);
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(file) = OrcFile::parse(&bytes) && file.rows() < 1 << 20 {
            let _refused_or_read = read(&bytes);
        }
    }
}
