//! [`Schema`]: the schema of one file, as far as it says where a field lies.
use super::AvroError;
use serde_json::Value;
use std::collections::HashMap;

/// The most types in a schema. A manifest of a table of 1,000 partition fields has some thousands.
const NODES_MAX: usize = 100_000;
/// The deepest nesting of types.
pub(super) const DEPTH_MAX: usize = 64;

/// A type of a schema: its place there.
pub(crate) type Node = u32;

/// What a value looks like in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// No bytes.
    Null,
    /// One byte.
    Boolean,
    /// A number of variable length: int, long; and the position in an enumeration.
    Long,
    /// Days since 1970.
    Date,
    /// Four bytes.
    Float,
    /// Eight bytes.
    Double,
    /// A length and as many bytes.
    Bytes,
    /// The same, in UTF-8.
    String,
    /// So many bytes.
    Fixed(usize),
    /// Blocks of values.
    Array(Node),
    /// Blocks of strings and values.
    Map(Node),
    /// The number of a type, then its value.
    Union(Vec<Node>),
    /// Values, one after the other.
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    /// The field id of Iceberg, where the schema tells it.
    pub id: Option<i32>,
    /// The name.
    pub name: String,
    /// The type.
    pub node: Node,
}

/// The types of one file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schema {
    nodes: Vec<Kind>,
    root: Node,
}

impl Schema {
    /// Reads it from its JSON.
    pub fn parse(json: &[u8]) -> Result<Self, AvroError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|_| AvroError::Malformed("schema is not JSON"))?;
        let mut parser = Parser { nodes: Vec::new(), names: HashMap::new() };
        let root = parser.node(&value, "", 0)?;
        Ok(Self { nodes: parser.nodes, root })
    }

    /// The type of a value of the file.
    pub fn root(&self) -> Node {
        self.root
    }

    /// A type.
    pub fn kind(&self, node: Node) -> &Kind {
        &self.nodes[node as usize]
    }
}

struct Parser {
    nodes: Vec<Kind>,
    names: HashMap<String, Node>,
}

impl Parser {
    fn add(&mut self, kind: Kind) -> Result<Node, AvroError> {
        if self.nodes.len() >= NODES_MAX {
            return Err(AvroError::Malformed("schema has too many types"));
        }
        self.nodes.push(kind);
        Ok((self.nodes.len() - 1) as Node)
    }

    fn node(&mut self, value: &Value, space: &str, depth: usize) -> Result<Node, AvroError> {
        if depth > DEPTH_MAX {
            return Err(AvroError::Malformed("schema is nested too deeply"));
        }
        match value {
            Value::String(name) => self.named(name, space),
            Value::Array(types) => {
                let types = types.iter().map(|t| self.node(t, space, depth + 1)).collect::<Result<_, _>>()?;
                self.add(Kind::Union(types))
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(name)) => self.complex(name, value, space, depth),
                Some(inner) => self.node(inner, space, depth + 1),
                None => Err(AvroError::Malformed("schema has a type without a kind")),
            },
            _ => Err(AvroError::Malformed("schema has a type that is none")),
        }
    }

    fn named(&mut self, name: &str, space: &str) -> Result<Node, AvroError> {
        if let Some(kind) = primitive(name) {
            return self.add(kind);
        }
        let full = full_name(name, space);
        self.names
            .get(&full)
            .or_else(|| self.names.get(name))
            .copied()
            .ok_or(AvroError::Malformed("schema refers to a type that it does not define"))
    }

    fn complex(&mut self, kind: &str, value: &Value, space: &str, depth: usize) -> Result<Node, AvroError> {
        let missing = AvroError::Malformed("schema has a type that lacks a part");
        match kind {
            "array" => {
                let items = self.node(value.get("items").ok_or(missing)?, space, depth + 1)?;
                self.add(Kind::Array(items))
            }
            "map" => {
                let values = self.node(value.get("values").ok_or(missing)?, space, depth + 1)?;
                self.add(Kind::Map(values))
            }
            "record" | "error" | "enum" | "fixed" => {
                let name = value.get("name").and_then(Value::as_str).ok_or(missing.clone())?;
                let own = value.get("namespace").and_then(Value::as_str).unwrap_or(space);
                let full = full_name(name, own);
                let space = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
                let size = || value.get("size").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
                let node = match kind {
                    "enum" => self.add(Kind::Long)?,
                    "fixed" => self.add(Kind::Fixed(size().ok_or(missing.clone())?))?,
                    // A name before its fields: they may refer to it.
                    _ => self.add(Kind::Record(Vec::new()))?,
                };
                self.names.insert(full, node);
                if matches!(kind, "record" | "error") {
                    let fields = value.get("fields").and_then(Value::as_array).ok_or(missing)?;
                    let fields =
                        fields.iter().map(|f| self.field(f, &space, depth)).collect::<Result<_, _>>()?;
                    self.nodes[node as usize] = Kind::Record(fields);
                }
                Ok(node)
            }
            "int" if value.get("logicalType").and_then(Value::as_str) == Some("date") => self.add(Kind::Date),
            name => self.named(name, space),
        }
    }

    fn field(&mut self, value: &Value, space: &str, depth: usize) -> Result<Field, AvroError> {
        let missing = AvroError::Malformed("schema has a field without name or type");
        let name = value.get("name").and_then(Value::as_str).ok_or(missing.clone())?.to_owned();
        let node = self.node(value.get("type").ok_or(missing)?, space, depth + 1)?;
        let id = value.get("field-id").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
        Ok(Field { id, name, node })
    }
}

fn primitive(name: &str) -> Option<Kind> {
    Some(match name {
        "null" => Kind::Null,
        "boolean" => Kind::Boolean,
        "int" | "long" => Kind::Long,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "bytes" => Kind::Bytes,
        "string" => Kind::String,
        _ => return None,
    })
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_ids_and_names_refer() {
        let schema = Schema::parse(
            br#"{"type":"record","name":"r","namespace":"n","fields":[
                {"name":"a","type":["null",{"type":"fixed","name":"f","size":4}],"field-id":100},
                {"name":"b","type":"f","field-id":2147483546},
                {"name":"c","type":{"type":"array","items":"r"}},
                {"name":"d","type":{"type":"int","logicalType":"date"}}]}"#,
        )
        .unwrap();
        let Kind::Record(fields) = schema.kind(schema.root()) else { panic!("a record") };
        assert_eq!(
            fields.iter().map(|f| f.id).collect::<Vec<_>>(),
            [Some(100), Some(2147483546), None, None]
        );
        assert_eq!(schema.kind(fields[1].node), &Kind::Fixed(4));
        assert_eq!(schema.kind(fields[2].node), &Kind::Array(schema.root()));
        assert_eq!(schema.kind(fields[3].node), &Kind::Date);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let deep = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(100), "}".repeat(100));
        for json in [
            "",
            "1",
            "{}",
            r#""unknown""#,
            r#"{"type":"fixed","name":"f"}"#,
            r#"{"type":"record","name":"r"}"#,
            &deep,
        ] {
            assert!(Schema::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
