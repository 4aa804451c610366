//! What a metadata file becomes below a mount.
use super::{Manifests, Metadata, Reference};
use crate::document::Object;
use crate::error::TableError;
use crate::location::Location;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The property by which a rewritten file tells what it was made from.
pub(crate) const SOURCE_PROPERTY: &str = "icecache.source";
/// Properties that say where to write, or by which code to read: what is shown is read only, and lies elsewhere.
const DROPPED: [&str; 9] = [
    "write.data.path",
    "write.metadata.path",
    "write.object-storage.path",
    "write.folder-storage.path",
    "write.object-storage.enabled",
    "write.location-provider.impl",
    "write.py-location-provider.impl",
    "io-impl",
    "py-io-impl",
];

/// What of a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View<'a> {
    /// The table as it is.
    Current,
    /// The table as of a snapshot.
    Snapshot(i64),
    /// The table as a branch or a tag has it.
    Reference(&'a str),
}

/// Where things are below the mount, as URIs.
pub(crate) trait Paths {
    /// The folder that the metadata is for.
    fn folder(&self) -> String;
    /// A rewritten manifest list.
    fn list(&self, snapshot: i64, manifests: &Manifests) -> String;
    /// A file that is shown as it is.
    fn object(&self, location: &Location) -> String;
    /// What the metadata is made from, in words that are no URI.
    fn source(&self) -> String;
}

/// What a snapshot of before is read by.
struct Bound<'a> {
    /// The columns of its schema.
    own: BTreeSet<i64>,
    /// These, and those that a schema before it has had.
    had: BTreeSet<i64>,
    /// The partition specs that its manifests are written by.
    specs: &'a BTreeSet<i64>,
}

/// Whether all columns of a partition spec or a sort order are among these.
fn has_all(of: &Value, ids: &BTreeSet<i64>) -> bool {
    let mut fields = of["fields"].as_array().into_iter().flatten();
    let source = |field: &Value| field["source-id"].as_i64().is_none_or(|id| ids.contains(&id));
    fields.all(|field| field["transform"] == "void" || source(field))
}

/// Takes away the partition specs and sort orders that came with later columns than those of a schema of before: several
/// readers bind all of them to the current schema, and a snapshot's files know none of these. A spec of a column that was
/// dropped by then stays, and whatever manifests of the snapshot are written by: the number of its schema does not tell
/// what came before it, since a schema that comes again has the number of the first time. The default is one that this
/// schema has the columns of; without these readers refuse the table.
fn bind(out: &mut Object, bound: &Bound<'_>) -> Result<(), String> {
    let specs: Option<Vec<Value>> = out.get("partition-specs")?;
    if let Some(mut specs) = specs.filter(|specs| !specs.is_empty()) {
        let number = |spec: &Value| spec["spec-id"].as_i64();
        let greatest = specs.iter().filter_map(number).max().unwrap_or_default();
        let is_used = |spec: &Value| number(spec).is_some_and(|id| bound.specs.contains(&id));
        specs.retain(|spec| has_all(spec, &bound.had) || is_used(spec));
        let default = out.get::<i64>("default-spec-id")?;
        let fits = specs.iter().filter(|spec| has_all(spec, &bound.own));
        let found = fits.max_by_key(|spec| (number(spec) == default, number(spec))).cloned();
        let found = found.unwrap_or_else(|| {
            let none = json!({ "spec-id": greatest.saturating_add(1), "fields": [] });
            specs.push(none.clone());
            none
        });
        out.set("default-spec-id", &found["spec-id"])?;
        if out.raw("partition-spec").is_some() {
            out.set("partition-spec", &found["fields"])?;
        }
        out.set("partition-specs", &specs)?;
    }
    if let Some(mut orders) = out.get::<Vec<Value>>("sort-orders")? {
        orders.retain(|order| has_all(order, &bound.own));
        let default = out.get::<i64>("default-sort-order-id")?;
        if !orders.iter().any(|order| order["order-id"].as_i64() == default) {
            if !orders.iter().any(|order| order["order-id"] == 0) {
                orders.push(json!({ "order-id": 0, "fields": [] }));
            }
            out.set("default-sort-order-id", &0)?;
        }
        out.set("sort-orders", &orders)?;
    }
    Ok(())
}

/// The numbers of all columns, nested ones too.
fn field_ids(part: &Value, ids: &mut BTreeSet<i64>) {
    match part {
        Value::Array(parts) => parts.iter().for_each(|part| field_ids(part, ids)),
        Value::Object(part) => {
            let numbers = ["id", "element-id", "key-id", "value-id"];
            ids.extend(numbers.iter().filter_map(|name| part.get(*name)?.as_i64()));
            part.values().for_each(|part| field_ids(part, ids));
        }
        _ => {}
    }
}

