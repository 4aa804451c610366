//! Files of a writer of our own, and of real ones.
pub(super) mod chunks;
pub(super) mod runs;
mod writer;

use super::codec::Codec;
use super::stream::Layout;
use super::*;
use chunks::chunked;
use proptest::prelude::*;
use std::path::Path;
use writer::{message, put_field};
pub(crate) use writer::{styles, write};

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
        style in (0..160_usize, any::<u64>()).prop_map(|(n, ways)| styles().nth(n).unwrap().by(ways)),
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
