//! Position deletes in Avro.
use super::Facts;
use crate::avro::{AvroError, Container, Item, put_bytes, text, walk};
use crate::error::TableError;
use crate::manifest::{FILE_PATH_FIELD, fault};

const WHAT: &str = "position deletes";

fn path(file: &Container<'_>, content: &[u8], at: usize) -> Result<(Item, usize), AvroError> {
    let mut found = None;
    let end = walk(&file.schema, file.schema.root(), content, at, |field, item| {
        if field.id == Some(FILE_PATH_FIELD) {
            found = Some(item);
        }
        Ok(())
    })?;
    let item = found.ok_or(AvroError::Malformed("its schema has no field 2147483546, the path of a file"))?;
    Ok((item, end))
}

/// The same file with every path mapped.
pub(super) fn rewrite(
    bytes: &[u8],
    name: &str,
    mut map: impl FnMut(&str) -> Result<String, String>,
) -> Result<Vec<u8>, TableError> {
    let fault = fault(WHAT, name);
    let file = Container::parse(bytes).map_err(&fault)?;
    let mut refused = None;
    let out = file.rewrite(|content, at, edits| {
        let (item, end) = path(&file, content, at)?;
        match map(text(&file.schema, &item, content)?) {
            Ok(path) => {
                let mut by = Vec::new();
                put_bytes(&mut by, path.as_bytes());
                edits.replace(item.range, by);
            }
            Err(why) => drop(refused.get_or_insert(why)),
        }
        Ok(end)
    });
    match refused {
        Some(why) => Err(TableError::malformed(format!("{WHAT} {name}"), why)),
        None => out.map_err(&fault),
    }
}

/// The bounds of the paths in it.
pub(super) fn facts(bytes: &[u8], name: &str) -> Result<Facts, TableError> {
    let fault = fault(WHAT, name);
    let file = Container::parse(bytes).map_err(&fault)?;
    let mut bounds: Option<(String, String)> = None;
    file.records(|content, at| {
        let (item, end) = path(&file, content, at)?;
        let path = text(&file.schema, &item, content)?;
        let (low, high) = bounds.get_or_insert_with(|| (path.to_owned(), path.to_owned()));
        if path < low.as_str() {
            *low = path.to_owned();
        } else if path > high.as_str() {
            *high = path.to_owned();
        }
        Ok(end)
    })
    .map_err(&fault)?;
    Ok(Facts { bounds, splits: None, sizes: None })
}
