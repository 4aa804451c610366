//! Files of which metrics tell something.
use super::{File, Told, told};

fn micros(text: &str) -> [u8; 8] {
    let time: jiff::Timestamp = text.parse().unwrap();
    time.as_microsecond().to_le_bytes()
}

fn days(text: &str) -> [u8; 4] {
    let seconds = format!("{text}T00:00:00Z").parse::<jiff::Timestamp>().unwrap().as_second();
    ((seconds / 86_400) as i32).to_le_bytes()
}

#[test]
fn each_operator_is_asked_of_the_bounds() {
    let file = File::with("int", told(10_i32.to_le_bytes(), 20_i32.to_le_bytes()));
    file.has(
        &[
            "int = 10",
            "int = 20",
            "int IN (1, 15)",
            "int < 11",
            "int <= 10",
            "int > 19",
            "int >= 20",
            "int != 15",
            "int NOT IN (1, 2)",
            "int BETWEEN 20 AND 30",
            "int NOT BETWEEN 11 AND 20",
            "int IS NOT NULL",
            "NOT int < 20",
            "NOT int > 10",
            "NOT int = 15",
            "int = 1 OR int = 10",
            "TRUE",
            "NOT FALSE",
            "10.5 < int",
            "int > 9.99",
        ],
        &[
            "int = 9",
            "int = 21",
            "int IN (1, 9, 21)",
            "int < 10",
            "int <= 9",
            "int > 20",
            "int >= 21",
            "int BETWEEN 21 AND 30",
            "int BETWEEN 1 AND 9.99",
            "int NOT BETWEEN 10 AND 20",
            "int IS NULL",
            "NOT int <= 20",
            "NOT int >= 10",
            "int = 10 AND int = 9",
            "FALSE",
            "NOT TRUE",
            "int > 20.00",
            "NOT (int > 9 OR int = 5)",
            "NOT int IS NOT NULL",
            "int IN (-99999999999999999999)",
        ],
    );
    // All are the same.
    let file = File::with("int", told(7_i32.to_le_bytes(), 7_i32.to_le_bytes()));
    file.has(
        &["int = 7", "int != 8", "int NOT IN (8, 9)"],
        &["int != 7", "NOT int = 7.0", "int NOT IN (8, 7)"],
    );
}

#[test]
fn what_is_not_told_is_possible() {
    let everything = [
        "int = 5",
        "int != 5",
        "int < 5",
        "int IS NULL",
        "int IS NOT NULL",
        "int IN (5)",
        "string LIKE 'a%'",
        "variant IS NULL",
    ];
    File::default().has(&everything, &["FALSE"]);
    // Of another type than the column can have had.
    File::with("int", told([1, 2, 3], [4; 16])).has(&["int = 5"], &["int IS NULL"]);
    File::with("uuid", told([0; 15], [0; 15])).has(&["uuid = 'f79c3e09-677c-4bbd-a479-3f349cb785e7'"], &[]);
    File::with("decimal", told("", [0; 17])).has(&["decimal = 5"], &[]);
    // One side alone.
    let upper = Told { lower: None, ..told("", 5_i32.to_le_bytes()) };
    File::with("int", upper).has(&["int = 5", "int < -100", "int IN (-5, 9)"], &["int = 6", "int IN (6, 7)"]);
    // Of another order.
    File::with("int", told(5_i32.to_le_bytes(), 4_i32.to_le_bytes())).has(&["int = 9"], &[]);
}

#[test]
fn no_comparison_is_true_of_null() {
    let nulls = Told { values: Some(10), nulls: Some(10), ..Told::default() };
    File::with("int", nulls).has(
        &["int IS NULL", "NOT int IS NOT NULL"],
        &[
            "int IS NOT NULL",
            "int = 5",
            "int != 5",
            "NOT int = 5",
            "int NOT IN (5)",
            "int < 5",
            "int NOT BETWEEN 1 AND 2",
        ],
    );
    let some = Told { nulls: Some(3), ..told(5_i32.to_le_bytes(), 5_i32.to_le_bytes()) };
    File::with("int", some).has(&["int IS NULL", "int IS NOT NULL", "int = 5"], &["int != 5"]);
    let uncounted = Told { values: None, nulls: Some(10), ..Told::default() };
    File::with("int", uncounted).has(&["int = 5", "int IS NULL"], &[]);
    // A struct that is null is not counted by all.
    let nested = told(5_i32.to_le_bytes(), 5_i32.to_le_bytes());
    File::with("s.In", nested).has(&["s.in IS NULL", "s IS NULL", "s IS NOT NULL"], &["s.in = 6"]);
}

