//! A file with a row that is wanted is never left out: rows by the thousand, what a writer would tell of them, and
//! predicates that are looked at row by row as engines do, each in its own way.
use super::cell::{Cell, Engine, transformed};
use super::{File, Told};
use crate::metadata::{PartitionField, Transform};
use proptest::prelude::*;
use std::collections::HashMap;

const COLUMNS: [&str; 9] =
    ["boolean", "long", "double", "float", "string", "date", "timestamp", "decimal", "uuid"];

type Row = Vec<Option<Cell>>;

fn cell(column: usize) -> BoxedStrategy<Cell> {
    let days = prop_oneof![-800_i32..800, 20_400_i32..20_500];
    match COLUMNS[column] {
        "boolean" => any::<bool>().prop_map(Cell::Boolean).boxed(),
        "long" => prop_oneof![-12_i64..12, Just(i64::from(i32::MAX)), Just(i64::from(i32::MIN))]
            .prop_map(Cell::Long)
            .boxed(),
        "double" => prop::sample::select(vec![-1.5, -0.0, 0.0, 0.1, 2.0, f64::INFINITY, f64::NAN])
            .prop_map(Cell::Double)
            .boxed(),
        "float" => prop::sample::select(vec![-1.5_f32, -0.0, 0.0, 0.1, 0.3, 16_777_216.0, f32::NAN])
            .prop_map(Cell::Float)
            .boxed(),
        "string" => {
            prop_oneof!["[ab]{0,5}", "[ab\u{e9}\u{ff}\u{d7ff}\u{10ffff}']{0,4}"].prop_map(Cell::Text).boxed()
        }
        "date" => days.prop_map(Cell::Date).boxed(),
        "timestamp" => (days, prop::sample::select(vec![0, 1, 3_600_000_000, 86_399_999_999_i64]))
            .prop_map(|(day, micros)| Cell::Time(i64::from(day) * 86_400_000_000 + micros))
            .boxed(),
        "decimal" => (-400_i64..400).prop_map(Cell::Decimal).boxed(),
        _ => prop::sample::select(vec![0, 1, u128::MAX, 1 << 127, 1 << 63]).prop_map(Cell::Uuid).boxed(),
    }
}

fn row() -> impl Strategy<Value = Row> {
    (0..COLUMNS.len()).map(|column| prop::option::weighted(0.8, cell(column))).collect::<Vec<_>>()
}

/// A predicate: as text, and what it is of a row.
#[derive(Debug, Clone)]
enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Compare(usize, &'static str, Cell),
    In(usize, Vec<Cell>, bool),
    Between(usize, Cell, Cell, bool),
    IsNull(usize, bool),
    /// Of the column of text.
    Like(String, bool),
}

fn leaf() -> impl Strategy<Value = Tree> {
    let literal = |column| {
        cell(column).prop_filter("no literal is NaN or infinite", |cell| match cell {
            Cell::Double(value) => value.is_finite(),
            Cell::Float(value) => value.is_finite(),
            _ => true,
        })
    };
    (0..COLUMNS.len()).prop_flat_map(move |column| {
        let operators = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
        let compare = (operators, literal(column));
        let between = (literal(column), literal(column), any::<bool>());
        let list = (prop::collection::vec(literal(column), 1..5), any::<bool>());
        prop_oneof![
            4 => compare.prop_map(move |(operator, cell)| Tree::Compare(column, operator, cell)),
            2 => between.prop_map(move |(low, high, not)| Tree::Between(column, low, high, not)),
            2 => list.prop_map(move |(cells, not)| Tree::In(column, cells, not)),
            1 => any::<bool>().prop_map(move |not| Tree::IsNull(column, not)),
            1 => ("[ab_]{0,3}%?", any::<bool>()).prop_map(|(pattern, not)| Tree::Like(pattern, not)),
        ]
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    leaf().prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::Any),
            inner.prop_map(|tree| Tree::Not(Box::new(tree))),
        ]
    })
}

