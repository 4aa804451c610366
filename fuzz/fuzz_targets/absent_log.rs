//! A log of what is absent is read up to the first record that makes no sense, unless that is damaged, and what is read up
//! to there says the same when it is read again.
#![no_main]
use icecache::state::absent::log::Said;
use libfuzzer_sys::fuzz_target;

const RECORD_BYTES: usize = 16;

fn read(bytes: &[u8]) {
    let (said, whole) = match Said::parse(bytes) {
        Ok(read) => read,
        Err(damaged) => return assert!(damaged.records * RECORD_BYTES < bytes.len()),
    };
    assert!(whole * RECORD_BYTES <= bytes.len());
    let (again, all) = Said::parse(&bytes[..whole * RECORD_BYTES]).expect("nothing follows");
    assert_eq!(all, whole);
    assert_eq!((&again.events, &again.moves), (&said.events, &said.moves));
}

fuzz_target!(|data: &[u8]| {
    read(data);
    // The same with right checksums, so that what the records say is reached.
    let sealed = data.chunks_exact(8).flat_map(|said| [said, &blake3::hash(said).as_bytes()[..8]].concat());
    read(&sealed.collect::<Vec<u8>>());
});
