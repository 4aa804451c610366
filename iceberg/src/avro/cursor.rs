//! Where the fields of a record lie in its bytes.
use super::AvroError;
use super::schema::{DEPTH_MAX, Field, Kind, Node, Schema};
use std::ops::Range;

const SHORT: AvroError = AvroError::Malformed("it ends within a value");

/// A value in the bytes of its block. Where the type is a union, the value itself, without the number of its type.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Its type; never a union.
    pub node: Node,
    /// Where it lies.
    pub range: Range<usize>,
}

impl Item {
    /// Whether it is null.
    pub fn is_null(&self, schema: &Schema) -> bool {
        matches!(schema.kind(self.node), Kind::Null)
    }
}

/// Reads a number of variable length.
pub(crate) fn number(bytes: &[u8], at: &mut usize) -> Result<i64, AvroError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(SHORT)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err(AvroError::Malformed("number is too long"))
}

fn advance(bytes: &[u8], at: &mut usize, by: usize) -> Result<Range<usize>, AvroError> {
    let end = at.checked_add(by).filter(|end| *end <= bytes.len()).ok_or(SHORT)?;
    let range = *at..end;
    *at = end;
    Ok(range)
}

/// The bytes of a string or of bytes: a length, then as many.
pub(crate) fn sized(bytes: &[u8], at: &mut usize) -> Result<Range<usize>, AvroError> {
    let length =
        usize::try_from(number(bytes, at)?).map_err(|_| AvroError::Malformed("length is negative"))?;
    advance(bytes, at, length)
}

/// Goes through the fields of a record that begins at `at`, in their order; returns where it ends.
pub(crate) fn walk<'s>(
    schema: &'s Schema,
    record: Node,
    bytes: &[u8],
    at: usize,
    mut found: impl FnMut(&'s Field, Item) -> Result<(), AvroError>,
) -> Result<usize, AvroError> {
    let Kind::Record(fields) = schema.kind(record) else {
        return Err(AvroError::Malformed("value is not a record"));
    };
    let mut at = at;
    for field in fields {
        let item = item(schema, field.node, bytes, &mut at, 0)?;
        found(field, item)?;
    }
    Ok(at)
}

/// Goes through the elements of an array.
pub(crate) fn elements(
    schema: &Schema,
    array: &Item,
    bytes: &[u8],
    mut found: impl FnMut(Item) -> Result<(), AvroError>,
) -> Result<(), AvroError> {
    let Kind::Array(element) = *schema.kind(array.node) else {
        return Err(AvroError::Malformed("value is not an array"));
    };
    let mut at = array.range.start;
    blocks(bytes, &mut at, |at| found(item(schema, element, bytes, at, 1)?))
}

/// Goes through the records of an array without looking at each twice: `each` is told their type and where one begins,
/// and returns where it ends.
pub(crate) fn records(
    schema: &Schema,
    array: &Item,
    bytes: &[u8],
    mut each: impl FnMut(Node, usize) -> Result<usize, AvroError>,
) -> Result<(), AvroError> {
    let Kind::Array(element) = *schema.kind(array.node) else {
        return Err(AvroError::Malformed("value is not an array"));
    };
    let mut at = array.range.start;
    blocks(bytes, &mut at, |at| {
        *at = each(element, *at)?;
        Ok(())
    })
}

/// The number that an item holds.
pub(crate) fn long(schema: &Schema, item: &Item, bytes: &[u8]) -> Result<i64, AvroError> {
    match schema.kind(item.node) {
        Kind::Long | Kind::Date => number(bytes, &mut item.range.start.clone()),
        _ => Err(AvroError::Malformed("value is not a number")),
    }
}

/// The text that an item holds.
pub(crate) fn text<'b>(schema: &Schema, item: &Item, bytes: &'b [u8]) -> Result<&'b str, AvroError> {
    let Kind::String = schema.kind(item.node) else {
        return Err(AvroError::Malformed("value is not a string"));
    };
    let range = sized(bytes, &mut item.range.start.clone())?;
    std::str::from_utf8(&bytes[range]).map_err(|_| AvroError::Malformed("string is not UTF-8"))
}

/// The bytes that an item holds, or those of its text.
pub(crate) fn bytes<'b>(schema: &Schema, item: &Item, bytes: &'b [u8]) -> Result<&'b [u8], AvroError> {
    let (Kind::Bytes | Kind::String) = schema.kind(item.node) else {
        return Err(AvroError::Malformed("value is not bytes"));
    };
    let range = sized(bytes, &mut item.range.start.clone())?;
    Ok(&bytes[range])
}

/// Appends a number of variable length.
pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a length and bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

