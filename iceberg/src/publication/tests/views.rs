//! Snapshots, branches and tags, and the files of each.
use super::lake::{Lake, follow};
use crate::error::TableError;
use crate::location::Location;
use crate::manifest::read_list;
use crate::publication::list_path;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

#[tokio::test(flavor = "multi_thread")]
async fn files_are_those_of_the_snapshot() {
    let lake = Lake::new();
    let table = lake.prepare("odd", lake.location("odd"), "m").await.unwrap();
    table.publish().await.unwrap();
    let files = table.files(table.metadata().current_snapshot.unwrap()).await.unwrap();
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    assert_eq!(Some(rows), lake.expected["odd"]["current"]["rows"].as_u64());
    let partitions: HashSet<&str> = files.iter().map(|file| &*file.partition).collect();
    for partition in ["p=a%2Fb", "p=50%2525", "p=..", "p=ü ñ", "p=null", "p="] {
        assert!(partitions.contains(partition), "{partition} in {partitions:?}");
    }
    for file in &files {
        let path = table.data_path(&file.location).expect("it lies below data/");
        assert_eq!(table.data_location(&path).as_ref(), Some(&file.location));
    }
    // Files elsewhere have no path below data/.
    let table = lake.prepare("outside", lake.location("outside"), "m").await.unwrap();
    let files = table.files(table.metadata().current_snapshot.unwrap()).await.unwrap();
    assert!(
        files
            .iter()
            .any(|file| file.location.authority() == "other" && table.data_path(&file.location).is_none())
    );
    assert!(table.files(1).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn older_snapshots_come_when_somebody_asks() {
    let lake = Lake::new();
    let table = lake.prepare("rolled", lake.location("rolled"), "m").await.unwrap();
    table.publish().await.unwrap();
    let first = &table.metadata().snapshots[0];
    let list = list_path(first.id, &first.manifests);
    assert!(!table.place().folder.join(&list).exists());
    table.materialise(&list).await.unwrap();
    assert!(table.place().folder.join(&list).exists());
    assert!(matches!(table.materialise("metadata/none.avro").await, Err(TableError::NoSuch { .. })));
    assert!(matches!(table.snapshot(7).await, Err(TableError::NoSuch { .. })));
    assert!(matches!(table.reference("none").await, Err(TableError::NoSuch { .. })));
    let at = first.timestamp_ms;
    assert_eq!(table.snapshot_at(&at.to_string()).unwrap(), Some(first.id));
    assert_eq!(table.snapshot_at(&(at - 1).to_string()).unwrap(), None);
    assert_eq!(table.snapshot_at("2000-01-01T00:00:00Z").unwrap(), None);
    assert_eq!(table.snapshot_at("2999-01-01").unwrap(), table.metadata().current_snapshot);
    let instant = jiff::Timestamp::from_millisecond(at).unwrap();
    let (day, clock) = (instant.strftime("%Y-%m-%d"), instant.strftime("%H:%M:%S%.f"));
    for time in [format!("{day}T{clock}"), format!("{day} {clock}"), format!("{day}T{clock}Z")] {
        assert_eq!(table.snapshot_at(&time).unwrap(), Some(first.id), "{time}");
    }
    assert!(table.snapshot_at(&format!("{day}T{clock}[Europe/Rome]")).is_err());
    assert!(table.snapshot_at("yesterday").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_in_the_metadata_itself_get_a_list() {
    let lake = Lake::new();
    let file = |location: &Location| lake.raw().join("s3").join(location.authority()).join(location.key());
    let from = lake.location("v1");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file(&from)).unwrap()).unwrap();
    for snapshot in json["snapshots"].as_array_mut().unwrap() {
        let list: Location = snapshot["manifest-list"].as_str().unwrap().parse().unwrap();
        let manifests = read_list(&std::fs::read(file(&list)).unwrap(), "list").unwrap();
        let snapshot = snapshot.as_object_mut().unwrap();
        snapshot.remove("manifest-list");
        snapshot.insert("manifests".into(), manifests.into_iter().map(|m| m.path).collect());
    }
    let inline: Location = "s3://lake/wh/db/v1/metadata/v9.metadata.json".parse().unwrap();
    std::fs::write(file(&inline), serde_json::to_vec(&json).unwrap()).unwrap();
    let one = lake.prepare("v1", from, "one").await.unwrap();
    let two = lake.prepare("v1", inline, "two").await.unwrap();
    for table in [&one, &two] {
        table.publish().await.unwrap();
        for snapshot in &table.metadata().snapshots {
            let path = table.snapshot(snapshot.id).await.unwrap();
            let metadata = table.place().folder.join(path).join("metadata/v1.metadata.json");
            assert!(follow(&lake, table.place(), &metadata, Some(snapshot.id)) > 0);
            let files = one.files(snapshot.id).await.unwrap();
            assert_eq!(table.files(snapshot.id).await.unwrap(), files);
        }
    }
}

/// Whatever has become of a manifest, who asks for it finds it again, by its name or by the files of its snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_has_gone_is_written_anew() {
    let lake = Lake::new();
    let table = lake.prepare("rolled", lake.location("rolled"), "m").await.unwrap();
    table.publish().await.unwrap();
    let first = &table.metadata().snapshots[0];
    table.snapshot(first.id).await.unwrap();
    assert_eq!(table.snapshot_of(&list_path(first.id, &first.manifests)), Some(first.id));
    let (files, manifests) = (table.files(first.id).await.unwrap(), table.manifests(first.id).await.unwrap());
    let path = table.place().folder.join(&manifests[0]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    table.materialise(&manifests[0]).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(table.files(first.id).await.unwrap(), files);
    assert!(matches!(table.materialise("metadata/none.avro").await, Err(TableError::NoSuch { .. })));
}

/// The same snapshot with its files elsewhere: what `rewrite_table_path` and `register_table` make of a table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_moved_has_its_snapshots_elsewhere() {
    let lake = Lake::new();
    let old = lake.prepare("rolled", lake.location("rolled"), "m").await.unwrap();
    old.publish().await.unwrap();
    let first = old.metadata().snapshots[0].id;
    let view = old.snapshot(first).await.unwrap();
    let file = |location: &Location| lake.raw().join("s3").join(location.authority()).join(location.key());
    // Every list has another name from now on.
    let from = lake.location("rolled");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file(&from)).unwrap()).unwrap();
    for snapshot in json["snapshots"].as_array_mut().unwrap() {
        let list: Location = snapshot["manifest-list"].as_str().unwrap().parse().unwrap();
        let to: Location = list.as_str().replace("/snap-", "/moved-").parse().unwrap();
        std::fs::copy(file(&list), file(&to)).unwrap();
        snapshot["manifest-list"] = to.as_str().into();
    }
    let moved: Location = from.as_str().replace(from.name(), "moved.metadata.json").parse().unwrap();
    std::fs::write(file(&moved), serde_json::to_vec(&json).unwrap()).unwrap();
    let new = lake.prepare("rolled", moved, "m").await.unwrap();
    let difference = crate::write_next(&old, &new).await.unwrap();
    assert_eq!(difference.kind, crate::ChangeKind::Replace);
    new.flip().await.unwrap();
    let metadata = new.place().folder.join(&view).join("metadata");
    let hint = || std::fs::read_to_string(metadata.join("version-hint.text")).unwrap();
    assert_eq!(hint(), "1");
    for _ in 0..2 {
        new.snapshot(first).await.unwrap();
        assert_eq!(hint(), "2");
    }
    let json: Value =
        serde_json::from_slice(&std::fs::read(metadata.join("v2.metadata.json")).unwrap()).unwrap();
    assert!(json["snapshots"][0]["manifest-list"].as_str().unwrap().contains("/moved-"));
    assert!(follow(&lake, new.place(), &metadata.join("v2.metadata.json"), Some(first)) > 0);
}

