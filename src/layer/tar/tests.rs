#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]
use super::*;
use crate::clock::Timestamp;
use crate::layer::{Entry, Kind, Metadata, References};
use crate::path::RelPath;
use proptest::prelude::*;

fn path(bytes: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(bytes).expect("valid path")
}

fn file(p: &[u8], size: u64) -> Entry {
    Entry {
        path: path(p),
        kind: Kind::File { size, fuzzy: false, refs: References::none() },
        meta: Metadata::default(),
    }
}

/// What the reader makes of the headers of one entry.
fn decode(headers: &[u8]) -> Decoded {
    let mut input = headers;
    Decoder::new(Dialect::Layer).next(&mut input).expect("reads").expect("an entry")
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    let hostile =
        prop_oneof![Just(b'\n'), Just(b'='), Just(b'%'), Just(b' '), Just(0xFFu8), Just(b'.'), 1u8..=255u8,];
    prop_oneof![4 => 1..12usize, 1 => Just(255usize), 1 => 90..110usize]
        .prop_flat_map(move |n| proptest::collection::vec(hostile.clone(), n))
        .prop_map(|v| v.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect::<Vec<u8>>())
        .prop_filter("a name", |v| v != b"." && v != b"..")
}

fn rel_path() -> impl Strategy<Value = RelPath> {
    prop_oneof![
        8 => proptest::collection::vec(component(), 1..5),
        1 => proptest::collection::vec(component(), 30..40),
    ]
    .prop_map(|parts| path(parts.join(&b'/')))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let xattr = (component(), proptest::collection::vec(any::<u8>(), 0..300));
    let sec = prop_oneof![Just(0i64), -5i64..5, any::<i32>().prop_map(i64::from), (0..1i64 << 40)];
    let nsec = prop_oneof![Just(0u32), 0..1_000_000_000u32, Just(100_000_000), Just(999_999_999)];
    let id = || prop_oneof![0..3000u32, Just(2_097_151), Just(2_097_152), any::<u32>()];
    (0..0o10000u32, id(), id(), sec, nsec, proptest::collection::vec(xattr, 0..4)).prop_map(
        |(mode, uid, gid, sec, nsec, mut xattrs)| {
            xattrs.sort();
            xattrs.dedup_by(|a, b| a.0 == b.0);
            Metadata { mode, uid, gid, mtime: Timestamp { sec, nsec }, xattrs }
        },
    )
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let bytes = proptest::collection::vec(1..=255u8, 1..300);
    let rdev = (0..4096u32, 0..1_048_576u32);
    let kind = prop_oneof![
        (any::<bool>(), prop_oneof![0..1000u64, Just(8 << 30), Just((8 << 30) - 1), 0..1u64 << 50])
            .prop_map(|(fuzzy, size)| Kind::File { size, fuzzy, refs: References::none() }),
        Just(Kind::Directory),
        bytes.prop_map(|target| Kind::Symlink { target }),
        rel_path().prop_map(|target| Kind::HardLink { target }),
        Just(Kind::Fifo),
        rdev.clone().prop_map(|rdev| Kind::CharDevice { rdev }),
        rdev.prop_map(|rdev| Kind::BlockDevice { rdev }),
        Just(Kind::Whiteout),
    ];
    (rel_path(), kind, metadata()).prop_map(|(path, kind, meta)| {
        let bare = matches!(kind, Kind::HardLink { .. } | Kind::Whiteout);
        Entry { path, kind, meta: if bare { Metadata::default() } else { meta } }
    })
}

fn sparse_map() -> impl Strategy<Value = SparseMap> {
    (proptest::collection::vec((1u64..1 << 20, 1u64..1 << 33), 0..40), 0u64..3).prop_map(|(runs, tail)| {
        let mut extents = Vec::new();
        let mut at = 0;
        for (gap, len) in runs {
            extents.push(Extent { offset: at + gap, len });
            at += gap + len;
        }
        SparseMap { size: at + tail * 4096, extents }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_entry_comes_back_as_it_went(entry in entry()) {
        let headers = encode(&entry, None).expect("encodes");
        prop_assert_eq!(headers.len() % BLOCK, 0);
        prop_assert_eq!(decode(&headers).entry, entry);
    }

    #[test]
    fn holes_come_back_as_they_went(map in sparse_map(), meta in metadata()) {
        let entry = Entry { path: path("d/f"), kind: Kind::File { size: map.size, fuzzy: false, refs: References::none() }, meta };
        let headers = encode(&entry, Some(&map)).expect("encodes");
        let decoded = decode(&headers);
        prop_assert_eq!(decoded.map, map);
        prop_assert_eq!(decoded.entry, entry);
    }

    #[test]
    fn arbitrary_headers_never_panic(mut block in proptest::collection::vec(any::<u8>(), 512..2048), kind in any::<u8>()) {
        // With a right checksum, or nothing behind it would be reached.
        block[156] = kind;
        block[148..156].fill(b' ');
        let sum: u32 = block[..512].iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        for dialect in [Dialect::Layer, Dialect::Foreign] {
            let _ = Decoder::new(dialect).next(&mut block.as_slice());
        }
        let _ = Pax::parse(&block);
    }

    #[test]
    fn records_are_read_by_length(pairs in proptest::collection::vec(
        (proptest::collection::vec(any::<u8>().prop_filter("no =", |b| *b != b'='), 1..20),
         proptest::collection::vec(any::<u8>(), 0..1200)), 0..6)) {
        let mut pax = Pax::default();
        for (key, value) in pairs {
            pax.push(key, value);
        }
        prop_assert_eq!(Pax::parse(&pax.encode()).expect("parses"), pax);
    }
}

#[test]
fn plain_entries_need_no_extended_header() {
    let mut entry = file(b"some/file", 5);
    entry.meta.mtime.sec = 1_700_000_000;
    assert_eq!(encode(&entry, None).expect("encodes").len(), BLOCK);
}

#[test]
fn a_users_own_whiteout_name_stays_a_file() {
    let own = file(b"d/.wh.x", 0);
    assert_eq!(decode(&encode(&own, None).expect("encodes")).entry, own);
    let gone = Entry { path: path("d/x"), kind: Kind::Whiteout, meta: Metadata::default() };
    let headers = encode(&gone, None).expect("encodes");
    assert_eq!(decode(&headers).entry, gone);
    // To a stranger both are an empty file of the same name.
    let mut input = headers.as_slice();
    let foreign = Decoder::new(Dialect::Foreign).next(&mut input).expect("reads").expect("an entry").entry;
    assert_eq!(foreign.path, path("d/.wh.x"));
    assert!(matches!(foreign.kind, Kind::File { size: 0, .. }));
}

#[test]
fn names_that_leave_the_tree_are_refused_by_name() {
    for name in ["/etc/passwd", "../x", "a/../../x"] {
        let mut header = Header::new(TypeFlag::FILE);
        header.name = name.into();
        for dialect in [Dialect::Layer, Dialect::Foreign] {
            let error = Decoder::new(dialect).next(&mut header.encode().as_slice()).expect_err("refused");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn times_before_1970_are_signed_decimals() {
    let text = |sec, nsec| pax::time_to_text(Timestamp { sec, nsec });
    assert_eq!(text(-2, 500_000_000), "-1.5");
    assert_eq!(text(-1, 999_999_999), "-0.000000001");
    assert_eq!(text(3, 20), "3.00000002");
    assert_eq!(pax::time_from_text(b"-0.000000001"), Some(Timestamp { sec: -1, nsec: 999_999_999 }));
    assert_eq!(pax::time_from_text(b"1e9"), None);
}
