//! Manifest lists, manifests and position deletes of any bytes are refused or rewritten, without a panic; what was
//! rewritten can be rewritten again.
#![no_main]
use icecache_iceberg::rewrite;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(out) = rewrite::manifest_list(data) {
        assert!(rewrite::manifest_list(&out).is_ok());
    }
    if let Ok(out) = rewrite::manifest(data) {
        assert!(rewrite::manifest(&out).is_ok());
    }
    if let Ok(out) = rewrite::deletes("AVRO", data) {
        assert!(rewrite::deletes("AVRO", &out).is_ok());
    }
});
