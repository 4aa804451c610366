//! A witness of any bytes is refused or understood, without a panic; and one that is understood is worth what
//! is written from it.
#![no_main]
use icecache::cache::witness::{self, Witness};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    let Ok(read) = Witness::decode(bytes) else { return };
    assert_eq!(read.slots.len() as u64, read.header.slots());
    if read.slots.len() < 4096 {
        // What was not right is written as what is not there.
        assert_eq!(Witness::decode(&read.encode()), Ok(Witness { wrong: 0, ..read }));
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    // With a checksum that holds, so that what is behind it is reached.
    let Some(body) = data.len().checked_sub(16).map(|_| &data[16..]) else { return };
    let length = body.len().min(witness::HEADER_MAX_BYTES);
    let mut sealed = witness::MAGIC.to_vec();
    sealed.extend_from_slice(&witness::VERSION.to_le_bytes());
    sealed.extend_from_slice(&(length as u32).to_le_bytes());
    sealed.extend_from_slice(&body[..length]);
    let sum = blake3::hash(&sealed);
    sealed.extend_from_slice(&sum.as_bytes()[..8]);
    sealed.extend_from_slice(&body[length..]);
    read(&sealed);
});
