//! What a partition value tells of the column that it is made from.
use super::range::Range;
use super::value::{DAY_NANOS, Decimal, MICRO_NANOS, Value, after_all_with, big_endian};
use crate::manifest::PartitionValue;
use crate::metadata::{Transform, Type};
use jiff::civil::{Date, date};

const HOUR_NANOS: i128 = DAY_NANOS / 24;

/// What is known of a column in a file of this partition value; `None`: nothing.
pub(super) fn range<'a>(transform: Transform, kind: &Type, value: PartitionValue<'a>) -> Option<Range<'a>> {
    // Null is made of null alone, and of it nothing else.
    if value == PartitionValue::Null {
        return Some(Range { nulls: true, nans: false, values: false, lower: None, upper: None });
    }
    match transform {
        Transform::Identity => identity(kind, value),
        Transform::Bucket(_) => Some(Range::between(None, None)),
        Transform::Truncate(width) => truncated(kind, width, identity(kind, value)?.lower?),
        Transform::Year | Transform::Month | Transform::Day | Transform::Hour => {
            let (PartitionValue::Long(n) | PartitionValue::Date(n)) = value else { return None };
            let (unit, last) = match kind {
                Type::Date if transform != Transform::Hour => (DAY_NANOS, DAY_NANOS),
                Type::Timestamp | Type::Timestamptz | Type::TimestampNs | Type::TimestamptzNs => (1, 1),
                _ => return None,
            };
            // Writers of old have rounded what was before 1970 up.
            let least = start(transform, if n <= 0 { n.checked_sub(1)? } else { n })?;
            let next = start(transform, n.checked_add(1)?)?;
            let number = |nanos: i128| Some(Value::number(nanos / unit));
            Some(Range::between(number(least), number(next - last)))
        }
    }
}

/// The value itself.
fn identity<'a>(kind: &Type, value: PartitionValue<'a>) -> Option<Range<'a>> {
    let long = |value: i64, unit: i128| Value::number(i128::from(value) * unit);
    Some(Range::only(match (kind, value) {
        (Type::Boolean, PartitionValue::Boolean(value)) => Value::Boolean(value),
        (Type::Int | Type::Long, PartitionValue::Long(n)) => long(n, 1),
        (Type::Date, PartitionValue::Date(n) | PartitionValue::Long(n)) => long(n, 1),
        (Type::Timestamp | Type::TimestampNs, PartitionValue::Date(n)) => long(n, DAY_NANOS),
        (Type::Time | Type::Timestamp | Type::Timestamptz, PartitionValue::Long(n)) => long(n, MICRO_NANOS),
        (Type::TimestampNs | Type::TimestamptzNs, PartitionValue::Long(n)) => long(n, 1),
        (Type::Float | Type::Double, PartitionValue::Float(value)) => return Some(float(value)),
        (Type::Decimal { scale, .. }, PartitionValue::Bytes(bytes)) => {
            Value::Number(Decimal { unscaled: big_endian(bytes)?, scale: u32::from(*scale) })
        }
        (Type::Uuid, PartitionValue::Bytes(bytes)) if bytes.len() != 16 => return None,
        (Type::Uuid | Type::String | Type::Binary | Type::Fixed(_), PartitionValue::Bytes(bytes)) => {
            Value::Bytes(bytes.into())
        }
        _ => return None,
    }))
}

fn float(value: f64) -> Range<'static> {
    if value.is_nan() {
        Range { nulls: false, nans: true, values: false, lower: None, upper: None }
    } else {
        Range::only(Value::Float(value))
    }
}

/// What has been cut to this. The least integers may have been cut to what is below all of them, which some writers
/// represent by the greatest ones, and a column may have been of 32 bits then.
fn truncated<'a>(kind: &Type, width: u32, value: Value<'a>) -> Option<Range<'a>> {
    if let (Type::Int | Type::Long, Value::Number(number)) = (kind, &value) {
        let wraps = |most: i128| number.unscaled <= most && number.unscaled + i128::from(width) - 1 > most;
        if wraps(i32::MAX.into()) || wraps(i64::MAX.into()) {
            return None;
        }
    }
    let upper = match &value {
        Value::Number(number) => {
            let unscaled = number.unscaled.checked_add(i128::from(width) - 1)?;
            Some(Value::Number(Decimal { unscaled, scale: number.scale }))
        }
        Value::Bytes(prefix) => after_all_with(prefix).map(|after| Value::Bytes(after.into())),
        _ => return None,
    };
    Some(Range::between(Some(value), upper))
}

/// When the `n`th year, month, day or hour since 1970 begins, in nanoseconds since then.
fn start(transform: Transform, n: i64) -> Option<i128> {
    let first = |year: i64, month: i64| {
        let day = Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, 1).ok()?;
        Some(day.duration_since(date(1970, 1, 1)).as_nanos())
    };
    match transform {
        Transform::Year => first(n.checked_add(1970)?, 1),
        Transform::Month => first(n.div_euclid(12).checked_add(1970)?, n.rem_euclid(12) + 1),
        Transform::Day => i128::from(n).checked_mul(DAY_NANOS),
        Transform::Hour => i128::from(n).checked_mul(HOUR_NANOS),
        _ => None,
    }
}

/// The hash by which a value gets its bucket; `None`: none that is known, or it is none of the column.
pub(super) fn hash(kind: &Type, value: &Value<'_>) -> Option<u32> {
    let bytes = match (kind, value) {
        (Type::Decimal { scale, .. }, Value::Number(number)) => shortest(number.rescaled(u32::from(*scale))?),
        (_, Value::Number(number)) => {
            let whole = number.rescaled(0)?;
            let long = match kind {
                Type::Time | Type::Timestamp | Type::Timestamptz if whole % MICRO_NANOS != 0 => return None,
                Type::Time | Type::Timestamp | Type::Timestamptz => whole / MICRO_NANOS,
                Type::TimestampNs | Type::TimestamptzNs => whole.div_euclid(MICRO_NANOS),
                _ => whole,
            };
            i64::try_from(long).ok()?.to_le_bytes().to_vec()
        }
        (_, Value::Bytes(bytes)) => bytes.to_vec(),
        _ => return None,
    };
    murmur3::murmur3_32(&mut &*bytes, 0).ok()
}

