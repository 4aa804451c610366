//! Whatever comes by the device, reading a request ends in one or in none, and borrows nothing beyond its end.
#![no_main]
use icecache::fuse::abi::init::Features;
use icecache::fuse::abi::request::{Operation, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(request) = Request::parse(data, Features::SETXATTR_EXT) else { return };
    if let Operation::Write { data: written, .. } = request.operation {
        assert!(written.len() <= data.len());
    }
});
