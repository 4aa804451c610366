//! Which files a query reads: those that are left out have no rows that it wants, row by row.
use super::lake::Lake;
use crate::metadata::{Fields, Type};
use crate::publication::{Content, LiveFile, Publication};
use crate::{Predicate, TableError};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// So many values of each column are asked for.
const VALUES_MAX: usize = 5;
const OPERATORS: [&str; 6] = ["=", "!=", "<", "<=", ">", ">="];

/// Whether a row of this value is wanted.
type IsWanted = Box<dyn Fn(&Field) -> bool>;

async fn published(lake: &Lake, name: &str) -> (Publication, i64) {
    let table = lake.prepare(name, lake.location(name), "m").await.unwrap();
    table.publish().await.unwrap();
    let current = table.metadata().current_snapshot.unwrap();
    (table, current)
}

async fn files_where(table: &Publication, predicate: &str) -> Vec<LiveFile> {
    let current = table.metadata().current_snapshot.unwrap();
    table.files_where(current, &Predicate::parse(predicate).unwrap()).await.unwrap()
}

/// The values of each column of a file in Parquet, by the number of the column. A column that it lacks is null.
fn columns(lake: &Lake, file: &LiveFile, fields: &Fields) -> BTreeMap<i32, Vec<Field>> {
    let path: PathBuf = lake.raw().join("s3").join(file.location.authority()).join(file.location.key());
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema().get_fields().to_vec();
    let mut columns: BTreeMap<i32, Vec<Field>> = BTreeMap::new();
    for row in reader.get_row_iter(None).unwrap() {
        for (column, (_, value)) in schema.iter().zip(row.unwrap().get_column_iter()) {
            columns.entry(column.get_basic_info().id()).or_default().push(value.clone());
        }
    }
    for id in fields.names().map(|name| fields.find(name).unwrap().id) {
        columns.entry(id).or_insert_with(|| vec![Field::Null; file.rows as usize]);
    }
    columns
}

/// A value as people write it, where it can be compared.
fn literal(value: &Field, kind: &Type) -> Option<String> {
    let at = |micros: i64| jiff::Timestamp::from_microsecond(micros).unwrap().to_string();
    Some(match (value, kind) {
        (Field::Bool(value), _) => value.to_string(),
        (Field::Int(value), _) => value.to_string(),
        (Field::Long(value), _) => value.to_string(),
        (Field::Double(value), _) if value.is_finite() => format!("{value:?}"),
        (Field::Str(text), _) => format!("'{}'", text.replace('\'', "''")),
        (Field::Date(days), _) => format!("DATE '{}'", &at(i64::from(*days) * 86_400_000_000)[..10]),
        (Field::TimestampMicros(micros), Type::Timestamptz) => format!("'{}'", at(*micros)),
        _ => return None,
    })
}

