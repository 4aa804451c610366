//! [`PartitionSpec`]: of which columns the partition of a file is made, and how.
use super::Metadata;
use crate::document::Object;
use crate::error::TableError;
use serde_json::Value;
use std::collections::HashMap;

/// The number of the first partition field, where the metadata does not tell them.
const FIRST_FIELD: i64 = 1000;

/// What becomes a partition value of a value of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transform {
    Identity,
    /// Its hash modulo this.
    Bucket(u32),
    /// So many of its first characters, or the next smaller multiple.
    Truncate(u32),
    Year,
    Month,
    Day,
    Hour,
}

/// A value of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionField {
    /// Its number in the partition of a file.
    pub id: i32,
    /// The column it is made from.
    pub source: i32,
    /// How.
    pub transform: Transform,
}

/// The partition fields of one spec, as far as they tell something of a column that is known here.
pub(crate) type PartitionSpec = Vec<PartitionField>;

impl Metadata {
    /// All partition specs by their numbers: each manifest is written by one of them.
    pub(crate) fn partition_specs(&self) -> Result<HashMap<i64, PartitionSpec>, TableError> {
        self.specs().map_err(|why| TableError::malformed("partition specs of the table", why))
    }

    fn specs(&self) -> Result<HashMap<i64, PartitionSpec>, String> {
        let mut specs = HashMap::new();
        for spec in self.object.get::<Vec<Object>>("partition-specs")?.unwrap_or_default() {
            specs.insert(spec.need("spec-id")?, fields(&spec.need::<Vec<Value>>("fields")?));
        }
        if let (true, Some(only)) = (specs.is_empty(), self.object.get::<Vec<Value>>("partition-spec")?) {
            specs.insert(self.object.get("default-spec-id")?.unwrap_or(0), fields(&only));
        }
        Ok(specs)
    }
}

fn fields(fields: &[Value]) -> PartitionSpec {
    let number = |value: i64| i32::try_from(value).ok();
    let field = |(n, field): (i64, &Value)| {
        Some(PartitionField {
            id: number(field["field-id"].as_i64().unwrap_or(FIRST_FIELD + n))?,
            // What is made of several columns tells of none of them alone.
            source: number(field["source-id"].as_i64()?)?,
            transform: transform(field["transform"].as_str()?)?,
        })
    };
    (0..).zip(fields).filter_map(field).collect()
}

/// `None`: it tells nothing (`void`), or is not known.
fn transform(text: &str) -> Option<Transform> {
    let (name, number) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, number)) => (name, number.trim().parse().ok().filter(|number| *number > 0)),
        None => (text, None),
    };
    Some(match (name, number) {
        ("identity", None) => Transform::Identity,
        ("bucket", Some(buckets)) => Transform::Bucket(buckets),
        ("truncate", Some(width)) => Transform::Truncate(width),
        ("year", None) => Transform::Year,
        ("month", None) => Transform::Month,
        ("day", None) => Transform::Day,
        ("hour", None) => Transform::Hour,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(text: &str) -> HashMap<i64, PartitionSpec> {
        let text = format!(r#"{{"format-version":1,"location":"s3://b/t","last-updated-ms":1,{text}}}"#);
        Metadata::parse(text.as_bytes(), "x").unwrap().partition_specs().unwrap()
    }

    #[test]
    fn each_spec_has_the_fields_that_tell_something() {
        let all = specs(
            r#""partition-specs":[{"spec-id":0,"fields":[]},{"spec-id":3,"fields":[
                {"source-id":1,"field-id":1000,"name":"a","transform":"identity"},
                {"source-id":2,"field-id":1001,"name":"b","transform":"void"},
                {"source-id":2,"field-id":1002,"name":"c","transform":"bucket[16]"},
                {"source-id":2,"field-id":1003,"name":"d","transform":"truncate[0]"},
                {"source-ids":[1,2],"field-id":1004,"name":"e","transform":"bucket[4]"},
                {"source-id":3,"field-id":1005,"name":"f","transform":"hour"},
                {"source-id":3,"field-id":1006,"name":"g","transform":"zorder"}]}]"#,
        );
        let field = |id, source, transform| PartitionField { id, source, transform };
        assert_eq!(all[&0], []);
        assert_eq!(
            all[&3],
            [
                field(1000, 1, Transform::Identity),
                field(1002, 2, Transform::Bucket(16)),
                field(1005, 3, Transform::Hour)
            ]
        );
    }

    #[test]
    fn the_only_spec_of_an_old_table_may_not_tell_its_numbers() {
        let all = specs(
            r#""partition-spec":[{"source-id":1,"name":"a","transform":"void"},{"source-id":2,"name":"b","transform":"truncate[4]"}]"#,
        );
        assert_eq!(all[&0], [PartitionField { id: 1001, source: 2, transform: Transform::Truncate(4) }]);
    }
}
