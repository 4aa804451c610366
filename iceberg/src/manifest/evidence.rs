//! [`Evidence`]: what an entry tells of the rows in its file. Read only for who asks for it: most readers of a manifest
//! want to know which files there are.
use super::metrics::{LOWER, Metrics, NANS, NULLS, UPPER, VALUES};
use crate::avro::{AvroError, Item, Kind, Schema, bytes, long, records, walk};

/// What an entry tells of the rows in its file, still in the bytes of the manifest.
pub(crate) struct Evidence<'a> {
    /// The partition spec of the manifest, where it tells that.
    pub spec: Option<i64>,
    pub(super) schema: &'a Schema,
    pub(super) content: &'a [u8],
    pub(super) partition: Option<&'a Item>,
    pub(super) metrics: &'a Metrics,
}

/// What is told of a column of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ColumnMetrics<'a> {
    /// How many values it has, nulls included.
    pub values: Option<i64>,
    /// How many of them are null.
    pub nulls: Option<i64>,
    /// How many are NaN.
    pub nans: Option<i64>,
    /// No value is less, serialised.
    pub lower: Option<&'a [u8]>,
    /// No value is greater.
    pub upper: Option<&'a [u8]>,
}

/// A value of a partition, as far as Avro tells its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PartitionValue<'a> {
    Null,
    Boolean(bool),
    Long(i64),
    /// Days since 1970.
    Date(i64),
    Float(f64),
    /// Text or bytes.
    Bytes(&'a [u8]),
}

