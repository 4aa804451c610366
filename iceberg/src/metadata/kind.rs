//! [`Type`]: what a column holds.
use std::fmt;

/// What a column holds, in Iceberg's words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Type {
    /// True or false.
    Boolean,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// 32 bits.
    Float,
    /// 64 bits.
    Double,
    /// A number of so many digits, some of them after the point.
    Decimal {
        /// How many digits.
        precision: u8,
        /// How many of them after the point.
        scale: u8,
    },
    /// A day.
    Date,
    /// A time of the day, in microseconds.
    Time,
    /// A day and a time without a zone, in microseconds.
    Timestamp,
    /// An instant, in microseconds.
    Timestamptz,
    /// A day and a time without a zone, in nanoseconds.
    TimestampNs,
    /// An instant, in nanoseconds.
    TimestamptzNs,
    /// Text.
    String,
    /// 16 bytes.
    Uuid,
    /// So many bytes.
    Fixed(u32),
    /// Bytes.
    Binary,
    /// Fields by name.
    Struct,
    /// Elements.
    List,
    /// Keys and values.
    Map,
    /// What this crate does not compare: variants, geometries, what later versions bring.
    Other(Box<str>),
}

impl Type {
    /// A primitive type from its text: that of a struct, a list or a map is none.
    pub(super) fn primitive(text: &str) -> Self {
        match text {
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::Timestamptz,
            "timestamp_ns" => Self::TimestampNs,
            "timestamptz_ns" => Self::TimestamptzNs,
            "string" => Self::String,
            "uuid" => Self::Uuid,
            "binary" => Self::Binary,
            other => Self::with_numbers(other).unwrap_or_else(|| Self::Other(other.into())),
        }
    }

    fn with_numbers(text: &str) -> Option<Self> {
        if let Some(length) = text.strip_prefix("fixed[") {
            return Some(Self::Fixed(length.strip_suffix(']')?.trim().parse().ok()?));
        }
        let (precision, scale) = text.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
        Some(Self::Decimal { precision: precision.trim().parse().ok()?, scale: scale.trim().parse().ok()? })
    }

    /// Whether it holds no other fields.
    pub fn is_primitive(&self) -> bool {
        !matches!(self, Self::Struct | Self::List | Self::Map)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision}, {scale})"),
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::Timestamptz => "timestamptz",
            Self::TimestampNs => "timestamp_ns",
            Self::TimestamptzNs => "timestamptz_ns",
            Self::String => "string",
            Self::Uuid => "uuid",
            Self::Fixed(length) => return write!(f, "fixed[{length}]"),
            Self::Binary => "binary",
            Self::Struct => "struct",
            Self::List => "list",
            Self::Map => "map",
            Self::Other(text) => text,
        })
    }
}