#[test]
fn nan_is_whatever_some_engine_takes_it_for() {
    let three = told(1.0_f64.to_le_bytes(), 3.0_f64.to_le_bytes());
    let file = |nans: Option<i64>| File::with("double", Told { nans, ..three.clone() });
    for nans in [None, Some(2)] {
        // The greatest of all numbers; or NOT of what is false.
        file(nans).has(
            &[
                "double > 5",
                "double >= 5",
                "NOT double < 5",
                "NOT double > 0",
                "double NOT BETWEEN 0 AND 9",
                "double != 1",
            ],
            &["double < 1", "double <= 0", "double = 5", "double BETWEEN 5 AND 6", "double IN (0, 4)"],
        );
    }
    file(Some(0)).has(
        &["double > 2", "NOT double > 2"],
        &["double > 5", "NOT double > 0", "double NOT BETWEEN 0 AND 9"],
    );
    let nans = Told { values: Some(10), nulls: Some(4), nans: Some(6), ..Told::default() };
    File::with("double", nans).has(
        &["double IS NULL", "double IS NOT NULL", "double > 5", "double != 5"],
        &["double < 5", "double = 5", "double BETWEEN 0 AND 9"],
    );
    // Writers of old had it in bounds.
    let file = File::with("float", told(f32::NAN.to_le_bytes(), f32::NAN.to_le_bytes()));
    file.has(&["float = 5", "float < 5"], &[]);
}

#[test]
fn zero_has_no_sign_and_a_tenth_two_values() {
    let file = File::with("double", told((-0.0_f64).to_le_bytes(), (-0.0_f64).to_le_bytes()));
    file.has(&["double = 0", "double >= 0", "double = -0.0"], &["double > 0", "double < 0", "double != 0"]);
    let file = File::with("float", told(0.1_f32.to_le_bytes(), 0.1_f32.to_le_bytes()));
    file.has(
        &["float = 0.1", "float > 0.1", "float <= 0.1", "float IN (0.3, 0.1)", "float != 0.1"],
        &["float < 0.1", "float > 0.11", "float = 0.2"],
    );
}

#[test]
fn each_type_is_read_as_it_is_written() {
    let text = File::with("string", told("b", "d"));
    text.has(
        &["string = 'b'", "string > 'cz'", "string < 'bb'"],
        &["string = 'a'", "string > 'd'", "string = 'é'"],
    );
    File::with("boolean", told([0], [0]))
        .has(&["NOT boolean", "boolean = FALSE"], &["boolean", "boolean != FALSE"]);
    File::with("boolean", told([0], [1])).has(&["NOT boolean", "boolean"], &[]);

    let file = File::with("date", told(days("2026-01-10"), days("2026-01-20")));
    file.has(
        &["date = '2026-01-10'", "date > DATE '2026-01-19'", "date >= '2026-01-20 00:00:00'"],
        &[
            "date = '2026-01-09'",
            "date > '2026-01-20'",
            "date IN ('2026-02-10', '2025-01-10')",
            "date < '1969-12-31'",
        ],
    );
    let file = File::with("time", told(0_i64.to_le_bytes(), 43_200_000_000_i64.to_le_bytes()));
    file.has(
        &["time = '12:00'", "time < '00:00:00.000001'"],
        &["time > '12:00:00'", "time = '12:00:00.000001'"],
    );

    let at = |text| micros(text);
    let file = File::with("timestamp", told(at("2026-01-10T12:00:00Z"), at("2026-01-10T12:00:00Z")));
    file.has(
        &[
            "timestamp = '2026-01-10 12:00:00'",
            "timestamp >= TIMESTAMP '2026-01-10T12:00'",
            "timestamp > '2026-01-10'",
        ],
        &[
            "timestamp = '2026-01-10 12:00:00.000001'",
            "timestamp < '2026-01-10'",
            "timestamp = DATE '2026-01-10'",
        ],
    );
    let file = File::with("timestamptz", told(at("2026-01-10T12:00:00Z"), at("2026-01-10T12:00:00Z")));
    file.has(
        &[
            "timestamptz = '2026-01-10 12:00:00Z'",
            "timestamptz = '2026-01-10T14:00:00+02:00'",
            // In the zone of some session.
            "timestamptz = '2026-01-10 14:00:00'",
            "timestamptz < '2026-01-10'",
            "timestamptz > '2026-01-11'",
        ],
        &["timestamptz > '2026-01-10 12:00:00Z'", "timestamptz < '2026-01-09'", "timestamptz > '2026-01-12'"],
    );
    let nanos = 1_768_046_400_000_000_001_i64.to_le_bytes(); // 2026-01-10T12:00:00.000000001Z
    let file = File::with("timestamp_ns", told(nanos, nanos));
    file.has(&["timestamp_ns = '2026-01-10 12:00:00.000000001'"], &["timestamp_ns <= '2026-01-10 12:00:00'"]);
    let file = File::with("timestamptz_ns", told(nanos, nanos));
    file.has(
        &["timestamptz_ns = '2026-01-10 12:00:00.000000001Z'"],
        &["timestamptz_ns <= '2026-01-10 12:00:00Z'"],
    );

    // -1.28 to 2.56, in as many bytes as they need.
    let file = File::with("decimal", told([0x80], [0x01, 0x00]));
    file.has(
        &["decimal = -1.28", "decimal = 2.5600", "decimal > 2", "decimal < 0"],
        &["decimal < -1.28", "decimal > 2.56", "decimal = -1.281", "decimal = 3"],
    );
    let uuid = |first: u8| [&[first][..], &[0; 15]].concat();
    let file = File::with("uuid", told(uuid(0x10), uuid(0x90)));
    file.has(
        &["uuid = '80000000-0000-0000-0000-000000000000'", "uuid < '20000000-0000-0000-0000-000000000000'"],
        &["uuid = 'a0000000-0000-0000-0000-000000000000'", "uuid < '00000000-0000-0000-0000-000000000001'"],
    );
    // Compared with a sign.
    let file = File::with("uuid", told(uuid(0x90), uuid(0x10)));
    file.has(&["uuid = '00000000-0000-0000-0000-000000000000'"], &[]);
    for column in ["binary", "fixed"] {
        let file = File::with(column, told([1], [0x80, 1]));
        file.has(
            &[&format!("{column} = X'8000'")],
            &[&format!("{column} = X'81'"), &format!("{column} < X'01'")],
        );
    }
}

