//! A partition as people write it.
use crate::avro::{AvroError, Item, Kind, Schema, long, text, walk};
use std::fmt::Write;

/// `name=value/…` in the order of the partition's fields; empty for a table without partitions.
pub(super) fn partition_text(schema: &Schema, item: &Item, content: &[u8]) -> Result<String, AvroError> {
    let mut out = String::new();
    walk(schema, item.node, content, item.range.start, |field, value| {
        if !out.is_empty() {
            out.push('/');
        }
        let _ = write!(out, "{}=", field.name);
        let bytes = &content[value.range.clone()];
        match schema.kind(value.node) {
            Kind::Null => out.push_str("null"),
            Kind::Boolean => out.push_str(if bytes == [0] { "false" } else { "true" }),
            Kind::Long => out.push_str(&long(schema, &value, content)?.to_string()),
            Kind::Date => push_date(&mut out, long(schema, &value, content)?),
            Kind::Float => {
                let bits = bytes.try_into().map_err(|_| AvroError::Malformed("float is too short"))?;
                let _ = write!(out, "{}", f32::from_le_bytes(bits));
            }
            Kind::Double => {
                let bits = bytes.try_into().map_err(|_| AvroError::Malformed("double is too short"))?;
                let _ = write!(out, "{}", f64::from_le_bytes(bits));
            }
            // As Iceberg writes it into the names of folders, near enough to tell one from the other.
            Kind::String => {
                let escaped = text(schema, &value, content)?.replace('%', "%25").replace('/', "%2F");
                out.push_str(&escaped);
            }
            _ => bytes.iter().for_each(|byte| {
                let _ = write!(out, "{byte:02x}");
            }),
        }
        Ok(())
    })?;
    Ok(out)
}

fn push_date(out: &mut String, days: i64) {
    let date =
        jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days.clamp(-4_000_000, 2_900_000)));
    match date {
        Ok(date) => out.push_str(&date.to_string()),
        Err(_) => out.push_str(&days.to_string()),
    }
}
