//! [`Fields`]: the current schema of a table, every field of it by number and by the name that people write.
use super::Metadata;
use super::kind::Type;
use crate::document::Object;
use crate::error::TableError;
use serde_json::Value;
use std::collections::HashMap;

/// The most fields of a schema, nested ones included.
const FIELDS_MAX: usize = 100_000;
/// The deepest nesting of fields.
const DEPTH_MAX: usize = 64;
/// The most that all dotted names have together, in bytes: a nested name repeats those that it is in.
const NAMES_MAX_BYTES: usize = 32 << 20;
/// So many names stand in an error message, at most.
const NAMES_SHOWN: usize = 20;

/// A field of a schema.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Field {
    /// Its number, which stays when it is renamed or moved.
    pub id: i32,
    /// Its name as people write it: `a`, `address.city`, `tags.element`, `m.key`, `m.value`.
    pub name: String,
    /// What it holds.
    pub kind: Type,
    /// Whether it is never null, where that which it is in is not.
    pub required: bool,
    /// Whether it lies in a list or a map: a row has any number of it.
    pub repeated: bool,
    /// Whether it lies in another field.
    pub nested: bool,
    /// Where the fields within it end, in the order of the schema.
    end: usize,
}

/// The fields of a schema, in its order, each before those in it.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    all: Vec<Field>,
    by_id: HashMap<i32, usize>,
    by_name: HashMap<String, usize>,
    /// Names without `element` and `value` before the fields of a struct, as Iceberg takes them, too.
    short: HashMap<String, usize>,
    /// Names in lower case; `None`: several have this one.
    lower: HashMap<String, Option<usize>>,
}

impl Fields {
    /// A field by its name: exactly; or else whatever its case, where only one is called so.
    pub fn find(&self, name: &str) -> Option<&Field> {
        let exact = self.by_name.get(name).or_else(|| self.short.get(name)).copied();
        let at = exact.or_else(|| self.lower.get(&name.to_lowercase()).copied().flatten())?;
        self.all.get(at)
    }

    /// A field by its number.
    pub fn get(&self, id: i32) -> Option<&Field> {
        self.all.get(*self.by_id.get(&id)?)
    }

    /// The numbers of all primitive fields at or below a field: what a Parquet file calls its columns.
    pub fn leaves(&self, id: i32) -> Vec<i32> {
        let Some(&at) = self.by_id.get(&id) else { return Vec::new() };
        let within = self.all.get(at..self.all[at].end).unwrap_or_default();
        within.iter().filter(|field| field.kind.is_primitive()).map(|field| field.id).collect()
    }

    /// The column that a field is, or lies in.
    pub fn column_of(&self, id: i32) -> Option<&Field> {
        let at = *self.by_id.get(&id)?;
        self.all.get(..=at)?.iter().rfind(|field| !field.nested)
    }

    /// All names, in the order of the schema.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|field| field.name.as_str())
    }

    /// Some names, for an error message: `a, b, c`, and how many others there are.
    pub fn some_names(&self) -> String {
        let shown: Vec<&str> = self.names().take(NAMES_SHOWN).collect();
        match self.all.len() - shown.len() {
            0 => shown.join(", "),
            more => format!("{}, and {more} more", shown.join(", ")),
        }
    }
}

impl Metadata {
    /// The current schema. Read anew with every call.
    ///
    /// # Errors
    /// [`TableError::Malformed`], [`TableError::TooLarge`].
    pub fn fields(&self) -> Result<Fields, TableError> {
        let schema =
            self.current_schema().map_err(|why| TableError::malformed("schema of the table", why))?;
        let mut builder = Builder::default();
        builder.fields(&schema, &Above::default())?;
        Ok(builder.finished())
    }