/// Metadata of a table as `edit` leaves it, beside its own.
fn edited(lake: &Lake, name: &str, as_name: &str, edit: impl FnOnce(&mut Value)) -> Location {
    let file = |location: &Location| lake.raw().join("s3").join(location.authority()).join(location.key());
    let from = lake.location(name);
    let mut json: Value = serde_json::from_slice(&std::fs::read(file(&from)).unwrap()).unwrap();
    edit(&mut json);
    let to: Location = from.as_str().replace(from.name(), as_name).parse().unwrap();
    std::fs::write(file(&to), serde_json::to_vec(&json).unwrap()).unwrap();
    to
}

fn shown(metadata: &Path) -> (String, Value) {
    let hint = std::fs::read_to_string(metadata.join("version-hint.text")).unwrap();
    let bytes = std::fs::read(metadata.join(format!("v{hint}.metadata.json"))).unwrap();
    (hint, serde_json::from_slice(&bytes).unwrap())
}

/// The column that the table was partitioned by has gone, and with it the number of the schema that had it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_has_the_specs_that_its_manifests_are_written_by() {
    let lake = Lake::new();
    let from = edited(&lake, "odd", "v9.metadata.json", |json| {
        let column = json["partition-specs"][0]["fields"][0]["source-id"].clone();
        let mut had = json["schemas"][0].clone();
        had["schema-id"] = 1.into();
        json["schemas"][0]["fields"].as_array_mut().unwrap().retain(|field| field["id"] != column);
        json["schemas"].as_array_mut().unwrap().push(had);
        let none = serde_json::json!({"spec-id": 1, "fields": []});
        json["partition-specs"].as_array_mut().unwrap().push(none);
        json["default-spec-id"] = 1.into();
    });
    let table = lake.prepare("odd", from.clone(), "m").await.unwrap();
    table.publish().await.unwrap();
    let id = table.metadata().current_snapshot.unwrap();
    let specs = |json: &Value| -> Vec<i64> {
        let specs = json["partition-specs"].as_array().unwrap().iter();
        specs.map(|spec| spec["spec-id"].as_i64().unwrap()).collect()
    };
    let folder = |path: &str| table.place().folder.join(path).join("metadata");
    let view = table.snapshot(id).await.unwrap();
    let (hint, mut json) = shown(&folder(&view));
    assert_eq!((&*hint, specs(&json), json["default-spec-id"].as_i64()), ("1", vec![0, 1], Some(1)));
    // One that was written without them is written anew.
    json["partition-specs"].as_array_mut().unwrap().remove(0);
    std::fs::write(folder(&view).join("v1.metadata.json"), serde_json::to_vec(&json).unwrap()).unwrap();
    let again = lake.prepare("odd", from, "m").await.unwrap();
    again.publish().await.unwrap();
    again.snapshot(id).await.unwrap();
    let (hint, json) = shown(&folder(&view));
    assert_eq!((&*hint, specs(&json)), ("2", vec![0, 1]));
}

