//! The language.
use super::super::lexer::TEXT_MAX_BYTES;
use super::super::parser::DEPTH_MAX;
use super::{fields, refused};
use crate::predicate::{Predicate, PredicateError};

/// What is read, and as what it is written.
#[test]
fn it_is_written_as_it_is_read() {
    for (text, written) in [
        ("day>='2026-01-01'and city = 'Rome'", "day >= '2026-01-01' AND city = 'Rome'"),
        ("a = 1 OR b = 2 AND c = 3", "a = 1 OR (b = 2 AND c = 3)"),
        ("(a = 1 OR b = 2) AND c = 3", "(a = 1 OR b = 2) AND c = 3"),
        ("a = 1 and b = 2 and (c = 3 and d = 4)", "a = 1 AND b = 2 AND (c = 3 AND d = 4)"),
        ("NOT a = 1 AND b = 2", "NOT a = 1 AND b = 2"),
        ("NOT (a = 1 AND b = 2)", "NOT (a = 1 AND b = 2)"),
        ("not not ((a = 1))", "NOT NOT a = 1"),
        ("a <> 1 or a == 2 or a != 3", "a != 1 OR a = 2 OR a != 3"),
        ("5 < a AND 5 >= b AND 5 = c", "a > 5 AND b <= 5 AND c = 5"),
        ("a IN (1,-2 , +3.50)", "a IN (1, -2, 3.50)"),
        ("a not in ('it''s')", "a NOT IN ('it''s')"),
        (
            "a between -1 and 1 and b not between 'a' and 'b'",
            "a BETWEEN -1 AND 1 AND b NOT BETWEEN 'a' AND 'b'",
        ),
        ("a is null or b is not null", "a IS NULL OR b IS NOT NULL"),
        ("a like 'x%' and b not like '_'", "a LIKE 'x%' AND b NOT LIKE '_'"),
        (
            "date = date '2026-01-01' or ts < timestamp '2026-01-01 12:00:00'",
            "date = DATE '2026-01-01' OR ts < TIMESTAMP '2026-01-01 12:00:00'",
        ),
        ("active and not gone", "active = TRUE AND NOT gone = TRUE"),
        ("true or FALSE", "TRUE OR FALSE"),
        ("true = a", "a = TRUE"),
        ("x'00fF' = b", "b = X'00FF'"),
        ("\"Group\".\"order by\" = 1 and `it` = 2", "\"Group.order by\" = 1 AND it = 2"),
        (
            "a.b.c = 1e3 and \"null\" is null and \"a\"\"b\" = .5",
            "a.b.c = 1e3 AND \"null\" IS NULL AND \"a\"\"b\" = .5",
        ),
        ("größe = 1.5E-3 and _x$1 = 0", "größe = 1.5E-3 AND _x$1 = 0"),
        ("\n\ta\r\n= \u{a0}1", "a = 1"),
    ] {
        let read = Predicate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.to_string(), written);
        assert_eq!(written.parse::<Predicate>().unwrap(), read, "{written}");
    }
    let columns = Predicate::parse("b = 1 AND (a.x = 2 OR NOT b IS NULL) AND B > 1").unwrap();
    assert_eq!(columns.columns(), ["b", "a.x", "B"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, expected) in [
        ("", "at character 1 of the predicate: expected a column, a literal, NOT or '(', found the end"),
        (
            "a =",
            "at character 4 of the predicate: expected a literal: a number, 'text', DATE '…', TIMESTAMP '…', X'…', TRUE or FALSE, found the end",
        ),
        (
            "a = b",
            "at character 5 of the predicate: expected a literal: a number, 'text', DATE '…', TIMESTAMP '…', X'…', TRUE or FALSE, found b",
        ),
        ("a = null", "at character 5 of the predicate: expected a literal (for null: IS NULL), found null"),
        (
            "é = 1 1",
            "at character 7 of the predicate: expected AND, OR, an operator (=, <, IN, BETWEEN, LIKE, IS NULL, …) or the end, found 1",
        ),
        ("a ~ 1", "at character 3 of the predicate: expected a column, a literal or an operator, found ~"),
        ("a = 'x", "at character 5 of the predicate: expected a closing quote behind this one, found '"),
        ("(a = 1", "at character 7 of the predicate: expected AND, OR or ')', found the end"),
        (
            "a IN ()",
            "at character 7 of the predicate: expected a literal: a number, 'text', DATE '…', TIMESTAMP '…', X'…', TRUE or FALSE, found )",
        ),
        ("a IN (1", "at character 8 of the predicate: expected ',' or ')', found the end"),
        ("a IN 1", "at character 6 of the predicate: expected '(' and literals, found 1"),
        (
            "a BETWEEN 1 OR 2",
            "at character 13 of the predicate: expected AND and the upper end of BETWEEN, found OR",
        ),
        ("a IS 5", "at character 6 of the predicate: expected NULL or NOT NULL, found 5"),
        ("a NOT = 5", "at character 7 of the predicate: expected IN, BETWEEN or LIKE, found ="),
        ("a LIKE 5", "at character 8 of the predicate: expected a pattern like 'prefix%', found 5"),
        (
            "and = 5",
            "at character 1 of the predicate: expected a column (in double quotes, if it is called so), found and",
        ),
        ("5", "at character 2 of the predicate: expected =, !=, <, <=, > or >= and a column, found the end"),
        ("5 = 5", "at character 5 of the predicate: expected a column, found 5"),
        ("a = - 'x'", "at character 7 of the predicate: expected a number, found 'x'"),
        ("a. = 5", "at character 3 of the predicate: expected the name of a field behind the dot, found  "),
        ("a = 5x", "at character 6 of the predicate: expected the end of the number, found x"),
        ("a = 5.", "at character 7 of the predicate: expected digits behind the point, found the end"),
        ("a = 1e", "at character 7 of the predicate: expected digits of an exponent, found the end"),
        (
            "a = x'0'",
            "at character 5 of the predicate: expected X'…' with pairs of hexadecimal digits, found x",
        ),
    ] {
        assert_eq!(refused(text).to_string(), expected, "{text}");
    }
}