    /// The fields of the current schema; those of `schema` alone in tables that know only one.
    fn current_schema(&self) -> Result<Value, String> {
        let schemas: Vec<Object> = self.object.get("schemas")?.unwrap_or_default();
        for schema in &schemas {
            if self.schema_id.is_some() && schema.get::<i64>("schema-id")? == self.schema_id {
                return schema.need("fields");
            }
        }
        match (self.object.get::<Object>("schema")?, self.schema_id) {
            (Some(schema), None) => schema.need("fields"),
            (Some(schema), _) if schemas.is_empty() => schema.need("fields"),
            _ => Err("'current-schema-id' is that of no schema".into()),
        }
    }
}

/// What is above a field.
#[derive(Default)]
struct Above {
    /// The names before its own, a dot behind each.
    prefix: String,
    /// The same without `element` and `value`.
    short: String,
    depth: usize,
    repeated: bool,
}

/// What a field of a struct, a list or a map is.
#[derive(Clone, Copy)]
struct Part<'a> {
    id: &'a Value,
    name: &'a str,
    kind: &'a Value,
    required: bool,
    /// Whether its name is left out of the short names of what it holds.
    implied: bool,
}

#[derive(Default)]
struct Builder {
    fields: Fields,
    /// Which have a short name of their own, by where they are.
    short: Vec<(String, usize)>,
    bytes: usize,
}

fn fault(why: impl Into<String>) -> TableError {
    TableError::malformed("schema of the table", why)
}

impl Builder {
    fn fields(&mut self, fields: &Value, above: &Above) -> Result<(), TableError> {
        let fields = fields.as_array().ok_or_else(|| fault("'fields' is not a list"))?;
        for field in fields {
            let name = field["name"].as_str().ok_or_else(|| fault("a field has no name"))?;
            let required = field["required"].as_bool().unwrap_or(false);
            self.field(
                Part { id: &field["id"], name, kind: &field["type"], required, implied: false },
                above,
            )?;
        }
        Ok(())
    }

