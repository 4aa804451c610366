//! [`Literal`]: what stands beside a column, and which values of its type that may be.
use super::PredicateError;
use super::value::{DAY_NANOS, Decimal, Value};
use crate::metadata::{Field, Type};
use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use std::fmt;

/// No zone has ever been farther from UTC.
const ZONE_MAX_NANOS: i128 = 16 * 3_600_000_000_000;

/// A literal, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal {
    /// Digits, with a sign, a point and an exponent where they have one.
    Number(String),
    String(String),
    Boolean(bool),
    Date(String),
    Timestamp(String),
    Binary(Vec<u8>),
}

/// The values that a literal may be, from the least to the greatest: mostly one. A `0.1` is not the same for engines that
/// compare in 32 bits and in 64; a time without a zone is in that of the session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub low: Value<'static>,
    pub high: Value<'static>,
}

impl Operand {
    /// The value, where it is one.
    pub fn only(&self) -> Option<&Value<'static>> {
        (self.low == self.high).then_some(&self.low)
    }
}

impl From<Value<'static>> for Operand {
    fn from(value: Value<'static>) -> Self {
        Self { low: value.clone(), high: value }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        match self {
            Self::Number(digits) => f.write_str(digits),
            Self::String(text) => f.write_str(&quoted(text)),
            Self::Boolean(value) => f.write_str(if *value { "TRUE" } else { "FALSE" }),
            Self::Date(text) => write!(f, "DATE {}", quoted(text)),
            Self::Timestamp(text) => write!(f, "TIMESTAMP {}", quoted(text)),
            Self::Binary(bytes) => {
                f.write_str("X'")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))?;
                f.write_str("'")
            }
        }
    }
}

impl Literal {
    /// What it is for a column.
    pub fn of(&self, field: &Field) -> Result<Operand, PredicateError> {
        let Some(example) = example(&field.kind) else {
            return Err(PredicateError::NotComparable {
                column: field.name.clone(),
                kind: field.kind.to_string(),
                advice: match field.kind {
                    Type::Struct => "name one of its fields with a dot",
                    _ => "leave it out of the predicate",
                },
            });
        };
        self.operand(&field.kind).ok_or_else(|| PredicateError::Literal {
            column: field.name.clone(),
            kind: field.kind.to_string(),
            literal: self.to_string(),
            example,
        })
    }

    fn operand(&self, kind: &Type) -> Option<Operand> {
        let one = |value| Some(Operand::from(value));
        match (kind, self) {
            (Type::Boolean, Self::Boolean(value)) => one(Value::Boolean(*value)),
            (Type::Int | Type::Long | Type::Decimal { .. }, Self::Number(digits)) => {
                one(Value::Number(Decimal::parse(digits)?))
            }
            (Type::Float, Self::Number(digits)) => {
                let double: f64 = digits.parse().ok()?;
                let single = f64::from(double as f32);
                let (low, high) = (double.min(single), double.max(single));
                Some(Operand { low: Value::Float(low), high: Value::Float(high) })
            }
            (Type::Double, Self::Number(digits)) => one(Value::Float(digits.parse().ok()?)),
            (Type::String, Self::String(text)) => one(Value::Bytes(text.clone().into_bytes().into())),
            (Type::Uuid, Self::String(text)) => {
                let uuid = uuid::Uuid::try_parse(text).ok()?;
                one(Value::Bytes(uuid.into_bytes().to_vec().into()))
            }
            (Type::Binary | Type::Fixed(_), Self::Binary(bytes)) => one(Value::Bytes(bytes.clone().into())),
            (Type::Time, Self::String(text)) => {
                let time: Time = text.parse().ok()?;
                one(Value::number(time.duration_since(Time::midnight()).as_nanos()))
            }
            (_, Self::Date(text) | Self::Timestamp(text) | Self::String(text)) => {
                let nanos = Nanos::parse(text)?;
                if matches!(self, Self::Date(_)) && !nanos.is_day() {
                    return None;
                }
                nanos.operand(kind)
            }
            _ => None,
        }
    }
}

/// A point in time, in nanoseconds since 1970.
#[derive(Clone, Copy)]
enum Nanos {
    /// On the clocks of UTC.
    Instant(i128),
    /// On those of some place.
    Local(i128),
}

impl Nanos {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // Reads those with a zone alone; the other would pass over it.
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Some(Self::Instant(instant.as_nanosecond()));
        }
        let local: DateTime = text.parse().ok()?;
        let since = local.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
        Some(Self::Local(since.as_nanos()))
    }

    fn is_day(self) -> bool {
        matches!(self, Self::Local(nanos) if nanos % DAY_NANOS == 0)
    }

    fn operand(self, kind: &Type) -> Option<Operand> {
        Some(match (kind, self) {
            (Type::Date, Self::Local(nanos)) if self.is_day() => Value::number(nanos / DAY_NANOS).into(),
            (Type::Timestamp | Type::TimestampNs, Self::Local(nanos)) => Value::number(nanos).into(),
            (Type::Timestamptz | Type::TimestamptzNs, Self::Instant(nanos)) => Value::number(nanos).into(),
            (Type::Timestamptz | Type::TimestamptzNs, Self::Local(nanos)) => Operand {
                low: Value::number(nanos - ZONE_MAX_NANOS),
                high: Value::number(nanos + ZONE_MAX_NANOS),
            },
            _ => return None,
        })
    }
}

/// How to write a literal of a type; `None`: there are none.
fn example(kind: &Type) -> Option<&'static str> {
    Some(match kind {
        Type::Boolean => "TRUE",
        Type::Int | Type::Long => "5",
        Type::Float | Type::Double | Type::Decimal { .. } => "1.5",
        Type::Date => "'2026-01-31'",
        Type::Time => "'12:30:00'",
        Type::Timestamp | Type::TimestampNs => "'2026-01-31 12:30:00', without a zone",
        Type::Timestamptz | Type::TimestamptzNs => "'2026-01-31T12:30:00Z'",
        Type::String => "'text'",
        Type::Uuid => "'f79c3e09-677c-4bbd-a479-3f349cb785e7'",
        Type::Fixed(_) | Type::Binary => "X'00FF'",
        _ => return None,
    })
}