impl Tree {
    fn text(&self) -> String {
        let joined = |trees: &[Self], by: &str| {
            let all: Vec<String> = trees.iter().map(|tree| format!("({})", tree.text())).collect();
            all.join(by)
        };
        let not = |negated: &bool| if *negated { " NOT" } else { "" };
        match self {
            Self::All(trees) => joined(trees, " AND "),
            Self::Any(trees) => joined(trees, " OR "),
            Self::Not(tree) => format!("NOT ({})", tree.text()),
            Self::Compare(column, operator, cell) => {
                format!("{} {operator} {}", COLUMNS[*column], cell.literal())
            }
            Self::In(column, cells, negated) => {
                let cells: Vec<String> = cells.iter().map(Cell::literal).collect();
                format!("{}{} IN ({})", COLUMNS[*column], not(negated), cells.join(","))
            }
            Self::Between(column, low, high, negated) => {
                format!(
                    "{}{} BETWEEN {} AND {}",
                    COLUMNS[*column],
                    not(negated),
                    low.literal(),
                    high.literal()
                )
            }
            Self::IsNull(column, negated) => format!("{} IS{} NULL", COLUMNS[*column], not(negated)),
            Self::Like(pattern, negated) => format!("string{} LIKE '{pattern}'", not(negated)),
        }
    }

    /// What it is of a row: true, false or null.
    fn of(&self, row: &Row, engine: Engine) -> Option<bool> {
        match self {
            Self::All(trees) => joined(trees.iter().map(|tree| tree.of(row, engine)), false),
            Self::Any(trees) => joined(trees.iter().map(|tree| tree.of(row, engine)), true),
            Self::Not(tree) => tree.of(row, engine).map(|value| !value),
            Self::Compare(column, operator, cell) => {
                row[*column].as_ref().map(|own| own.is(operator, cell, engine))
            }
            Self::In(column, cells, negated) => row[*column]
                .as_ref()
                .map(|own| cells.iter().any(|cell| own.is("=", cell, engine)) != *negated),
            Self::Between(column, low, high, negated) => row[*column]
                .as_ref()
                .map(|own| (own.is(">=", low, engine) && own.is("<=", high, engine)) != *negated),
            Self::IsNull(column, negated) => Some(row[*column].is_none() != *negated),
            Self::Like(pattern, negated) => {
                let Some(Cell::Text(text)) = &row[4] else { return None };
                let chars: Vec<char> = text.chars().collect();
                Some(like(&chars, &pattern.chars().collect::<Vec<_>>()) != *negated)
            }
        }
    }
}

/// One that decides is enough; else all must be known.
fn joined(mut parts: impl Iterator<Item = Option<bool>> + Clone, decides: bool) -> Option<bool> {
    if parts.clone().any(|part| part == Some(decides)) {
        return Some(decides);
    }
    parts.all(|part| part.is_some()).then_some(!decides)
}

fn like(text: &[char], pattern: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('%', rest)) => (0..=text.len()).any(|from| like(&text[from..], rest)),
        Some(('_', rest)) => text.split_first().is_some_and(|(_, text)| like(text, rest)),
        Some((c, rest)) => text.split_first().is_some_and(|(own, text)| own == c && like(text, rest)),
    }
}

/// What a writer tells of a column.
#[derive(Debug, Clone)]
struct Writer {
    tells: [bool; 5],
    promoted: bool,
    /// Text is cut to so many characters.
    cut: usize,
}

fn writer() -> impl Strategy<Value = Writer> {
    let tells = std::array::from_fn(|_| prop::bool::weighted(0.9));
    (tells, any::<bool>(), 1_usize..4).prop_map(|(tells, promoted, cut)| Writer { tells, promoted, cut })
}

impl Writer {
    fn told(&self, cells: &[Option<Cell>]) -> Told {
        let some: Vec<&Cell> = cells.iter().flatten().filter(|cell| !cell.is_nan()).collect();
        let engine = Engine { nan_is_greatest: false, single: true };
        let order = |one: &&&Cell, other: &&&Cell| one.compare(other, engine).unwrap();
        let nulls = cells.iter().filter(|cell| cell.is_none()).count();
        let nans = cells.len() - nulls - some.len();
        let [values_told, nulls_told, nans_told, lower_told, upper_told] = self.tells;
        let counted = |told: bool, count: usize| told.then_some(count as i64);
        let lower = some.iter().min_by(order).map(|cell| match cell {
            Cell::Text(text) => text.chars().take(self.cut).collect::<String>().into_bytes(),
            other => other.bound(self.promoted),
        });
        let upper = some.iter().max_by(order).and_then(|cell| match cell {
            Cell::Text(text) if text.chars().count() > self.cut => {
                above(text.chars().take(self.cut).collect())
            }
            other => Some(other.bound(self.promoted)),
        });
        Told {
            values: counted(values_told, cells.len()),
            nulls: counted(nulls_told, nulls),
            nans: counted(nans_told, nans),
            lower: lower.filter(|_| lower_told),
            upper: upper.filter(|_| upper_told),
        }
    }
}

