//! Predicates: as they are read, and on files of which this or that is told.
mod cell;
mod grammar;
mod metrics;
mod partitions;
mod random;

use super::bound::FileFacts;
use super::{Predicate, PredicateError};
use crate::manifest::{ColumnMetrics, PartitionValue};
use crate::metadata::{Fields, Metadata, PartitionField, Transform};
use std::collections::HashMap;

/// A schema of one column of each type, called as its type is.
pub(super) fn fields() -> Fields {
    let kinds = [
        "boolean",
        "int",
        "long",
        "float",
        "double",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "timestamp_ns",
        "timestamptz_ns",
        "string",
        "uuid",
        "binary",
        "fixed[4]",
        "decimal(9,2)",
        "variant",
    ];
    let column = |(n, kind): (usize, &&str)| {
        let name = kind.split(['[', '(']).next().unwrap();
        format!(r#"{{"id":{},"name":"{name}","required":false,"type":"{kind}"}}"#, n + 1)
    };
    let columns: Vec<String> = kinds.iter().enumerate().map(column).collect();
    let nested = r#"{"id":20,"name":"s","required":false,"type":{"type":"struct","fields":[{"id":21,"name":"In","required":true,"type":"int"}]}},
        {"id":22,"name":"l","required":false,"type":{"type":"list","element-id":23,"element-required":true,"element":"int"}}"#;
    let text = format!(
        r#"{{"format-version":3,"location":"s3://b/t","last-updated-ms":1,"current-schema-id":0,"schemas":[{{"schema-id":0,"fields":[{},{nested}]}}]}}"#,
        columns.join(",")
    );
    Metadata::parse(text.as_bytes(), "x").unwrap().fields().unwrap()
}

/// What is told of one column of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub values: Option<i64>,
    pub nulls: Option<i64>,
    pub nans: Option<i64>,
    pub lower: Option<Vec<u8>>,
    pub upper: Option<Vec<u8>>,
}

/// Ten values, none of them null or NaN, between two.
pub(super) fn told(lower: impl AsRef<[u8]>, upper: impl AsRef<[u8]>) -> Told {
    let (lower, upper) = (Some(lower.as_ref().to_vec()), Some(upper.as_ref().to_vec()));
    Told { values: Some(10), nulls: Some(0), nans: Some(0), lower, upper }
}

/// A file, and what is told of it.
#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub columns: HashMap<i32, Told>,
    pub spec: Vec<PartitionField>,
    pub partition: Vec<Option<Owned>>,
}

/// A value of a partition.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Owned {
    Boolean(bool),
    Long(i64),
    Date(i64),
    Float(f64),
    Bytes(Vec<u8>),
}

impl File {
    pub fn with(column: &str, told: Told) -> Self {
        let id = fields().find(column).unwrap().id;
        Self { columns: HashMap::from([(id, told)]), ..Self::default() }
    }

    pub fn partitioned(column: &str, transform: Transform, value: Option<Owned>) -> Self {
        let mut file = Self::default();
        file.partition_by(column, transform, value);
        file
    }

    pub fn partition_by(&mut self, column: &str, transform: Transform, value: Option<Owned>) {
        let (id, source) = (1000 + self.spec.len() as i32, fields().find(column).unwrap().id);
        self.spec.push(PartitionField { id, source, transform });
        self.partition.push(value);
    }

    /// Whether it may have rows that a predicate wants.
    pub fn may(&self, text: &str) -> bool {
        let predicate = Predicate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let bound = predicate.bind(&fields()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let column = |id: &i32| self.columns.get(id).map(metrics).unwrap_or_default();
        let partition = self.spec.iter().zip(&self.partition);
        let facts = FileFacts {
            columns: bound.field_ids().iter().map(column).collect(),
            partition: partition.map(|(field, value)| (field.id, borrowed(value.as_ref()))).collect(),
            spec: &self.spec,
        };
        bound.may_match(&facts)
    }

    /// Asserts that it may have rows that each of these wants, and none that those want.
    #[track_caller]
    pub fn has(&self, may: &[&str], may_not: &[&str]) {
        for text in may {
            assert!(self.may(text), "it may have: {text}");
        }
        for text in may_not {
            assert!(!self.may(text), "it has not: {text}");
        }
    }
}

fn metrics(told: &Told) -> ColumnMetrics<'_> {
    let Told { values, nulls, nans, lower, upper } = told;
    ColumnMetrics {
        values: *values,
        nulls: *nulls,
        nans: *nans,
        lower: lower.as_deref(),
        upper: upper.as_deref(),
    }
}

fn borrowed(value: Option<&Owned>) -> PartitionValue<'_> {
    match value {
        None => PartitionValue::Null,
        Some(Owned::Boolean(value)) => PartitionValue::Boolean(*value),
        Some(Owned::Long(value)) => PartitionValue::Long(*value),
        Some(Owned::Date(value)) => PartitionValue::Date(*value),
        Some(Owned::Float(value)) => PartitionValue::Float(*value),
        Some(Owned::Bytes(value)) => PartitionValue::Bytes(value),
    }
}

/// Why a predicate cannot be read, or does not fit the schema.
pub(super) fn refused(text: &str) -> PredicateError {
    match Predicate::parse(text).and_then(|predicate| predicate.bind(&fields())) {
        Ok(_) => panic!("{text} is a predicate"),
        Err(error) => error,
    }
}
