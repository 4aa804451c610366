//! Position deletes in ORC of any bytes are refused, or become Parquet that can be rewritten again, without a panic.
#![no_main]
use icecache_iceberg::rewrite;
use libfuzzer_sys::fuzz_target;

fn read(file: &[u8]) {
    if let Ok(out) = rewrite::deletes("ORC", file) {
        assert!(rewrite::deletes("PARQUET", &out).is_ok());
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    // These bytes as stripes and footer of a file that is not compressed, so that what is behind the frame is reached.
    // The first byte says how much of them the footer is.
    let Some((part, data)) = data.split_first() else { return };
    let footer = data.len() * usize::from(*part) / 255;
    let mut file = b"ORC".to_vec();
    file.extend_from_slice(data);
    // 1: the length of the footer, in three bytes; 2: no compression; 8000: magic.
    let mut postscript =
        vec![0x08, footer as u8 | 0x80, (footer >> 7) as u8 | 0x80, (footer >> 14) as u8 & 0x7f, 0x10, 0];
    postscript.extend_from_slice(b"\x82\xf4\x03\x03ORC");
    file.extend_from_slice(&postscript);
    file.push(postscript.len() as u8);
    read(&file);
});
