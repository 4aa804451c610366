use super::*;
use crate::cache::key::{Key, ObjectId};

fn object() -> Witness {
    let id = ObjectId { bucket: "b".into(), key: "k/1".into(), tag: "t".into(), size: 10_000 };
    let header = Header { identity: Identity::Object(id), generation: 7, block_bytes: 4096, whole: [0; 32] };
    Witness { header, slots: vec![Some([1; 32]), None, Some([3; 32])], wrong: 0 }
}

fn file(size: u64) -> Witness {
    let key = Key::new("a key").expect("a key");
    let slots: Vec<_> = (0..size.div_ceil(4096)).map(|n| [n as u8 + 1; 32]).collect();
    let (whole, slots) = match crate::cache::digest::root(&slots) {
        Some(root) => (root, slots.into_iter().map(Some).collect()),
        None => ([9; 32], Vec::new()),
    };
    let identity = Identity::File { key, size };
    Witness {
        header: Header { identity, generation: 0x0102_0304, block_bytes: 4096, whole },
        slots,
        wrong: 0,
    }
}

#[test]
fn a_witness_is_these_bytes() {
    let mut expected = b"ICEWITNS\x01\0\0\0".to_vec();
    expected.extend_from_slice(b"\x3c\0\0\0\0\x10\0\0\x04\x03\x02\x01\0\0\0\0");
    expected.extend_from_slice(&[9; 32]);
    expected.extend_from_slice(b"\x01\x05\0\0\0\0\0\0\0\x05\0a key");
    assert_eq!(expected[12], 0x3c);
    let sum = blake3::hash(&expected);
    expected.extend_from_slice(&sum.as_bytes()[..8]);
    assert_eq!(file(5).encode(), expected);

    let bytes = object().encode();
    let slots = &bytes[bytes.len() - 3 * SLOT_BYTES..];
    assert_eq!(&slots[..32], &[1; 32]);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&7_u64.to_le_bytes()).update(&0_u32.to_le_bytes()).update(&[1; 32]);
    assert_eq!(&slots[32..40], &hasher.finalize().as_bytes()[..8]);
    assert_eq!(&slots[40..80], &[0; 40]);
    assert_eq!(
        &bytes[..bytes.len() - 3 * SLOT_BYTES][60..],
        &[
            &b"\x02\x10\x27\0\0\0\0\0\0\x01\0b\x03\0k/1\x01\0t"[..],
            &blake3::hash(&bytes[..bytes.len() - 3 * SLOT_BYTES - 8]).as_bytes()[..8]
        ]
        .concat()
    );
}

#[test]
fn what_was_written_is_read() {
    for witness in [object(), file(0), file(5), file(4096), file(4097), file(20_000)] {
        assert_eq!(Witness::decode(&witness.encode()), Ok(witness));
    }
}

#[test]
fn a_flipped_byte_of_a_file_is_noticed_and_of_an_object_costs_one_block() {
    for witness in [file(5), file(20_000), object()] {
        let good = witness.encode();
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 0x20;
            match Witness::decode(&bad) {
                Err(_) => {}
                Ok(read) => {
                    assert!(matches!(read.header.identity, Identity::Object(_)), "byte {n} of {good:?}");
                    assert_eq!(read.header, witness.header);
                    let differ: Vec<_> =
                        read.slots.iter().zip(&witness.slots).filter(|(a, b)| a != b).collect();
                    assert!(differ.iter().all(|(found, _)| found.is_none()) && differ.len() <= 1);
                }
            }
        }
    }
}

#[test]
fn a_cut_one_is_refused_or_has_fewer_blocks() {
    let good = object().encode();
    for length in 0..good.len() {
        if let Ok(read) = Witness::decode(&good[..length]) {
            assert!(read.slots.iter().zip(&object().slots).all(|(a, b)| a.is_none() || a == b));
        }
    }
    let good = file(20_000).encode();
    assert!((0..good.len()).all(|length| Witness::decode(&good[..length]).is_err()));
}

#[test]
fn the_room_of_a_witness_is_that_of_its_bytes() {
    for (size, key) in [(0, "k"), (1, "a longer key"), (1 << 20, "k"), (300 << 20, "many blocks")] {
        let key = Key::new(key).expect("a key");
        let room = room_for_file(&key, size, 1 << 20);
        let header = Header {
            identity: Identity::File { key, size },
            generation: 7,
            block_bytes: 1 << 20,
            whole: [1; 32],
        };
        let slots = vec![None; header.slots() as usize];
        assert_eq!(room, on_disk(Witness { header, slots, wrong: 0 }.encode().len() as u64), "{size}");
    }
    let id =
        ObjectId { bucket: "bucket".into(), key: "k".repeat(900), tag: "t".into(), size: (80 << 20) + 1 };
    let room = room_for_object(&id, 1 << 20);
    let header =
        Header { identity: Identity::Object(id), generation: 7, block_bytes: 1 << 20, whole: [0; 32] };
    let slots = vec![None; header.slots() as usize];
    let length = Witness { header, slots, wrong: 0 }.encode().len() as u64;
    assert_eq!(room, on_disk(length));
    assert_eq!(length, FIXED_BYTES + (2 + 6) + (2 + 900) + (2 + 1) + 81 * 40, "to the byte");
}
