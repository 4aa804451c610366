//! Chunks, and where they stand.
use super::known::encode;
use super::*;
use crate::journal::MemoryJournal;
use crate::layer::Appended;
use crate::layer::content::Content;
use crate::layer::tar::Extent;
use crate::state::head::{Head, tests::layer};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use uuid::Uuid;

const OWN: Uuid = Uuid::from_bytes([0x11; 16]);
const OLD: Uuid = Uuid::from_bytes([0x22; 16]);

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn content(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("temporary file");
    file.write_all_at(bytes, 0).expect("writes");
    file
}

fn known() -> Arc<Known> {
    Arc::new(Known::new(Arc::new(MemoryJournal::new())))
}

/// A head with the layer OLD.
fn head() -> Head {
    let mut old = layer(&crate::state::head::layer_key(OLD));
    old.table = Some(crate::layer::Tail { bytes: 100, digest: [0; 32] }.into());
    Head::empty("work", Uuid::from_u128(7), "box").next(Uuid::from_u128(7), "box", old)
}

fn digests(bytes: &[u8]) -> Vec<Chunk> {
    let mut digests = Digests::new(bytes.len() as u64);
    digests.update(0, bytes);
    digests.take()
}

/// As if the file had been packed in a layer at a place.
fn remember(known: &Known, layer: Uuid, from: u64, bytes: &[u8]) {
    let data = [Extent { offset: 0, len: bytes.len() as u64 }];
    known.add(places(layer, from, &data, digests(bytes))).expect("adds");
}

#[test]
fn a_place_is_these_bytes() {
    let bytes = encode(Place { layer: OWN, from: 0x0102 });
    assert_eq!(bytes, [&[0x11; 16][..], &[2, 1, 0, 0, 0, 0, 0, 0]].concat());
}

#[test]
fn a_changed_chunk_alone_is_sent() {
    let known = known();
    let mut bytes = noise(5 * CHUNK_BYTES as usize + 1000, 1);
    remember(&known, OLD, 512, &bytes);
    bytes[2 * CHUNK_BYTES as usize + 7] ^= 1;
    let mut borrowing = Borrowing::new(known, Some(&head()), OWN);
    let refs = borrowing.references(&content(&bytes), bytes.len() as u64).expect("looks");
    let parts: Vec<_> = refs.iter().map(|r| (r.at, r.length, r.from)).collect();
    let two = 2 * CHUNK_BYTES;
    let rest = bytes.len() as u64 - 3 * CHUNK_BYTES;
    assert_eq!(parts, [(0, two, 512), (3 * CHUNK_BYTES, rest, 512 + 3 * CHUNK_BYTES)]);
    let appended = Appended { from: 4096, data: vec![Extent { offset: two, len: CHUNK_BYTES }] };
    borrowing.packed(&refs, &appended, []).expect("notes");
    assert_eq!(borrowing.refers(), [crate::state::head::layer_key(OLD)]);
    assert_eq!(borrowing.bytes(), bytes.len() as u64 - CHUNK_BYTES);
}

#[test]
fn what_is_packed_is_known_and_only_layers_that_are_there_lend() {
    let known = known();
    let bytes = noise(CHUNK_BYTES as usize, 2);
    let mut first = Borrowing::new(known.clone(), None, OWN);
    let size = bytes.len() as u64;
    let file = content(&bytes);
    // A first layer refers to nothing, not even to itself.
    remember(&known, OLD, 0, &bytes);
    assert!(first.references(&file, size).expect("looks").is_empty());
    let digested = Digested::new(&file, size);
    let mut read = vec![0; bytes.len()];
    assert_eq!(digested.read_at(&mut read, 0).expect("reads"), bytes.len());
    let appended = Appended { from: 1024, data: vec![Extent { offset: 0, len: size }] };
    first.packed(&crate::layer::References::none(), &appended, digested.chunks()).expect("notes");
    // Now it stands in OWN, of which this head knows nothing.
    let mut other = Borrowing::new(known.clone(), Some(&head()), Uuid::from_bytes([0x33; 16]));
    assert!(other.references(&file, size).expect("looks").is_empty());
    let place =
        |there: &[Uuid]| known.find(&digests(&bytes)[0].digest, |l| there.contains(l)).expect("finds");
    assert_eq!(place(&[OWN]), Some(Place { layer: OWN, from: 1024 }));
    assert_eq!(known.retain(&[OLD].into()).expect("forgets"), 1);
    assert_eq!(place(&[OWN]), None);
}

#[test]
fn holes_are_no_content() {
    let known = known();
    let zeros = vec![0; CHUNK_BYTES as usize];
    remember(&known, OLD, 512, &zeros);
    let file = tempfile::tempfile().expect("temporary file");
    file.set_len(4 * CHUNK_BYTES).expect("length");
    file.write_all_at(&zeros, CHUNK_BYTES).expect("writes");
    let mut borrowing = Borrowing::new(known, Some(&head()), OWN);
    let refs = borrowing.references(&file, 4 * CHUNK_BYTES).expect("looks");
    let map = crate::layer::tar::SparseMap::of(&file, 4 * CHUNK_BYTES).expect("map");
    let data: u64 = map.extents.iter().map(|e| e.len).sum();
    assert!(refs.bytes() <= data, "{refs:?} in {map:?}");
}

proptest! {
    /// However the bytes come, whole chunks and nothing else have a digest.
    #[test]
    fn any_cuts_give_the_same_digests(
        size in 0usize..300_000,
        cuts in prop::collection::vec(1usize..100_000, 1..20),
        hole in prop::option::of((0usize..300_000, 1usize..100_000)),
    ) {
        let bytes = noise(size, 5);
        let skipped = hole.map_or(0..0, |(at, len)| at.min(size)..(at + len).min(size));
        let mut stream = Digests::new(size as u64);
        let (mut at, mut cut) = (0, cuts.iter().cycle());
        while at < size {
            if skipped.contains(&at) {
                at = skipped.end;
                continue;
            }
            let stop = if at < skipped.start { skipped.start } else { size };
            let end = (at + cut.next().copied().unwrap_or(1)).min(stop);
            stream.update(at as u64, &bytes[at..end]);
            at = end;
        }
        let chunk = CHUNK_BYTES as usize;
        let expected: Vec<Chunk> = (0..size)
            .step_by(chunk)
            .map(|start| start..(start + chunk).min(size))
            .filter(|c| c.len() as u64 >= CHUNK_BYTES_MIN)
            .filter(|c| skipped.is_empty() || c.end <= skipped.start || c.start >= skipped.end)
            .map(|c| Chunk {
                at: c.start as u64,
                length: c.len() as u64,
                digest: *blake3::hash(&bytes[c]).as_bytes(),
            })
            .collect();
        prop_assert_eq!(stream.take(), expected);
    }
}
