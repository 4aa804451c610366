//! Whatever the bytes are, reading them ends, without a panic and within its bounds.
#![no_main]
use icecache::layer::{Dictionary, LayerReader, frame};
use libfuzzer_sys::fuzz_target;

fn drain(reader: Result<LayerReader<&[u8]>, icecache::layer::LayerError>) {
    let Ok(mut reader) = reader else { return };
    let mut content = Vec::new();
    while let Ok(Some(_)) = reader.next_entry() {
        content.clear();
        if reader.read_content(&mut content, 1 << 20).is_err() && content.is_empty() {
            continue; // longer than the limit: skipped by the next call
        }
    }
}

fuzz_target!(|data: &[u8]| {
    drain(LayerReader::new(data));
    drain(LayerReader::lenient(data));
    // Behind a right preamble, so that the frames are reached.
    drain(LayerReader::new(&[&frame::preamble()[..], data].concat()[..]));
    let _ = Dictionary::new(data.to_vec());
});
