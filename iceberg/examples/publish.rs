//! Publishes tables from a folder of buckets into a folder, as a mount would show them, and all their snapshots
//! and references: what scripts/suite/tables lets engines read.
//!
//! ```text
//! publish BUCKETS FOLDER NAME=METADATA-LOCATION…
//! ```
//!
//! Prints a line of JSON for each table; `error` says why it cannot be shown.
#![allow(clippy::print_stdout, reason = "its result")]

use icecache_iceberg::objects::LocalObjects;
use icecache_iceberg::{Mapping, Objects, Place, Publication, Table, TableError, TableId, Token};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(buckets), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("publish BUCKETS FOLDER NAME=METADATA-LOCATION…".into());
    };
    let folder = PathBuf::from(folder);
    let mapping = Mapping::new(&folder)?;
    let objects: Arc<dyn Objects> = Arc::new(LocalObjects::with_buckets(&buckets));
    show_objects(Path::new(&buckets), &folder, &mapping)?;
    for argument in arguments {
        let (name, location) = argument.split_once('=').ok_or("NAME=METADATA-LOCATION")?;
        let table = Table {
            id: TableId { namespace: vec!["db".into()], name: name.into() },
            metadata_location: location.parse()?,
            metadata: None,
            token: Token(location.into()),
            credentials: Vec::new(),
        };
        let line = match publish(objects.clone(), &mapping, &folder, &table).await {
            Ok(found) => found,
            Err(error) => json!({"table": name, "error": error.to_string()}),
        };
        println!("{line}");
    }
    Ok(())
}

async fn publish(
    objects: Arc<dyn Objects>,
    mapping: &Mapping,
    folder: &Path,
    table: &Table,
) -> Result<Value, TableError> {
    let path = mapping.table_path(None, &table.id);
    let place = Place { mapping: mapping.clone(), folder: folder.join(&path), path };
    let publication = Publication::prepare(objects, place, table).await?;
    publication.publish().await?;
    let mut snapshots = Map::new();
    for snapshot in &publication.metadata().snapshots {
        snapshots.insert(snapshot.id.to_string(), publication.snapshot(snapshot.id).await?.into());
    }
    let mut refs = Map::new();
    for name in publication.metadata().refs.keys() {
        refs.insert(name.clone(), publication.reference(name).await?.into());
    }
    let path = &publication.place().path;
    Ok(
        json!({"table": table.id.name, "path": path, "number": publication.number(), "snapshots": snapshots, "refs": refs}),
    )
}

/// Every object under its path in `objects/`: by hard link, since nobody changes them.
fn show_objects(buckets: &Path, folder: &Path, mapping: &Mapping) -> Result<(), Box<dyn Error>> {
    let mut folders = vec![buckets.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(buckets)?.to_str().ok_or("not UTF-8")?;
            let Some((scheme, rest)) = below.split_once('/') else { continue };
            let to = folder.join(mapping.object_path(&format!("{scheme}://{rest}").parse()?));
            std::fs::create_dir_all(to.parent().ok_or("no parent")?)?;
            if !to.exists() {
                std::fs::hard_link(&path, &to)?;
            }
        }
    }
    Ok(())
}