#[test]
fn bounds_of_before_a_promotion_are_understood() {
    File::with("long", told((-5_i32).to_le_bytes(), 5_i32.to_le_bytes())).has(&["long = -5"], &["long = 6"]);
    File::with("long", told((-5_i64).to_le_bytes(), 5_i64.to_le_bytes())).has(&["long = 5"], &["long < -5"]);
    let file = File::with("double", told(0.1_f32.to_le_bytes(), 0.1_f32.to_le_bytes()));
    file.has(&["double > 0.1"], &["double = 0.1", "double > 0.11"]);
    for column in ["timestamp", "timestamp_ns"] {
        let file = File::with(column, told(days("2026-01-10"), days("2026-01-11")));
        file.has(&[&format!("{column} = '2026-01-10'")], &[&format!("{column} > '2026-01-11'")]);
    }
    // What no column can have been promoted from.
    File::with("timestamptz", told([0; 4], [0; 4])).has(&["timestamptz > '2026-01-11T00:00:00Z'"], &[]);
}

#[test]
fn bounds_of_text_may_be_cut() {
    // Of "abcdef" and "abzzzz".
    let file = File::with("string", told("abc", "ac"));
    file.has(
        &[
            "string = 'abcdef'",
            "string = 'abzzzz'",
            "string LIKE 'abc%'",
            "string LIKE 'abcdefgh%'",
            "string LIKE 'a%'",
            "string LIKE '%'",
            "string LIKE '%x'",
            "string LIKE 'a_x'",
            "string LIKE 'abz'",
            "string NOT LIKE 'ab%'",
            "NOT string LIKE 'ab%'",
            "string LIKE 'ac%'",
        ],
        &[
            "string < 'abc'",
            "string > 'ac'",
            "string LIKE 'abb%'",
            "string LIKE 'ad%'",
            "string LIKE 'b'",
            "string LIKE 'a\\%' AND string = 'b'",
        ],
    );
    file.has(&["string LIKE 'a\\%'"], &["string LIKE 'b\\%'"]);
}

/// A time without a zone may be any of some hours: among operands it has no place in order.
#[test]
fn one_of_times_with_and_without_a_zone() {
    let noon = micros("2026-01-31T12:00:00Z");
    File::with("timestamptz", told(noon, noon)).has(
        &[
            "timestamptz IN ('2026-01-31 12:00:00', '2026-01-31T00:00:00Z')",
            "timestamptz IN ('2026-01-31T00:00:00Z', '2026-01-31 12:00:00', '2026-01-31T23:00:00Z')",
            "timestamptz IN ('2025-01-01T00:00:00Z', '2026-01-31 02:00:00', '2026-02-01T00:00:00Z')",
        ],
        &[
            "timestamptz IN ('2026-03-01 12:00:00', '2026-01-31T00:00:00Z')",
            "timestamptz IN ('2025-01-31 12:00:00', '2025-01-31T00:00:00Z', '2026-02-03T00:00:00Z')",
        ],
    );
}