fn compare(one: &Field, other: &Field) -> Option<Ordering> {
    match (one, other) {
        (Field::Bool(one), Field::Bool(other)) => Some(one.cmp(other)),
        // It was promoted.
        (Field::Int(one), Field::Long(other)) => Some(i64::from(*one).cmp(other)),
        (Field::Long(one), Field::Int(other)) => Some(one.cmp(&i64::from(*other))),
        (Field::Int(one), Field::Int(other)) => Some(one.cmp(other)),
        (Field::Long(one), Field::Long(other)) => Some(one.cmp(other)),
        (Field::Double(one), Field::Double(other)) => one.partial_cmp(other),
        (Field::Str(one), Field::Str(other)) => Some(one.cmp(other)),
        (Field::Date(one), Field::Date(other)) => Some(one.cmp(other)),
        (Field::TimestampMicros(one), Field::TimestampMicros(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

fn is(value: &Field, operator: &str, literal: &Field) -> bool {
    let order = compare(value, literal);
    match operator {
        "=" => order == Some(Ordering::Equal),
        "!=" => order.is_some_and(|order| order != Ordering::Equal),
        "<" => order == Some(Ordering::Less),
        "<=" => order.is_some_and(|order| order != Ordering::Greater),
        ">" => order == Some(Ordering::Greater),
        _ => order.is_some_and(|order| order != Ordering::Less),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_left_out_has_no_such_row() {
    let lake = Lake::new();
    let (mut asked, mut left_out) = (0, 0);
    for name in lake.expected.keys().filter(|name| *name != "empty") {
        let (table, current) = published(&lake, name).await;
        let (files, fields) = (table.files(current).await.unwrap(), table.metadata().fields().unwrap());
        assert_eq!(files_where(&table, "TRUE").await, files, "{name}");
        let is_read = |file: &&LiveFile| file.content == Content::Data && &*file.format == "PARQUET";
        let read: Vec<_> =
            files.iter().filter(is_read).map(|file| (file, columns(&lake, file, &fields))).collect();
        for column in fields.names().filter(|name| !name.contains('.')) {
            let field = fields.find(column).unwrap();
            let all = || read.iter().flat_map(|(_, columns)| &columns[&field.id]);
            let mut literals: Vec<(String, &Field)> =
                all().filter_map(|value| Some((literal(value, &field.kind)?, value))).collect();
            literals.sort_by(|one, other| one.0.cmp(&other.0));
            literals.dedup_by(|one, other| one.0 == other.0);
            let step = literals.len().div_ceil(VALUES_MAX).max(1);
            let mut questions: Vec<(String, IsWanted)> = vec![
                (format!("{column} IS NULL"), Box::new(|value| matches!(value, Field::Null))),
                (format!("NOT {column} IS NULL"), Box::new(|value| !matches!(value, Field::Null))),
            ];
            for (text, literal) in literals.into_iter().step_by(step) {
                for operator in OPERATORS {
                    let literal = literal.clone();
                    let wanted = move |value: &Field| is(value, operator, &literal);
                    questions.push((format!("{column} {operator} {text}"), Box::new(wanted)));
                }
            }
            for (text, is_wanted) in questions {
                let kept = files_where(&table, &text).await;
                for (file, columns) in read.iter().filter(|(file, _)| !kept.contains(file)) {
                    let wanted = columns[&field.id].iter().find(|value| is_wanted(value));
                    assert!(wanted.is_none(), "{name}: {text}: {} has {wanted:?}", file.location);
                    left_out += 1;
                }
                asked += read.len();
            }
        }
    }
    assert!(asked > 1000 && left_out > asked / 4, "{left_out} of {asked}");
}

/// What the rows of these tables are is written in scripts/fixtures/tables.py.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_all_specs_and_promoted_columns_are_understood() {
    let lake = Lake::new();
    let (evolved, _) = published(&lake, "evolved").await;
    // Each file has one row: 1 and 2 by kind; 3 and 4 by kind and day; 5 and 6 by day and a bucket of the id.
    for (predicate, rows) in [
        ("kind = 'a'", 3),
        ("kind = 'b' OR kind = 'c'", 2),
        ("kind IS NULL", 1),
        ("day >= '2026-02-01'", 2),
        ("day = '2026-01-01' AND kind = 'a'", 2),
        ("amount > 4", 2),
        ("AMOUNT = 5000000000", 1),
        ("id IN (5, 6, 7)", 2),
        // Four of the files know nothing of this column.
        ("note IS NULL", 5),
        ("note = 'y'", 4),
        ("FALSE", 0),
    ] {
        let files = files_where(&evolved, predicate).await;
        assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), rows, "{predicate}: {files:?}");
    }
    let (odd, _) = published(&lake, "odd").await;
    for (predicate, partitions) in [
        ("p = 'a/b'", &["p=a%2Fb"][..]),
        ("p = ''", &["p="]),
        ("p IS NULL", &["p=null"]),
        ("p LIKE 'ü%'", &["p=ü ñ"]),
        ("p IN ('..', '.')", &["p=..", "p=."]),
        ("p = 'x=y&z'", &[]),
    ] {
        let mut found: Vec<String> =
            files_where(&odd, predicate).await.iter().map(|file| file.partition.to_string()).collect();
        found.sort_by_key(|partition| partitions.iter().position(|one| one == partition));
        assert_eq!(found, partitions, "{predicate}");
    }
    let (nested, _) = published(&lake, "nested").await;
    for (predicate, is_some) in [
        ("s.b.c = 'c3'", true),
        ("s.a > 4", false),
        ("d = 4.5", true),
        ("d > 4.500", false),
        ("t < '2023-11-14T22:13:20.000002Z'", true),
        ("t < '2023-11-14T22:13:20.000001Z'", false),
        ("b = X'62'", true),
        ("f AND NOT f", true),
        ("l IS NULL", true),
    ] {
        assert_eq!(!files_where(&nested, predicate).await.is_empty(), is_some, "{predicate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equality_deletes_go_with_whatever_is_read() {
    let lake = Lake::new();
    let (table, current) = published(&lake, "eq").await;
    let mut files = table.files(current).await.unwrap();
    files.retain(|file| file.content != Content::Data);
    assert!(!files.is_empty());
    assert_eq!(files_where(&table, "FALSE").await, files);
    let error = table.files_where(current, &Predicate::parse("nme = 'x'").unwrap()).await.unwrap_err();
    assert!(matches!(error, TableError::Predicate(_)), "{error}");
    assert_eq!(error.to_string(), "the table has no column 'nme'; it has id, name, price");
    assert!(table.files_where(1, &Predicate::parse("TRUE").unwrap()).await.is_err());
    // A manifest that has gone is written anew.
    let all = files_where(&table, "id < 7").await;
    let manifests = table.manifests(current).await.unwrap();
    std::fs::remove_file(table.place().folder.join(&manifests[0])).unwrap();
    assert_eq!(files_where(&table, "id < 7").await, all);
}