/// Files without the numbers of columns are read by a property of the table, also those of a snapshot of before.
#[tokio::test(flavor = "multi_thread")]
async fn properties_that_say_how_to_read_reach_what_was_shown_before() {
    let lake = Lake::new();
    let old = lake.prepare("refs", lake.location("refs"), "m").await.unwrap();
    old.publish().await.unwrap();
    let first = old.metadata().refs["first"];
    assert!(!first.is_branch);
    let views = [old.snapshot(first.snapshot).await.unwrap(), old.reference("first").await.unwrap()];
    let folder = |view: &str| old.place().folder.join(view).join("metadata");
    let before = views.each_ref().map(|view| shown(&folder(view)).0);

    let from = edited(&lake, "refs", "v90.metadata.json", |json| json["properties"]["owner"] = "she".into());
    let same = lake.prepare("refs", from, "m").await.unwrap();
    same.publish().await.unwrap();
    same.snapshot(first.snapshot).await.unwrap();
    assert!(same.has_still(&old, "first"));
    assert_eq!(views.each_ref().map(|view| shown(&folder(view)).0), before);

    let mapping = r#"[{"field-id":1,"names":["id"]}]"#;
    let from = edited(&lake, "refs", "v91.metadata.json", |json| {
        json["properties"]["schema.name-mapping.default"] = mapping.into();
    });
    let new = lake.prepare("refs", from, "m").await.unwrap();
    new.publish().await.unwrap();
    assert!(!new.has_still(&old, "first") && !new.has_still(&same, "first"));
    new.snapshot(first.snapshot).await.unwrap();
    new.reference("first").await.unwrap();
    for (view, before) in views.iter().zip(before) {
        let (hint, json) = shown(&folder(view));
        assert!(hint.parse::<u64>().unwrap() > before.parse().unwrap(), "{view}: {hint} after {before}");
        assert_eq!(json["properties"]["schema.name-mapping.default"], mapping, "{view}");
        // What was shown before can still be opened.
        assert!(folder(view).join(format!("v{before}.metadata.json")).exists(), "{view}");
    }
}

/// Who can write into a bucket does not have files of this machine read.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_bucket_names_no_files_of_this_machine() {
    let lake = Lake::new();
    let file = |location: &Location| lake.raw().join("s3").join(location.authority()).join(location.key());
    let from = lake.location("v1");
    let mut json: Value = serde_json::from_slice(&std::fs::read(file(&from)).unwrap()).unwrap();
    json["location"] = "file:///".into();
    for snapshot in json["snapshots"].as_array_mut().unwrap() {
        let list: Location = snapshot["manifest-list"].as_str().unwrap().parse().unwrap();
        snapshot["manifest-list"] = format!("file://{}", file(&list).display()).into();
    }
    let evil: Location = "s3://lake/wh/db/v1/metadata/v9.metadata.json".parse().unwrap();
    std::fs::write(file(&evil), serde_json::to_vec(&json).unwrap()).unwrap();
    let table = lake.prepare("v1", evil.clone(), "evil").await.unwrap();
    assert!(!table.is_here());
    let error = table.publish().await.unwrap_err().to_string();
    assert!(error.contains("may not name files of it"), "{error}");
    // The same metadata on this machine may.
    let here: Location = format!("file://{}", file(&evil).display()).parse().unwrap();
    let table = lake.prepare("v1", here, "here").await.unwrap();
    assert!(table.is_here());
    table.publish().await.unwrap();
}
