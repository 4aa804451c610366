//! Layers that are damaged in every way, in a store in memory.
use super::*;
use crate::layer::frame::{SKIPPABLE_HEADER_BYTES, VERSION};
use crate::layer::table::{self, Counts, FOOTER_BYTES, ROW_BYTES};
use crate::layer::{Entry, Kind, LayerWriter, Metadata, PackOptions, References};
use crate::path::RelPath;
use crate::remote::{Condition, MemoryStore, ObjectStore};
use crate::state::head::Digest;
use crate::state::restore::NoProgress;
use std::os::unix::fs::FileExt;
use uuid::Uuid;

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("path")
}

fn entry(at: &str, kind: Kind) -> Entry {
    Entry { path: path(at), kind, meta: Metadata { mode: 0o755, ..Metadata::default() } }
}

/// A layer of these entries; files begin with text and go on with a hole.
fn pack(entries: &[Entry]) -> Packed {
    pack_with(entries, "none")
}

type Packed = (Vec<u8>, LayerRef);

/// The file of this name has no hole.
fn pack_with(entries: &[Entry], dense: &str) -> Packed {
    let mut writer = LayerWriter::new(Vec::new(), PackOptions::default());
    for entry in entries {
        let content = tempfile::tempfile().expect("temp");
        match entry.kind {
            Kind::File { size, .. } => {
                let text = if entry.path.as_bytes() == dense.as_bytes() { size } else { size.min(17) };
                content.set_len(size).expect("length");
                content.write_all_at(&vec![b'x'; text as usize], 0).expect("writes");
                writer.append(entry, Some(&content)).expect("appends")
            }
            _ => writer.append(entry, None).expect("appends"),
        };
    }
    let (bytes, summary) = writer.finish().expect("finishes");
    let layer = LayerRef {
        key: String::new(),
        bytes: summary.bytes,
        raw_bytes: summary.raw_bytes,
        digest: Digest(summary.digest),
        entries: summary.entries,
        table: Some(summary.tail.into()),
        dictionary: None,
        version: 0,
        base: None,
        refers: Vec::new(),
        time: jiff::Timestamp::UNIX_EPOCH,
        writer: Uuid::from_u128(7),
        changed: 0,
        removed: 0,
        fuzzy: 0,
        inline: None,
        extra: serde_json::Map::new(),
    };
    (bytes, layer)
}

/// A version of these layers, oldest first.
async fn version(layers: Vec<Packed>) -> (Arc<MemoryStore>, Head) {
    let store = Arc::new(MemoryStore::new());
    let mut head = Head::empty("work", Uuid::from_u128(7), "box");
    for (n, (bytes, layer)) in layers.into_iter().enumerate() {
        let key = format!("layers/{n}.tar.zst");
        store.put(&key, bytes.into(), Condition::Always).await.expect("puts");
        head = head.next(Uuid::from_u128(7), "box", LayerRef { key, ..layer });
    }
    (store, head)
}

/// Two layers, the second of which replaces and removes.
async fn two_layers() -> (Arc<MemoryStore>, Head) {
    let file = |at: &str, size| entry(at, Kind::File { size, fuzzy: false, refs: References::none() });
    let first = [
        entry("", Kind::Directory),
        entry("d", Kind::Directory),
        file("d/f", 17),
        entry("d/link", Kind::HardLink { target: path("d/f") }),
        file("d/sparse", 3 << 20),
        file("gone", 5),
        file("large", 2 << 20),
    ];
    let second = [file("d/f", 9), entry("gone", Kind::Whiteout)];
    version(vec![pack(&first), pack(&second)]).await
}

async fn look(store: &Arc<MemoryStore>, head: &Head, depth: Depth) -> Report {
    verify(Arc::clone(store) as Store, head, depth, &NoProgress).await.expect("can be told")
}

/// What is wrong, of the one layer of which something is.
fn one(report: &Report, layer: usize) -> &str {
    let [damage] = &report.damaged[..] else { panic!("not one: {report:?}") };
    assert_eq!(damage.layer, format!("layers/{layer}.tar.zst"));
    &damage.what
}