#[test]
fn it_is_bounded() {
    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Predicate::parse(&nested(DEPTH_MAX)).is_ok());
    let position = DEPTH_MAX + 2;
    assert_eq!(
        Predicate::parse(&nested(DEPTH_MAX + 1)),
        Err(PredicateError::TooDeep { position, limit: DEPTH_MAX })
    );
    for prefix in ["(", "NOT ", "NOT ("] {
        assert!(matches!(Predicate::parse(&prefix.repeat(10_000)), Err(PredicateError::TooDeep { .. })));
    }
    let long = format!("a = '{}'", "x".repeat(TEXT_MAX_BYTES));
    assert!(matches!(Predicate::parse(&long), Err(PredicateError::TooLong { .. })));
    // Many in a row are not deep.
    let many = vec!["a=1"; TEXT_MAX_BYTES / 8].join(" AND ");
    assert_eq!(Predicate::parse(&many).unwrap().columns(), ["a"]);
}

#[test]
fn what_does_not_fit_the_schema_is_told() {
    for (text, expected) in [
        ("town = 'Rome'", "the table has no column 'town'; it has boolean, int, long, float, "),
        ("int = 'x'", "column 'int' is of type int, and 'x' is none of it: write it like 5"),
        ("int = 1e3", "column 'int' is of type int, and 1e3 is none of it: write it like 5"),
        ("long IN (1, TRUE)", "column 'long' is of type long, and TRUE is none of it: write it like 5"),
        ("string = 5", "column 'string' is of type string, and 5 is none of it: write it like 'text'"),
        (
            "string = DATE '2026-01-01'",
            "column 'string' is of type string, and DATE '2026-01-01' is none of it",
        ),
        ("date > 5", "column 'date' is of type date, and 5 is none of it: write it like '2026-01-31'"),
        ("date > '2026-02-30'", "column 'date' is of type date, and '2026-02-30' is none of it"),
        (
            "date > '2026-01-31 12:00:00'",
            "column 'date' is of type date, and '2026-01-31 12:00:00' is none of it",
        ),
        (
            "timestamp > DATE '2026-01-31 12:00:00'",
            "column 'timestamp' is of type timestamp, and DATE '2026-01-31 12:00:00' is none",
        ),
        (
            "timestamp > '2026-01-31T12:00:00Z'",
            "column 'timestamp' is of type timestamp, and '2026-01-31T12:00:00Z' is none",
        ),
        (
            "time > '25:00'",
            "column 'time' is of type time, and '25:00' is none of it: write it like '12:30:00'",
        ),
        ("uuid = 'x'", "column 'uuid' is of type uuid, and 'x' is none of it"),
        ("binary = 'x'", "column 'binary' is of type binary, and 'x' is none of it: write it like X'00FF'"),
        ("int", "column 'int' is of type int, and TRUE is none of it: write it like 5"),
        (
            "decimal = 123456789012345678901234567890123456789",
            "column 'decimal' is of type decimal(9, 2), and 123",
        ),
        (
            "int LIKE 'x%'",
            "column 'int' is of type int, which cannot be compared so; LIKE is for strings alone",
        ),
        (
            "s = 5",
            "column 's' is of type struct, which cannot be compared so; name one of its fields with a dot",
        ),
        (
            "l.element = 5",
            "column 'l.element' is of type int in a list or a map, which cannot be compared so; leave",
        ),
        ("variant = 5", "column 'variant' is of type variant, which cannot be compared so; leave it out"),
    ] {
        let told = refused(text).to_string();
        assert!(told.starts_with(expected), "{text}: {told}");
    }
    let bound = Predicate::parse("S.IN > 1 AND s IS NULL AND s.In < 9 AND INT = 3").unwrap();
    assert_eq!(bound.bind(&fields()).unwrap().field_ids(), [21, 20, 2]);
}