impl<'a> Evidence<'a> {
    /// What is told of some columns, in their order.
    pub fn columns(&self, ids: &[i32]) -> Result<Vec<ColumnMetrics<'a>>, AvroError> {
        let mut columns = vec![ColumnMetrics::default(); ids.len()];
        if ids.is_empty() {
            return Ok(columns);
        }
        for map in [VALUES, NULLS, NANS, LOWER, UPPER] {
            let Some(item) = self.metrics.map(map) else { continue };
            records(self.schema, item, self.content, |node, at| {
                let (mut key, mut value) = (None, None);
                let end = walk(self.schema, node, self.content, at, |field, item| {
                    match field.name.as_str() {
                        "key" => key = long(self.schema, &item, self.content).ok(),
                        "value" => value = Some(item),
                        _ => {}
                    }
                    Ok(())
                })?;
                let asked = key.and_then(|key| ids.iter().position(|id| i64::from(*id) == key));
                let (Some(asked), Some(value)) = (asked, value) else { return Ok(end) };
                // What is of another type than it should be tells nothing.
                let count = || long(self.schema, &value, self.content).ok().filter(|count| *count >= 0);
                let bound = || bytes(self.schema, &value, self.content).ok();
                let column = &mut columns[asked];
                match map {
                    VALUES => column.values = count(),
                    NULLS => column.nulls = count(),
                    NANS => column.nans = count(),
                    LOWER => column.lower = bound(),
                    _ => column.upper = bound(),
                }
                Ok(end)
            })?;
        }
        Ok(columns)
    }

    /// The values of the partition, by the numbers of its fields.
    pub fn partition(&self) -> Result<Vec<(i32, PartitionValue<'a>)>, AvroError> {
        let mut values = Vec::new();
        let Some(item) = self.partition else { return Ok(values) };
        walk(self.schema, item.node, self.content, item.range.start, |field, value| {
            if let (Some(id), Some(value)) = (field.id, self.value(&value)?) {
                values.push((id, value));
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// `None`: of no type that a partition has.
    fn value(&self, item: &Item) -> Result<Option<PartitionValue<'a>>, AvroError> {
        let raw = self.content.get(item.range.clone()).unwrap_or_default();
        Ok(match self.schema.kind(item.node) {
            Kind::Null => Some(PartitionValue::Null),
            Kind::Boolean => Some(PartitionValue::Boolean(raw != [0])),
            Kind::Long => Some(PartitionValue::Long(long(self.schema, item, self.content)?)),
            Kind::Date => Some(PartitionValue::Date(long(self.schema, item, self.content)?)),
            Kind::Float => {
                raw.try_into().ok().map(|raw| PartitionValue::Float(f32::from_le_bytes(raw).into()))
            }
            Kind::Double => raw.try_into().ok().map(|raw| PartitionValue::Float(f64::from_le_bytes(raw))),
            Kind::Fixed(_) => Some(PartitionValue::Bytes(raw)),
            Kind::Bytes | Kind::String => {
                Some(PartitionValue::Bytes(bytes(self.schema, item, self.content)?))
            }
            Kind::Array(_) | Kind::Map(_) | Kind::Union(_) | Kind::Record(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter_manifest;
    use super::*;
    use crate::avro::{container, put_bytes, put_long};

    /// An entry with a partition of each type and metrics of three columns, in blocks as Avro allows.
    fn manifest() -> Vec<u8> {
        let map = |name: &str, id: i32, value: &str| {
            format!(
                r#"{{"name":"{name}","field-id":{id},"type":["null",{{"type":"array","logicalType":"map","items":{{"type":"record","name":"kv{id}","fields":[{{"name":"key","type":"int"}},{{"name":"value","type":"{value}"}}]}}}}]}}"#
            )
        };
        let kinds = [
            r#""boolean""#,
            r#"["null","long"]"#,
            r#"["null",{"type":"int","logicalType":"date"}]"#,
            r#""float""#,
            r#""double""#,
            r#""string""#,
            r#"{"type":"fixed","name":"f","size":2}"#,
            r#""bytes""#,
            r#"["null","int"]"#,
        ];
        let field =
            |(n, kind): (usize, &&str)| format!(r#"{{"name":"p{n}","field-id":{},"type":{kind}}}"#, 1000 + n);
        let partition: Vec<String> = kinds.iter().enumerate().map(field).collect();
        let schema = format!(
            r#"{{"type":"record","name":"e","fields":[{{"name":"status","type":"int","field-id":0}},{{"name":"data_file","field-id":2,"type":{{"type":"record","name":"r2","fields":[{{"name":"file_path","type":"string","field-id":100}},{{"name":"file_format","type":"string","field-id":101}},{{"name":"partition","field-id":102,"type":{{"type":"record","name":"r102","fields":[{}]}}}},{{"name":"file_size_in_bytes","type":"long","field-id":104}},{},{},{},{},{}]}}}}]}}"#,
            partition.join(","),
            map("value_counts", VALUES, "long"),
            map("null_value_counts", NULLS, "long"),
            map("nan_value_counts", NANS, "long"),
            map("lower_bounds", LOWER, "bytes"),
            map("upper_bounds", UPPER, "long"),
        );
        let mut content = Vec::new();
        put_long(&mut content, 1);
        put_bytes(&mut content, b"s3://b/d");
        put_bytes(&mut content, b"PARQUET");
        content.push(1);
        put_long(&mut content, 1);
        put_long(&mut content, -7);
        put_long(&mut content, 1);
        put_long(&mut content, 20_463);
        content.extend_from_slice(&0.5_f32.to_le_bytes());
        content.extend_from_slice(&f64::INFINITY.to_le_bytes());
        put_bytes(&mut content, "é".as_bytes());
        content.extend_from_slice(&[1, 2]);
        put_bytes(&mut content, &[3]);
        put_long(&mut content, 0);
        put_long(&mut content, 99);
        // Values: in two blocks, the first of which states its size. Nulls: fewer than none.
        for n in [1, -1, 2, 5, 10, 1, 7, 20, 0, 1, 1, 5, -3, 0, 0, 1, 1, 5] {
            put_long(&mut content, n);
        }
        put_bytes(&mut content, b"low");
        // Bounds that are none.
        for n in [0, 1, 1, 5, 3, 0] {
            put_long(&mut content, n);
        }
        container(&schema, &[("partition-spec-id", "3")], 1, &content)
    }

    #[test]
    fn what_is_asked_for_is_told() {
        let entries = filter_manifest(&manifest(), "m", |entry, evidence| {
            assert_eq!((entry.path.as_str(), entry.size, evidence.spec), ("s3://b/d", 99, Some(3)));
            let columns = evidence.columns(&[5, 6, 7])?;
            let five = ColumnMetrics { values: Some(10), lower: Some(b"low"), ..ColumnMetrics::default() };
            let seven = ColumnMetrics { values: Some(20), ..ColumnMetrics::default() };
            assert_eq!(columns, [five, ColumnMetrics::default(), seven]);
            assert_eq!(evidence.columns(&[])?, []);
            let expected = [
                PartitionValue::Boolean(true),
                PartitionValue::Long(-7),
                PartitionValue::Date(20_463),
                PartitionValue::Float(0.5),
                PartitionValue::Float(f64::INFINITY),
                PartitionValue::Bytes("é".as_bytes()),
                PartitionValue::Bytes(&[1, 2]),
                PartitionValue::Bytes(&[3]),
                PartitionValue::Null,
            ];
            assert_eq!(evidence.partition()?, Vec::from_iter((1000..).zip(expected)));
            Ok(false)
        });
        assert_eq!(entries.unwrap(), []);
        assert_eq!(filter_manifest(&manifest(), "m", |_, _| Ok(true)).unwrap().len(), 1);
        assert!(filter_manifest(b"Obj", "m", |_, _| Ok(true)).is_err());
    }
}
