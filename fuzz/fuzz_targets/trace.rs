//! A trace of any bytes is refused or understood, and what is understood is written and read again.
#![no_main]
use icecache::state::absent::trace::{ENTRIES_MAX, TRACE_BYTES_MAX, Trace};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    let Ok(trace) = Trace::parse(bytes) else { return };
    assert!(trace.entries.len() <= ENTRIES_MAX);
    let again = trace.to_bytes();
    assert!(again.len() <= TRACE_BYTES_MAX);
    assert_eq!(Trace::parse(&again).expect("what was written is read"), trace);
    let merged = Trace::default().after(trace.clone()).after(trace);
    assert!(Trace::parse(&merged.to_bytes()).is_ok());
}

fuzz_target!(|data: &[u8]| {
    read(data);
    // The same with a right beginning and checksum, so that the entries are reached.
    let mut sealed = [b"ICETRACE\x01\0\0\0", data].concat();
    let checksum = blake3::hash(&sealed);
    sealed.extend_from_slice(checksum.as_bytes());
    read(&sealed);
});