    fn field(&mut self, part: Part<'_>, above: &Above) -> Result<(), TableError> {
        let too_large = |what: &str, size: usize, limit: usize| {
            Err(TableError::TooLarge { what: what.into(), size: size as u64, limit: limit as u64 })
        };
        let (at, name) = (self.fields.all.len(), format!("{}{}", above.prefix, part.name));
        self.bytes += name.len();
        if at >= FIELDS_MAX {
            return too_large("number of fields of the schema", at + 1, FIELDS_MAX);
        }
        if above.depth >= DEPTH_MAX {
            return too_large("nesting of the schema", above.depth + 1, DEPTH_MAX);
        }
        if self.bytes > NAMES_MAX_BYTES {
            return too_large("length of all names of the schema", self.bytes, NAMES_MAX_BYTES);
        }
        let id = part.id.as_i64().and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| fault(format!("field '{name}' has no number")))?;
        if self.fields.by_id.insert(id, at).is_some() {
            return Err(fault(format!("two fields have the number {id}")));
        }
        let kind = match (part.kind.as_str(), part.kind["type"].as_str()) {
            (Some(primitive), _) => Type::primitive(primitive),
            (None, Some("struct")) => Type::Struct,
            (None, Some("list")) => Type::List,
            (None, Some("map")) => Type::Map,
            _ => return Err(fault(format!("field '{name}' has a type that is none"))),
        };
        let short = format!("{}{}", above.short, part.name);
        if above.short != above.prefix {
            self.short.push((short.clone(), at));
        }
        let within = Above {
            prefix: format!("{name}."),
            short: match part.implied && kind == Type::Struct {
                true => above.short.clone(),
                false => format!("{short}."),
            },
            depth: above.depth + 1,
            repeated: above.repeated || matches!(kind, Type::List | Type::Map),
        };
        let (repeated, nested) = (above.repeated, above.depth > 0);
        self.fields.all.push(Field {
            id,
            name,
            kind: kind.clone(),
            required: part.required,
            repeated,
            nested,
            end: 0,
        });
        self.within(&kind, part.kind, &within)?;
        self.fields.all[at].end = self.fields.all.len();
        Ok(())
    }

    /// The fields that a field holds.
    fn within(&mut self, kind: &Type, holds: &Value, above: &Above) -> Result<(), TableError> {
        let part = |name: &'static str, implied: bool| {
            let required = match name {
                "key" => true,
                name => holds[format!("{name}-required")].as_bool().unwrap_or(false),
            };
            Part { id: &holds[format!("{name}-id")], name, kind: &holds[name], required, implied }
        };
        match kind {
            Type::Struct => self.fields(&holds["fields"], above),
            Type::List => self.field(part("element", true), above),
            Type::Map => {
                self.field(part("key", false), above)?;
                self.field(part("value", true), above)
            }
            _ => Ok(()),
        }
    }

    fn finished(self) -> Fields {
        let mut fields = self.fields;
        for (at, field) in fields.all.iter().enumerate() {
            // Of two of one name, which the format forbids, the first.
            fields.by_name.entry(field.name.clone()).or_insert(at);
            let other = fields.lower.entry(field.name.to_lowercase()).or_insert(Some(at));
            if *other != Some(at) {
                *other = None;
            }
        }
        for (short, at) in self.short {
            fields.short.entry(short).or_insert(at);
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(schemas: &str) -> Metadata {
        let text = format!(
            r#"{{"format-version":2,"location":"s3://b/t","last-updated-ms":1,"partition-specs":[],{schemas}}}"#
        );
        Metadata::parse(text.as_bytes(), "x").unwrap()
    }

    fn schema(fields: &str) -> Result<Fields, TableError> {
        let one = format!(r#"{{"type":"struct","schema-id":7,"fields":{fields}}}"#);
        metadata(&format!(r#""current-schema-id":7,"schemas":[{{"schema-id":0}},{one}]"#)).fields()
    }

    const NESTED: &str = r#"[
        {"id":1,"name":"a","required":true,"type":"long"},
        {"id":2,"name":"address","required":false,"type":{"type":"struct","fields":[
            {"id":3,"name":"City","required":false,"type":"string"},
            {"id":4,"name":"at","required":true,"type":{"type":"struct","fields":[
                {"id":5,"name":"x","required":true,"type":"decimal(9, 2)"},
                {"id":6,"name":"y","required":true,"type":"fixed[16]"}]}}]}},
        {"id":7,"name":"tags","required":false,"type":{"type":"list","element-id":8,"element-required":false,"element":"string"}},
        {"id":9,"name":"m","required":false,"type":{"type":"map","key-id":10,"key":"string","value-id":11,"value-required":true,
            "value":{"type":"struct","fields":[{"id":12,"name":"v","required":true,"type":"timestamptz_ns"}]}}},
        {"id":13,"name":"g","required":false,"type":"geometry(srid:4326)"}]"#;

    #[test]
    fn fields_are_found_as_people_write_them() {
        let fields = schema(NESTED).unwrap();
        let id = |name: &str| fields.find(name).map(|field| field.id);
        for (name, expected) in [
            ("a", 1),
            ("A", 1),
            ("address.City", 3),
            ("ADDRESS.city", 3),
            ("address.at.y", 6),
            ("tags.element", 8),
            ("m.key", 10),
            ("m.value", 11),
            ("m.value.v", 12),
            ("m.v", 12),
        ] {
            assert_eq!(id(name), Some(expected), "{name}");
        }
        assert_eq!((id("City"), id("m.key.v"), id("")), (None, None, None));
        assert_eq!(fields.leaves(2), [3, 5, 6]);
        assert_eq!(fields.leaves(9), [10, 12]);
        assert_eq!((fields.leaves(8), fields.leaves(77)), (vec![8], vec![]));
        let kinds: Vec<String> = fields.all.iter().map(|field| field.kind.to_string()).collect();
        assert_eq!(
            kinds.join(" "),
            "long struct string struct decimal(9, 2) fixed[16] list string map string struct timestamptz_ns geometry(srid:4326)"
        );
        let repeated: Vec<i32> =
            fields.all.iter().filter(|field| field.repeated).map(|field| field.id).collect();
        assert_eq!(repeated, [8, 10, 11, 12]);
        assert!(fields.get(5).unwrap().nested && !fields.get(7).unwrap().nested);
        assert!(fields.get(10).unwrap().required && !fields.get(8).unwrap().required);
        assert!(fields.some_names().starts_with("a, address, address.City, "), "{}", fields.some_names());
    }

    #[test]
    fn a_name_of_two_in_another_case_is_of_none() {
        let fields = schema(
            r#"[{"id":1,"name":"A","type":"int"},{"id":2,"name":"a","type":"int"},{"id":3,"name":"É","type":"int"}]"#,
        );
        let fields = fields.unwrap();
        let id = |name: &str| fields.find(name).map(|field| field.id);
        assert_eq!((id("A"), id("a"), id("é")), (Some(1), Some(2), Some(3)));
        let fields =
            schema(r#"[{"id":1,"name":"Ab","type":"int"},{"id":2,"name":"aB","type":"int"}]"#).unwrap();
        assert!(fields.find("ab").is_none());
        let many: Vec<String> =
            (0..30).map(|n| format!(r#"{{"id":{n},"name":"c{n}","type":"int"}}"#)).collect();
        assert!(schema(&format!("[{}]", many.join(","))).unwrap().some_names().ends_with("c19, and 10 more"));
    }

    #[test]
    fn the_only_schema_of_an_old_table_is_the_current_one() {
        let one = r#""schema":{"type":"struct","fields":[{"id":1,"name":"a","type":"int"}]}"#;
        assert_eq!(metadata(one).fields().unwrap().names().collect::<Vec<_>>(), ["a"]);
        assert!(metadata(r#""schemas":[],"current-schema-id":1"#).fields().is_err());
        assert!(
            metadata(r#""schemas":[{"schema-id":0,"fields":[]}],"current-schema-id":1"#).fields().is_err()
        );
    }

    #[test]
    fn what_is_no_schema_or_too_much_is_refused() {
        for fields in [
            "7",
            "[7]",
            r#"[{"id":1}]"#,
            r#"[{"id":1,"name":"a"}]"#,
            r#"[{"name":"a","type":"int"}]"#,
            r#"[{"id":9999999999,"name":"a","type":"int"}]"#,
            r#"[{"id":1,"name":"a","type":{"type":"heap"}}]"#,
            r#"[{"id":1,"name":"a","type":"int"},{"id":1,"name":"b","type":"int"}]"#,
            r#"[{"id":1,"name":"a","type":{"type":"list","element":"int"}}]"#,
        ] {
            assert!(matches!(schema(fields), Err(TableError::Malformed { .. })), "{fields}");
        }
        let list = |depth: usize| {
            let open: String =
                (0..depth).map(|n| format!(r#"{{"type":"list","element-id":{n},"element":"#)).collect();
            format!(r#"[{{"id":-1,"name":"l","type":{open}"int"{}}}]"#, "}".repeat(depth))
        };
        assert!(schema(&list(60)).is_ok());
        assert!(matches!(schema(&list(64)), Err(TableError::TooLarge { .. })));
        assert!(schema(&list(1000)).is_err());
        let many: Vec<String> =
            (0..=FIELDS_MAX).map(|n| format!(r#"{{"id":{n},"name":"c","type":"int"}}"#)).collect();
        assert!(matches!(schema(&format!("[{}]", many.join(","))), Err(TableError::TooLarge { .. })));
        // A name is repeated in those of the fields below it.
        let long = "x".repeat(1 << 20);
        let below: Vec<String> =
            (1..40).map(|n| format!(r#"{{"id":{n},"name":"c","type":"int"}}"#)).collect();
        let below = below.join(",");
        let wide = format!(r#"[{{"id":0,"name":"{long}","type":{{"type":"struct","fields":[{below}]}}}}]"#);
        assert!(matches!(schema(&wide), Err(TableError::TooLarge { .. })));
    }
}
