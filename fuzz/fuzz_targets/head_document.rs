//! A HEAD of any bytes is refused or understood, and what is understood comes back as it was.
#![no_main]
use icecache::state::head::Head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(head) = Head::parse(data) else { return };
    let bytes = head.to_bytes().expect("a document that was read can be written");
    assert_eq!(Head::parse(&bytes).expect("reads what it wrote"), head);
    for version in [0, 1, head.version, u64::MAX] {
        let _older = head.at(version);
    }
    let _lines = head.log();
});
