//! [`Range`]: what is known of the values that a column has in one file.
use super::literal::Operand;
use super::value::{Value, bound};
use crate::manifest::ColumnMetrics;
use crate::metadata::Type;
use std::cmp::Ordering;

/// What is known of the values that a column has in one file. Whatever is not known is possible.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Range<'a> {
    /// Whether some may be null.
    pub nulls: bool,
    /// Whether some may be NaN.
    pub nans: bool,
    /// Whether there may be others.
    pub values: bool,
    /// No other is less.
    pub lower: Option<Value<'a>>,
    /// No other is greater.
    pub upper: Option<Value<'a>>,
}

/// What is asked of the values of a column, none of which is null.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ask {
    Null,
    NotNull,
    /// Less than this, or equal to it where that counts.
    Less(Operand, bool),
    /// Greater than this, or equal.
    Greater(Operand, bool),
    /// One of these, which ascend and are apart.
    OneOf(Vec<Operand>),
    /// None of these.
    NoneOf(Vec<Operand>),
    /// Text that begins so.
    Prefix(Vec<u8>),
}

impl<'a> Range<'a> {
    /// Nothing is known.
    pub const ANY: Self = Self { nulls: true, nans: true, values: true, lower: None, upper: None };

    /// One value.
    pub fn only(value: Value<'a>) -> Self {
        Self::between(Some(value.clone()), Some(value))
    }

    /// Neither null nor NaN.
    pub fn between(lower: Option<Value<'a>>, upper: Option<Value<'a>>) -> Self {
        Self { nulls: false, nans: false, values: true, lower, upper }
    }

    /// What metrics tell of a column. `nested`: it lies in a struct that may be null itself.
    pub fn of_metrics(kind: &Type, metrics: &ColumnMetrics<'a>, nested: bool) -> Self {
        let is_float = matches!(kind, Type::Float | Type::Double);
        let (values, nulls) = (metrics.values, metrics.nulls);
        let nans = if is_float { metrics.nans } else { Some(0) };
        let is_null_only = matches!((values, nulls), (Some(values), Some(nulls)) if values == nulls);
        let is_nan_only = matches!((values, nulls, nans), (Some(values), Some(nulls), Some(nans))
            if nans > 0 && values.checked_sub(nulls) == Some(nans));
        let read = |bytes: Option<&'a [u8]>| bytes.and_then(|bytes| bound(kind, bytes));
        let (mut lower, mut upper) = (read(metrics.lower), read(metrics.upper));
        if let (Some(least), Some(most)) = (&lower, &upper)
            && least.compare(most) == Some(Ordering::Greater)
        {
            // Of another order than ours: some writers compare UUIDs with a sign.
            (lower, upper) = (None, None);
        }
        Self {
            // Some writers do not count those that are null because of what they lie in.
            nulls: nested || nulls != Some(0),
            nans: is_float && !is_null_only && nans != Some(0),
            values: !is_null_only && !is_nan_only,
            lower,
            upper,
        }
    }

    /// Whether a value may be what is asked for. `nans`: whether NaN is.
    pub fn may(&self, ask: &Ask, nans: bool) -> bool {
        match ask {
            Ask::Null => return self.nulls,
            Ask::NotNull => return self.nans || self.values,
            _ if self.nans && nans => return true,
            _ if !self.values => return false,
            _ => {}
        }
        let (lower, upper) = (self.lower.as_ref(), self.upper.as_ref());
        match ask {
            Ask::Null | Ask::NotNull => true,
            Ask::Less(than, or_equal) => may_be(lower, &than.high, Ordering::Less, *or_equal),
            Ask::Greater(than, or_equal) => may_be(upper, &than.low, Ordering::Greater, *or_equal),
            Ask::OneOf(operands) => {
                // The first that is not below all values; it is the least that is not.
                let first = operands.partition_point(|one| !may_be(lower, &one.high, Ordering::Less, true));
                operands.get(first).is_some_and(|one| may_be(upper, &one.low, Ordering::Greater, true))
            }
            Ask::NoneOf(operands) => match (lower, upper) {
                (Some(lower), Some(upper)) if is_same(lower, upper) => {
                    !operands.iter().any(|one| one.only().is_some_and(|value| is_same(value, lower)))
                }
                _ => true,
            },
            Ask::Prefix(prefix) => self.may_begin(prefix),
        }
    }

    fn may_begin(&self, prefix: &[u8]) -> bool {
        let is_above = matches!(&self.lower, Some(Value::Bytes(lower))
            if lower.get(..prefix.len().min(lower.len())) > Some(prefix));
        let is_below = matches!(&self.upper, Some(Value::Bytes(upper)) if **upper < *prefix);
        !is_above && !is_below
    }
}

fn is_same(one: &Value<'_>, other: &Value<'_>) -> bool {
    one.compare(other) == Some(Ordering::Equal)
}

/// Whether a bound is on this side of a value, or may be.
fn may_be(bound: Option<&Value<'_>>, value: &Value<'_>, side: Ordering, or_equal: bool) -> bool {
    match bound.and_then(|bound| bound.compare(value)) {
        None => true,
        Some(Ordering::Equal) => or_equal,
        Some(other) => other == side,
    }
}