#[tokio::test]
async fn what_is_well_is_well() {
    let (store, head) = two_layers().await;
    let tails: u64 = head.layers.iter().filter_map(|l| l.table.as_ref()).map(|t| t.bytes).sum();
    let bytes: u64 = head.layers.iter().map(|l| l.bytes).sum();
    for (depth, read) in [(Depth::Whole, bytes + tails), (Depth::Tails, tails)] {
        let report = look(&store, &head, depth).await;
        assert_eq!((report.version, report.layers, report.entries), (2, 2, 9));
        assert_eq!((report.tree, report.bytes), (Some(true), read), "{depth:?}");
        assert!(report.damaged.is_empty() && report.unchecked.is_empty(), "{report:?}");
    }
}

#[tokio::test]
async fn every_byte_of_a_layer_counts() {
    let (store, head) = two_layers().await;
    let key = &head.layers[1].key;
    let good = store.get(key).await.expect("there").bytes.to_vec();
    let tail = good.len() - head.layers[1].table.as_ref().expect("table").bytes as usize;
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        store.put(key, bad.into(), Condition::Always).await.expect("puts");
        let report = look(&store, &head, Depth::Whole).await;
        assert!(!one(&report, 1).is_empty(), "byte {at}");
        let quick = look(&store, &head, Depth::Tails).await;
        assert_eq!(
            quick.damaged.len(),
            usize::from(at >= tail),
            "byte {at} of {}, tail at {tail}",
            good.len()
        );
    }
}

#[tokio::test]
async fn lengths_and_absence_are_named() {
    let (store, head) = two_layers().await;
    let layer = &head.layers[0];
    let good = store.get(&layer.key).await.expect("there").bytes.to_vec();
    let longer = [&good[..], b"x"].concat();
    let instead = format!("bytes instead of {}", good.len());
    for (bytes, what) in [(&good[..good.len() - 1], &instead), (&longer[..], &instead)] {
        store.put(&layer.key, bytes.to_vec().into(), Condition::Always).await.expect("puts");
        for depth in [Depth::Whole, Depth::Tails] {
            let report = look(&store, &head, depth).await;
            assert!(one(&report, 0).ends_with(what), "{depth:?}: {report:?}");
        }
    }
    store.put(&layer.key, good[..10].to_vec().into(), Condition::Always).await.expect("puts");
    for depth in [Depth::Whole, Depth::Tails] {
        let report = look(&store, &head, depth).await;
        assert!(!one(&report, 0).is_empty());
        // What the newer layer says of a tree that is not known means nothing.
        assert_eq!(report.tree, None);
    }
    let mut other = head.clone();
    other.layers[0].key = "layers/2.tar.zst".into();
    for depth in [Depth::Whole, Depth::Tails] {
        assert_eq!(one(&look(&store, &other, depth).await, 2), GONE);
    }
}

/// A layer, all of whose checksums hold, with the data of one and the contents of another.
fn liar((ours, layer): Packed, (theirs, _): &Packed) -> Packed {
    // Both have one frame of data and one piece.
    let end = SKIPPABLE_HEADER_BYTES + 2 * ROW_BYTES + FOOTER_BYTES;
    let tail = |bytes: &[u8]| LayerIndex::tail_bytes(bytes).expect("a footer") as usize;
    let data = &ours[..ours.len() - tail(&ours)];
    let piece = &theirs[theirs.len() - tail(theirs)..theirs.len() - end];
    let row_of = |bytes: &[u8], n: usize| {
        let at = bytes.len() - FOOTER_BYTES - (2 - n) * ROW_BYTES;
        bytes[at..at + ROW_BYTES].to_vec()
    };
    let rows = [row_of(&ours, 0), row_of(theirs, 1)].concat();
    let counts = Counts {
        frames: 1,
        entries: layer.entries,
        raw_bytes: layer.raw_bytes,
        pieces: 1,
        contents_bytes: piece.len() as u64,
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&rows);
    let header = table::header(VERSION, counts).expect("a header");
    let tail = [piece, &header, &rows, &table::footer(VERSION, counts, &hasher)].concat();
    let bytes = [data, &tail].concat();
    let table = crate::layer::Tail { bytes: tail.len() as u64, digest: *blake3::hash(&tail).as_bytes() };
    let digest = Digest(*blake3::hash(&bytes).as_bytes());
    let layer = LayerRef { bytes: bytes.len() as u64, digest, table: Some(table.into()), ..layer };
    (bytes, layer)
}

