//! Files of which their partition tells something.
use super::{File, Owned, told};
use crate::metadata::Transform;

fn text(text: &str) -> Option<Owned> {
    Some(Owned::Bytes(text.into()))
}

#[test]
fn identity_tells_the_value_of_all_rows() {
    let file = File::partitioned("string", Transform::Identity, text("Rome"));
    file.has(
        &[
            "string = 'Rome'",
            "string LIKE 'Ro%'",
            "string IN ('Oslo', 'Rome')",
            "string != 'Oslo'",
            "string IS NOT NULL",
            "int = 5 OR string = 'x'",
        ],
        &[
            "string = 'Oslo'",
            "string LIKE 'Rom_x%' AND string > 'Rome'",
            "string LIKE 'Ra%'",
            "string != 'Rome'",
            "string IS NULL",
            "string = 'Rome' AND string = 'Oslo'",
            "string NOT IN ('Rome')",
        ],
    );
    let file = File::partitioned("string", Transform::Identity, None);
    file.has(&["string IS NULL"], &["string = 'Rome'", "string != 'Rome'", "string IS NOT NULL"]);
    // Also where the file itself has another one, or none.
    let mut file = File::with("int", told(1_i32.to_le_bytes(), 2_i32.to_le_bytes()));
    file.partition_by("int", Transform::Identity, Some(Owned::Long(7)));
    file.has(&["int = 7"], &["int = 1"]);
}

#[test]
fn identity_of_each_type_is_read() {
    let of = |column: &str, value: Owned| File::partitioned(column, Transform::Identity, Some(value));
    of("boolean", Owned::Boolean(true)).has(&["boolean"], &["NOT boolean"]);
    of("long", Owned::Long(-3)).has(&["long = -3"], &["long > -3"]);
    of("date", Owned::Date(20_463)).has(&["date = '2026-01-10'"], &["date != '2026-01-10'"]);
    of("date", Owned::Long(20_463)).has(&["date = '2026-01-10'"], &["date < '2026-01-10'"]);
    of("timestamp", Owned::Date(20_463)).has(&["timestamp = '2026-01-10'"], &["timestamp > '2026-01-10'"]);
    of("timestamp", Owned::Long(1_000_000))
        .has(&["timestamp = '1970-01-01 00:00:01'"], &["timestamp < '1970-01-01 00:00:01'"]);
    of("timestamp_ns", Owned::Long(1_000_000_000))
        .has(&["timestamp_ns = '1970-01-01 00:00:01'"], &["timestamp_ns = '1970-01-01'"]);
    of("double", Owned::Float(0.5)).has(&["double = 0.5"], &["double > 0.5", "double != 0.5"]);
    of("double", Owned::Float(f64::NAN))
        .has(&["double > 5", "double IS NOT NULL"], &["double < 5", "double = 5", "double IS NULL"]);
    of("decimal", Owned::Bytes(vec![0, 0, 0x80])).has(&["decimal = 1.28"], &["decimal = 1.29"]);
    of("uuid", Owned::Bytes(vec![0; 16])).has(
        &["uuid = '00000000-0000-0000-0000-000000000000'"],
        &["uuid > '00000000-0000-0000-0000-000000000000'"],
    );
    of("binary", Owned::Bytes(vec![1])).has(&["binary = X'01'"], &["binary = X'02'"]);
    // Not of the type of the column: it tells nothing.
    of("int", Owned::Bytes(vec![1])).has(&["int = 5", "int IS NULL"], &[]);
    of("uuid", Owned::Bytes(b"text".to_vec())).has(&["uuid = '00000000-0000-0000-0000-000000000000'"], &[]);
}

