//! A HEAD of any bytes is refused or understood, and what is understood can be written and read again.
#![no_main]
use icecache::state::head::Head;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// The same document with a right checksum, so that the fields behind it are reached. Objects of
/// serde_json are in byte order and without spaces: the canonical form.
fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(data).ok()?;
    let fields = document.as_object_mut()?;
    fields.insert("checksum".into(), "".into());
    let sum = blake3::hash(&serde_json::to_vec(&fields).ok()?).to_hex().to_string();
    fields.insert("checksum".into(), sum.into());
    serde_json::to_vec(&document).ok()
}

fn read(bytes: &[u8]) {
    let Ok(head) = Head::parse(bytes) else { return };
    let again = head.to_bytes().map(|bytes| Head::parse(&bytes));
    let again = again.expect("what was read can be written").expect("and read");
    assert_eq!((again.version, &again.layers), (head.version, &head.layers));
    for version in [0, 1, head.version, u64::MAX] {
        let _older = head.at(version);
        let _layers = head.chain(version);
    }
    let versions = head.versions().into_iter().map(|(layer, _)| layer.version);
    let needed = head.needed(versions);
    assert!(head.layers.iter().all(|layer| needed.contains(&layer.key)), "the newest version is one");
    let _kept = head.kept((3, 8), None);
}

fuzz_target!(|data: &[u8]| {
    read(data);
    if let Some(bytes) = sealed(data) {
        read(&bytes);
    }
});