/// The last character that has a next one becomes that.
fn above(mut chars: Vec<char>) -> Option<Vec<u8>> {
    while let Some(last) = chars.pop() {
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect::<String>().into_bytes());
        }
    }
    None
}

fn partitioning() -> impl Strategy<Value = (usize, Transform)> {
    let transform = prop::sample::select(vec![
        Transform::Identity,
        Transform::Bucket(4),
        Transform::Truncate(2),
        Transform::Truncate(10),
        Transform::Year,
        Transform::Month,
        Transform::Day,
        Transform::Hour,
    ]);
    (0..COLUMNS.len(), transform)
}

/// The file that a writer makes of those rows that are in the partition of the first.
fn file(rows: &mut Vec<Row>, partitioning: Option<(usize, Transform)>, writers: &[Writer]) -> File {
    let schema = super::fields();
    let mut file = File::default();
    if let Some((column, transform)) = partitioning {
        let value = |row: &Row| row[column].as_ref().map(|cell| transformed(transform, cell));
        let source = schema.find(COLUMNS[column]).unwrap().id;
        match rows.first().map(value) {
            // NaN is a partition, and not equal to itself.
            Some(first) if first.as_ref().is_none_or(|value| value.is_some()) => {
                let same = |row: &Row| format!("{:?}", value(row)) == format!("{first:?}");
                rows.retain(same);
                file.spec.push(PartitionField { id: 1000, source, transform });
                file.partition.push(first.flatten());
            }
            _ => {}
        }
    }
    let columns = COLUMNS.iter().zip(writers).enumerate().map(|(n, (name, writer))| {
        let cells: Vec<Option<Cell>> = rows.iter().map(|row| row[n].clone()).collect();
        (schema.find(name).unwrap().id, writer.told(&cells))
    });
    file.columns = HashMap::from_iter(columns);
    file
}

fn engines() -> impl Iterator<Item = Engine> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(nan_is_greatest, single)| Engine { nan_is_greatest, single })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        if std::env::var_os("ICECACHE_LONG").is_some() { 100_000 } else { 4_000 }
    ))]

    #[test]
    fn a_file_with_a_row_that_is_wanted_is_never_left_out(
        mut rows in prop::collection::vec(row(), 1..6),
        partitioning in prop::option::of(partitioning()),
        writers in prop::collection::vec(writer(), COLUMNS.len()),
        tree in tree(),
    ) {
        let file = file(&mut rows, partitioning, &writers);
        let text = tree.text();
        let wanted = engines().find_map(|engine| {
            rows.iter().find(|row| tree.of(row, engine) == Some(true)).map(|row| (engine, row))
        });
        if let Some((engine, row)) = wanted {
            prop_assert!(file.may(&text), "{text} of {row:?} for {engine:?} in {file:?}");
        }
    }

    #[test]
    fn what_is_read_is_written_and_read_again(text in "[-a-cx.\"'`()=<>!,%0-9 ANDORTISULEK]{0,40}", tree in tree()) {
        for text in [text, tree.text()] {
            if let Ok(read) = crate::Predicate::parse(&text) {
                prop_assert_eq!(crate::Predicate::parse(&read.to_string()), Ok(read));
            }
        }
    }
}

/// The proof above would be none if nothing was ever left out.
#[test]
fn most_files_without_such_a_row_are_left_out() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let everything = (
        prop::collection::vec(row(), 1..6),
        prop::option::of(partitioning()),
        prop::collection::vec(writer(), COLUMNS.len()),
        leaf(),
    );
    let (mut without, mut left_out) = (0, 0);
    for _ in 0..2_000 {
        let (mut rows, partitioning, writers, tree) = everything.new_tree(&mut runner).unwrap().current();
        let file = file(&mut rows, partitioning, &writers);
        if engines().all(|engine| rows.iter().all(|row| tree.of(row, engine) != Some(true))) {
            without += 1;
            left_out += usize::from(!file.may(&tree.text()));
        }
    }
    assert!(without > 500 && left_out * 2 > without, "{left_out} of {without}");
}
