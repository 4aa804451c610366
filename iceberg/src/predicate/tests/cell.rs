//! [`Cell`]: a value of a row, as engines compare it and as writers tell of it; made of the specification alone, and not
//! of what it is a test of.
use super::Owned;
use crate::metadata::Transform;
use std::cmp::Ordering;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Boolean(bool),
    Long(i64),
    Double(f64),
    Float(f32),
    Text(String),
    /// Days.
    Date(i32),
    /// Microseconds.
    Time(i64),
    /// Hundredths.
    Decimal(i64),
    Uuid(u128),
}

/// What engines do not agree upon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Engine {
    /// NaN is greater than all numbers and equal to itself, or no comparison with it is true.
    pub nan_is_greatest: bool,
    /// Literals are of 32 bits where the column is.
    pub single: bool,
}

impl Cell {
    pub fn literal(&self) -> String {
        let utc = |micros: i64| jiff::Timestamp::from_microsecond(micros).unwrap().to_string();
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Long(value) => value.to_string(),
            Self::Double(value) => format!("{value:?}"),
            Self::Float(value) => format!("{value:?}"),
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Self::Date(days) => format!("DATE '{}'", &utc(i64::from(*days) * 86_400_000_000)[..10]),
            Self::Time(micros) => format!("'{}'", utc(*micros).trim_end_matches('Z')),
            Self::Decimal(value) => {
                let sign = if *value < 0 { "-" } else { "" };
                format!("{sign}{}.{:02}", value.abs() / 100, value.abs() % 100)
            }
            Self::Uuid(value) => format!("'{}'", uuid::Uuid::from_u128(*value)),
        }
    }

    /// How an engine compares it with a literal; `None`: no comparison is true.
    pub fn compare(&self, literal: &Self, engine: Engine) -> Option<Ordering> {
        let floats = |own: f64, other: f64| match own.partial_cmp(&other) {
            None if engine.nan_is_greatest => Some(Ordering::Greater),
            order => order,
        };
        match (self, literal) {
            (Self::Double(own), Self::Double(other)) => floats(*own, *other),
            (Self::Float(own), Self::Float(other)) if engine.single => {
                floats(f64::from(*own), f64::from(*other))
            }
            // As it is written, in 64 bits.
            (Self::Float(own), other) => floats(f64::from(*own), other.literal().parse().unwrap()),
            (Self::Boolean(own), Self::Boolean(other)) => Some(own.cmp(other)),
            (Self::Long(own), Self::Long(other)) => Some(own.cmp(other)),
            (Self::Text(own), Self::Text(other)) => Some(own.cmp(other)),
            (Self::Date(own), Self::Date(other)) => Some(own.cmp(other)),
            (Self::Time(own), Self::Time(other)) => Some(own.cmp(other)),
            (Self::Decimal(own), Self::Decimal(other)) => Some(own.cmp(other)),
            (Self::Uuid(own), Self::Uuid(other)) => Some(own.cmp(other)),
            other => panic!("{other:?} are of two types"),
        }
    }

    pub fn is(&self, operator: &str, literal: &Self, engine: Engine) -> bool {
        let order = self.compare(literal, engine);
        match operator {
            "=" => order == Some(Ordering::Equal),
            "!=" => order != Some(Ordering::Equal),
            "<" => order == Some(Ordering::Less),
            "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            ">" => order == Some(Ordering::Greater),
            _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }

    /// As the format serialises a single value; those that have been promoted as they were before.
    pub fn bound(&self, promoted: bool) -> Vec<u8> {
        match self {
            Self::Boolean(value) => vec![u8::from(*value)],
            Self::Long(value) if promoted => (*value as i32).to_le_bytes().to_vec(),
            Self::Long(value) => value.to_le_bytes().to_vec(),
            Self::Double(value) => value.to_le_bytes().to_vec(),
            Self::Float(value) => value.to_le_bytes().to_vec(),
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Date(days) => days.to_le_bytes().to_vec(),
            Self::Time(micros) => micros.to_le_bytes().to_vec(),
            Self::Decimal(value) if promoted => (*value as i16).to_be_bytes().to_vec(),
            Self::Decimal(value) => value.to_be_bytes().to_vec(),
            Self::Uuid(value) => value.to_be_bytes().to_vec(),
        }
    }

    pub fn is_nan(&self) -> bool {
        matches!(self, Self::Double(value) if value.is_nan())
            || matches!(self, Self::Float(value) if value.is_nan())
    }
}

/// The value of a partition, as the specification says how to make it.
pub(super) fn transformed(transform: Transform, cell: &Cell) -> Option<Owned> {
    let day = |micros: i64| micros.div_euclid(86_400_000_000);
    let date = |days: i64| jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).unwrap();
    let month = |days: i64| {
        let date = date(days);
        (i64::from(date.year()) - 1970) * 12 + i64::from(date.month()) - 1
    };
    let hashed = |bytes: &[u8], n: u32| {
        let hash = murmur3::murmur3_32(&mut &*bytes, 0).unwrap();
        Owned::Long(i64::from((hash & 0x7fff_ffff) % n))
    };
    Some(match (transform, cell) {
        (Transform::Identity, Cell::Boolean(value)) => Owned::Boolean(*value),
        (Transform::Identity, Cell::Long(value) | Cell::Time(value)) => Owned::Long(*value),
        (Transform::Identity, Cell::Double(value)) => Owned::Float(*value),
        (Transform::Identity, Cell::Float(value)) => Owned::Float(f64::from(*value)),
        (Transform::Identity, Cell::Date(days)) => Owned::Date(i64::from(*days)),
        (Transform::Identity, other) => Owned::Bytes(other.bound(false)),
        (Transform::Bucket(n), Cell::Long(value) | Cell::Time(value)) => hashed(&value.to_le_bytes(), n),
        (Transform::Bucket(n), Cell::Date(days)) => hashed(&i64::from(*days).to_le_bytes(), n),
        (Transform::Bucket(n), Cell::Decimal(value)) => match i8::try_from(*value) {
            Ok(value) => hashed(&value.to_be_bytes(), n),
            Err(_) => hashed(&(*value as i16).to_be_bytes(), n),
        },
        (Transform::Bucket(n), Cell::Text(_) | Cell::Uuid(_)) => hashed(&cell.bound(false), n),
        (Transform::Truncate(n), Cell::Long(value)) => Owned::Long(value - value.rem_euclid(i64::from(n))),
        (Transform::Truncate(n), Cell::Decimal(value)) => {
            Owned::Bytes((value - value.rem_euclid(i64::from(n))).to_be_bytes().to_vec())
        }
        (Transform::Truncate(n), Cell::Text(text)) => {
            Owned::Bytes(text.chars().take(n as usize).collect::<String>().into_bytes())
        }
        (Transform::Day, Cell::Date(days)) => Owned::Date(i64::from(*days)),
        (Transform::Day, Cell::Time(micros)) => Owned::Long(day(*micros)),
        (Transform::Month, Cell::Date(days)) => Owned::Long(month(i64::from(*days))),
        (Transform::Month, Cell::Time(micros)) => Owned::Long(month(day(*micros))),
        (Transform::Year, Cell::Date(days)) => Owned::Long(month(i64::from(*days)).div_euclid(12)),
        (Transform::Year, Cell::Time(micros)) => Owned::Long(month(day(*micros)).div_euclid(12)),
        (Transform::Hour, Cell::Time(micros)) => Owned::Long(micros.div_euclid(3_600_000_000)),
        _ => return None,
    })
}
