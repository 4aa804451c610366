//! [`Value`]: values as they are compared, whatever a manifest or a person writes them like.
use crate::metadata::Type;
use std::borrow::Cow;
use std::cmp::Ordering;

/// The nanoseconds of a day.
pub(super) const DAY_NANOS: i128 = 86_400_000_000_000;
/// Those of a microsecond.
pub(super) const MICRO_NANOS: i128 = 1000;
/// More digits has no column.
const DIGITS_MAX: usize = 38;

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Boolean(bool),
    /// Numbers; days; times and timestamps in nanoseconds, whatever the unit of their column.
    Number(Decimal),
    /// Never NaN.
    Float(f64),
    /// Text in UTF-8, UUIDs, bytes: compared byte by byte, without signs.
    Bytes(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// `None`: they are not of one type.
    pub fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Boolean(own), Value::Boolean(other)) => Some(own.cmp(other)),
            (Self::Number(own), Value::Number(other)) => Some(own.compare(*other)),
            // 0.0 and -0.0 are equal, as SQL has it.
            (Self::Float(own), Value::Float(other)) => own.partial_cmp(other),
            (Self::Bytes(own), Value::Bytes(other)) => Some(own.cmp(other)),
            _ => None,
        }
    }

    pub fn number(value: impl Into<i128>) -> Value<'static> {
        Value::Number(Decimal { unscaled: value.into(), scale: 0 })
    }
}

/// A number with so many digits after the point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Decimal {
    pub unscaled: i128,
    pub scale: u32,
}

impl Decimal {
    /// From digits with a sign and a point, without an exponent.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fraction = fraction.trim_end_matches('0');
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        if all.is_empty() && !digits.contains('0') || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if significant.len() > DIGITS_MAX {
            return None;
        }
        let unscaled =
            if significant.is_empty() { 0 } else { format!("{sign}{significant}").parse().ok()? };
        Some(Self { unscaled, scale: u32::try_from(fraction.len()).ok()? })
    }

    /// The unscaled value with so many digits after the point, if it has no more.
    pub fn rescaled(self, scale: u32) -> Option<i128> {
        match scale.checked_sub(self.scale) {
            Some(more) => self.unscaled.checked_mul(10_i128.checked_pow(more)?),
            None => {
                let factor = 10_i128.checked_pow(self.scale - scale)?;
                (self.unscaled % factor == 0).then(|| self.unscaled / factor)
            }
        }
    }

    fn compare(self, other: Self) -> Ordering {
        if self.scale > other.scale {
            return other.compare(self).reverse();
        }
        let more = other.scale - self.scale;
        match 10_i128.checked_pow(more).and_then(|factor| self.unscaled.checked_mul(factor)) {
            Some(own) => own.cmp(&other.unscaled),
            // With so many digits it is farther from zero than anything.
            None => self.unscaled.cmp(&0).then(0.cmp(&other.unscaled)),
        }
    }
}

/// A lower or an upper bound, as the format serialises single values; `None` if it is none of a type. A column may have
/// been promoted since the file was written: its bounds are those of the type that it had.
pub(super) fn bound<'a>(kind: &Type, bytes: &'a [u8]) -> Option<Value<'a>> {
    let micros = |bytes: &[u8]| integer(bytes).map(|value| i128::from(value) * MICRO_NANOS);
    Some(match (kind, bytes.len()) {
        (Type::Boolean, 1) => Value::Boolean(bytes != [0]),
        (Type::Int | Type::Long, 4 | 8) | (Type::Date, 4) => Value::number(integer(bytes)?),
        (Type::Float | Type::Double, 4 | 8) => float(bytes)?,
        (Type::Decimal { scale, .. }, 1..=16) => {
            Value::Number(Decimal { unscaled: big_endian(bytes)?, scale: u32::from(*scale) })
        }
        // They were dates.
        (Type::Timestamp | Type::TimestampNs, 4) => Value::number(i128::from(integer(bytes)?) * DAY_NANOS),
        (Type::Time | Type::Timestamp | Type::Timestamptz, 8) => Value::number(micros(bytes)?),
        (Type::TimestampNs | Type::TimestamptzNs, 8) => Value::number(integer(bytes)?),
        (Type::Uuid, 16) | (Type::String | Type::Binary | Type::Fixed(_), _) => Value::Bytes(bytes.into()),
        _ => return None,
    })
}

/// Four or eight bytes, the lowest first.
fn integer(bytes: &[u8]) -> Option<i64> {
    match bytes.len() {
        4 => bytes.try_into().ok().map(i32::from_le_bytes).map(i64::from),
        _ => bytes.try_into().ok().map(i64::from_le_bytes),
    }
}

/// The same. What writers of old had of NaN in bounds tells nothing.
fn float(bytes: &[u8]) -> Option<Value<'static>> {
    let value = match bytes.len() {
        4 => bytes.try_into().ok().map(f32::from_le_bytes).map(f64::from),
        _ => bytes.try_into().ok().map(f64::from_le_bytes),
    };
    value.filter(|value| !value.is_nan()).map(Value::Float)
}

/// Up to 16 bytes of a number, the highest first, its sign in the first bit.
pub(super) fn big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    let mut all = [if first & 0x80 == 0 { 0 } else { 0xff }; 16];
    all.get_mut(16_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(all))
}

/// The first text or bytes that begin otherwise than with `prefix` and come after all that do; `None` if there are none.
pub(super) fn after_all_with(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut after = prefix.get(..=last)?.to_vec();
    *after.last_mut()? += 1;
    Some(after)
}
