//! Whatever the list of pinned tables holds, reading it ends in pins or in none.
#![no_main]
use icecache::tables::decode_pins;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    decode_pins(data);
    // With a checksum that holds, so that what is behind it is reached.
    let head = format!("icecache-pins 1 {}\n", blake3::hash(data).to_hex());
    decode_pins(&[head.as_bytes(), data].concat());
});
