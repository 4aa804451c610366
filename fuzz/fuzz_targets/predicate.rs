//! Predicates of any text are refused or read, without a panic; what was read is written as it is read again, and fits
//! a schema or is refused.
#![no_main]
use icecache_iceberg::Predicate;
use icecache_iceberg::metadata::{Fields, Metadata};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let kinds = [
        "boolean",
        "int",
        "float",
        "decimal(9,2)",
        "date",
        "time",
        "timestamp",
        "timestamptz_ns",
        "string",
        "uuid",
        "binary",
    ];
    let columns: Vec<String> = (0..)
        .zip(kinds)
        .map(|(n, kind)| format!(r#"{{"id":{n},"name":"{}","type":"{kind}"}}"#, char::from(b'a' + n)))
        .collect();
    let text = format!(
        r#"{{"format-version":1,"location":"s3://b/t","last-updated-ms":1,"schema":{{"fields":[{}]}}}}"#,
        columns.join(",")
    );
    Metadata::parse(text.as_bytes(), "x").and_then(|metadata| metadata.fields()).expect("a schema")
});

fuzz_target!(|data: &[u8]| {
    if let Ok(read) = Predicate::parse(&String::from_utf8_lossy(data)) {
        assert_eq!(Predicate::parse(&read.to_string()).as_ref(), Ok(&read), "{read}");
        if let Ok(bound) = read.bind(&FIELDS) {
            assert!(bound.field_ids().len() <= read.columns().len());
        }
    }
});