#[test]
fn buckets_tell_of_equal_values() {
    // 34 hashes to 2017239379.
    let file = |bucket| File::partitioned("long", Transform::Bucket(16), Some(Owned::Long(bucket)));
    file(2_017_239_379 % 16)
        .has(&["long = 34", "long IN (1, 34)", "long > 34", "long != 34", "long = 34.5"], &["long IS NULL"]);
    file(4).has(
        &[
            "long > 34",
            "long IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)",
            "long = 0.5",
        ],
        &["long = 34", "long IN (34)"],
    );
    File::partitioned("long", Transform::Bucket(16), None).has(&["long IS NULL"], &["long = 34", "long > 1"]);
    // "iceberg" hashes to 1210000089; some zone's noon is of no bucket that is known.
    let file = File::partitioned("string", Transform::Bucket(10), Some(Owned::Long(9)));
    file.has(&["string = 'iceberg'"], &["string IN ('iceberg') AND string IS NULL"]);
    let file = File::partitioned("timestamptz", Transform::Bucket(1 << 30), Some(Owned::Long(9)));
    file.has(&["timestamptz = '2026-01-10 12:00:00'"], &["timestamptz = '2026-01-10 12:00:00Z'"]);
}

#[test]
fn what_was_cut_is_a_range() {
    let file = File::partitioned("int", Transform::Truncate(10), Some(Owned::Long(-10)));
    file.has(
        &["int = -10", "int = -1", "int < -9", "int != -10"],
        &["int = 0", "int = -11", "int < -10", "int > -1", "int IS NULL"],
    );
    let file = File::partitioned("string", Transform::Truncate(2), text("ab"));
    file.has(
        &[
            "string = 'ab'",
            "string = 'abzzz'",
            "string > 'ab'",
            "string LIKE 'a%'",
            "string LIKE 'abc%'",
            "string != 'ab'",
        ],
        &["string = 'aa'", "string = 'ad'", "string < 'ab'", "string LIKE 'b%'", "string LIKE 'ad%'"],
    );
    let file = File::partitioned("decimal", Transform::Truncate(50), Some(Owned::Bytes(vec![0x05, 0x78]))); // 14.00
    file.has(&["decimal = 14.49"], &["decimal = 14.50", "decimal < 14"]);
    let file = File::partitioned("binary", Transform::Truncate(1), Some(Owned::Bytes(vec![0xff])));
    file.has(&["binary = X'FFFFFF'"], &["binary = X'FE'"]);
}

#[test]
fn times_are_ranges() {
    let of = |column: &str, transform, n| File::partitioned(column, transform, Some(Owned::Long(n)));
    of("date", Transform::Year, 56)
        .has(&["date = '2026-12-31'"], &["date = '2025-12-31'", "date >= '2027-01-01'"]);
    of("date", Transform::Month, 673)
        .has(&["date = '2026-02-28'"], &["date = '2026-01-31'", "date = '2026-03-01'"]);
    of("timestamp", Transform::Month, 673)
        .has(&["timestamp > '2026-02-28 23:59:59'"], &["timestamp >= '2026-03-01'"]);
    File::partitioned("timestamptz", Transform::Day, Some(Owned::Date(20_463))).has(
        &["timestamptz = '2026-01-10T23:59:59Z'"],
        &["timestamptz = '2026-01-11T00:00:00Z'", "timestamptz IS NULL"],
    );
    of("timestamp_ns", Transform::Hour, 1).has(
        &["timestamp_ns = '1970-01-01 01:59:59.999999999'"],
        &["timestamp_ns = '1970-01-01 02:00:00'", "timestamp_ns = '1970-01-01 00:59:59'"],
    );
    // Rounded up by writers of old.
    of("timestamp", Transform::Hour, 0)
        .has(&["timestamp = '1969-12-31 23:30:00'"], &["timestamp = '1969-12-31 22:30:00'"]);
    // None of these is of a column that has such parts, or of a time that is known.
    for file in [
        of("string", Transform::Year, 56),
        of("date", Transform::Hour, 5),
        of("date", Transform::Year, 1 << 40),
    ] {
        file.has(&["string = 'x'", "date = '2026-01-01'"], &[]);
    }
}

#[test]
fn all_that_is_told_counts() {
    let mut file = File::with("int", told(1_i32.to_le_bytes(), 9_i32.to_le_bytes()));
    file.partition_by("int", Transform::Truncate(5), Some(Owned::Long(5)));
    file.partition_by("int", Transform::Bucket(16), Some(Owned::Long(3)));
    file.has(&["int > 5", "int < 6"], &["int = 1", "int = 10", "int < 5"]);
    // A spec that has a field which the manifest has not.
    file.partition.truncate(1);
    file.has(&["int = 5", "int = 9"], &["int = 4", "int = 10"]);
}