#[tokio::test]
async fn contents_that_lie_about_the_stream_are_found() {
    let file = |at: &str, size| entry(at, Kind::File { size, fuzzy: false, refs: References::none() });
    let private = |mut e: Entry| {
        e.meta.mode = 0o700;
        e
    };
    let holes = [file("a", 65536), file("b", 65536)];
    let cases = [
        (pack(&[file("a", 5)]), pack(&[file("b", 5)]), "differ in a path, which is b: a"),
        (pack(&[file("a", 5)]), pack(&[file("a", 6)]), "differ in kind or size: a"),
        (pack(&[file("a", 5)]), pack(&[private(file("a", 5))]), "differ in attributes: a"),
        (pack_with(&holes, "a"), pack_with(&holes, "b"), "differ in its place: a"),
    ];
    for (ours, theirs, what) in cases {
        if ours.1.raw_bytes != theirs.1.raw_bytes || theirs.1.raw_bytes > 1 << 20 {
            continue; // a file system without holes
        }
        let (store, head) = version(vec![liar(ours, &theirs)]).await;
        assert!(look(&store, &head, Depth::Tails).await.damaged.is_empty(), "{what}: seen from the tail");
        let report = look(&store, &head, Depth::Whole).await;
        assert!(one(&report, 0).ends_with(what), "{report:?} instead of {what}");
    }
    let ours = pack_with(&holes, "a");
    let (store, head) = version(vec![liar(ours.clone(), &ours)]).await;
    assert!(look(&store, &head, Depth::Whole).await.damaged.is_empty(), "what is put together is whole");
}

#[tokio::test]
async fn layers_without_a_table_are_read_whole_or_not_at_all() {
    let (store, mut head) = two_layers().await;
    let golden = include_bytes!("../../../tests/golden/layer-v1.tar.zst").to_vec();
    let mut reader = crate::layer::LayerReader::new(&golden[..]).expect("a layer");
    let mut entries = 0;
    while reader.next_entry().expect("reads").is_some() {
        entries += 1;
    }
    let layer = &mut head.layers[0];
    (layer.bytes, layer.entries, layer.table) = (golden.len() as u64, entries, None);
    layer.digest = Digest(*blake3::hash(&golden).as_bytes());
    layer.raw_bytes = zstd::decode_all(&golden[..]).expect("decompresses").len() as u64;
    store.put(&layer.key, golden.into(), Condition::Always).await.expect("puts");
    let key = layer.key.clone();
    let quick = look(&store, &head, Depth::Tails).await;
    assert_eq!((quick.unchecked, quick.tree, quick.damaged.len()), (vec![key], None, 0));
    let whole = look(&store, &head, Depth::Whole).await;
    assert_eq!((whole.tree, whole.entries), (Some(true), entries + 2), "{whole:?}");
    head.layers[0].entries += 1;
    let report = look(&store, &head, Depth::Whole).await;
    assert!(one(&report, 0).contains("entries, in HEAD"), "{report:?}");
}

#[tokio::test]
async fn a_hard_link_needs_its_target_in_its_layer() {
    let first = pack(&[entry("a", Kind::File { size: 5, fuzzy: false, refs: References::none() })]);
    let second = pack(&[entry("b", Kind::HardLink { target: path("a") })]);
    let (store, head) = version(vec![first, second]).await;
    for depth in [Depth::Whole, Depth::Tails] {
        let report = look(&store, &head, depth).await;
        assert_eq!(report.tree, Some(false));
        assert!(one(&report, 1).contains("hard link to a file that is not there"), "{report:?}");
    }
}

#[tokio::test]
async fn an_outage_is_no_damage() {
    use crate::remote::{Fault, Faulty};
    let (store, head) = two_layers().await;
    let down = || RemoteError::Unavailable { message: "down".into() };
    let faulty: Store = Arc::new(Faulty::new(store, move |_| Fault::FailBefore(down())));
    for depth in [Depth::Whole, Depth::Tails] {
        let e = verify(Arc::clone(&faulty), &head, depth, &NoProgress).await.expect_err("down");
        assert_eq!(Error::from(e).kind(), ErrorKind::Unavailable);
    }
}