/// The bucket of a hash.
pub(super) fn bucket(hash: u32, buckets: u32) -> i64 {
    i64::from((hash & i32::MAX as u32) % buckets)
}

/// The fewest bytes that hold a number with its sign, the highest first.
fn shortest(value: i128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let sign = if value < 0 { 0xff } else { 0 };
    let is_needed = |n: &usize| bytes[*n] != sign || (bytes[*n + 1] ^ sign) & 0x80 != 0;
    let first = (0..bytes.len() - 1).find(is_needed).unwrap_or(bytes.len() - 1);
    bytes[first..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the specification's appendix B.
    #[test]
    fn hashes_are_those_of_the_specification() {
        let number = |value: i128| Value::number(value);
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec().into());
        let day = date(2017, 11, 16).duration_since(date(1970, 1, 1)).as_hours() / 24;
        let micros = 1_510_871_468_000_000_i128;
        let uuid = uuid::Uuid::try_parse("f79c3e09-677c-4bbd-a479-3f349cb785e7").unwrap();
        let decimal = Decimal::parse("14.20").unwrap();
        for (kind, value, expected) in [
            (Type::Int, number(34), 2_017_239_379_i32),
            (Type::Long, number(34), 2_017_239_379),
            (Type::Decimal { precision: 9, scale: 2 }, Value::Number(decimal), -500_754_589),
            (Type::Date, number(day.into()), -653_330_422),
            (Type::Time, number(81_068_000_000 * MICRO_NANOS), -662_762_989),
            (Type::Timestamp, number(micros * MICRO_NANOS), -2_047_944_441),
            (Type::Timestamptz, number((micros + 1) * MICRO_NANOS), -1_207_196_810),
            (Type::TimestampNs, number(micros * MICRO_NANOS), -2_047_944_441),
            (Type::TimestamptzNs, number(micros * MICRO_NANOS + 1001), -1_207_196_810),
            (Type::String, bytes(b"iceberg"), 1_210_000_089),
            (Type::Uuid, bytes(uuid.as_bytes()), 1_488_055_340),
            (Type::Fixed(4), bytes(&[0, 1, 2, 3]), -188_683_207),
            (Type::Binary, bytes(&[0, 1, 2, 3]), -188_683_207),
        ] {
            assert_eq!(hash(&kind, &value), Some(expected as u32), "{kind}");
        }
        assert_eq!(hash(&Type::Int, &Value::Number(Decimal::parse("1.5").unwrap())), None);
        assert_eq!(hash(&Type::Timestamp, &number(1)), None);
        assert_eq!(hash(&Type::Double, &Value::Float(1.0)), None);
    }

    #[test]
    fn decimals_are_hashed_in_the_fewest_bytes() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0, 0x80]),
            (-128, &[0x80]),
            (-129, &[0xff, 0x7f]),
            (-1, &[0xff]),
            (1420, &[0x05, 0x8c]),
        ] {
            assert_eq!(shortest(value), bytes, "{value}");
            assert_eq!(big_endian(bytes), Some(value), "{value}");
        }
        assert_eq!((shortest(i128::MIN).len(), shortest(i128::MAX).len()), (16, 16));
    }

    #[test]
    fn what_was_cut_below_the_least_integer_may_have_wrapped() {
        let cut = |kind, n: i64| range(Transform::Truncate(10), &kind, PartitionValue::Long(n));
        let of_least = (i64::from(i32::MIN) - i64::from(i32::MIN).rem_euclid(10)) as i32;
        assert!(of_least > 0, "writers in 32 bits have this for the least one: {of_least}");
        for kind in [Type::Int, Type::Long] {
            assert_eq!(cut(kind.clone(), of_least.into()), None);
            assert!(cut(kind.clone(), i64::from(i32::MAX) - 17).is_some());
            assert_eq!(cut(kind.clone(), i64::MAX - 1), None);
            assert!(cut(kind, i64::from(i32::MIN) + 8).is_some());
        }
        assert!(cut(Type::Long, i64::from(i32::MAX) + 3).is_some());
    }

    #[test]
    fn partitions_of_time_are_ranges() {
        let days = |n: i64, transform| {
            let range = range(transform, &Type::Date, PartitionValue::Long(n)).unwrap();
            [range.lower, range.upper].map(|value| match value {
                Some(Value::Number(number)) => i64::try_from(number.unscaled).unwrap(),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(days(56, Transform::Year), [20454, 20818]); // 2026
        assert_eq!(days(673, Transform::Month), [20485, 20512]); // 2026-02
        assert_eq!(days(20485, Transform::Day), [20485, 20485]);
        assert_eq!(days(0, Transform::Day), [-1, 0], "what was rounded up");
        assert_eq!(days(-12, Transform::Month), [-396, -335]);
        let hour = range(Transform::Hour, &Type::Timestamp, PartitionValue::Long(1)).unwrap();
        let expected =
            Range::between(Some(Value::number(HOUR_NANOS)), Some(Value::number(2 * HOUR_NANOS - 1)));
        assert_eq!(hour, expected);
        for n in [i64::MIN, i64::MAX, 1 << 40] {
            let any = range(Transform::Year, &Type::Date, PartitionValue::Long(n));
            assert_eq!(any, None, "{n}");
        }
    }
}
