//! Whatever the files hold that remember tables, reading them ends in tables or in none.
#![no_main]
use icecache::tables::decode_remembered;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    decode_remembered(data);
});
