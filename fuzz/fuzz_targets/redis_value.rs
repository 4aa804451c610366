//! A value and a message of any bytes are refused or understood, without a panic; and what goes into a value
//! comes out of it.
#![no_main]
use icecache::redis::{events, value};
use libfuzzer_sys::fuzz_target;

/// The longest chunk that is tried, in bytes.
const LENGTH_MAX: usize = 1 << 20;

fn read(bytes: &[u8], length: usize) {
    let mut out = b"before".to_vec();
    let result = value::decode("key", bytes, length, &mut out);
    assert!(out.starts_with(b"before"));
    assert_eq!(out.len(), if result.is_ok() { 6 + length } else { 6 });
}

fuzz_target!(|data: &[u8]| {
    read(data, data.len());
    let _ = events::read(data);
    for compress in [false, true] {
        let value = value::encode("key", data, compress);
        let mut out = Vec::new();
        assert_eq!(value::decode("key", &value, data.len(), &mut out), Ok(()));
        assert_eq!(out, data);
        assert!(value::decode("another", &value, data.len(), &mut out).is_err());
    }
    // With a checksum that holds, so that what is behind it is reached.
    let Some((encoding, rest)) = data.split_first_chunk::<5>() else { return };
    let length = u32::from_le_bytes([encoding[1], encoding[2], encoding[3], 0]) as usize % LENGTH_MAX;
    let mut sealed = value::MAGIC.to_vec();
    sealed.extend_from_slice(&value::VERSION.to_le_bytes());
    sealed.push(encoding[0]);
    sealed.extend_from_slice(&(length as u32).to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&3_u32.to_le_bytes()).update(b"key").update(&sealed).update(rest);
    sealed.extend_from_slice(hasher.finalize().as_bytes());
    sealed.extend_from_slice(rest);
    read(&sealed, length);
});
