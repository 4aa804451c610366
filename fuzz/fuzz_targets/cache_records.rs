//! Whatever the journal of a cache holds, reading its records ends in values or in an error that says so.
#![no_main]
use icecache::cache::record::{BlockRecord, EntryRecord, decode_limits, decode_session, encode_limits};
use libfuzzer_sys::fuzz_target;

/// A value with a checksum that holds, so that what is behind it is reached.
fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key).update(body);
    [body, &hasher.finalize().as_bytes()[..8]].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((split, rest)) = data.split_first() else { return };
    let (key, body) = rest.split_at(usize::from(*split % 16).min(rest.len()));
    for value in [body.to_vec(), seal(key, body)] {
        if let Ok((generation, record)) = EntryRecord::decode(key, &value) {
            let again = record.encode(generation);
            assert_eq!(EntryRecord::decode(key, &again), Ok((generation, record)));
        }
        if let Ok((generation, number, record)) = BlockRecord::decode(key, &value) {
            assert_eq!(record.encode(generation, number), value);
        }
    }
    let _any = decode_session(b"session", &seal(b"session", body));
    let limits = seal(b"limits", body);
    if let Ok(found) = decode_limits(&limits) {
        assert_eq!(encode_limits(&found), limits);
    }
});
