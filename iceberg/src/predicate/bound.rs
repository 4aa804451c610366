//! [`BoundPredicate`]: a predicate on the columns of one schema, and whether a file may have such rows.
use super::range::{Ask, Range};
use super::transform::{bucket, range};
use crate::manifest::{ColumnMetrics, PartitionValue};
use crate::metadata::{PartitionField, Transform, Type};

/// A predicate on the columns of one schema.
#[derive(Debug, Clone)]
pub struct BoundPredicate {
    pub(super) node: Bound,
    /// The columns that it asks of.
    pub(super) ids: Vec<i32>,
}

/// A part of a predicate. NOT is in what is asked.
#[derive(Debug, Clone)]
pub(super) enum Bound {
    Constant(bool),
    All(Vec<Bound>),
    Any(Vec<Bound>),
    Ask(Question),
}

/// What is asked of a column.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// Which of the columns of the predicate.
    pub column: usize,
    pub kind: Type,
    /// Whether it lies in a struct that may be null.
    pub nested: bool,
    /// Whether NaN is an answer.
    pub nans: bool,
    pub ask: Ask,
    /// Where it asks for one of some values: their hashes, in their order.
    pub hashes: Vec<Option<u32>>,
}

/// What is told of the rows in a file.
#[derive(Debug)]
pub(super) struct FileFacts<'a> {
    /// In the order of the columns of the predicate; of those that are missing nothing is told.
    pub columns: Vec<ColumnMetrics<'a>>,
    /// By the numbers of its fields.
    pub partition: Vec<(i32, PartitionValue<'a>)>,
    pub spec: &'a [PartitionField],
}

impl BoundPredicate {
    /// The numbers of the columns that it asks of: a query reads these, too.
    pub fn field_ids(&self) -> &[i32] {
        &self.ids
    }

    /// Whether a file may have rows for which it is true.
    pub(super) fn may_match(&self, facts: &FileFacts<'_>) -> bool {
        self.may(&self.node, facts)
    }

    /// No deeper than the predicate is.
    fn may(&self, node: &Bound, facts: &FileFacts<'_>) -> bool {
        match node {
            Bound::Constant(value) => *value,
            Bound::All(nodes) => nodes.iter().all(|node| self.may(node, facts)),
            Bound::Any(nodes) => nodes.iter().any(|node| self.may(node, facts)),
            Bound::Ask(question) => self.may_answer(question, facts),
        }
    }

    fn may_answer(&self, question: &Question, facts: &FileFacts<'_>) -> bool {
        let id = self.ids.get(question.column).copied();
        let mut is_told = false;
        for field in facts.spec.iter().filter(|field| Some(field.source) == id) {
            let Some((_, value)) = facts.partition.iter().find(|(id, _)| *id == field.id) else { continue };
            let Some(known) = range(field.transform, &question.kind, *value) else { continue };
            if !known.may(&question.ask, question.nans) || !question.may_be_in(field.transform, *value) {
                return false;
            }
            is_told |= field.transform == Transform::Identity;
        }
        // Readers take the value of the partition for that of each row, also where the file has another or none.
        if is_told {
            return true;
        }
        let metrics = facts.columns.get(question.column);
        let known = metrics.map(|metrics| Range::of_metrics(&question.kind, metrics, question.nested));
        known.unwrap_or(Range::ANY).may(&question.ask, question.nans)
    }
}

impl Question {
    /// Whether one of the values that it asks for is in the bucket.
    fn may_be_in(&self, transform: Transform, value: PartitionValue<'_>) -> bool {
        let (Transform::Bucket(buckets), PartitionValue::Long(own), Ask::OneOf(_)) =
            (transform, value, &self.ask)
        else {
            return true;
        };
        self.hashes.iter().any(|hash| hash.is_none_or(|hash| bucket(hash, buckets) == own))
    }
}
