//! Metadata files and Puffin files of any bytes are refused or rewritten, without a panic; what was rewritten can
//! be rewritten again, and is the same then.
#![no_main]
use icecache_iceberg::rewrite;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(out) = rewrite::metadata(data) {
        assert_eq!(rewrite::metadata(&out).expect("the rewritten can be rewritten").len(), out.len());
    }
    if let Ok(out) = rewrite::deletes("PUFFIN", data) {
        assert!(rewrite::deletes("PUFFIN", &out).is_ok());
    }
    // A footer of these bytes, so that what is behind the frame is reached.
    let mut file = b"PFA1PFA1".to_vec();
    file.extend_from_slice(data);
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(b"\0\0\0\0PFA1");
    if let Ok(out) = rewrite::deletes("PUFFIN", &file) {
        assert!(rewrite::deletes("PUFFIN", &out).is_ok());
    }
});
