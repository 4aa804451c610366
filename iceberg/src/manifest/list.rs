//! Manifest lists.
use super::{MANIFESTS_MAX, fault};
use crate::avro::{AvroError, Container, Item, long, put_bytes, put_long, text, walk};
use crate::error::TableError;

const PATH: i32 = 500;
const LENGTH: i32 = 501;
const SPEC: i32 = 502;
const CONTENT: i32 = 517;
const KEY: i32 = 519;

/// A manifest, as a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedManifest {
    /// Where it is, as written.
    pub path: String,
    /// How many bytes it has, as written.
    pub length: u64,
    /// Whether it lists deletes.
    pub deletes: bool,
    /// The partition spec it is written by.
    pub spec: i64,
}

#[derive(Default)]
struct Fields {
    path: Option<Item>,
    length: Option<Item>,
    content: Option<Item>,
    spec: Option<Item>,
    encrypted: bool,
}

fn fields(list: &Container<'_>, content: &[u8], at: usize) -> Result<(Fields, usize), AvroError> {
    let mut fields = Fields::default();
    let end = walk(&list.schema, list.schema.root(), content, at, |field, item| {
        let present = !item.is_null(&list.schema);
        match field.id {
            Some(PATH) => fields.path = Some(item),
            Some(LENGTH) => fields.length = Some(item),
            Some(SPEC) if present => fields.spec = Some(item),
            Some(CONTENT) if present => fields.content = Some(item),
            Some(KEY) => fields.encrypted = present,
            _ => {}
        }
        Ok(())
    })?;
    Ok((fields, end))
}

/// The manifests of a list, in order. `name` is for the errors.
pub(crate) fn read_list(bytes: &[u8], name: &str) -> Result<Vec<ListedManifest>, TableError> {
    let fault = fault("manifest list", name);
    let list = Container::parse(bytes).map_err(&fault)?;
    let mut out = Vec::new();
    let mut encrypted = false;
    list.records(|content, at| {
        let (fields, end) = fields(&list, content, at)?;
        let path =
            fields.path.ok_or(AvroError::Malformed("its schema has no field 500, the path of a manifest"))?;
        let length = fields
            .length
            .ok_or(AvroError::Malformed("its schema has no field 501, the length of a manifest"))?;
        encrypted |= fields.encrypted;
        if out.len() >= MANIFESTS_MAX {
            return Err(AvroError::Malformed("it has too many manifests"));
        }
        out.push(ListedManifest {
            path: text(&list.schema, &path, content)?.to_owned(),
            length: u64::try_from(long(&list.schema, &length, content)?).unwrap_or(0),
            deletes: match fields.content {
                Some(item) => long(&list.schema, &item, content)? == 1,
                None => false,
            },
            spec: match fields.spec {
                Some(item) => long(&list.schema, &item, content)?,
                None => 0,
            },
        });
        Ok(end)
    })
    .map_err(&fault)?;
    if encrypted { Err(TableError::Encrypted { by: "its manifests have key metadata" }) } else { Ok(out) }
}

/// The same list with other paths and lengths, one for each manifest, in order.
pub(crate) fn rewrite_list(
    bytes: &[u8],
    name: &str,
    manifests: &[(String, u64)],
) -> Result<Vec<u8>, TableError> {
    let fault = fault("manifest list", name);
    let list = Container::parse(bytes).map_err(&fault)?;
    let mut next = manifests.iter();
    list.rewrite(|content, at, edits| {
        let (fields, end) = fields(&list, content, at)?;
        let (Some(path), Some(length), Some((uri, size))) = (fields.path, fields.length, next.next()) else {
            return Err(AvroError::Malformed("it has changed while it was read"));
        };
        let mut by = Vec::new();
        put_bytes(&mut by, uri.as_bytes());
        edits.replace(path.range, by);
        let mut by = Vec::new();
        put_long(&mut by, *size as i64);
        edits.replace(length.range, by);
        Ok(end)
    })
    .map_err(&fault)
}
