//! Replies of a Hive metastore of any bytes are refused or read, without a panic, and hold no more names than bytes.
#![no_main]
use icecache_iceberg::catalog::metastore_reply;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(names) = metastore_reply(data) {
        assert!(names <= data.len());
    }
    // The same as the answer to a question, so that what is behind the head is reached.
    for method in
        ["get_all_tables", "get_table_req", "get_table_objects_by_name", "get_table_objects_by_name_req"]
    {
        let length = (method.len() as u32).to_be_bytes();
        let head = [&[0x80, 1, 0, 2], &length[..], method.as_bytes(), &[0, 0, 0, 1]].concat();
        let _refused_or_read = metastore_reply(&[&head, data].concat());
    }
});