impl Metadata {
    /// The metadata of a view, every location in it replaced. `specs` are the partition specs that the manifests of the
    /// view are written by.
    pub(crate) fn rewrite(
        &self,
        view: View<'_>,
        specs: &BTreeSet<i64>,
        paths: &dyn Paths,
    ) -> Result<Vec<u8>, TableError> {
        let object =
            self.rewritten(view, specs, paths).map_err(|why| TableError::malformed("metadata", why))?;
        serde_json::to_vec(&object).map_err(|error| TableError::malformed("metadata", error.to_string()))
    }

    fn rewritten(&self, view: View<'_>, specs: &BTreeSet<i64>, paths: &dyn Paths) -> Result<Object, String> {
        let mut out = self.object.clone();
        out.set("location", &paths.folder())?;
        if !self.snapshots.is_empty() {
            out.set("snapshots", &self.rewritten_snapshots(paths)?)?;
        }
        for list in ["statistics", "partition-statistics"] {
            let Some(mut entries) = out.get::<Vec<Object>>(list)? else { continue };
            for entry in &mut entries {
                let location = super::place(&entry.need::<String>("statistics-path")?)?;
                entry.set("statistics-path", &paths.object(&location))?;
            }
            out.set(list, &entries)?;
        }
        // The versions before this one are not shown under their old names.
        if out.raw("metadata-log").is_some() {
            out.set("metadata-log", &json!([]))?;
        }
        let mut properties: Object = out.get("properties")?.unwrap_or_default();
        properties.retain(|name| !DROPPED.contains(&name));
        properties.set(SOURCE_PROPERTY, &paths.source())?;
        out.set("properties", &properties)?;
        if !self.dangling.is_empty() {
            let mut refs: Object = out.get("refs")?.unwrap_or_default();
            refs.retain(|name| !self.dangling.contains_key(name));
            out.set("refs", &refs)?;
        }
        match view {
            View::Current => {}
            View::Snapshot(id) => self.turn_to(&mut out, id, Some(specs))?,
            View::Reference(name) => {
                let Reference { snapshot, is_branch } = self.refs.get(name).ok_or("no such reference")?;
                self.turn_to(&mut out, *snapshot, (!is_branch).then_some(specs))?;
            }
        }
        Ok(out)
    }

    fn rewritten_snapshots(&self, paths: &dyn Paths) -> Result<Vec<Object>, String> {
        let mut objects = super::snapshot_objects(&self.object)?;
        for (object, snapshot) in objects.iter_mut().zip(&self.snapshots) {
            object.set("manifest-list", &paths.list(snapshot.id, &snapshot.manifests))?;
            // What was listed here has a list of its own now: several readers know nothing else.
            object.remove("manifests");
        }
        Ok(objects)
    }

    /// Makes `id` the current snapshot of a table with no other reference; with the schema that it was written with, if
    /// the specs of its manifests are named.
    fn turn_to(&self, out: &mut Object, id: i64, specs: Option<&BTreeSet<i64>>) -> Result<(), String> {
        let snapshot = self.snapshot(id).ok_or("no such snapshot")?;
        out.set("current-snapshot-id", &id)?;
        if self.format_version > 1 || out.raw("refs").is_some() {
            out.set("refs", &BTreeMap::from([("main", json!({"snapshot-id": id, "type": "branch"}))]))?;
        }
        let log: Vec<Object> = out.get("snapshot-log")?.unwrap_or_default();
        let mut until = 0;
        for (n, entry) in log.iter().enumerate() {
            if entry.need::<i64>("snapshot-id")? == id {
                until = n + 1;
            }
        }
        if out.raw("snapshot-log").is_some() {
            out.set("snapshot-log", &log[..until])?;
        }
        let (Some(schema_id), Some(specs)) = (snapshot.schema_id, specs) else { return Ok(()) };
        let schemas: Vec<Object> = out.get("schemas")?.unwrap_or_default();
        let mut had = BTreeSet::new();
        for schema in &schemas {
            if schema.get::<i64>("schema-id")?.is_some_and(|id| id <= schema_id) {
                field_ids(&json!(schema.get::<Vec<Value>>("fields")?), &mut had);
            }
        }
        for schema in schemas {
            if schema.get::<i64>("schema-id")? == Some(schema_id) {
                out.set("current-schema-id", &schema_id)?;
                if out.raw("schema").is_some() {
                    out.set("schema", &schema)?;
                }
                let mut own = BTreeSet::new();
                field_ids(&json!(schema.get::<Vec<Value>>("fields")?), &mut own);
                return bind(out, &Bound { own, had, specs });
            }
        }
        Ok(())
    }
}