fn item(schema: &Schema, node: Node, bytes: &[u8], at: &mut usize, depth: usize) -> Result<Item, AvroError> {
    let mut node = node;
    while let Kind::Union(types) = schema.kind(node) {
        let chosen = usize::try_from(number(bytes, at)?).ok().and_then(|n| types.get(n));
        node = *chosen.ok_or(AvroError::Malformed("union has no such type"))?;
        // A union of nothing but itself takes bytes with every turn, so this ends.
    }
    let start = *at;
    skip(schema, node, bytes, at, depth)?;
    Ok(Item { node, range: start..*at })
}

fn skip(schema: &Schema, node: Node, bytes: &[u8], at: &mut usize, depth: usize) -> Result<(), AvroError> {
    if depth > DEPTH_MAX {
        return Err(AvroError::Malformed("values are nested too deeply"));
    }
    match schema.kind(node) {
        Kind::Null => {}
        Kind::Boolean => advance(bytes, at, 1).map(|_| ())?,
        Kind::Long | Kind::Date => number(bytes, at).map(|_| ())?,
        Kind::Float => advance(bytes, at, 4).map(|_| ())?,
        Kind::Double => advance(bytes, at, 8).map(|_| ())?,
        Kind::Bytes | Kind::String => sized(bytes, at).map(|_| ())?,
        Kind::Fixed(size) => advance(bytes, at, *size).map(|_| ())?,
        Kind::Array(element) => blocks(bytes, at, |at| skip(schema, *element, bytes, at, depth + 1))?,
        Kind::Map(value) => blocks(bytes, at, |at| {
            sized(bytes, at)?;
            skip(schema, *value, bytes, at, depth + 1)
        })?,
        Kind::Union(_) => item(schema, node, bytes, at, depth + 1).map(|_| ())?,
        Kind::Record(fields) => {
            for field in fields {
                skip(schema, field.node, bytes, at, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Blocks of values up to the empty one: a count, or a negative count and a size in bytes, then the values.
fn blocks(
    bytes: &[u8],
    at: &mut usize,
    mut each: impl FnMut(&mut usize) -> Result<(), AvroError>,
) -> Result<(), AvroError> {
    loop {
        let count = number(bytes, at)?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            number(bytes, at)?;
        }
        let count = count.unsigned_abs();
        // Values without any bytes are nothing that a writer of Iceberg would put into an array.
        if count > (bytes.len() - *at) as u64 {
            return Err(SHORT);
        }
        for _ in 0..count {
            each(at)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, -1, 63, 64, -64, -65, i64::MAX, i64::MIN, 2147483546] {
            let mut bytes = Vec::new();
            put_long(&mut bytes, value);
            assert_eq!(number(&bytes, &mut 0), Ok(value));
        }
        assert!(number(&[0x80; 11], &mut 0).is_err());
        assert!(number(&[0x80], &mut 0).is_err());
    }

    #[test]
    fn fields_are_where_they_are() {
        let schema = Schema::parse(
            br#"{"type":"record","name":"r","fields":[
                {"name":"a","type":["null","string"],"field-id":1},
                {"name":"b","type":{"type":"array","items":"long"},"field-id":2},
                {"name":"c","type":["null","string"],"field-id":3},
                {"name":"d","type":{"type":"map","values":"double"},"field-id":4}]}"#,
        )
        .unwrap();
        let mut bytes = vec![0xff]; // something before it
        put_long(&mut bytes, 1);
        put_bytes(&mut bytes, b"hello");
        // Two blocks, the first with its size.
        for n in [-2, 2, 7, 8, 1, 9, 0] {
            put_long(&mut bytes, n);
        }
        put_long(&mut bytes, 0);
        put_long(&mut bytes, 1);
        put_bytes(&mut bytes, b"k");
        bytes.extend_from_slice(&1.5_f64.to_le_bytes());
        put_long(&mut bytes, 0);
        let mut seen = Vec::new();
        let end = walk(&schema, schema.root(), &bytes, 1, |field, item| {
            match field.id {
                Some(1) => seen.push(text(&schema, &item, &bytes)?.to_owned()),
                Some(2) => elements(&schema, &item, &bytes, |n| {
                    seen.push(long(&schema, &n, &bytes)?.to_string());
                    Ok(())
                })?,
                Some(3) => assert!(item.is_null(&schema)),
                _ => {}
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(end, bytes.len());
        assert_eq!(seen, ["hello", "7", "8", "9"]);
        for cut in 1..bytes.len() {
            assert!(walk(&schema, schema.root(), &bytes[..cut], 1, |_, _| Ok(())).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_count_is_refused() {
        let schema = Schema::parse(
            br#"{"type":"record","name":"r","fields":[{"name":"a","type":{"type":"array","items":"null"}}]}"#,
        )
        .unwrap();
        for count in [i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_long(&mut bytes, count);
            bytes.extend_from_slice(&[0; 8]);
            assert!(walk(&schema, schema.root(), &bytes, 0, |_, _| Ok(())).is_err());
        }
    }
}
